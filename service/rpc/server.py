"""The gRPC server's process: services, health, reflection, TLS and graceful shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from jobs.errors import InvalidRequest
from jobs.recovery import Recovery
from jobs.settings import Settings
from jobs.upkeep import Upkeep
from media.jail import checked_jail
from model.device import core_threads, set_threads
from model.engine.budget import usable_bytes
from model.engine.clock import Clock
from model.engine.loading import model_cache
from model.engine.strands import Crew, beside
from model.engine.upscaler import Upscaler
from model.faults import end_process
from model.zoo.cache import ModelCache
from service.admission import Admissions
from service.api_key import ApiKeys
from service.operations import Operations
from service.rpc.auth import KeyInterceptor
from service.rpc.device_watch import DeviceWatch
from service.rpc.errors import to_status_error
from service.rpc.gate import MessageGate
from service.rpc.job_service import JobService
from service.rpc.scheduler import Scheduler
from service.rpc.session_registry import SessionRegistry
from service.rpc.upscaler_service import UpscalerService
from skipvsr.v1 import upscaler_pb2, upscaler_pb2_grpc, wire

log = logging.getLogger(__name__)
_SERVICES: Final = tuple(service.full_name for service in upscaler_pb2.DESCRIPTOR.services_by_name.values())
_MESSAGE_MARGIN: Final = 64 * 1024
"""Bytes allowed in a message in addition to the frame's data."""
_MOST_CALLS: Final = 512
"""Calls at the same time on one connection; further calls of a client wait for a free place."""
_HANDSHAKE_MILLISECONDS: Final = 10_000
"""Time in which a new connection must speak HTTP/2. grpc's default is two minutes."""
_SPARE_DESCRIPTORS: Final = 256
"""File descriptors for Redis, uploads, downloads, probes and decoders."""
_SWITCH_SECONDS: Final = 0.0005
"""Seconds for which the model's thread may hold the GIL against the event loop. Python's default is 5 ms."""


def run(settings: Settings, *, say: Callable[[str], None] = print) -> int:
    """Serve until SIGINT or SIGTERM, or until the device fails, which ends the process. Returns the exit status.

    Raises ModelError (weights or device), InvalidRequest (settings), NoJail or OSError.
    """
    checked_jail(required=settings.require_jail)
    models = model_cache(
        settings.weights,
        default=settings.model,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )
    models.get(models.default)  # report errors before the port opens
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # a full collection would scan torch's 200,000 objects: a pause of 0.3 s for all streams
    if asyncio.run(_serve(settings, models, say)).failure:
        end_process()
    return 0


async def _serve(settings: Settings, models: ModelCache[Upscaler], say: Callable[[str], None]) -> DeviceWatch:
    """Serve until a signal, or until the device fails, as the returned watch says."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    watch = DeviceWatch(lambda: loop.call_soon_threadsafe(stop.set))
    device = models.get(models.default).device
    sessions = SessionRegistry(
        most=settings.grpc_max_streams,
        memory=settings.grpc_memory_bytes or usable_bytes(device),
        ttl_seconds=settings.grpc_session_seconds,
        drain_seconds=settings.grpc_drain_seconds,
        device=device,
        host_memory=settings.grpc_session_bytes or usable_bytes(torch.device("cpu")) // 7,
    )
    scheduler = _scheduler(settings, device, sessions)
    if settings.grpc_metrics_port:
        sessions.metrics.serve(settings.metrics_host, settings.grpc_metrics_port)
    operations = Operations.from_settings(settings)
    upscaler = UpscalerService(settings, models, scheduler, sessions, operations, watch)
    jobs = JobService(settings, operations, Admissions(settings))
    upkeep = Upkeep.of_a_server(settings, operations.storage, operations.store.knows)
    recovery = Recovery(operations.store, operations.storage, upkeep)
    checks = health.aio.HealthServicer()
    server = _server(settings)
    wire.register(upscaler, server)
    upscaler_pb2_grpc.add_JobServiceServicer_to_server(jobs, server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection([*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    port = _listen(server, settings)
    scheduler.start()
    recovery.start()
    await server.start()
    for name in ("", *_SERVICES):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    say(f"SkipVSR's gRPC server is ready: {settings.grpc_host}:{port} ({models.default} on {device})")
    try:
        await stop.wait()
        await checks.enter_graceful_shutdown()
        jobs.stopping.set()
        await sessions.drain(to_status_error(watch.failure) if watch.failure else None)
    finally:
        await server.stop(1)
        upscaler.close()
        await asyncio.to_thread(recovery.stop)
        await asyncio.to_thread(scheduler.close)
    log.info("stopped")
    return watch


def _scheduler(settings: Settings, device: torch.device, sessions: SessionRegistry) -> Scheduler:
    """Return the scheduler. Several threads of a CPU run chunks side by side."""
    if device.type != "cpu":
        return Scheduler()
    threads = core_threads(settings.threads)
    return Scheduler(
        on_start=partial(set_threads, threads),
        crew=partial(Crew, threads, Clock(device)) if threads > 1 else None,
        places=1 + beside(threads) if threads > 1 else 1,
        room=lambda: min(sessions.room, settings.max_model_bytes or sessions.room),
    )


def _server(settings: Settings) -> Any:
    keepalive = round(1000 * settings.grpc_keepalive_seconds)
    options = [
        ("grpc.max_receive_message_length", settings.grpc_message_bytes + _MESSAGE_MARGIN),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", keepalive),
        ("grpc.keepalive_timeout_ms", keepalive // 2),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.ping_timeout_ms", keepalive // 2),  # default: 60 s, regardless of keepalive_timeout_ms
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
        # Clients also ping in bursts to measure bandwidth. The default would disconnect them.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_allowed_incoming_connections", _most_connections(settings)),
        ("grpc.max_concurrent_streams", _MOST_CALLS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MILLISECONDS),
        ("grpc.max_connection_idle_ms", round(1000 * settings.grpc_idle_seconds)),
        ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share the port
    ]
    return grpc.aio.server(
        interceptors=[KeyInterceptor(ApiKeys(settings)), MessageGate(settings.download_idle_seconds)], options=options
    )


def _most_connections(settings: Settings) -> int:
    """The settings' number of connections, or fewer if this process may open only few files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return settings.grpc_max_connections
    return min(settings.grpc_max_connections, max(8, files - _SPARE_DESCRIPTORS))


def _listen(server: Any, settings: Settings) -> int:
    host = f"[{settings.grpc_host}]" if ":" in settings.grpc_host else settings.grpc_host
    address = f"{host}:{settings.grpc_port}"
    credentials = _credentials(settings)
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise InvalidRequest(
            f"cannot listen on {address}: the port is in use, or the address does not belong to this machine; "
            "set SKIPVSR_GRPC_HOST and SKIPVSR_GRPC_PORT"
        ) from error
    return int(port)


def _credentials(settings: Settings) -> Any:
    cert, key, ca = settings.grpc_tls_cert, settings.grpc_tls_key, settings.grpc_tls_client_ca
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None:
        raise InvalidRequest("TLS needs both SKIPVSR_GRPC_TLS_CERT and SKIPVSR_GRPC_TLS_KEY")
    return grpc.ssl_server_credentials(
        [(_read(key, "SKIPVSR_GRPC_TLS_KEY"), _read(cert, "SKIPVSR_GRPC_TLS_CERT"))],
        root_certificates=_read(ca, "SKIPVSR_GRPC_TLS_CLIENT_CA") if ca else None,
        require_client_auth=ca is not None,
    )


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{setting}: cannot read {path}: {error.strerror}") from error
