"""`skipvsr upscale` for several files: names, broken files, JSON, and what is never replaced."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from tests.support.clips import make_clip

TINY = ("--model", "tiny", "--scale", "2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a clip `a.mp4` and a broken file `broken.mp4`."""
    monkeypatch.setenv("SKIPVSR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SKIPVSR_DEVICE", "cpu")
    monkeypatch.setenv("SKIPVSR_THREADS", "1")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    make_clip(here / "a.mp4", frames=3)
    (here / "broken.mp4").write_bytes((here / "a.mp4").read_bytes()[:700])
    return here


def upscale(*argv: object) -> int:
    return cli.main(["upscale", *map(str, argv), *TINY])


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_default_name_is_beside_the_input_and_never_replaces_a_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upscale("a.mp4") == 0
    assert capsys.readouterr().out.startswith("a.upscaled.mp4  64×48, 3 frames")
    made = (folder / "a.upscaled.mp4").read_bytes()
    assert upscale("a.mp4") == 1
    assert capsys.readouterr().err == "skipvsr: a.upscaled.mp4 exists; give another name, or --overwrite\n"
    (folder / "a.upscaled.mp4").write_bytes(b"mine")
    assert upscale("a.mp4", "--overwrite", "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert (folder / "a.upscaled.mp4").read_bytes() == made


def test_two_files_are_input_and_output_and_the_second_is_not_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_clip(folder / "b.mp4", frames=3).read_bytes()
    assert upscale("a.mp4", "b.mp4") == 1
    assert "b.mp4 exists; add --overwrite, or --out-dir DIR to upscale several files" in capsys.readouterr().err
    assert (folder / "b.mp4").read_bytes() == other
    assert upscale("a.mp4", "c.mp4") == 0
    assert names(folder) == {"a.mp4", "b.mp4", "broken.mp4", "c.mp4"}


def test_a_broken_file_does_not_stop_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(folder / "b.mp4", frames=3)
    assert upscale("broken.mp4", "a.mp4", "missing.mp4", "b.mp4", "--out-dir", "out") == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "4 files: 2 upscaled, 2 failed"
    errors = [line for line in said.err.splitlines() if "→" not in line]
    assert len(errors) == 2
    assert errors[0].startswith("skipvsr: broken.mp4: ")
    assert errors[1] == "skipvsr: missing.mp4: there is no file missing.mp4"
    assert names(folder / "out") == {"a.mp4", "b.mp4"}
    assert upscale("broken.mp4", "a.mp4", "b.mp4", "--out-dir", "out") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "3 files: 0 upscaled, 2 skipped, 1 failed"


def test_a_folder_keeps_its_subfolders_and_leaves_out_what_is_no_video(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.mp4").unlink()
    for place in ("sub", ".hidden", "@eaDir", "out"):
        (folder / place).mkdir()
        make_clip(folder / place / "b.mkv.mp4", frames=3)
    for name in ("notes.txt", ".a.mp4", "a.upscaled.mp4", "b.mp4.part"):
        (folder / name).write_text("text")
    assert upscale(".", "--out-dir", "out", "--container", "mkv", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["source"], line["target"], line["state"]) for line in lines] == [
        ("a.mp4", "out/a.mkv", "done"),
        ("sub/b.mkv.mp4", "out/sub/b.mkv.mkv", "done"),
    ]
    assert lines[0]["size"] == [64, 48]
    assert lines[0]["progress"]["frames_done"] == 3
    assert "summary" not in lines[0]


def test_files_that_differ_only_in_their_suffix_have_results_of_their_own(folder: Path) -> None:
    (folder / "broken.mp4").unlink()
    (folder / "a.avi").write_bytes((folder / "a.mp4").read_bytes())
    assert upscale(".", "--out-dir", "out", "--container", "mkv", "-q") == 0
    assert names(folder / "out") == {"a.mkv", "a.mp4.mkv"}


def test_json_names_the_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale("broken.mp4", "--json") == 1
    line = json.loads(capsys.readouterr().out)
    assert line["state"] == "failed"
    assert "error" in line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a.mp4", "sub"], "sub is a folder; name the folder of the results with --out-dir sub"),
        (["sub", "out"], "sub is a folder; name the folder of the results with --out-dir out"),
        (["a.mp4", "-o", "b.mp4", "--out-dir", "out"], "give either -o or --out-dir, not both"),
        (["a.mp4", "b.mp4", "c.mp4", "-o", "o.mp4"], "-o names the result of a single file"),
        (["a.mp4", "--out-dir", "."], "the result of a.mp4 would replace the input a.mp4"),
        (["a.mp4", "sub/a.mp4", "--out-dir", "out"], "a.mp4 and sub/a.mp4 would have the same result, out/a.mp4"),
        (["empty"], "there is no video in empty"),
        (["a.mp4", "broken.mp4", "--out-dir", "other", "--report", "r.json"], "--report is for a single file"),
        (["secret.mp4"], "secret.mp4 is not readable: permission denied"),
        (["a.mp4", "closed/o.mp4"], "closed is not writable: permission denied"),
    ],
)
def test_misunderstandings_are_one_line(
    folder: Path,
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in ("sub", "empty", "closed"):
        (folder / place).mkdir()
    for place in ("sub/a.mp4", "secret.mp4"):
        (folder / place).write_bytes((folder / "a.mp4").read_bytes())
    allowed = {"secret.mp4", "closed"}  # root may read and write everything
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name not in allowed)
    assert upscale(*argv) != 0
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_full_disk_ends_the_command_with_a_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jobs.disk.replace", full)
    make_clip(folder / "b.mp4", frames=3)
    assert upscale("a.mp4", "b.mp4", "--out-dir", "out") == 1
    said = capsys.readouterr()
    assert said.err.endswith("skipvsr: a.mp4: the disk is full: free some space, then run the same command again\n")
    assert said.out == "2 files: 0 upscaled, 1 failed, 1 not begun\n"
    assert upscale("a.mp4", "c.mp4") == 1
    said = capsys.readouterr()
    assert said.err.endswith("skipvsr: the disk is full: free some space, then run the same command again\n")


def test_start_imports_no_compiler_and_no_redis() -> None:
    """torch's compiler and Redis would add more than a second to the start of each run."""
    script = (
        "import gc, sys\n"
        "from pathlib import Path\n"
        "from commands.shared.local import import_pipeline\n"
        "import_pipeline()\n"
        "from model.engine.loading import load_model\n"
        "load_model('tiny', weights_dir=Path())\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 100_000)\n"
        "print(*sorted({'redis', 'torch', 'torch._dynamo'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True True", "torch"]
