"""The child process may crash, hang or be compromised: the parent survives, and the child can do no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from media.assemble import assemble
from media.errors import DecoderCrashed
from media.ledger import Ledger, Missing, TrackLedger
from media.limits import DEFAULT_LIMITS, Limits
from media.reader import VideoReader
from media.sandbox import process
from media.sandbox.process import Sandbox
from media.sandbox.protocol import (
    Decoded,
    Failed,
    FrameFormat,
    InvalidMessage,
    Message,
    Muxed,
    MuxProgress,
    MuxRequest,
    Probed,
    ProbeRequest,
    from_line,
    to_line,
)
from tests.support.media import children, upscale, write_clip
from tests.support.processes import alive, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", times=range(24), width=64, height=48)


def test_closing_early_ends_the_process(clip: Path) -> None:
    with VideoReader(clip) as reader:
        next(iter(reader))
        assert len(children()) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_child_is_an_error(clip: Path, how: signal.Signals) -> None:
    def read() -> None:
        with VideoReader(clip) as reader:
            for number, _ in enumerate(reader):
                if number == 0:
                    os.kill(int(children()[0]), how)

    with pytest.raises(DecoderCrashed, match=how.name):
        read()


def test_a_hanging_child_is_killed(clip: Path) -> None:
    def read() -> None:
        with VideoReader(clip, limits=Limits(max_decoder_seconds=1.0)) as reader:
            for number, _ in enumerate(reader):
                if number == 0:
                    os.kill(int(children()[0]), signal.SIGSTOP)

    begun = time.monotonic()
    with pytest.raises(DecoderCrashed, match="SKIPVSR_MAX_DECODER_SECONDS"):
        read()
    assert time.monotonic() - begun < 50  # less than the default limit


def test_the_child_dies_with_its_parent(tmp_path: Path, clip: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from media.reader import VideoReader\n"
        "from tests.support.media import children\n"
        "r = VideoReader(Path(sys.argv[1])); next(iter(r)); print(*children(), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(clip)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = parent.stdout.readline().decode().strip()
        assert child
        parent.kill()
    wait_until(lambda: not alive(int(child)), 60, "the child goes on")


JAIL = """
import socket, sys
from pathlib import Path
from media.jailed.lockdown import limit_memory, lock_down
limit_memory(2**31)
lock_down(writes=Path(sys.argv[1]) if len(sys.argv) > 1 else None)
def refused(action):
    try:
        action()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "allowed"
print(refused(lambda: Path("new").write_bytes(b"x" * 10)))
print(refused(lambda: Path("/tmp/skipvsr-outside").write_bytes(b"x")))
print(refused(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=2).close()))
print(refused(lambda: bytearray(3 * 2**30)))
print(refused(lambda: Path("/proc/version").read_text()))
"""


@pytest.mark.parametrize("writable", [False, True])
def test_the_jail_holds(tmp_path: Path, writable: bool) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        code = JAIL.replace("PORT", str(server.getsockname()[1]))
        (tmp_path / "new").touch()
        arguments = [str(tmp_path / "new")] if writable else []
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
    inside, outside, network, memory, reading = run.stdout.split()
    assert inside == ("allowed" if writable else inside) != ("x" if writable else "allowed")
    assert outside != "allowed"
    assert network != "allowed"
    assert memory == "MemoryError"
    assert reading != "allowed"
    assert not Path("/tmp/skipvsr-outside").exists() or Path("/tmp/skipvsr-outside").stat().st_size == 0


def test_readers_side_by_side(clip: Path) -> None:
    counts: list[int] = []

    def read() -> None:
        with VideoReader(clip) as reader:
            counts.append(sum(1 for _ in reader))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [24, 24, 24]


def test_muxing_reports_each_segment_and_each_step_of_the_rewriting(tmp_path: Path, clip: Path) -> None:
    """Thousands of segments, and rewriting a large MP4 at its end, take longer than the limit for one frame."""
    done = upscale(clip, tmp_path, chunk=2)
    out = tmp_path / "again.mp4"
    request = MuxRequest(tuple(done.segments), clip, out, done.spec)
    out.touch()
    with Sandbox(request, DEFAULT_LIMITS, reads=(*done.segments, clip), writes=out) as child:
        messages = list(child.messages())
    assert messages[:12] == [MuxProgress()] * 12
    *_, progress, end = messages
    assert progress == MuxProgress()
    assert isinstance(end, Muxed)
    (picture,) = end.ledger.tracks
    assert (end.warnings, end.frame_rate, picture.written.frames) == ((), 25, 24)
    assert out.read_bytes() == done.path.read_bytes()


def test_patience_can_be_extended(clip: Path) -> None:
    with Sandbox(ProbeRequest(clip, "mp4"), Limits(max_decoder_seconds=0.001), reads=(clip,)) as child:
        child.patience = 60.0
        assert any(isinstance(message, Probed) for message in child.messages())


def _end_with_77_if_imported(module: str) -> tuple[str, str]:
    """Arguments of Python for a child that serves its request, and then reports whether a module is imported."""
    code = f"import os, sys; from media.jailed.child import main; main(); os._exit(77 * ({module!r} in sys.modules))"
    return "-c", code


@pytest.mark.parametrize("module", ["numpy", "av"])
def test_the_child_does_without_numpy(tmp_path: Path, clip: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy would double the time of its start. With PyAV, the test shows that it can fail."""
    done = upscale(clip, tmp_path)
    monkeypatch.setattr(process, "_CHILD", _end_with_77_if_imported(module))

    def probe_file() -> None:
        with Sandbox(ProbeRequest(clip, "mp4"), DEFAULT_LIMITS, reads=(clip,)) as child:
            assert [type(message) for message in child.messages()] == [Probed]

    def read_file() -> None:
        with VideoReader(clip) as reader:
            assert len(list(reader)) == 24

    def mux_file() -> None:
        assert assemble(done.segments, clip, tmp_path / "again.mp4", done.spec).warnings == ()

    for act in (probe_file, read_file, mux_file):
        if module == "numpy":
            act()
        else:
            with pytest.raises(DecoderCrashed, match="exit status 77"):
                act()


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON",
        b"[]",
        b'{"message": "Probed"}',
        b'{"message": "Probed", "fields": {"info": 1}}',
        b'{"message": "Sandbox", "fields": {}}',
        b'{"message": "FrameReady", "fields": {"slot": "0", "pts": 1, "clean": true}}',
        b'{"message": "FrameFormat", "fields": {"width": 1, "height": 1, "bytes_per_sample": 1, "time_base": [1, 0]}}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidMessage):
        from_line(line)


@pytest.mark.parametrize(
    "message",
    [
        FrameFormat(64, 48, 1, Fraction(1001, 30000)),
        Decoded(Ledger((TrackLedger(missing={Missing.CUT_OFF: 2}, dropped_metadata=("a", "b")),))),
        Failed("OverLimit", "too large", setting="max_pixels"),
        MuxProgress(),
    ],
)
def test_a_message_survives_its_line(message: Message) -> None:
    assert from_line(to_line(message)) == message


def test_invalid_data_from_the_child_is_an_error(clip: Path) -> None:
    class Babbler(Sandbox):
        def _line(self) -> bytes | None:
            return b"not json"

    with (
        Babbler(ProbeRequest(clip, "mp4"), DEFAULT_LIMITS) as child,
        pytest.raises(DecoderCrashed, match="invalid data"),
    ):
        next(child.messages())
