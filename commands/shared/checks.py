"""Checks of this machine and of the settings: the needs of each kind of work, and the remedy for a missing need."""

from __future__ import annotations

import errno
import os
import platform
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from commands.shared.errors import CommandError, explained
from commands.shared.extras import install_hint

if TYPE_CHECKING:
    from jobs.settings import Settings
    from media.encode.hardware import Encoder

State = Literal["ok", "note", "problem"]
_PARTS: Final = {
    "torch": "the network",
    "fastapi": "the HTTP API",
    "grpc": "the gRPC server",
    "rich": "progress bars",
    "httpx": "commands about jobs on a server",
    "watchfiles": "prompt notice of changes in a watched folder",
}
"""Optional packages, and the parts that need them."""
_TEST_SIZE: Final = (640, 360)
_GB: Final = 1e9


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: State
    detail: str
    cure: str = ""


Check = Callable[["Settings"], Iterator[Finding]]


def findings(settings: Settings) -> Iterator[Finding]:
    """The findings of all checks."""
    for check in _CHECKS:
        name = check.__name__.strip("_").replace("_", " ")
        try:
            yield from check(settings)
        except Exception as error:
            yield Finding(name, "problem", "cannot be checked", _reason(error))


def _reason(error: Exception) -> str:
    """The message of an error, in one line."""
    return " ".join((explained(error) or f"{type(error).__name__}: {error}").split())


def _system(settings: Settings) -> Iterator[Finding]:
    text = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if platform.system() == "Linux":
        yield Finding("system", "ok", text)
    else:
        yield Finding("system", "note", text, "only Linux enforces the limits of the process that reads videos")
    for package, what in _PARTS.items():
        if find_spec(package) is None:
            yield Finding("packages", "note", f"{package} is missing, for {what}", install_hint(package))


def _settings(settings: Settings) -> Iterator[Finding]:
    unknown = settings.unknown_variables()
    for line in unknown:
        yield Finding("settings", "note", line, "correct or remove the variable")
    if not unknown:
        yield Finding("settings", "ok", "every SKIPVSR_ variable is a setting")


def _data_folder(settings: Settings) -> Iterator[Finding]:
    import shutil

    folder = settings.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            "data folder", "problem", f"{folder} is not writable", "change its owner, or set SKIPVSR_DATA_DIR"
        )
        return
    yield Finding("data folder", "ok", f"{folder}" + ("" if folder.exists() else ", not created yet"))
    free, least = shutil.disk_usage(existing).free, settings.min_free_gb * _GB
    text = f"{free / _GB:.1f} GB free"
    if free < least:
        cure = f"free {(least - free) / _GB:.1f} GB, or lower SKIPVSR_MIN_FREE_GB ({settings.min_free_gb:g})"
        yield Finding("disk", "problem", text, cure)
    else:
        yield Finding("disk", "ok", text)


def _storage(settings: Settings) -> Iterator[Finding]:
    if not settings.storage:
        return
    from jobs.bucket import Bucket
    from jobs.errors import InvalidRequest, StorageUnavailable

    try:
        Bucket.from_settings(settings).check()
    except InvalidRequest as error:
        yield Finding("storage", "problem", str(error), "correct SKIPVSR_STORAGE and the settings SKIPVSR_S3_…")
    except StorageUnavailable as error:
        yield Finding("storage", "problem", str(error), "start the store, or correct address and credentials")
    else:
        yield Finding("storage", "ok", f"{settings.storage} writes, keeps conditions and deletes")


def _device(settings: Settings) -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    from media.types import counted
    from model.engine.loading import load_model
    from model.errors import ModelError

    precision = "auto" if settings.precision == "int8" else settings.precision  # `tiny` has no scales for int8
    try:
        model = load_model("tiny", weights_dir=settings.weights, device=settings.device, precision=precision)
    except ModelError as error:
        yield Finding("device", "problem", str(error), "set SKIPVSR_DEVICE and SKIPVSR_PRECISION, or unset both")
        return
    for note in model.notes:
        yield Finding("device", "note", note, "update the driver, or install a PyTorch with kernels for the GPU")
    threads = counted(settings.threads or len(os.sched_getaffinity(0)), "thread")
    yield Finding("device", "ok", model.place + (f", {threads}" if model.device.type == "cpu" else ""))


def _models(settings: Settings) -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    from model.zoo.models import card, cards, unusable

    folder = settings.weights
    here = [each.name for each in cards(folder) if each.present(folder)]
    missing = [each.name for each in cards(folder) if each.name not in here]
    yield Finding("models", "ok", f"{', '.join(here)}")
    if missing:
        yield Finding(
            "models", "note", f"weights missing: {', '.join(missing)}", "`skipvsr models --fetch` fetches them"
        )
    for line in unusable(folder):
        yield Finding("models", "note", line, "replace or remove the file")
    if settings.model != "auto" and not card(settings.model, folder).present(folder):
        yield Finding("models", "problem", f"no weights for SKIPVSR_MODEL={settings.model}", "`skipvsr models --fetch`")


def _encoders(settings: Settings) -> Iterator[Finding]:
    if find_spec("torch") is None:  # this installation encodes nothing
        return
    from media.encode.hardware import choose
    from model.device import resolve_device
    from model.errors import DeviceError
    from pipeline.encoder import wished_encoder

    try:
        wish = wished_encoder(settings.encoder, resolve_device(settings.device))
    except DeviceError:  # which the check of the device reports
        wish = "software"
    chosen = {codec: choose(codec, wish, *_TEST_SIZE) for codec in ("h264", "hevc", "av1")}
    working = []
    for codec, encoder in chosen.items():
        if trouble := _encoding_trouble(codec, encoder):
            cure = f"results in {codec} fail: install PyAV from PyPI; its wheels hold all encoders"
            yield Finding("encoders", "problem", f"{encoder.name}: {trouble}", cure)
        else:
            working.append(encoder.name)
    soft = [name for name in working if name.startswith("lib")]
    if wish in ("nvenc", "vaapi") and soft:
        cure = "install the GPU's driver, with the capability `video` in containers, or set SKIPVSR_ENCODER=software"
        yield Finding("encoders", "note", f"{wish} does not work for all codecs: {', '.join(soft)}", cure)
    if working:
        yield Finding("encoders", "ok", ", ".join(working))


def _encoding_trouble(codec: str, encoder: Encoder) -> str:
    """The reason why a frame cannot be encoded; empty if the encoder works."""
    import tempfile

    import numpy as np

    from media.encode.segment import SegmentWriter
    from media.spec import plain_spec

    width, height = _TEST_SIZE
    spec = plain_spec(codec, encoder, width, height)
    try:
        with tempfile.TemporaryDirectory() as folder, SegmentWriter(Path(folder) / "test.mp4", spec) as writer:
            writer.write(np.zeros((height, width, 3), np.uint8), 0)
    except Exception as error:
        return _reason(error)
    return ""


def _jail(settings: Settings) -> Iterator[Finding]:
    from media.jail import LAYERS, missing_layers

    missing = missing_layers()
    if not missing:
        yield Finding("jail", "ok", f"limits on {' and '.join(LAYERS)} hold for the process that reads videos")
        return
    state: State = "problem" if settings.require_jail else "note"
    text = f"the kernel does not limit {' and '.join(missing)} for the process that reads videos"
    cure = "use Linux 5.13 or later on x86-64 or ARM64, and allow Landlock and seccomp in the container's profile"
    yield Finding("jail", state, text, cure)


def _redis(settings: Settings) -> Iterator[Finding]:
    from commands.shared.embedded_redis import connected, redis_binary

    if settings.redis_url:
        yield from _unreadable(settings, "redis", ("redis_tls_ca", "redis_tls_cert", "redis_tls_key"))
        yield _ping(str(settings.redis_address), "start this Redis, or correct SKIPVSR_REDIS_URL")
        return
    try:
        binary = redis_binary()
    except CommandError as error:
        yield Finding("redis", "problem", "no redis-server", str(error))
        return
    try:
        url = connected(settings).redis_url
    except CommandError:
        yield Finding("redis", "ok", f"{binary}; not running, `skipvsr up` starts it")
        return
    assert url is not None
    found = _ping(url, "")
    remains = f"{binary}; not running, `skipvsr up` starts it"
    yield found if found.state == "ok" else Finding("redis", "ok", remains)


def _ping(url: str, cure: str) -> Finding:
    import redis

    from jobs.store import connect

    try:
        with connect(url, timeout=3.0, attempts=0) as client:
            version = client.info("server")["redis_version"]
    except (redis.RedisError, ValueError, OSError) as error:
        return Finding("redis", "problem", f"Redis does not answer ({str(error).partition(chr(10))[0]})", cure)
    return Finding("redis", "ok", f"version {version} answers")


def _ports(settings: Settings) -> Iterator[Finding]:
    yield _port("HTTP", settings.http_host, settings.http_port, _is_our_api)
    yield _port("gRPC", settings.grpc_host, settings.grpc_port, lambda where: _is_our_api(_http(settings)))
    if settings.grpc_tls_cert or settings.grpc_tls_key:
        names = ("grpc_tls_cert", "grpc_tls_key", "grpc_tls_client_ca")
        yield from _unreadable(settings, "ports", names)


def _port(kind: str, host: str, port: int, ours: Callable[[str], bool]) -> Finding:
    from commands.shared.addresses import address, listen

    where, setting = address(host, port), f"SKIPVSR_{kind.upper()}"
    try:
        with listen(host, port, setting=setting):
            return Finding("ports", "ok", f"{kind}: {where} is free")
    except CommandError as error:
        if _in_use(host, port) and ours(where):
            return Finding("ports", "ok", f"{kind}: {where} is used by a running service")
        text, _, cure = str(error).partition("; ")
        return Finding("ports", "problem", f"{kind}: {text}", cure or f"correct {setting}_HOST")


def _in_use(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port)):
            return False
    except OSError as error:
        return error.errno == errno.EADDRINUSE


def _http(settings: Settings) -> str:
    from commands.shared.addresses import address

    return address(settings.http_host, settings.http_port)


def _is_our_api(where: str) -> bool:
    import httpx

    try:
        answer = httpx.get(f"http://{where}/healthz", timeout=3, trust_env=False)
        return answer.is_success and "version" in answer.json()
    except (httpx.HTTPError, ValueError):
        return False


def _unreadable(settings: Settings, area: str, names: Sequence[str]) -> Iterator[Finding]:
    """Findings about files of settings that this user cannot read."""
    files: Sequence[tuple[str, Path | None]] = [(name, getattr(settings, name)) for name in names]
    for name, path in files:
        if path is not None and not os.access(path, os.R_OK):
            text = f"SKIPVSR_{name.upper()}: cannot read {path}"
            yield Finding(area, "problem", text, "correct the path, or the permissions of the file")


def _api_keys(settings: Settings) -> Iterator[Finding]:
    from commands.shared.addresses import is_open
    from jobs.errors import KeysUnreadable
    from service.key_file import KeyFile

    try:
        count = sum(row.state == "active" for row in KeyFile.of(settings).keys().values())
    except KeysUnreadable as error:
        yield Finding("API keys", "problem", str(error), "restore the file, or delete it and add keys anew")
        return
    if is_open(settings, settings.http_host) or is_open(settings, settings.grpc_host):
        text = "the service listens beyond this machine and needs no key"
        yield Finding("API keys", "note", text, "`skipvsr keys add NAME` closes the service")
    elif count or settings.api_key:
        yield Finding(
            "API keys", "ok", f"{count} active" + (", and that of the administrator" if settings.api_key else "")
        )
    else:
        yield Finding("API keys", "ok", "none: the service is open to this machine only")


_CHECKS: Final[Sequence[Check]] = (
    *(_system, _settings, _data_folder, _storage, _device, _models, _encoders, _jail, _redis, _ports, _api_keys),
)
