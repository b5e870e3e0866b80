"""Batching and fairness among concurrent streams."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from commands.shared.embedded_redis import EmbeddedRedis
from service.rpc.scheduler import Scheduler
from skipvsr.v1 import upscaler_pb2 as pb
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.rpc_server import expected, noise, rpc_server, tiny


class DeviceTime:
    """A simulated clock, advanced by tasks only and independent of the machine's load."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(frozen=True)
class Work:
    """A task that advances the clock and records its batch."""

    name: str
    batch_key: str | None
    runs: list[list[str]]
    max_batch: int = 8
    clock: DeviceTime = field(default_factory=DeviceTime)
    seconds: float = 0.0
    then: Callable[[], None] | None = None
    started: threading.Event = field(default_factory=threading.Event)
    go: threading.Event | None = None

    def run(self, others: Sequence[Work]) -> None:
        self.started.set()
        if self.go:
            assert self.go.wait(60)
        self.runs.append([self.name, *(other.name for other in others)])
        self.clock.seconds += self.seconds * (1 + 0.2 * len(others))
        for work in (self, *others):
            if work.then:
                work.then()


@pytest.fixture
def clock() -> DeviceTime:
    return DeviceTime()


@pytest.fixture
def scheduler(clock: DeviceTime) -> Iterator[Scheduler]:
    running = Scheduler(clock=clock)
    running.start()
    yield running
    running.close(10)


def blocked(scheduler: Scheduler) -> tuple[threading.Event, list[list[str]]]:
    """Occupy the scheduler until the returned event is set. Further tasks wait."""
    runs: list[list[str]] = []
    first = Work("first", None, runs, go=threading.Event())
    scheduler.submit(scheduler.open_lane(), first)
    assert first.started.wait(60)
    assert first.go
    return first.go, runs


def test_waiting_tasks_with_equal_keys_share_a_batch(scheduler: Scheduler) -> None:
    go, runs = blocked(scheduler)
    a, b, c, d = (scheduler.open_lane() for _ in range(4))
    for lane, name, kind in ((a, "a1", "x"), (b, "b1", "x"), (c, "c1", "y"), (a, "a2", "x"), (d, "d1", None)):
        scheduler.submit(lane, Work(name, kind, runs))
    scheduler.submit(d, Work("d2", None, runs))
    go.set()
    wait_until(lambda: sum(map(len, runs)) == 7, 60, f"only {runs} ran")
    assert sorted(next(run for run in runs if "a1" in run)) == ["a1", "b1"]
    assert [run for run in runs if "a2" in run] == [["a2"]], "tasks of one stream must run one after the other"
    assert ["c1"] in runs
    assert runs.index(["d1"]) < runs.index(["d2"])


def test_batch_limit_and_no_waiting_for_partners(scheduler: Scheduler) -> None:
    alone: list[list[str]] = []
    scheduler.submit(scheduler.open_lane(), Work("alone", "x", alone))
    wait_until(lambda: alone == [["alone"]], 60, "the task waits for a partner")
    go, runs = blocked(scheduler)
    for number in range(5):
        scheduler.submit(scheduler.open_lane(), Work(str(number), "x", runs, max_batch=2))
    go.set()
    wait_until(lambda: sum(map(len, runs)) == 6, 60, f"only {runs} ran")
    assert [len(run) for run in runs] == [1, 2, 2, 1]


def test_device_time_is_shared_fairly_with_batches(scheduler: Scheduler, clock: DeviceTime) -> None:
    """Three streams share batches, a fourth runs alone. All four get equal device time."""
    go, runs = blocked(scheduler)
    lanes = [scheduler.open_lane() for _ in range(4)]

    def keep_busy(number: int) -> None:
        def again() -> None:
            if clock.seconds < 1.5:
                work = Work(str(number), "ab"[number == 3], runs, clock=clock, seconds=0.004, then=again)
                scheduler.submit(lanes[number], work)

        again()
        again()  # one task waits while another runs

    for number in range(4):
        keep_busy(number)
    go.set()
    wait_until(lambda: not scheduler.waiting and clock.seconds >= 1.5, 60, "tasks keep coming")
    scheduler.close(10)
    used = [lane.used for lane in lanes]
    assert max(used) < 1.02 * min(used)
    assert sum(used) == pytest.approx(scheduler.busy_seconds)
    assert any(len(run) == 3 for run in runs)
    assert all(run == ["3"] for run in runs if "3" in run)


def test_streams_in_batches_equal_the_pipeline_bit_for_bit(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    """Four streams of equal size (with a scene cut, a late start), a fifth of another size, and a failing sixth."""
    model = tiny()
    port = free_port()
    clips = [noise(24, seed=seed) for seed in range(4)] + [noise(24, width=40, height=16)]
    clips[1][17:] = [frame // 4 for frame in clips[1][17:]]  # suddenly dark: a scene cut
    wanted = [expected(model, clip) for clip in clips]
    settings = {"SKIPVSR_GRPC_BATCH": "4", "SKIPVSR_GRPC_METRICS_PORT": str(port)}
    with rpc_server(tmp_path, redis_server.url, **settings) as server:

        def stream(number: int) -> list[bool]:
            height, width = clips[number][0].shape[:2]
            time.sleep(0.1 * (number == 3))
            with server.client() as client:
                answers = client.stream(clips[number], width=width, height=height, routing="off")
                return [answer.scene_start for answer in answers if check(number, answer.sequence, answer.data)]

        def check(number: int, index: int, data: bytes | memoryview) -> bool:
            np.testing.assert_array_equal(np.frombuffer(data, np.uint8), wanted[number][index].ravel())
            return True

        def spoilt() -> grpc.StatusCode:
            """Stream frames of the same size, then a frame with too few bytes."""

            def requests() -> Iterator[pb.StreamRequest]:
                yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24, routing="off"))
                for index, frame in enumerate(clips[0]):
                    data = frame.tobytes()[: 100 if index == 12 else None]
                    yield pb.StreamRequest(frame=pb.InputFrame(sequence=index, data=data))

            with server.client() as client, pytest.raises(grpc.RpcError) as ended:
                list(client.upscaler.Stream(requests()))
            return ended.value.code()  # type: ignore[no-any-return]

        with ThreadPoolExecutor() as pool:
            failing = pool.submit(spoilt)
            scenes = list(pool.map(stream, range(5)))
            assert failing.result() is grpc.StatusCode.INVALID_ARGUMENT
        assert [np.flatnonzero(starts).tolist() for starts in scenes] == [[0], [0, 17], [0], [0], [0]]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            metrics = {
                (sample.name, sample.labels.get("le")): sample.value
                for family in text_string_to_metric_families(page.read().decode())
                for sample in family.samples
            }
    answered, unbatched = metrics["skipvsr_batch_streams_count", None], metrics["skipvsr_batch_streams_bucket", "1.0"]
    assert answered >= 5 * 24
    assert unbatched < answered, "the streams did not share batches"
