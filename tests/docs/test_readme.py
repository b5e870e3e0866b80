"""The README's commands do what they say: each `sh` block runs against a real service with the network `tiny`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from media.probe import probe
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.processes import wait_until

pytestmark = pytest.mark.timeout(900)
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
SKIPVSR_LINES = [
    line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("skipvsr")
]


@dataclass(frozen=True)
class Shell:
    """A folder with the examples, and the environment of a user whose service runs."""

    folder: Path
    env: dict[str, str]
    http: str

    def run(self, script: str) -> None:
        script = script.replace("127.0.0.1:8000", self.http)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def result(self, name: str) -> Path:
        path = self.folder / name
        assert path.is_file()
        return path


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    commands = folder / "bin"
    commands.mkdir()
    (commands / "skipvsr").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m cli "$@"\n')
    (commands / "skipvsr").chmod(0o755)
    http, grpc = free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("SKIPVSR_")} | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SKIPVSR_DATA_DIR": str(folder / "data"),
        "SKIPVSR_HTTP_PORT": str(http),
        "SKIPVSR_GRPC_PORT": str(grpc),
        "SKIPVSR_MODEL": "tiny",
        "SKIPVSR_DEVICE": "cpu",
        "SKIPVSR_THREADS": "1",
    }
    (folder / "data").mkdir()
    with (folder / "up.log").open("wb") as log:
        service = subprocess.Popen(["skipvsr", "up"], cwd=folder, env=env, stdout=log, stderr=log)
    try:
        wait_until(lambda: "SkipVSR is ready" in (folder / "up.log").read_text(), 240, "skipvsr up did not start")
        yield Shell(folder, env, f"127.0.0.1:{http}")
    finally:
        service.terminate()
        service.wait(60)


def _is_four_times_as_large(path: Path) -> None:
    source, result = probe(ROOT / "examples" / "cups.mp4").video, probe(path).video
    assert (result.width, result.height) == (4 * source.width, 4 * source.height) == (1280, 720)
    assert result.frames == source.frames == 90


def test_every_block_is_run_or_left_to_another_test() -> None:
    """Docker's commands are run by tests/deploy/test_compose_slow.py, where Docker is."""
    assert len(BLOCKS) == 3
    assert BLOCKS[0].startswith("job=")
    assert BLOCKS[1].startswith("skipvsr ")
    assert BLOCKS[2].startswith("docker compose ")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_upscales_a_video_and_waits_for_it(shell: Shell) -> None:
    shell.run(BLOCKS[0])
    _is_four_times_as_large(shell.result("large.mp4"))


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_never_saves_an_error_as_the_result(shell: Shell) -> None:
    script = BLOCKS[0].replace("examples/cups.mp4", "up.log").replace("large.mp4", "refused.mp4")
    with pytest.raises(AssertionError, match="415"):
        shell.run(script)
    assert not (shell.folder / "refused.mp4").exists()


@pytest.mark.slow
@pytest.mark.parametrize("line", SKIPVSR_LINES)
def test_commands_upscale_the_example(shell: Shell, line: str) -> None:
    made = shell.folder / line.split()[3 if "-o" not in line else 4]
    made.unlink(missing_ok=True)
    shell.run(line)
    _is_four_times_as_large(made)


@pytest.mark.slow
def test_the_command_under_the_picture_writes_report_and_skip_map(shell: Shell) -> None:
    (line,) = re.findall(r"`(skipvsr upscale .*--report.*)`", README)
    shell.run(line)
    assert probe(shell.result("map.mp4")).video.frames == 90
    assert '"skip_ratio"' in shell.result("report.json").read_text()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(make [^`]+)`", README))))
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
