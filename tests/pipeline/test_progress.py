"""Progress by the work on each frame, with a clock that the tests set."""

from __future__ import annotations

import pytest

from pipeline.progress import ProgressCounter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_frames_rate_and_remaining_time_come_with_the_first_steps(clock: Clock) -> None:
    """A frame takes two seconds: the first steps tell, without the time before them."""
    counter = ProgressCounter(100, 0, clock)
    assert (counter.now().frames_done, counter.now().fps, counter.now().eta_seconds) == (0, None, None)
    clock.now += 30  # decoding of the first frames
    chunk = counter.begin_chunk(24)
    counter.compute(chunk, 0.0)
    seen = []
    for step in range(1, 49):
        clock.now += 0.9  # 24 frames at 0.9 x 2 s; encoding takes the rest
        counter.compute(chunk, step / 48)
        now = counter.now()
        seen.append(now.frames_done)
        assert now.fps == pytest.approx(0.5)
        assert now.eta_seconds == pytest.approx((100 - step * 0.45) * 2)
    assert seen == sorted(seen)
    assert seen[2:5] == [1, 1, 2]


def test_the_next_chunk_counts_while_a_chunk_is_encoded(clock: Clock) -> None:
    counter = ProgressCounter(20, 0, clock)
    chunk = counter.begin_chunk(10)
    counter.compute(chunk, 1.0)
    counter.end_chunk(chunk)
    assert counter.now().frames_done == 9
    chunk = counter.begin_chunk(10)
    counter.compute(chunk, 0.5)
    assert counter.now().frames_done == 13
    counter.write(10)
    assert counter.now().frames_done == 14
    counter.save(10, encoding=0.5)
    assert (counter.now().frames_done, counter.now().frames_saved) == (14, 10), "the number never falls"
    counter.compute(chunk, 1.0)
    assert counter.now().frames_done == 15


def test_time_for_measurements_does_not_slow_the_frames_down(clock: Clock) -> None:
    counter = ProgressCounter(40, 0, clock)
    chunk = counter.begin_chunk(10)
    counter.compute(chunk, 0.0)
    clock.now += 9
    counter.compute(chunk, 1.0)
    clock.now += 60
    counter.compute(chunk, 1.0)  # a step of the dense network
    clock.now += 1
    counter.end_chunk(chunk)
    assert counter.now().fps == pytest.approx(1.0)
    assert counter.now().eta_seconds == pytest.approx(31)


def test_a_resumed_run_counts_its_own_frames(clock: Clock) -> None:
    counter = ProgressCounter(100, 50, clock)
    chunk = counter.begin_chunk(10)
    counter.compute(chunk, 0.0)
    clock.now += 9
    counter.compute(chunk, 1.0)
    now = counter.now()
    assert (now.frames_done, now.frames_saved) == (59, 50)
    assert now.fps == pytest.approx(1.0)
    assert counter.at_checkpoint().frames_done == 50
    assert counter.seconds_to_checkpoint() == pytest.approx(1.0)


def test_an_estimated_total_grows_and_the_real_one_replaces_it(clock: Clock) -> None:
    counter = ProgressCounter(8, 0, clock)
    chunk = counter.begin_chunk(10)
    counter.compute(chunk, 1.0)
    clock.now += 1
    assert (counter.now().frames_done, counter.now().frames_total) == (9, 9)
    counter.save(10, encoding=0.1)
    complete = counter.at_checkpoint(complete=True)
    assert (complete.frames_done, complete.frames_saved, complete.frames_total) == (10, 10, 10)


def test_a_video_of_unknown_length_has_no_remaining_time(clock: Clock) -> None:
    counter = ProgressCounter(None, 0, clock)
    chunk = counter.begin_chunk(10)
    counter.compute(chunk, 0.0)
    clock.now += 1
    counter.compute(chunk, 0.5)
    now = counter.now()
    assert (now.frames_done, now.frames_total, now.eta_seconds) == (4, None, None)
    assert now.fps
