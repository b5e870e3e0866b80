"""Settings of the encoders, read from the encoded stream."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from media.encode.encoders import job_threads
from media.encode.segment import SegmentWriter
from media.probe import probe
from media.spec import OutputSpec, output_spec
from tests.support.media import stripes, write_clip


@pytest.mark.parametrize(("cores", "shared", "threads"), [(1, True, 1), (4, True, 1), (5, True, 4), (2, False, 4)])
def test_the_encoder_takes_one_thread_beside_a_network_on_few_cores(cores: int, shared: bool, threads: int) -> None:
    assert job_threads(cores, shared=shared) == threads


@pytest.mark.parametrize(("scale", "partitions"), [(1, "0x3:0x113"), (2, "0x3:0x3"), (4, "0x3:0x3")])
def test_enlarged_frames_are_searched_for_no_motion_of_a_few_pixels(
    tmp_path: Path, scale: int, partitions: str
) -> None:
    spec = output_spec(probe(write_clip(tmp_path / "in.mp4")), scale=scale)
    assert _settings(tmp_path, spec)["analyse"] == partitions


@pytest.mark.parametrize("threads", [1, 4])
def test_the_spec_decides_about_the_threads(tmp_path: Path, threads: int) -> None:
    source = write_clip(tmp_path / "in.mp4", width=64, height=64)
    spec = replace(output_spec(probe(source), scale=4), threads=threads)
    assert _settings(tmp_path, spec)["threads"] == str(threads)


def _settings(folder: Path, spec: OutputSpec) -> dict[str, str]:
    """x264's settings, from its message in the stream."""
    with SegmentWriter(folder / "segment.mp4", spec) as writer:
        writer.write(stripes(0, spec.width, spec.height), 0)
    return dict(re.findall(r"(\w+)=(\S+)", (folder / "segment.mp4").read_bytes().decode("latin-1")))
