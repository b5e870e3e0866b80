"""The gRPC benchmarks: races of streams against a real server, and the options of the minimal server."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks.grpc_floor import Setup, floor
from benchmarks.grpc_races import Race, noise, race
from commands.shared.embedded_redis import EmbeddedRedis
from tests.support.rpc_server import rpc_server


@pytest.mark.slow
def test_a_race(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    with rpc_server(tmp_path, redis_server.url) as server:
        outcome = race(server.address, [(32, 24), (16, 16)], seconds=5)
    assert len(outcome) == 2
    for count, device_seconds in outcome:
        assert count > 0
        assert 0 < device_seconds < 60


def test_unfairness_is_the_largest_deviation_from_the_mean() -> None:
    assert Race("", 1.0, [1, 1], [1.0, 3.0], 1.0).unfairness == pytest.approx(0.5)


def test_noise_moves() -> None:
    first, second = noise(32, 24, 2)
    assert first.shape == (24, 32, 3)
    assert (first != second).mean() > 0.9


def test_the_minimal_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(model="tiny", size="32x24")
    parser = argparse.ArgumentParser()
    Setup.add_options(parser)
    assert Setup(**vars(parser.parse_args(setup.options()))) == setup
    with floor(setup) as client:
        assert client.frame(np.zeros((setup.height, setup.width, 3), np.uint8)) > 0
