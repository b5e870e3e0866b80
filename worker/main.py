"""The worker process: creates all parts from the settings, and runs RQ's loop until a signal."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from datetime import UTC, datetime
from types import FrameType

from redis.exceptions import RedisError

from jobs.errors import SkipVsrError, StoreUnavailable
from jobs.presence import Duty, Presence, WorkerInfo
from jobs.settings import Settings
from jobs.speed_records import RedisSpeeds
from jobs.storages import open_storage
from jobs.store import JobStore, client, connect
from jobs.tickets import QUEUES
from media.errors import MediaError
from media.jail import checked_jail
from model.engine.loading import model_cache
from model.engine.memory import free_memory
from model.errors import ModelError
from model.faults import advice, device_failure, end_process
from pipeline.calibration import machine_of
from worker.heartbeat import Heartbeat
from worker.janitor import Janitor
from worker.metrics import WorkerMetrics
from worker.rq_worker import WarmWorker
from worker.runner import Runner
from worker.speeds import WorkerSpeeds

log = logging.getLogger(__name__)


class _Signals:
    """Handlers for SIGTERM and SIGINT outside RQ's loop: the first signal sets `stop`, a second ends the process."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.stop.is_set():
            os._exit(128 + signum)
        self.stop.set()


def main(settings: Settings | None = None, redis_url: str | None = None) -> int:
    """Run a worker until a signal stops the process; return the exit status.

    Args:
        settings: the settings; by default those of the environment.
        redis_url: overrides the setting.
    """
    settings = settings or Settings()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    signals = _Signals()
    signals.install()
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        jail_missing = checked_jail(required=settings.require_jail)
        storage = open_storage(settings)
        storage.prepare()
        store = JobStore.from_settings(settings, redis_url)
        url = redis_url or settings.redis_address
        assert url is not None, "from_settings has checked the URL"
        models = model_cache(
            settings.weights,
            default=settings.model,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
            capacity=2,
            on_evict=free_memory,
        )
        warm = models.get("auto")
        metrics = WorkerMetrics(warm.device)
        metrics.uses(warm.name)
        if settings.worker_metrics_port:
            metrics.serve(settings.metrics_host, settings.worker_metrics_port)
    except (SkipVsrError, MediaError, ModelError, OSError) as error:
        print(f"skipvsr worker: {error}", file=sys.stderr)
        return 1
    info = WorkerInfo(
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        device=str(warm.device),
        model=warm.name,
        model_x2=models.resolved("auto", 2),
        models=models.names(),
        scales=models.scales(),
        machine=machine_of(warm, settings.encoder),
        jail_missing=list(jail_missing),
        device_notes=list(warm.notes),
        started_at=datetime.now(UTC),
    )
    heartbeat = Heartbeat(
        settings, connect(url, timeout=3.0, attempts=1), info, models=models.scales, on_lost=metrics.lost.inc
    )
    heartbeat.start()
    cleaners = JobStore.from_settings(settings, url)
    duties = Presence(cleaners.redis)
    janitor = Janitor(
        settings, cleaners, open_storage(settings), on_duty=lambda seconds: duties.on_duty(Duty.CLEAN, name, seconds)
    )
    janitor.start()
    speeds = WorkerSpeeds(RedisSpeeds(connect(url, timeout=1.0, attempts=1)), info.machine)
    runner = Runner(settings, store, storage, models, heartbeat, metrics, name, speeds)
    log.info("worker %s: %s on %s", name, warm.name, warm.device)
    try:
        speeds.calibrate(warm, settings.encoder, models.names(), settings.weights)
        _serve(settings, url, heartbeat, runner, signals, name)
    except RuntimeError as error:
        if (failure := device_failure(error)) is None:
            raise
        log.critical("%s", advice(failure))
        runner.device_failed = True
    finally:
        janitor.stop()
        heartbeat.stop()
    if runner.device_failed:
        end_process()
    return 0


def _serve(settings: Settings, url: str, heartbeat: Heartbeat, runner: Runner, signals: _Signals, name: str) -> None:
    """Run RQ's loop until a signal or a failure of the device. A new loop replaces a loop that a Redis error ends."""
    asked = threading.Event()

    def on_stop() -> None:
        asked.set()
        heartbeat.shut_down()

    def stopping() -> bool:
        return signals.stop.is_set() or runner.device_failed

    ttl = round(settings.worker_lost_seconds) + 60
    pause, number = 0.5, 0
    while not (stopping() or asked.is_set()):
        number += 1
        try:
            worker = WarmWorker(
                list(QUEUES.values()),
                runner.run,
                name=f"{name}-{number}",
                connection=client(url, socket_connect_timeout=3.0, health_check_interval=30),
                ttl=ttl,
                on_stop=on_stop,
                on_force_stop=lambda: heartbeat.exit_now(1),
                stopping=stopping,
            )
            with heartbeat.with_rq(worker.renew_records):
                worker.work(logging_level="WARNING")
            pause = 0.5
        except (RedisError, StoreUnavailable) as error:
            log.warning("Redis does not answer (%s); trying again in %.1f s", error, pause)
        finally:
            signals.install()
        if not (asked.is_set() or stopping()):
            signals.stop.wait(pause)
            pause = min(pause * 2, 5.0)
