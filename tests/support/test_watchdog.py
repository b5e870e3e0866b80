"""A test that hangs where no exception reaches it is named, and the other tests go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_CONFTEST = """
from tests.support import watchdog
watchdog.GRACE, watchdog.EXIT = 0.5, {exit_}
def pytest_configure(config):
    watchdog.install(config)
"""
_HANGS = """
import signal, threading, time
def hang():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(600)
"""


def run(folder: Path, test: str, *options: str, exit_: float = 0.5) -> subprocess.CompletedProcess[str]:
    """Run pytest on a file. A test may take one second, and the end of a process `exit_` seconds."""
    (folder / "conftest.py").write_text(_CONFTEST.format(exit_=exit_))
    (folder / "test_it.py").write_text(_HANGS + test)
    command = ["-m", "pytest", "--timeout", "1", "-p", "no:cacheprovider", "--rootdir", str(folder), *options]
    return subprocess.run(
        [sys.executable, *command, "-c", "/dev/null", str(folder)],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_test_that_hangs_fails_and_the_next_one_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_one():\n    hang()\ndef test_two():\n    pass\n", "-n", "1", exit_=90)
    assert done.returncode == 1
    assert "in hang" in done.stderr
    assert "crashed while running 'test_it.py::test_one'" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


@pytest.mark.parametrize(
    "test",
    [
        "import pytest\n@pytest.fixture\ndef one():\n    yield\n    hang()\ndef test_one(one):\n    assert False\n",
        "def test_one():\n    threading.Thread(target=hang).start()\n",
    ],
    ids=["clean-up after a failure", "thread at the end"],
)
def test_a_clean_up_that_hangs_ends(tmp_path: Path, test: str) -> None:
    done = run(tmp_path, test)
    assert done.returncode == 1
    assert "in hang" in done.stderr


def test_workers_that_run_no_test_are_ended(tmp_path: Path) -> None:
    """The controller of the processes gets no word from a worker that hangs before its first test."""
    test = "import os\nif 'PYTEST_XDIST_WORKER' in os.environ:\n    hang()\ndef test_one():\n    pass\n"
    done = run(tmp_path, test, "-n", "1")
    assert done.returncode == 3
    assert "No test has started or ended" in done.stderr
    assert "in hang" in done.stderr
    assert "  killed: " in done.stderr
