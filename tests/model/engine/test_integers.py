"""Networks on integers: close to the dense float32 network, exact over chunks, and chosen only with good scales."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import device
from model.engine.loading import load_model
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler, groups
from model.errors import BadWeights, DeviceError, MissingWeights, StateMismatch
from model.gates.estimator import Estimator, Gate, Layout
from model.network import quantised
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.quantised import has_integers
from model.routing import Preset
from model.training.quantise import calibrate, choices
from model.zoo import scales as zoo
from model.zoo.scales import MOST_LOSS, AdaptedScales, Scales, load_scales
from model.zoo.weights_file import fingerprint, load_file
from tests.support.paths import DATA
from tests.support.user_models import reason_unused, write_model

pytestmark = pytest.mark.skipif(not quantised.exact(), reason="this machine lacks exact products of integers")

WATER = np.load(DATA / "water_lr.npy")[:6, :32, :64]
FIELD = np.tile(np.load(DATA / "water_lr.npy")[:5], (1, 2, 1, 1))[:, :80, :96]
"""Two cells down and two across."""
GATED = Preset(mask=False, overhead=60, error_budget=1.0, backward_error_budget=1.0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> BasicVSR:
    """A small seeded network whose recurrence matters."""
    torch.manual_seed(7)
    made = BasicVSR(NetworkConfig(16, 2, "light", "light", coupled=True))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.5)
    return made.eval()


@pytest.fixture(scope="module")
def scales(network: BasicVSR, tmp_path_factory: pytest.TempPathFactory) -> Scales:
    """Scales of the network, as loaded from a file."""
    path = tmp_path_factory.mktemp("scales") / "int8-seeded.safetensors"
    Scales(calibrate(network, choices(network)[0], [WATER[:3]]), "seeded:7", 0.01).save(path)
    found = load_scales(path, "seeded:7")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def estimator(network: BasicVSR) -> Estimator:
    """Gates with adapted weights; of `FIELD`, some cells run and some do not."""
    torch.manual_seed(8)
    layout = Layout(backward=((0, 2),), forward=((0, 2),), tail=False, kernel=1)
    made = Estimator(network.config, layout, copy.deepcopy(network))
    assert made.adapted is not None
    with torch.no_grad():
        for parameter in made.adapted.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
        for gate in (module for module in made.modules() if isinstance(module, Gate)):
            gate.surrogate.weight.mul_(0.1)
    made.digest = "gates"
    return made.eval()


@pytest.fixture(scope="module")
def both(network: BasicVSR, estimator: Estimator, scales: Scales, tmp_path_factory: pytest.TempPathFactory) -> Scales:
    """Scales of the network and of the estimator's adapted weights, as loaded from a file."""
    path = tmp_path_factory.mktemp("scales") / "int8-seeded.safetensors"
    assert estimator.adapted is not None
    numbers = calibrate(estimator.adapted, choices(network)[0], [WATER[:3]])
    Scales(scales.numbers, "seeded:7", 0.01, adapted=AdaptedScales(numbers, estimator.digest, 0.02)).save(path)
    found = load_scales(path, "seeded:7")
    assert found is not None
    assert found.numbers.keys() == scales.numbers.keys()
    return found


def upscaler(
    network: BasicVSR,
    scales: Scales | None,
    dtype: torch.dtype = torch.float32,
    estimator: Estimator | None = None,
) -> Upscaler:
    return Upscaler("seeded", network, "seeded:7", CPU, dtype, estimator, scales)


def stream(
    model: Upscaler, frames: np.ndarray, chunk: int, routing: str | Preset = "off", between: Path | None = None
) -> np.ndarray:
    """Push a clip through in chunks that see all of its rest; with `between`, states go through files there."""
    state, out = None, []
    for group, last in groups(frames, chunk, len(frames)):
        result = model.forward(np.stack(group), state, lookahead=len(frames), last=last, routing=routing)
        state = result.state
        if between is not None:
            state.save(between / "state.safetensors")
            state = RecurrentState.load(between / "state.safetensors")
        out.append(result.frames)
    return np.concatenate(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integers_come_close_to_the_dense_float32_network(
    network: BasicVSR, scales: Scales, dtype: torch.dtype
) -> None:
    wanted = stream(upscaler(network, None), WATER, 6).astype(int)
    found = stream(upscaler(network, scales, dtype), WATER, 6).astype(int)
    assert 0 < np.abs(found - wanted).mean() < 0.5
    assert np.abs(found - wanted).max() <= 8


@pytest.mark.parametrize("routing", ["off", "balanced"])
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_chunks_equal_the_whole_and_states_survive_files(
    chunk: int, routing: str, network: BasicVSR, scales: Scales, tmp_path: Path
) -> None:
    model = upscaler(network, scales, torch.bfloat16)
    whole = stream(model, WATER, len(WATER), routing)
    assert np.array_equal(stream(model, WATER, chunk, routing, tmp_path), whole)


@pytest.mark.parametrize("routing", ["off", GATED])
def test_threads_change_no_frame(routing: str | Preset, network: BasicVSR, estimator: Estimator, both: Scales) -> None:
    model, threads = upscaler(network, both, estimator=estimator), torch.get_num_threads()
    frames = []
    for count in (1, 2):
        torch.set_num_threads(count)
        frames.append(stream(model, FIELD, 3, routing))
    torch.set_num_threads(threads)
    assert np.array_equal(*frames)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 2])
def test_with_gates_chunks_equal_the_whole(
    chunk: int, dtype: torch.dtype, network: BasicVSR, estimator: Estimator, both: Scales, tmp_path: Path
) -> None:
    model = upscaler(network, both, dtype, estimator)
    whole = model.forward(FIELD, None, lookahead=0, last=True, routing=GATED)
    assert any(0 < report.skip_ratio < 0.9 for report in whole.reports)  # some cells run, and some do not
    assert np.array_equal(stream(model, FIELD, chunk, GATED, tmp_path), whole.frames)


def test_a_full_network_on_integers_gives_the_same_frames_over_chunks(tmp_path: Path) -> None:
    torch.manual_seed(9)
    full = BasicVSR(NetworkConfig(16, 1)).eval()
    clip = WATER[:4, :24, :32]
    scales = Scales(calibrate(full, choices(full)[0], [clip[:2]]), "seeded:7", digest="x")
    model, plain = (upscaler(full, numbers, torch.bfloat16) for numbers in (scales, None))
    whole = stream(model, clip, len(clip))
    assert np.array_equal(stream(model, clip, 1, between=tmp_path), whole)
    difference = np.abs(whole.astype(int) - stream(plain, clip, len(clip)))
    assert 0 < difference.mean() < 0.5
    assert difference.max() <= 8


def test_adapted_weights_compute_on_integers_of_their_own(
    network: BasicVSR, estimator: Estimator, both: Scales
) -> None:
    nothing_skipped = Preset(mask=False, overhead=60, error_budget=1e-12)
    assert estimator.adapted is not None
    assert both.adapted is not None
    found = stream(upscaler(network, both, estimator=estimator), FIELD, len(FIELD), nothing_skipped)
    alone = upscaler(estimator.adapted, Scales(both.adapted.numbers, "seeded:7"))
    assert np.array_equal(found, stream(alone, FIELD, len(FIELD)))
    assert not np.array_equal(found, stream(upscaler(estimator.adapted, None), FIELD, len(FIELD)))


def test_gates_rest_without_scales_for_the_adapted_weights(
    network: BasicVSR, estimator: Estimator, both: Scales
) -> None:
    assert both.adapted is not None
    other = Scales(both.numbers, "seeded:7", adapted=AdaptedScales(both.adapted.numbers, "other gates"))
    for scales, work in ((None, True), (both, True), (other, False), (Scales(both.numbers, "seeded:7"), False)):
        model = upscaler(network, scales, estimator=estimator)
        assert model.estimator is not None
        assert model.estimator.adapted is not None
        assert has_integers(model.estimator.adapted) == (scales is both)
        assert all((model.preset(name).backward_error_budget > 0) == work for name in ("balanced", "fast"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gates_of_a_full_network_work_beside_integers(dtype: torch.dtype) -> None:
    full = BasicVSR(NetworkConfig(16, 1)).eval()
    gates = Estimator(full.config, Layout(((0, 1),), ((0, 1),), tail=False, kernel=1), copy.deepcopy(full)).eval()
    scales = Scales(calibrate(full, choices(full)[0], [WATER[:2, :16, :16]]), "seeded:7", digest="x")
    made = [upscaler(full, numbers, dtype, gates).preset("fast") for numbers in (scales, None)]
    assert made[0] == made[1]
    assert made[0].error_budget > 0


def test_a_state_belongs_to_its_scales(network: BasicVSR, scales: Scales) -> None:
    plain, integers = upscaler(network, None), upscaler(network, scales)
    other = upscaler(network, Scales(scales.numbers, scales.network, digest="other"))
    assert (plain.precision, integers.precision) == ("float32", "int8")
    assert len({model.identity("off") for model in (plain, integers, other)}) == 3
    state = integers.forward(WATER[:2], None, lookahead=0, last=False).state
    for model in (plain, other):
        with pytest.raises(StateMismatch, match="belongs to model"):
            model.forward(WATER[2:], state, lookahead=0, last=True)


def test_a_copy_of_the_network_computes_without_integers(network: BasicVSR, scales: Scales) -> None:
    model = upscaler(network, scales)
    lr = torch.from_numpy(WATER[:2]).permute(0, 3, 1, 2)[None].float() / 255
    copied = copy.deepcopy(model.network)
    with torch.inference_mode():
        assert not torch.equal(model.network(lr), copied(lr))


def write_scales(folder: Path, loss: float | None = 0.01, name: str = "mine") -> Path:
    """Scales of the user model NAME, with a measured loss."""
    network = load_file(folder / f"{name}.safetensors")
    of = fingerprint(name, folder / f"{name}.safetensors")
    path = folder / f"int8-{name}.safetensors"
    Scales(calibrate(network, choices(network)[0], [WATER[:2]]), of, loss).save(path)
    return path


def precision(folder: Path, wanted: str = "auto") -> str:
    return load_model("mine", weights_dir=folder, device="cpu", precision=wanted, threads=1).precision


def test_auto_takes_integers_with_good_scales_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "has_vnni", lambda: True)
    write_model(tmp_path)
    floats = precision(tmp_path)
    assert floats in ("float32", "bfloat16")
    for loss, good in ((None, False), (MOST_LOSS + 0.001, False), (MOST_LOSS, True), (-0.01, True)):
        write_scales(tmp_path, loss)
        assert precision(tmp_path) == ("int8" if good else floats)
        assert precision(tmp_path, "int8") == "int8"
        assert precision(tmp_path, "fp32") == "float32"
    monkeypatch.setattr(zoo, "has_vnni", lambda: False)
    assert precision(tmp_path) == floats


def test_the_packaged_scales_fit_the_packaged_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "has_vnni", lambda: True)
    for wanted in ("auto", "int8"):
        model = load_model("small", weights_dir=Path(), device="cpu", precision=wanted, threads=1)
        assert model.precision == "int8"
        assert model.estimator is not None
        assert model.estimator.adapted is not None
        assert has_integers(model.estimator.adapted)
        assert model.preset("fast").backward_error_budget > model.preset("balanced").backward_error_budget > 0


def test_auto_takes_adapted_integers_with_good_scales_alone(network: BasicVSR, both: Scales, tmp_path: Path) -> None:
    path = tmp_path / "int8-seeded.safetensors"
    assert both.adapted is not None
    for loss, good in ((None, False), (MOST_LOSS + 0.001, False), (MOST_LOSS, True)):
        Scales(both.numbers, "seeded:7", 0.01, adapted=AdaptedScales(both.adapted.numbers, "gates", loss)).save(path)
        for integers, wanted in (("if good", good), ("yes", True)):
            found = zoo.chosen_scales("seeded", path, "seeded:7", integers)
            assert found is not None
            assert (found.adapted is not None) == wanted


def test_integers_that_are_wanted_and_cannot_be_had_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path)
    with pytest.raises(MissingWeights, match=r"mine has no scales for int8; .*skipvsr calibrate mine --clips DIR"):
        precision(tmp_path, "int8")
    write_scales(tmp_path)
    for vnni, lack in ((False, "this CPU lacks VNNI"), (True, "this torch lacks int8 convolutions")):
        monkeypatch.setattr(zoo, "exact", lambda: False)
        monkeypatch.setattr(zoo, "has_vnni", lambda vnni=vnni: vnni)
        with pytest.raises(DeviceError, match=f"{lack}.*; use bf16, fp32 or auto"):
            precision(tmp_path, "int8")
        assert precision(tmp_path) != "int8"
    with pytest.raises(DeviceError, match="int8 needs a CPU"):
        device.resolve_dtype("int8", torch.device("cuda"))


def test_scales_of_other_weights_are_not_used(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = write_scales(tmp_path)
    write_model(tmp_path, seed=1)
    assert "made for other weights; make new ones: skipvsr calibrate mine" in reason_unused(tmp_path, path.name)
    assert precision(tmp_path) != "int8"
    (tmp_path / "mine.safetensors").unlink()
    assert "the folder has no user model 'mine'" in reason_unused(tmp_path, path.name)


def test_damaged_scales_are_refused(network: BasicVSR, scales: Scales, tmp_path: Path) -> None:
    path = tmp_path / "int8-seeded.safetensors"
    name, good = next(iter(scales.numbers.items()))
    for wrong in (
        {"zero": 300},
        {"zero": -1},
        {"gain": -good.gain},
        {"weight_scale": 0 * good.weight_scale},
        {"bias": good.bias * torch.inf},
    ):
        Scales({name: replace(good, **wrong)}, "seeded:7").save(path)
        with pytest.raises(BadWeights, match="holds no scales"):
            load_scales(path, "seeded:7")
    path.write_bytes(b"nothing")
    with pytest.raises(BadWeights, match="holds no scales"):
        load_scales(path, "seeded:7")
    narrow = replace(good, gain=torch.ones(3))
    for wrong in ({"no.such.convolution": good}, {**scales.numbers, name: narrow}, {"conv_last": good}):
        with pytest.raises(BadWeights, match="the scales"):
            upscaler(network, Scales(wrong, "seeded:7", digest="x"))


@pytest.mark.parametrize(
    ("flags", "most", "found"),
    [
        ({"avx512_vnni": True, "avx_vnni": False}, "", True),
        ({"avx512_vnni": True, "avx_vnni": False}, "AVX512_CORE", False),
        ({"avx512_vnni": True, "avx_vnni": False}, "AVX2_VNNI", False),
        ({"avx512_vnni": True, "avx_vnni": False}, "AVX512_CORE_VNNI", True),
        ({"avx512_vnni": True, "avx_vnni": True}, "avx2_vnni", True),
        ({"avx512_vnni": False, "avx_vnni": True}, "ALL", True),
        ({"avx512_vnni": False, "avx_vnni": True}, "AVX2", False),
        ({"avx512_vnni": False, "avx_vnni": False}, "", False),
    ],
)
def test_vnni_is_what_the_processor_has_and_the_environment_allows(
    flags: dict[str, bool], most: str, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    assert device.has_vnni() == found


def test_auto_is_float32_where_the_environment_forbids_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert device.resolve_dtype("auto", CPU) is torch.bfloat16
    for most in ("AVX512_CORE_VNNI", "AVX2"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
        assert device.resolve_dtype("auto", CPU) is torch.float32
