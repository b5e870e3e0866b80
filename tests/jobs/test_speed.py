"""Forecasts from calibrations and measurements, and their records in Redis and in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import redis as redis_client

from jobs.keys import PREFIX
from jobs.speed import Cell, Measurement, Rates, SpeedTable, Work, updated
from jobs.speed_records import RedisSpeeds, SpeedFile, SpeedRecords

RATES = Rates(network={"small": 2e-6, "large": 60e-6}, pixels=36_864, grows=True, encode=2e-8, shared=True)
HD, SMALL = Work("small", "off", "h264", 1280 * 720, 3840 * 2160), Work("small", "off", "h264", 320 * 180, 1280 * 720)


@dataclass
class Truth:
    """A machine that is `slow` times slower than its calibration."""

    slow: float

    def measured(self, work: Work, frames: int = 100) -> Measurement:
        forecast = SpeedTable(RATES, []).per_frame(work)
        assert forecast is not None
        return Measurement(work, frames, frames * forecast.seconds * self.slow, 3.0, 0.05)


def table(*measurements: Measurement) -> SpeedTable:
    cells: dict[str, Cell] = {}
    for new in measurements:
        cells[new.work.cell] = updated(cells.get(new.work.cell), new)
    return SpeedTable(RATES, cells.values())


def seconds(speeds: SpeedTable, work: Work, frames: int = 100) -> float:
    forecast = speeds.forecast(work, frames)
    assert forecast is not None
    assert forecast.low < forecast.seconds < forecast.high
    return forecast.seconds


def test_nothing_is_known_of_an_unknown_machine() -> None:
    assert SpeedTable(None, []).forecast(HD, 100) is None


def test_the_calibration_gives_a_first_forecast() -> None:
    first = SpeedTable(RATES, [])
    network, encoder = 0.9216 * 2.0 * (0.9216e6 / 36_864) ** 0.14, 8.2944 * 0.02
    assert seconds(first, HD) == pytest.approx(1.5 + 100 * (network + encoder), rel=0.01)
    assert seconds(first, HD._replace(routing="fast")) < seconds(first, HD._replace(routing="balanced"))
    assert seconds(first, HD._replace(codec="hevc")) > seconds(first, HD)
    assert seconds(first, HD._replace(model="large")) > 20 * seconds(first, HD)
    assert seconds(first, HD._replace(extra=4.0)) == pytest.approx(3 * seconds(first, HD), rel=0.01)
    forecast = first.forecast(HD, 100)
    assert forecast is not None
    assert forecast.basis == "calibrated"


def test_encoder_and_network_overlap_on_separate_processors() -> None:
    both = RATES.model_copy(update={"shared": False, "encode": 1e-6})
    assert seconds(SpeedTable(both, []), SMALL) == pytest.approx(1.5 + 100 * 0.9216, rel=0.01)


@pytest.mark.parametrize("slow", [0.3, 4.0])
def test_a_finished_job_corrects_the_forecast(slow: float) -> None:
    truth, measured = Truth(slow).measured(HD), table(Truth(slow).measured(HD))
    forecast = measured.forecast(HD, 100)
    assert forecast is not None
    assert forecast.seconds == pytest.approx(truth.seconds + 3.0, rel=0.15)
    assert forecast.basis == "measured"
    calibrated = SpeedTable(RATES, []).forecast(HD, 100)
    assert calibrated is not None
    assert forecast.high / forecast.low < calibrated.high / calibrated.low


def test_jobs_of_another_kind_correct_the_forecast_too() -> None:
    """A busy machine is slow at every size and with every model."""
    wanted = HD._replace(model="large", routing="fast")
    speeds = table(Truth(4.0).measured(SMALL))
    assert 2 < seconds(speeds, HD) / seconds(SpeedTable(RATES, []), HD) < 4
    assert seconds(speeds, wanted) > 1.05 * seconds(SpeedTable(RATES, []), wanted)
    forecast = speeds.forecast(wanted, 100)
    assert forecast is not None
    assert forecast.basis == "calibrated"


def test_the_forecast_follows_a_machine_that_becomes_slower() -> None:
    quick, slow = Truth(1.0).measured(HD), Truth(3.0).measured(HD)
    assert seconds(table(*[quick] * 20, *[slow] * 20), HD) == pytest.approx(slow.seconds, rel=0.2)


def test_videos_that_differ_widen_the_bounds() -> None:
    alike = table(*[Truth(1.0).measured(HD)] * 8).forecast(HD, 100)
    unlike = table(*[Truth(factor).measured(HD) for factor in (0.5, 2.0) * 4]).forecast(HD, 100)
    assert alike is not None
    assert unlike is not None
    assert unlike.high / unlike.low > 2 * alike.high / alike.low


def test_measured_sizes_of_results_are_kept_by_codec() -> None:
    speeds = table(Truth(1.0).measured(HD))
    found, other = speeds.per_frame(HD), speeds.per_frame(HD._replace(codec="hevc"))
    assert found is not None
    assert other is not None
    assert found.bits == pytest.approx(0.05)
    assert other.bits is None


@pytest.fixture(params=["redis", "file"])
def records(request: pytest.FixtureRequest, redis: redis_client.Redis, tmp_path: Path) -> SpeedRecords:
    return RedisSpeeds(redis) if request.param == "redis" else SpeedFile(tmp_path / "new" / "speeds.json")


def test_records_keep_calibrations_and_measurements_of_each_machine(records: SpeedRecords) -> None:
    assert (records.table("a").rates, records.table("a").cells) == (None, ())
    records.calibrated("a", RATES)
    records.add("a", Truth(2.0).measured(HD))
    records.add("a", Truth(2.0).measured(HD))
    records.add("a", Truth(2.0).measured(SMALL))
    kept = records.table("a")
    assert kept.rates == RATES
    assert sorted((cell.pixels, cell.weight) for cell in kept.cells) == [(320 * 180, 1.0), (1280 * 720, 2.0)]
    assert records.table("b").cells == ()


def test_records_are_bounded(records: SpeedRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.speed_records._MOST_CELLS", 16)
    for number in range(20):
        records.add("a", Truth(1.0).measured(HD._replace(model=f"user-{number}")))
    cells = records.table("a").cells
    assert 8 < len(cells) <= 16
    assert "user-19" in {cell.model for cell in cells}


def test_damaged_records_are_ignored(redis: redis_client.Redis, tmp_path: Path) -> None:
    RedisSpeeds(redis).calibrated("a", RATES)
    (key,) = redis.keys(f"{PREFIX}speed:*")
    redis.hset(key, mapping={"rates": "{}", "small|off|h264|40|6": "nothing"})
    assert RedisSpeeds(redis).table("a").cells == ()
    assert 0 < redis.ttl(key) <= 180 * 24 * 3600
    for text in ("{", "[]", '{"a": 1}'):
        (tmp_path / "speeds.json").write_text(text)
        assert SpeedFile(tmp_path / "speeds.json").table("a").cells == ()


def test_a_file_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    SpeedFile(tmp_path / "file" / "speeds.json").add("a", Truth(1.0).measured(HD))
