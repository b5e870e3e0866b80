"""The fidelity contract on one file with everything: each fact is kept, or a warning precedes the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from benchmarks import fidelity
from media.probe import probe
from tests.support.media import shown, upscale, write_clip


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_every_fact_is_kept(tmp_path: Path, container: str) -> None:
    facts, warnings = fidelity.run(tmp_path, container=container)
    assert len(facts) == 24
    assert [fact for fact in facts if not fact.expected] == []
    times = next(fact for fact in facts if fact.name == "every frame's time (ms)")
    assert times.before == times.after == " ".join(str(pts // 90) for pts in fidelity.TIMES)
    source, result = probe(tmp_path / "source.mp4"), probe(tmp_path / "work" / f"result.{container}")
    assert (source.video.bit_depth, source.video.rotation, len(source.audio)) == (10, 270, 2)
    assert result.video.mastering_display == source.video.mastering_display is not None
    assert warnings == ([] if container == "mp4" else list(probe(tmp_path / "source.mp4", target="mkv").warnings))


def test_the_table_marks_differences() -> None:
    before = {"video": "hevc 96×64", "frames": "15", "tags": "title: A"}
    after = {"video": "hevc 384×256", "frames": "15", "tags": "title: None"}
    facts = fidelity.compare(before, after, container="mp4", codec="hevc", scale=4)
    assert [fact.expected for fact in facts] == [True, True, False]
    lines = fidelity.table(facts).splitlines()
    assert lines[2:] == [
        "| video | hevc 96×64 | hevc 384×256 | as requested |",
        "| frames | 15 | the same | kept |",
        "| tags | title: A | title: None | DIFFERS |",
    ]


def test_a_lead_in_of_sound_does_not_shift_matroska(tmp_path: Path) -> None:
    """AAC's priming samples precede the picture. libav's muxer would shift all tracks for them."""

    def tone(target: av.container.OutputContainer) -> list[tuple[object, int]]:
        return [(target.add_stream("aac", rate=48000, layout="mono"), 0)]

    source = write_clip(tmp_path / "in.mp4", tone=tone)
    for container in ("mkv", "webm"):
        assert shown(upscale(source, tmp_path, container=container).path) == shown(source)


def test_losses_of_quicktime_are_reported_before_the_start(tmp_path: Path) -> None:
    def tone(target: av.container.OutputContainer) -> list[tuple[object, int]]:
        tracks: list[Any] = [target.add_stream("aac", rate=48000, layout="mono") for _ in range(3)]
        for track, language in zip(tracks, ("deu", "swe", "nav"), strict=True):
            track.metadata["language"] = language
        tracks[2].disposition = av.stream.Disposition.comment
        return [(track, 0) for track in tracks]

    result = upscale(write_clip(tmp_path / "in.mp4", tone=tone), tmp_path, container="mov")
    assert [track.language for track in probe(result.path).audio] == ["ger", "sve", None]
    assert result.info.warnings == result.warnings
    assert [warning.split(" because ")[0].split(" loses ")[1] for warning in result.warnings] == [
        "its language (nav)",
        "its disposition (comment)",
    ]
