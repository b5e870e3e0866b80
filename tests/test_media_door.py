"""Hostile and broken files: refused with a reason, or done; never more than the process that reads them is lost."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media.errors import DecoderCrashed, MediaError, OverLimit, UnsupportedFile, UnusableVideo
from media.limits import DEFAULT_LIMITS, Limits
from media.probe import probe
from media.reader import VideoReader
from media.sandbox import Sandbox
from tests.media_support import children, open_files, upscale, write_clip


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path: Path) -> object:
    files = open_files()
    yield
    assert children() == []
    assert open_files() <= files


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", times=range(24), width=64, height=48)


def _png(width: int, height: int) -> bytes:
    """One black image of any size in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width // 8 + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _png_video(path: Path, images: list[bytes]) -> None:
    """A container that says 64×64, with PNGs of whatever size in it."""
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream("png", rate=25, width=64, height=64)
        for index, image in enumerate(images):
            packet = av.Packet(image)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
            packet.is_keyframe = True
            container.mux_one(packet)


_FTYP = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"isom")
_DEPTHS = range(9000, 0, -1)
_WAVE = (
    b"RIFF"
    + struct.pack("<I", 8036)
    + b"WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    + b"data"
    + struct.pack("<I", 8000)
    + bytes(8000)
)
TEXTS: dict[str, tuple[str, bytes]] = {
    "empty": ("clip.mp4", b""),
    "one byte": ("clip.mp4", b"\0"),
    "text": ("clip.mp4", b"To whom it may concern: this is no video.\n" * 50),
    "zeros": ("clip.mkv", bytes(100_000)),
    "hls playlist": ("clip.mp4", b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
    "hls over http": ("clip.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n"),
    "ffconcat": ("clip.mp4", b"ffconcat version 1.0\nfile '/etc/hostname'\n"),
    "concat in avi": ("clip.avi", b"ffconcat version 1.0\nfile clip2.mp4\n"),
    "dash": ("clip.mp4", b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>'),
    "sdp": ("clip.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    "tty art": ("clip.ans", b"\x1b[2J\x1b[1;1Hhello\x1b[31mred" * 40),
    "subtitles": ("clip.mp4", b"1\n00:00:00,000 --> 00:00:01,000\nHello\n\n" * 20),
    "ffmetadata": ("clip.mp4", b";FFMETADATA1\ntitle=x\n"),
    "png image": ("clip.mp4", _png(64, 64)),
    "gif image": ("clip.gif", b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"),
    "wave": ("clip.mp4", _WAVE),
    "zip": ("clip.mp4", b"PK\x03\x04" + bytes(range(64))),
    "elf": ("clip.mkv", b"\x7fELF" + bytes(200)),
    "mp4 without a track": ("clip.mp4", _FTYP + struct.pack(">I4s", 8, b"moov")),
    "boxes within boxes": ("clip.mp4", _FTYP + b"".join(struct.pack(">I4s", 8 * n, b"moov") for n in _DEPTHS)),
    "endless box": ("clip.mp4", _FTYP + struct.pack(">I4sQ", 1, b"moov", 2**63 - 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_video_is_refused(tmp_path: Path, name: str) -> None:
    file, data = TEXTS[name]
    path = tmp_path / file
    path.write_bytes(data)
    with pytest.raises((UnsupportedFile, UnusableVideo)) as refused:
        probe(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) > 15
    assert [p.name for p in tmp_path.iterdir()] == [file]


def test_names_that_look_like_protocols_are_files(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = Path("concat:clip.mp4|clip.mp4")
    odd.write_bytes(clip.read_bytes())
    assert probe(odd).video.frames == 24
    with pytest.raises(FileNotFoundError):
        probe(Path("http:example"))


def test_a_wrong_extension_does_not_matter(tmp_path: Path, clip: Path) -> None:
    renamed = clip.rename(tmp_path / "clip.txt")
    assert upscale(renamed, tmp_path).info.container == "mp4"


@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated_at_every_tenth(tmp_path: Path, tenth: int) -> None:
    """With the index in front: what is there is done, or the file is refused with a reason."""
    whole = upscale(write_clip(tmp_path / "clip.mp4", times=range(24), width=64, height=48), tmp_path).path
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * tenth // 10])
    try:
        result = upscale(cut, tmp_path)
    except MediaError:
        return
    assert len(result.times) <= 24
    assert len(result.times) == 24 or result.warnings


def test_damage_in_the_middle_is_concealed_and_counted(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.h264", times=range(48), width=128, height=96, container_format="h264")
    data = bytearray(clip.read_bytes())
    random = np.random.default_rng(1)
    for at in random.integers(len(data) // 3, len(data), 12):
        data[at] ^= 0x55
    clip.write_bytes(data)
    result = upscale(clip, tmp_path)
    assert any("damaged" in warning or "could not be decoded" in warning for warning in result.warnings)
    assert len(result.times) >= 24


def test_a_video_that_is_mostly_damage_fails(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mov"
    _png_video(clip, [_png(64, 64), *[b"\x89PNG\r\n\x1a\n" + bytes(40)] * 8, _png(64, 64)])
    with pytest.raises(UnusableVideo, match="damaged"), VideoReader(clip) as reader:
        list(reader)


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (Limits(max_upload_bytes=100), "max_upload_bytes"),
        (Limits(max_pixels=64 * 48 - 1), "max_pixels"),
        (Limits(max_duration_seconds=0.5), "max_duration_seconds"),
        (Limits(max_frames=10), "max_frames"),
        (Limits(max_streams=0), "max_streams"),
        (Limits(max_decoder_bytes=64 * 2**20), "max_decoder_bytes"),
    ],
)
def test_every_limit_names_its_setting(clip: Path, limits: Limits, setting: str) -> None:
    with pytest.raises((OverLimit, DecoderCrashed)) as refused:
        probe(clip, limits)
    if isinstance(refused.value, OverLimit):
        assert refused.value.setting == setting
        assert f"SKIPVSR_{setting.upper()}" in str(refused.value)
    else:
        assert setting == "max_decoder_bytes"


def test_frames_are_counted_where_the_header_lies(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", times=range(24))
    assert probe(clip).video.frames is None
    with (
        pytest.raises(OverLimit, match="SKIPVSR_MAX_FRAMES"),
        VideoReader(clip, limits=Limits(max_frames=10)) as reader,
    ):
        list(reader)


@pytest.mark.parametrize("side", [16384, 30000])
def test_a_decompression_bomb_takes_no_memory_here(tmp_path: Path, side: int) -> None:
    bomb = tmp_path / "bomb.mov"
    _png_video(bomb, [_png(side, side)])
    assert bomb.stat().st_size < 400_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((OverLimit, UnusableVideo)):
        probe(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_frame_that_grows_is_stopped(tmp_path: Path) -> None:
    """The first frame is small, the second is over the limit."""
    path = tmp_path / "grows.mov"
    _png_video(path, [_png(64, 64), _png(4000, 4000)])
    with pytest.raises(OverLimit, match="SKIPVSR_MAX_PIXELS"), VideoReader(path) as reader:
        list(reader)


def test_a_million_frames_of_nothing(tmp_path: Path) -> None:
    """A header that promises a million frames is refused before a single one is read."""
    clip = write_clip(tmp_path / "clip.mp4", times=range(3))
    data = bytearray(clip.read_bytes())
    stts = data.index(b"stts")
    struct.pack_into(">III", data, stts + 8, 1, 1_000_001, 512)
    stsz = data.index(b"stsz")
    struct.pack_into(">II", data, stsz + 8, 1, 1_000_001)
    clip.write_bytes(data)
    with pytest.raises(MediaError):
        probe(clip)


def test_forty_streams(tmp_path: Path) -> None:
    path = tmp_path / "many.mkv"

    def tone(container: av.container.OutputContainer) -> list[tuple[object, int]]:
        return [(container.add_stream("pcm_s16le", rate=8000, layout="mono"), 0) for _ in range(40)]

    write_clip(path, tone=tone)
    with pytest.raises(OverLimit, match="SKIPVSR_MAX_STREAMS"):
        probe(path)


def test_codecs_that_are_not_taken_are_named(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.avi", codec="zmbv", pixel_format="bgr0")
    with pytest.raises(UnsupportedFile, match="zmbv is not taken"):
        probe(clip)


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        block.sample_rate = 48000
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    with pytest.raises(UnusableVideo, match="only sound"):
        probe(path)


def test_times_that_are_missing_or_go_back_are_made_up(tmp_path: Path) -> None:
    raw = write_clip(tmp_path / "raw.h264", times=range(12), container_format="h264")
    with VideoReader(raw) as reader:
        times = [frame.pts for frame in reader]
    assert len(times) == 12
    assert times == sorted(set(times))
    assert len(upscale(raw, tmp_path).times) == 12


def test_closing_early_ends_the_process(clip: Path) -> None:
    with VideoReader(clip) as reader:
        next(iter(reader))
        assert len(children()) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_reader_that_dies_is_an_error_not_an_end(clip: Path, how: signal.Signals) -> None:
    def read() -> None:
        with VideoReader(clip) as reader:
            for number, _ in enumerate(reader):
                if number == 0:
                    os.kill(int(children()[0]), how)

    with pytest.raises(DecoderCrashed, match=how.name):
        read()


def test_a_reader_that_hangs_is_ended(clip: Path) -> None:
    def read() -> None:
        with VideoReader(clip, limits=Limits(max_decoder_seconds=1.0)) as reader:
            for number, _ in enumerate(reader):
                if number == 0:
                    os.kill(int(children()[0]), signal.SIGSTOP)

    begun = time.monotonic()
    with pytest.raises(DecoderCrashed, match="SKIPVSR_MAX_DECODER_SECONDS"):
        read()
    assert time.monotonic() - begun < 20


def test_a_parent_that_is_killed_takes_the_reader_along(tmp_path: Path, clip: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from media.reader import VideoReader\n"
        "from tests.media_support import children\n"
        "r = VideoReader(Path(sys.argv[1])); next(iter(r)); print(*children(), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(clip)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = parent.stdout.readline().decode().strip()
        assert child
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.05)


JAIL = """
import socket, sys
from pathlib import Path
from media.jail import lock_up
lock_up(memory_bytes=2**31, writes_below=Path(sys.argv[1]) if len(sys.argv) > 1 else None)
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
        arguments = [str(tmp_path)] if writable else []
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
    inside, outside, network, memory, reading = run.stdout.split()
    assert inside == ("allowed" if writable else inside) != ("x" if writable else "allowed")
    assert outside != "allowed"
    assert network != "allowed"
    assert memory == "MemoryError"
    assert reading == "allowed"
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


def test_nonsense_from_the_process_is_an_error(clip: Path) -> None:
    class Babbler(Sandbox):
        def _line(self) -> bytes | None:
            return b"not json"

    with (
        Babbler("probe", {"path": clip, "target": "mp4"}, DEFAULT_LIMITS) as process,
        pytest.raises(DecoderCrashed, match="nonsense"),
    ):
        next(process.messages())


MUTATIONS: dict[str, Callable[[bytearray, np.random.Generator], bytearray]] = {
    "bits": lambda d, r: _each(d, r, lambda b, k: b ^ (1 << (k % 8)), len(d) // 200 + 1),
    "bytes": lambda d, r: _each(d, r, lambda b, k: k, len(d) // 500 + 1),
    "cut": lambda d, r: d[: int(r.integers(1, len(d)))],
    "drop": lambda d, r: d[: (a := int(r.integers(len(d))))] + d[a + int(r.integers(1, 400)) :],
    "double": lambda d, r: d[: (a := int(r.integers(len(d))))] + d[max(0, a - int(r.integers(1, 400))) :],
    "header": lambda d, r: _each(d[:600], r, lambda b, k: k, 6) + d[600:],
}


def _each(data: bytearray, random: np.random.Generator, change: Callable[[int, int], int], times: int) -> bytearray:
    for _ in range(times):
        at = int(random.integers(len(data)))
        data[at] = change(data[at], int(random.integers(256)))
    return data


def fuzz(folder: Path, seed: int, seconds: float, most: int) -> dict[str, int]:
    """Mutate small clips of several containers and read them; how often what came of it. Anything but a MediaError
    is raised. Its seed and number name a case."""
    seeds = [
        write_clip(folder / "a.mp4", times=range(6)),
        write_clip(folder / "b.mkv", times=range(6), codec="mpeg4"),
        write_clip(folder / "c.avi", times=range(6), codec="mjpeg", pixel_format="yuvj420p"),
        write_clip(folder / "d.ts", times=range(6), codec="mpeg2video", container_format="mpegts"),
    ]
    outcomes: dict[str, int] = {}
    begun, number = time.monotonic(), 0
    while number < most and time.monotonic() - begun < seconds:
        random = np.random.default_rng([seed, number])
        source = seeds[number % len(seeds)]
        mutate = MUTATIONS[list(MUTATIONS)[int(random.integers(len(MUTATIONS)))]]
        path = folder / f"fuzz{source.suffix}"
        path.write_bytes(mutate(bytearray(source.read_bytes()), random))
        try:
            probe(path, Limits(max_decoder_seconds=10))
            with VideoReader(path, limits=Limits(max_decoder_seconds=10, max_frames=500)) as reader:
                list(reader)
            outcome = "done"
        except MediaError as error:
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        number += 1
    return outcomes


def test_fuzz(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, seed=5, seconds=12, most=60)
    assert sum(outcomes.values()) >= 8
    assert outcomes.get("done", 0) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fuzz_long(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, seed=6, seconds=600, most=1_000_000)
    print(outcomes)
    assert sum(outcomes.values()) >= 80
