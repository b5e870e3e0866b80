"""Facts of files of which only the ends are known."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from media.errors import HeaderElsewhere, UnsupportedFile
from media.probe import MediaInfo, probe
from tests.support.clips import make_noise

KNOWN = 2**16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def ends(whole: Path, head: int = KNOWN, tail: int = KNOWN, size: int = 0) -> tuple[Path, tuple[int, int]]:
    """A copy with a hole, and the hole."""
    data, path = whole.read_bytes(), whole.with_name(f"ends-{whole.name}")
    size = size or len(data)
    assert head + tail < size
    with path.open("wb") as file:
        file.truncate(size)
        file.write(data[:head])
        file.seek(size - tail)
        file.write(data[len(data) - tail :])
    return path, (head, size - tail)


def probed(ends: tuple[Path, tuple[int, int]]) -> MediaInfo:
    return probe(ends[0], target="auto", hole=ends[1])


@pytest.mark.parametrize(
    ("name", "container", "codec", "options"),
    [
        ("header-at-the-end.mp4", "mp4", "libx264", {}),
        ("header-at-the-start.mp4", "mp4", "libx264", {"movflags": "faststart"}),
        ("clip.mov", "mov", "libx264", {}),
        ("clip.mkv", "matroska", "libx264", {}),
        ("clip.webm", "webm", "libvpx-vp9", {}),
        ("clip.ts", "mpegts", "libx264", {}),
        ("clip.mpg", "mpeg", "mpeg2video", {}),
        ("clip.avi", "avi", "mpeg4", {}),
        ("clip.flv", "flv", "libx264", {}),
    ],
)
def test_both_ends_show_the_facts_of_the_file(
    folder: Path, name: str, container: str, codec: str, options: dict[str, str]
) -> None:
    whole = make_noise(folder / name, container, codec, **options)
    assert probed(ends(whole)) == probe(whole, target="auto")


def test_a_header_that_was_not_sent_is_said_to_be_missing(folder: Path) -> None:
    at_the_end = make_noise(folder / "end.mp4", "mp4", "libx264")
    with pytest.raises(HeaderElsewhere, match="outside the bytes that were sent"):
        probed(ends(at_the_end, tail=64))
    at_the_start = make_noise(folder / "start.mp4", "mp4", "libx264", movflags="faststart")
    with pytest.raises(HeaderElsewhere, match="outside the bytes that were sent"):
        probed(ends(at_the_start, head=600))


@pytest.mark.parametrize(
    ("name", "container", "options"),
    [("fragments.mp4", "mp4", {"movflags": "frag_keyframe+empty_moov"}), ("short.ts", "mpegts", {})],
)
def test_a_length_that_no_header_states_is_not_guessed(
    folder: Path, name: str, container: str, options: dict[str, str]
) -> None:
    whole = make_noise(folder / name, container, "libx264", **options)
    with pytest.raises(HeaderElsewhere, match="length"):
        probed(ends(whole, tail=64))


def test_an_animation_has_no_header_that_states_its_length(folder: Path) -> None:
    with pytest.raises(HeaderElsewhere, match="length"):
        probed(ends(make_noise(folder / "a.gif", "gif", "gif")))


def test_no_video_stays_no_video(folder: Path) -> None:
    (folder / "text.mp4").write_bytes(b"no video at all " * 20_000)
    with pytest.raises(UnsupportedFile):
        probed(ends(folder / "text.mp4"))


@pytest.mark.parametrize("size", [0, 3 * 10**9])
def test_a_file_without_its_last_bytes_is_refused_before_the_upload(folder: Path, size: int) -> None:
    """Boxes outside the hole show that the index is cut off, or does not fit into the file."""
    whole = make_noise(folder / "cut.mp4", "mp4", "libx264")
    data = bytearray(whole.read_bytes())
    at = data.index(b"mdat") - 4
    if size:
        data[at : at + 4] = (2**32 - 1).to_bytes(4, "big")
    whole.write_bytes(data[: -len(data) // 8])
    with pytest.raises(UnsupportedFile, match="the download or the recording broke off"):
        probed(ends(whole, size=size))


def test_an_upload_in_progress_does_not_break_off(folder: Path) -> None:
    whole = make_noise(folder / "arriving.mp4", "mp4", "libx264")
    data = whole.read_bytes()
    whole.write_bytes(data[:KNOWN])
    with pytest.raises(HeaderElsewhere, match="outside the bytes that were sent"):
        probe(whole, target="auto", hole=(KNOWN, len(data)))


def cpu_of_children() -> float:
    """CPU seconds of all processes that have read files so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_hole_of_gigabytes_costs_no_time(folder: Path) -> None:
    """libav searches for the next packet; it must not search a hole."""
    for name, codec in (("clip.mkv", "matroska"), ("clip.flv", "flv"), ("clip.avi", "avi")):
        whole = make_noise(folder / name, codec, "mpeg4" if codec == "avi" else "libx264")
        begun = cpu_of_children()
        assert probed(ends(whole, size=3 * 10**9)).duration_seconds == pytest.approx(3, abs=0.1)
        assert cpu_of_children() - begun < 5
