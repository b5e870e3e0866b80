"""Networks of the user's own: a file in the weights folder is a model, wherever the models that come along are."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

import cli
from jobs.schema import JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore
from model.engine.upscaler import load_model, model_cache
from model.errors import BadWeights, UnknownModel
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.training.config import TrainConfig
from model.zoo.cache import ModelCache
from model.zoo.models import (
    CARDS,
    PACKAGED,
    card,
    cards,
    fingerprint,
    load_file,
    load_network,
    present,
    save_network,
    unusable,
)
from model.zoo.user_models import _shapes
from service.operations import Operations
from tests.support.clips import make_clip
from tests.support.crew import crew, submit, wait_for, wait_for_frames
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from tests.support.squares import pack_squares, run_config

CONFIG = run_config(steps=2, frames=3)
TINY = NetworkConfig(8, 1, "light", "light", coupled=True)


def put(folder: Path, name: str = "mine", seed: int = 0, config: NetworkConfig = TINY) -> Path:
    """A network of random weights as `skipvsr train` writes it, under that name."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_network(BasicVSR(config), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def own(folder: Path) -> dict[str, str]:
    return {entry.name: entry.description for entry in cards(folder) if entry.user}


def why(folder: Path, file: str) -> str:
    """What is said of a file that is not used."""
    (line,) = [line for line in unusable(folder) if line.startswith(f"{folder / file} ")]
    return line


def test_a_file_is_a_model_under_its_name(tmp_path: Path) -> None:
    path = put(tmp_path, "my-clips_v1.2")
    put(tmp_path, "large", config=NetworkConfig(16, 3))
    assert own(tmp_path) == {
        "large": "user model, 16 channels x 3 blocks",
        "my-clips_v1.2": "user model, 8 channels x 1 block",
    }
    assert unusable(tmp_path) == []
    network, named = load_network("my-clips_v1.2", tmp_path)
    assert named == fingerprint("my-clips_v1.2", path)
    stored = load_tensors(path)
    assert all(tensor.equal(stored[key]) for key, tensor in network.state_dict().items())
    assert {entry.name for entry in CARDS} <= {entry.name for entry in cards(tmp_path)}
    assert present(tmp_path / "none") == [entry for entry in CARDS if not entry.sha256]


def test_names_that_come_along_win(tmp_path: Path) -> None:
    shutil.copy(put(tmp_path, "mine"), tmp_path / "small.safetensors")
    shutil.copy(put(tmp_path, "mine"), tmp_path / "auto.safetensors")
    assert own(tmp_path) == {"mine": "user model, 8 channels x 1 block"}
    assert "'small' is a packaged model; rename the file" in why(tmp_path, "small.safetensors")
    assert "'auto' means the default model" in why(tmp_path, "auto.safetensors")
    assert load_network("small", tmp_path)[1] == fingerprint("small", PACKAGED / "small.safetensors")


@pytest.mark.parametrize("name", ["Mine", "_mine", "-mine", "min e", "größe", "x" * 65])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    put(tmp_path, name)
    assert own(tmp_path) == {}
    assert "a model's name may contain a to z" in why(tmp_path, f"{name}.safetensors")
    with pytest.raises(BadWeights, match="a model's name"):
        load_network(name, tmp_path)


@pytest.mark.parametrize("name", ["../mine", "folder/mine", ".mine", "skip-mine", "", "mine\0", "x" * 4000])
def test_a_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    put(tmp_path / "weights" / "folder")
    for other in ("mine", ".mine", "skip-mine"):
        put(tmp_path / "weights", other)
    put(tmp_path)
    with pytest.raises(UnknownModel):
        load_network(name, tmp_path / "weights")


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def no_tensors(path: Path) -> None:
    path.write_text("no weights, but a text that is long enough to hold a length\n" * 9)


def pickled(path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (path.with_name("ran"),))

    torch.save({"params": Evil()}, path)


def nested(path: Path) -> None:
    text = b"[" * 100_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def renamed(path: Path) -> None:
    tensors = load_tensors(path)
    tensors["conv_first.weight"] = tensors.pop("conv_last.weight")
    save_file(tensors, path, {"config": json.dumps(vars(TINY))})


def others(path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3, dtype=torch.int64)}, path)


def larger_than_it_says(path: Path) -> None:
    save_file(load_tensors(path), path, {"config": json.dumps(vars(NetworkConfig(12, 1, "light", "light", True)))})


def endless(path: Path) -> None:
    save_file(load_tensors(path), path, {"config": json.dumps(vars(NetworkConfig(8, 10**9, "light", "light", True)))})


def of_another_kind(path: Path) -> None:
    save_file(load_tensors(path), path, {"config": json.dumps(vars(TINY) | {"flow": "raft"})})


def an_estimator(path: Path) -> None:
    shutil.copy(PACKAGED / "skip-small.safetensors", path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, "the file is damaged"),
        (emptied, "not a safetensors file"),
        (no_tensors, "not a safetensors file"),
        (pickled, "not a safetensors file"),
        (nested, "damaged"),
        (renamed, "conv_first.weight is unknown"),
        (others, "no network written by `skipvsr train`"),
        (larger_than_it_says, "no complete network of 12 channels x 1 block: backward_trunk.main.0.bias is 8, not 12"),
        (endless, "unsupported network"),
        (of_another_kind, "unsupported network"),
        (an_estimator, "an estimator, not a network"),
    ],
)
def test_a_file_that_is_no_network_is_named_and_hinders_no_other(spoil, message: str, tmp_path: Path) -> None:
    put(tmp_path, "good")
    spoil(put(tmp_path, "bad"))
    assert list(own(tmp_path)) == ["good"]
    assert message in why(tmp_path, "bad.safetensors")
    with pytest.raises(BadWeights, match=r"bad\.safetensors"):
        load_network("bad", tmp_path)
    load_network("good", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_waited_for(make: Callable[[Path], None], tmp_path: Path) -> None:
    put(tmp_path, "good")
    make(tmp_path / "mine.safetensors")
    make(tmp_path / "skip-good.safetensors")
    assert own(tmp_path) == {"good": "user model, 8 channels x 1 block"}
    assert why(tmp_path, "mine.safetensors").endswith("not a regular file")
    assert why(tmp_path, "skip-good.safetensors").endswith("not a regular file")
    load_model("good", weights_dir=tmp_path, device="cpu", precision="fp32", threads=1)


def test_the_scale_comes_from_the_checkpoint(tmp_path: Path) -> None:
    path = put(tmp_path)
    config = {name: value for name, value in vars(TINY).items() if name != "scale"}
    save_file(load_tensors(path), path, {"config": json.dumps(config)})
    assert load_network("mine", tmp_path)[0].scale == 4  # older checkpoints name none
    save_file(load_tensors(path), path, {"config": json.dumps(config | {"scale": 3})})
    assert "unsupported network" in why(tmp_path, "mine.safetensors")
    with pytest.raises(BadWeights, match="scale 3 is not supported"):
        load_file(path)


def test_weights_of_a_run_that_diverged_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path)
    save_file(
        {name: tensor * torch.nan for name, tensor in load_tensors(path).items()},
        path,
        {"config": json.dumps(vars(TINY))},
    )
    with pytest.raises(BadWeights, match="not finite"):
        load_network("mine", tmp_path)


@pytest.mark.parametrize("config", [TINY, NetworkConfig(8, 2), NetworkConfig(8, 2, "light", "full")])
def test_a_networks_shapes_are_known_without_its_numbers(config: NetworkConfig) -> None:
    before = torch.get_rng_state()
    shapes = _shapes.__wrapped__(config)
    assert before.equal(torch.get_rng_state())
    assert shapes == {name: tuple(tensor.shape) for name, tensor in BasicVSR(config).state_dict().items()}


def fit(folder: Path, clips: Path, name: str = "mine") -> Path:
    """`skipvsr train-skip`, in a moment."""
    make_clip(clips / "one.mp4", frames=12, width=160, height=128)
    assert cli.main(["train-skip", name, "--clips", str(clips), "--frames", "3"]) == 0
    return folder / f"skip-{name}.safetensors"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A weights folder that commands here know."""
    monkeypatch.setenv("SKIPVSR_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("SKIPVSR_DEVICE", "cpu")
    monkeypatch.setenv("SKIPVSR_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_its_estimator_lies_beside_it_and_is_no_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder, config=NetworkConfig(8, 2, "light", "light", coupled=True))
    estimator = fit(folder, tmp_path)
    assert str(estimator) in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["mine.safetensors", "skip-mine.safetensors"]
    assert own(folder) == {"mine": "user model, 8 channels x 2 blocks, with an estimator"}
    model = load_model("mine", weights_dir=folder, device="cpu", precision="fp32", threads=1)
    assert model.estimator is not None
    put(
        folder, seed=1, config=NetworkConfig(8, 2, "light", "light", coupled=True)
    )  # trained on: the estimator is of before
    assert own(folder) == {"mine": "user model, 8 channels x 2 blocks"}
    assert "fitted to other weights; fit a new one: skipvsr train-skip mine" in why(folder, "skip-mine.safetensors")
    assert load_model("mine", weights_dir=folder, device="cpu", precision="fp32", threads=1).estimator is None
    damaged(estimator)
    assert "the file is damaged" in why(folder, "skip-mine.safetensors")
    assert load_model("mine", weights_dir=folder, device="cpu", precision="fp32", threads=1).estimator is None
    (folder / "mine.safetensors").unlink()
    assert "the folder has no user model 'mine'" in why(folder, "skip-mine.safetensors")


def test_what_training_says_at_its_end_makes_a_model_of_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pack_squares(tmp_path / "cache")
    monkeypatch.setattr("model.training.prepare.prepare", lambda *given: None)  # that has been done
    (tmp_path / "config.toml").write_text(CONFIG)
    assert cli.main(["train", "config.toml", "--cache", "cache", "--out", "a run"]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("to use them: ").partition(", then --model mine")[0]
    subprocess.run(shlex.split(command), check=True)
    assert own(folder) == {"mine": "user model, 8 channels x 1 block"}
    assert load_network("mine", folder)[0].config == TINY


def test_the_configuration_for_fine_tuning_fits_the_weights_that_it_begins_with() -> None:
    root = ROOT
    config = TrainConfig.load(root / "model/training/configs/finetune.toml")
    assert config.init is not None
    assert load_file(root / config.init).config == config.network.network_config()


def test_commands_take_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder)
    put(folder, "Bad")
    assert cli.main(["models"]) == 0
    said = capsys.readouterr().out
    assert "user model, 8 channels x 1 block" in said
    assert f"note: {folder}/Bad.safetensors is not used: a model's name" in said
    clip, clips = make_clip(tmp_path / "in.mp4", frames=6), tmp_path / "clips"
    assert cli.main(["upscale", str(clip), str(tmp_path / "out.mp4"), "--model", "mine"]) == 0
    clips.mkdir()
    make_clip(clips / "a.mp4", frames=4, width=64, height=48)
    rows = tmp_path / "rows.json"
    assert cli.main(["eval", "--gt", str(clips), "--model", "mine", "--json", str(rows)]) == 0
    assert [row["model"] for row in json.loads(rows.read_text())["rows"]] == ["mine"]
    bench = ["bench", "model", "--clips", str(clips), "--models", "mine", "--rounds", "1", "--device", "cpu"]
    assert cli.main([*bench, "--json", str(rows)]) == 0
    assert {row["model"] for row in json.loads(rows.read_text())["rows"]} == {"mine"}
    capsys.readouterr()
    assert cli.main(["upscale", str(clip), str(tmp_path / "out.mp4"), "--model", "other"]) == 1
    assert f"tiny, mine (user models are files in {folder})" in capsys.readouterr().err


@pytest.mark.parametrize("capacity", [None, 2])
def test_a_process_that_holds_it_notices_when_its_files_change(
    capacity: int | None, folder: Path, tmp_path: Path
) -> None:
    deep = NetworkConfig(8, 2, "light", "light", coupled=True)
    path = put(folder, config=deep)
    models = model_cache(folder, default="tiny", device="cpu", precision="fp32", threads=1, capacity=capacity)
    first = models.get("mine")
    assert models.get("mine") is first
    put(folder, seed=1, config=deep)
    second = models.get("mine")
    assert second is not first
    assert second.fingerprint.startswith(fingerprint("mine", path))
    assert second.identity("fast") != first.identity("fast")
    fit(folder, tmp_path)
    third = models.get("mine")
    assert third.estimator is not None
    assert third.identity("off") == second.identity("off")
    assert models.get("mine") is third
    damaged(path)
    with pytest.raises(BadWeights, match="damaged"):
        models.get("mine")
    assert models.get("tiny").name == "tiny"
    path.unlink()
    with pytest.raises(UnknownModel):
        models.get("mine")
    put(folder, config=deep)
    assert models.get("mine").fingerprint == first.fingerprint


def test_a_full_cache_drops_the_model_that_was_used_least_recently(tmp_path: Path) -> None:
    loaded: list[str] = []
    evicted: list[str] = []

    def load(name: str) -> str:
        loaded.append(name)
        return name

    for name in ("one", "two"):
        put(tmp_path, name)
    models = ModelCache(tmp_path, load, default="tiny", capacity=2, on_evict=lambda: evicted.append(loaded[-1]))
    for name in ("one", "auto", "one", "two", "one", "tiny"):
        assert models.get(name) == ("tiny" if name == "auto" else name)
    assert loaded == ["one", "tiny", "two", "tiny"]
    assert len(evicted) == 2
    assert {"one", "two", "tiny", "small"} <= set(models.names())


def test_workers_do_jobs_with_it_as_soon_as_it_is_there(
    settings: Settings, store: JobStore, storage: Storage, folder: Path, tmp_path: Path
) -> None:
    quick = settings.model_copy(update={"heartbeat_seconds": 0.1, "min_free_gb": 0.0, "weights_dir": folder})
    operations = Operations.from_settings(quick)
    put(folder, "Bad")
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    with crew(quick, tmp_path) as (worker,):
        wait_until(lambda: "tiny" in operations.models(), 5, "the worker is not there")
        assert "mine" not in operations.models()
        assert "Bad.safetensors is not used" in worker.log
        put(folder)
        wait_until(lambda: "mine" in operations.models(), 5, "mine is not there")
        operations.check_model("mine")
        job = wait_for(store, submit(store, storage, clip, model="mine"))
        assert (job.state, job.model) == (JobState.DONE, "mine")
        first = storage.result_path(job.id).read_bytes()
        put(folder, seed=1)
        job = wait_for(store, submit(store, storage, clip, model="mine"))
        assert storage.result_path(job.id).read_bytes() != first
        (folder / "mine.safetensors").unlink()  # here, as where a worker has another folder than the one that was asked
        job = wait_for(store, submit(store, storage, clip, model="mine"))
        assert job.state is JobState.FAILED
        detail = job.error.detail if job.error else ""
        assert "The worker that claimed the job lacks the model: unknown model 'mine'; use one of: small" in detail
        assert f"(user models are files in {folder})" in detail
        wait_until(lambda: "mine" not in operations.models(), 5, "mine is still there")
        assert wait_for(store, submit(store, storage, clip)).state is JobState.DONE
        assert worker.log.count("Bad.safetensors is not used") == 1


def test_a_job_under_way_starts_anew_with_other_weights(
    settings: Settings, store: JobStore, storage: Storage, folder: Path, tmp_path: Path
) -> None:
    quick = settings.model_copy(update={"heartbeat_seconds": 0.1, "min_free_gb": 0.0, "weights_dir": folder})
    put(folder)
    clip = make_clip(tmp_path / "clip.mp4", frames=120, width=64, height=48)
    with crew(quick, tmp_path):
        job_id = submit(store, storage, clip, model="mine")
        wait_for_frames(store, job_id, 8)
        store.request_pause(job_id)
        assert wait_for(store, job_id, JobState.PAUSED).progress.frames_done < 120
        put(folder, seed=1)
        store.resume(job_id)
        job = wait_for(store, job_id)
        whole = wait_for(store, submit(store, storage, clip, model="mine"))
    assert "The checkpoint belongs to another model; the job started again." in job.warnings
    assert storage.result_path(job_id).read_bytes() == storage.result_path(whole.id).read_bytes()


def test_a_card_says_where_its_files_are(tmp_path: Path) -> None:
    put(tmp_path)
    assert card("mine", tmp_path).estimator_path(tmp_path) == tmp_path / "skip-mine.safetensors"
    assert card("small", tmp_path).estimator_path(tmp_path) == PACKAGED / "skip-small.safetensors"
