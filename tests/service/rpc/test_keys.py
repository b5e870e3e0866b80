"""API keys over gRPC: every RPC with every kind of key, limits, revocation of running calls, the audit log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.allowance import Limits
from jobs.schema import JobState
from jobs.settings import Settings
from service.operations import Operations
from service.rpc.auth import SCOPES
from skipvsr.v1 import upscaler_pb2 as pb
from tests.support.api_keys import KINDS, OWN_SCOPES, Keys, job_of, make_keys
from tests.support.clips import make_clip
from tests.support.processes import wait_until
from tests.support.rpc_server import RpcServer, details, noise, rpc_server

FRAME = noise(1)[0].tobytes()
NO_KEY = dict.fromkeys(("none", "wrong", "revoked", "expired"), "UNAUTHENTICATED")


def any_key() -> dict[str, str]:
    return dict.fromkeys(KINDS, "OK") | NO_KEY


def row(*, lacks: str, of_job: bool) -> dict[str, str]:
    return any_key() | {lacks: "PERMISSION_DENIED"} | ({"other": "NOT_FOUND"} if of_job else {})


TABLE: dict[str, dict[str, str]] = {
    "UpscalerService/Stream": row(lacks="read", of_job=False),
    "UpscalerService/ListModels": any_key(),
    "JobService/CreateJob": row(lacks="read", of_job=False),
    "JobService/EstimateJob": row(lacks="read", of_job=False),
    "JobService/GetJob": row(lacks="submit", of_job=True),
    "JobService/ListJobs": row(lacks="submit", of_job=False),
    "JobService/WatchJob": row(lacks="submit", of_job=True),
    "JobService/CancelJob": row(lacks="read", of_job=True),
    "JobService/PauseJob": row(lacks="read", of_job=True),
    "JobService/ResumeJob": row(lacks="read", of_job=True),
    "JobService/DeleteJob": row(lacks="read", of_job=True),
    "JobService/DownloadResult": row(lacks="submit", of_job=True),
    "JobService/DownloadInput": row(lacks="submit", of_job=True),
}
"""Expected status of each RPC for each kind of key."""
STATES = {"CancelJob": JobState.QUEUED, "PauseJob": JobState.QUEUED, "ResumeJob": JobState.PAUSED}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    """A server that starts without keys."""
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url) as running:
        with running.client() as client:
            assert client.upscaler.ListModels(pb.ListModelsRequest(), timeout=60).models, "the server is open"
        yield running


@pytest.fixture(scope="module")
def keys(server: RpcServer) -> Keys:
    """Keys that a running server gets."""
    return make_keys(server.data_dir)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=12)


@pytest.fixture
def operations(server: RpcServer, redis_url: str) -> Iterator[Operations]:
    operations = Operations.from_settings(Settings(redis_url=redis_url, data_dir=server.data_dir))
    yield operations
    operations.store.redis.close()


def upload(data: bytes, size: int | None = None) -> Iterator[pb.CreateJobRequest]:
    yield pb.CreateJobRequest(config=pb.UploadConfig(filename="clip.mp4", size_bytes=size))
    yield pb.CreateJobRequest(chunk=pb.UploadChunk(data=data))


def ends(data: bytes) -> Iterator[pb.EstimateJobRequest]:
    yield pb.EstimateJobRequest(config=pb.EstimateConfig(size_bytes=len(data)))
    yield pb.EstimateJobRequest(head=pb.UploadChunk(data=data))


def frames() -> Iterator[pb.StreamRequest]:
    yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24, routing="off"))
    yield pb.StreamRequest(frame=pb.InputFrame(data=FRAME, end_of_stream=True))


def outcome(call: Callable[[], Any]) -> str:
    """Name of a call's status."""
    try:
        answer = call()
        if hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def limited(keys: Keys, **limits: int) -> str:
    """Text of a new key with these limits."""
    if any(key.name == "limited" and key.state == "active" for key in keys.file.keys().values()):
        keys.file.revoke("limited")
    return keys.file.add("limited", OWN_SCOPES, Limits(**limits))[1]


def test_every_rpc_has_a_row_and_a_scope() -> None:
    services = pb.DESCRIPTOR.services_by_name.values()
    rpcs = {f"{service.name}/{method.name}" for service in services for method in service.methods}
    assert set(TABLE) == rpcs
    assert set(SCOPES) == {f"/skipvsr.v1.{name}" for name in rpcs}


@pytest.mark.parametrize("kind", KINDS)
def test_every_rpc_with_every_kind_of_key(
    server: RpcServer, keys: Keys, operations: Operations, clip: Path, kind: str
) -> None:
    found = {}
    with server.client(api_key=keys.text(kind) or None) as client:
        stubs = {"UpscalerService": client.upscaler, "JobService": client.jobs}
        for name in TABLE:
            service, _, method = name.partition("/")
            request: Any = {
                "Stream": frames,
                "CreateJob": lambda: upload(clip.read_bytes()),
                "EstimateJob": lambda: ends(clip.read_bytes()),
            }.get(method, getattr(pb, f"{method}Request"))()
            if hasattr(request, "job_id"):
                state = STATES.get(method, JobState.DONE)
                request.job_id = job_of(keys.owner(kind), state, operations.store, operations.storage, clip)
            call = getattr(stubs[service], method)
            found[name] = outcome(
                lambda call=call, request=request: call(request, timeout=60, metadata=client.metadata)
            )  # type: ignore[misc]
    assert found == {name: row[kind] for name, row in TABLE.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_health_is_public_and_reflection_needs_any_key(server: RpcServer, keys: Keys, kind: str) -> None:
    metadata = (("x-api-key", keys.text(kind)),) if keys.text(kind) else ()
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=60).status == 1
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert outcome(
            lambda: reflection.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=60)
        ) == NO_KEY.get(kind, "OK")


def test_lists_hold_own_jobs_only(server: RpcServer, keys: Keys, operations: Operations, clip: Path) -> None:
    jobs = {
        kind: job_of(keys.ids[kind], JobState.DONE, operations.store, operations.storage, clip)
        for kind in ("own", "other", "read")
    }
    for kind, expected in [*((kind, {job}) for kind, job in jobs.items()), ("admin", set(jobs.values()))]:
        with server.client(api_key=keys.text(kind)) as client:
            page = client.jobs.ListJobs(pb.ListJobsRequest(page_size=500), timeout=60, metadata=client.metadata)
            assert {job.id for job in page.jobs} >= expected
            assert kind == "admin" or {job.owner for job in page.jobs} == {keys.ids[kind]}
    with server.client(api_key=keys.text("other")) as client:
        messages = []
        for job_id in (jobs["own"], "0" * 24):
            with pytest.raises(grpc.RpcError) as error:
                client.jobs.GetJob(pb.GetJobRequest(job_id=job_id), timeout=60, metadata=client.metadata)
            messages.append(error.value.details().replace(job_id, "ID"))
        assert messages[0] == messages[1]


def test_a_revoked_key_ends_its_streams_and_watches(
    server: RpcServer, keys: Keys, operations: Operations, clip: Path
) -> None:
    text = limited(keys)
    owner = text.split("_")[1]
    job_id = job_of(owner, JobState.QUEUED, operations.store, operations.storage, clip)
    over = threading.Event()

    def open_stream() -> Iterator[pb.StreamRequest]:
        yield next(frames())
        over.wait(60)

    with server.client(api_key=text) as client:
        stream = client.upscaler.Stream(open_stream(), timeout=60, metadata=client.metadata)
        watch = client.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=60, metadata=client.metadata)
        assert next(stream).HasField("config")
        assert next(watch).job.id == job_id
        keys.file.revoke("limited")
        for call in (stream, watch):
            with pytest.raises(grpc.RpcError, match="has been revoked") as error:
                list(call)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        over.set()
    assert operations.get(job_id).state is JobState.QUEUED, "the job goes on"


def test_a_session_belongs_to_its_key(server: RpcServer, keys: Keys) -> None:
    over = threading.Event()

    def first() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24, routing="off"))
        over.wait(60)

    with server.client(api_key=limited(keys, max_jobs=1)) as own, server.client(api_key=keys.text("other")) as other:
        stream = own.upscaler.Stream(first(), timeout=60, metadata=own.metadata)
        token = next(stream).config.session_token
        assert token
        config = pb.StreamConfig(width=32, height=24, routing="off")
        config.resume.session_token = token
        with pytest.raises(grpc.RpcError) as error:
            list(other.upscaler.Stream(iter([pb.StreamRequest(config=config)]), timeout=60, metadata=other.metadata))
        assert details(error.value)["ErrorInfo"].reason == "SESSION_LOST"
        assert stream.is_active()
        foreign = pb.StreamConfig(width=32, height=24, routing="off")
        foreign.resume.session_token = "fähre"
        with pytest.raises(grpc.RpcError) as error:
            list(own.upscaler.Stream(iter([pb.StreamRequest(config=foreign)]), timeout=60, metadata=own.metadata))
        assert details(error.value)["ErrorInfo"].reason == "SESSION_LOST"
        resumed = own.upscaler.Stream(iter([pb.StreamRequest(config=config)]), timeout=60, metadata=own.metadata)
        assert next(resumed).HasField("config")
        over.set()


def test_parallel_uploads_never_exceed_the_jobs_at_a_time(
    server: RpcServer, keys: Keys, operations: Operations, clip: Path
) -> None:
    key = limited(keys, max_jobs=2)
    with server.client(api_key=key) as client, ThreadPoolExecutor(20) as pool:

        def create(_: int) -> str:
            return outcome(
                lambda: client.jobs.CreateJob(upload(clip.read_bytes()), timeout=60, metadata=client.metadata)
            )

        assert sorted(pool.map(create, range(20))) == ["OK"] * 2 + ["RESOURCE_EXHAUSTED"] * 18
        assert len(operations.store.list(owner=key.split("_")[1])) == 2
        with pytest.raises(grpc.RpcError) as error:
            list(client.upscaler.Stream(frames(), timeout=60, metadata=client.metadata))
        assert details(error.value)["ErrorInfo"].reason == "LIMIT_REACHED"
        assert details(error.value)["RetryInfo"].retry_delay.seconds > 0


def test_a_stream_counts_as_a_job(server: RpcServer, keys: Keys, operations: Operations, clip: Path) -> None:
    over = threading.Event()

    def open_stream() -> Iterator[pb.StreamRequest]:
        yield next(frames())
        over.wait(60)
        yield pb.StreamRequest(frame=pb.InputFrame(data=FRAME, end_of_stream=True))

    with server.client(api_key=limited(keys, max_jobs=1)) as client:
        stream = client.upscaler.Stream(open_stream(), timeout=60, metadata=client.metadata)
        next(stream)
        assert (
            outcome(lambda: client.jobs.CreateJob(upload(clip.read_bytes()), timeout=60, metadata=client.metadata))
            == "RESOURCE_EXHAUSTED"
        )
        over.set()
        list(stream)
        assert (
            outcome(lambda: client.jobs.CreateJob(upload(clip.read_bytes()), timeout=60, metadata=client.metadata))
            == "OK"
        )


def test_bytes_per_day(server: RpcServer, keys: Keys, operations: Operations, clip: Path) -> None:
    data = clip.read_bytes()
    with server.client(api_key=limited(keys, bytes_per_day=len(data) + 2400)) as client:

        def create(size: int | None = None) -> str:
            return outcome(lambda: client.jobs.CreateJob(upload(data, size), timeout=60, metadata=client.metadata))

        assert [create(), create(), create(len(data))] == ["OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]
        assert (
            outcome(lambda: client.upscaler.Stream(frames(), timeout=60, metadata=client.metadata)) == "OK"
        )  # 2304 bytes
        assert (
            outcome(lambda: client.upscaler.Stream(frames(), timeout=60, metadata=client.metadata))
            == "RESOURCE_EXHAUSTED"
        )


def test_uploads_per_minute(server: RpcServer, keys: Keys, operations: Operations, clip: Path) -> None:
    with server.client(api_key=limited(keys, uploads_per_minute=2)) as client:
        assert (
            outcome(lambda: client.jobs.CreateJob(upload(clip.read_bytes()), timeout=60, metadata=client.metadata))
            == "OK"
        )
        assert outcome(lambda: client.upscaler.Stream(frames(), timeout=60, metadata=client.metadata)) == "OK"
        assert (
            outcome(lambda: client.upscaler.Stream(frames(), timeout=60, metadata=client.metadata))
            == "RESOURCE_EXHAUSTED"
        )
        with pytest.raises(grpc.RpcError) as error:
            client.jobs.CreateJob(upload(clip.read_bytes()), timeout=60, metadata=client.metadata)
        assert 0 < details(error.value)["RetryInfo"].retry_delay.seconds <= 60


def test_the_audit_log(server: RpcServer, keys: Keys, operations: Operations, clip: Path) -> None:
    def said(*parts: str) -> bool:
        lines = [line for line in server.log.splitlines() if " skipvsr.audit: " in line]
        return any(all(part in line for part in parts) for line in lines)

    key = f"key_id={keys.ids['own']} key_name=own remote=ipv4:127.0.0.1:"
    with server.client(api_key=keys.text("own")) as client:
        job_id = client.jobs.CreateJob(upload(clip.read_bytes()), timeout=60, metadata=client.metadata).job.id
        client.jobs.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=60, metadata=client.metadata)
        outcome(
            lambda: client.jobs.PauseJob(
                pb.PauseJobRequest(job_id="x\n\x1b[31m\u202e forged"), timeout=60, metadata=client.metadata
            )
        )
        list(client.upscaler.Stream(frames(), timeout=60, metadata=client.metadata))
    with server.client(api_key=keys.text("read")) as client:
        outcome(lambda: client.upscaler.Stream(frames(), timeout=60, metadata=client.metadata))
    size = f"bytes={clip.stat().st_size}"
    wait_until(lambda: said("route=Stream status=PERMISSION_DENIED"), 60, server.log)
    assert said("route=CreateJob status=OK", key, f"job_id={job_id}", size)
    assert said("route=CancelJob status=OK", key, f"job_id={job_id}")
    assert said("route=PauseJob status=NOT_FOUND", key, "forged")
    assert said("route=Stream status=OK", key)
    assert all(line.isprintable() for line in server.log.splitlines() if "skipvsr.audit" in line)
    assert "svk_" not in server.log
