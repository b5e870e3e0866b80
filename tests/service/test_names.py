"""Names of results."""

import pytest

from jobs.names import result_name
from jobs.schema import Job, JobOptions, StreamFacts


def facts(height: int) -> StreamFacts:
    return StreamFacts(container="mp4", codec="h264", width=64, height=height, pixel_format="yuv420p")


@pytest.mark.parametrize(
    ("options", "height", "name"),
    [
        ({"scale": 3}, 144, "clip-x3.mkv"),
        ({"height": 720}, 720, "clip-720p.mkv"),
        ({}, 192, "clip-x4.mkv"),
        ({"model": "small-x2"}, 96, "clip-x2.mkv"),
        ({}, None, "clip-x4.mkv"),
    ],
)
def test_a_name_says_the_size(options: dict[str, object], height: int | None, name: str) -> None:
    output = None if height is None else facts(height)
    job = Job(id="a", filename="clip.mp4", options=JobOptions(**options), input=facts(48), output=output)
    assert result_name(job, "result.mkv") == name
