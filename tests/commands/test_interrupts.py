"""^C in a real process: status 130 at once, no traceback, and the work continues later."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clips import make_clip
from tests.support.paths import ROOT
from tests.support.processes import wait_until


def start(*argv: object, folder: Path, held: int | None = None) -> subprocess.Popen[str]:
    """Start a command. `held`: number of the chunk in whose middle the network waits; the file `held` says so."""
    program = "cli" if held is None else "tests.support.held"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
        "SKIPVSR_DATA_DIR": str(folder / "data"),
        "SKIPVSR_DEVICE": "cpu",
        "SKIPVSR_THREADS": "1",
        "HELD": str(folder / "held"),
        "HELD_CALLS": str(held),
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", program, *map(str, argv)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def test_an_interrupted_file_resumes(tmp_path: Path) -> None:
    """The network waits in the middle of the second chunk: only an interruption between two steps ends the command."""
    make_clip(tmp_path / "in.mp4", frames=12)
    command = ("upscale", "in.mp4", "out.mp4", "--model", "tiny", "--chunk", 4)
    process = start(*command, folder=tmp_path, held=2)
    manifest = tmp_path / ".out.mp4.skipvsr" / "manifest.json"
    wait_until(lambda: manifest.exists() and (tmp_path / "held").exists(), 60, "no checkpoint")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the decoder gets the signal too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "skipvsr: interrupted; the same command resumes from the last finished chunk"
    assert "Traceback" not in said
    assert re.search(r'"frames": ?4\b', manifest.read_text())
    process = start(*command, "--report", "report.json", folder=tmp_path)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert '"resumed": true' in (tmp_path / "report.json").read_text()
    assert not manifest.parent.exists()


def test_an_interrupt_does_not_wait_for_the_chunk(tmp_path: Path) -> None:
    """All frames are one chunk; the network waits in its middle, and stops between two steps."""
    make_clip(tmp_path / "in.mp4", frames=8)
    process = start("upscale", "in.mp4", "out.mp4", "--model", "tiny", "--chunk", 8, folder=tmp_path, held=1)
    wait_until((tmp_path / "held").exists, 60, "not begun")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "skipvsr: interrupted; the same command resumes from the last finished chunk"
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} <= {"in.mp4", "data", "held"}, "no chunk was finished"


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    """A model that takes long for its chunk: the first ^C asks, the second one does not."""
    code = (
        "import cli, sys, time\n"
        "def work(*given, **more):\n"
        "    try:\n"
        "        print('working', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        print('stopping', flush=True); time.sleep(60)\n"
        "import commands.models; commands.models.run = work\n"
        "sys.exit(cli.main(['models']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for word in ("working\n", "stopping\n"):
        assert process.stdout.readline() == word
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == ""


@pytest.mark.parametrize("word", ["jobs", "status"])
def test_a_short_command_is_interrupted_without_a_traceback(word: str, tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = start(word, *(["a" * 24] if word == "status" else []), "--server", url, folder=tmp_path)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130
    assert said == "skipvsr: interrupted\n"
