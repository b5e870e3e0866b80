"""Admission of uploads: parse options, probe the file, check limits. Shared by REST and gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from pydantic import ValidationError

from jobs.errors import FieldError, InvalidRequest, TooLarge, UploadStalled
from jobs.schema import JobOptions, JobRequest, StreamFacts
from jobs.settings import Settings
from media.spec import DEFAULT_SCALE, OutputSpec, enlargement, output_spec
from pipeline.source import expected_frames, media_limits, probe_source, stream_facts, user_errors
from service.outgoing import Guard, split

T = TypeVar("T")
_PLACES: Final = ("query", "path", "header", "body")
"""Parts of a request, which pydantic's places of errors begin with."""
_PROBES: Final = 4
"""Files probed at the same time. Each probe runs in its own process."""


@dataclass(frozen=True)
class Admission:
    """A video accepted for processing, with options, properties and warnings for the user."""

    options: JobOptions
    facts: StreamFacts
    warnings: list[str]
    frames: int | None
    """Number of frames of the result, if the file states the number."""
    spec: OutputSpec
    """The result."""
    enlargement: Fraction
    """Height of the result over that of the video, before rounding to whole pixels."""
    expected_frames: int | None
    """Number of frames of the result, as stated or by the duration; None if the file states neither."""
    webhook: str | None = None
    """URL that gets messages about the job."""


def options_from_text(texts: Mapping[str, str]) -> JobRequest:
    """Parse text fields as a request for a job. Empty fields get defaults. Raises InvalidRequest with all errors."""
    given: dict[str, object] = {name: text for name, text in texts.items() if text}
    if unknown := sorted(given.keys() - JobRequest.model_fields.keys()):
        known, names = ", ".join(JobRequest.model_fields), [name[:80] for name in unknown]
        raise InvalidRequest(
            f"unknown option {', '.join(names)}; valid options: {known}",
            [FieldError(name, "unknown option") for name in names],
        )
    scale = given.get("scale")
    if isinstance(scale, str) and scale.isdecimal():
        given["scale"] = int(scale)  # pydantic does not convert text for a Literal of numbers
    try:
        return JobRequest.model_validate(given)
    except ValidationError as error:
        raise invalid(error.errors()) from error


def invalid(findings: Sequence[Any]) -> InvalidRequest:
    """Convert pydantic's errors to each field, and to one line: `crf: Input should be a valid integer; scale: …`."""
    errors: dict[FieldError, None] = {}
    lines: dict[str, None] = {}
    for finding in findings:
        detail = finding["msg"].removeprefix("Value error, ")
        where = ".".join(str(part) for part in finding["loc"] if part not in _PLACES and isinstance(part, str))[:80]
        lines[f"{where}: {detail}" if where else detail] = None
        errors |= dict.fromkeys(FieldError(field, detail) for field in finding.get("ctx", {}).get("fields", [where]))
    return InvalidRequest("; ".join(lines), list(errors))


def admit(
    path: Path,
    options: JobOptions,
    settings: Settings,
    scale: int | None = None,
    hole: tuple[int, int] | None = None,
) -> Admission:
    """Probe a file without decoding it, and check that the job is possible within the limits.

    `scale` is the enlargement of the job's model; None: unknown. `hole` is the part of the file that is unknown.
    Raises UnsupportedMedia, UnusableVideo or TooLarge, and HeaderNotSent for a file with a hole. TooLarge names the
    setting of the limit.
    """
    allowed = media_limits(settings)
    with user_errors():
        info = probe_source(path, options, allowed, hole)
        spec = output_spec(
            info,
            scale=options.scale,
            height=options.height,
            model_scale=scale,
            codec=options.codec,
            crf=options.crf,
            limits=allowed,
        )
    return Admission(
        options,
        stream_facts(info),
        [*info.warnings, *spec.warnings],
        info.video.output_frames,
        spec,
        enlargement(
            info.video.width,
            info.video.height,
            scale=options.scale,
            wanted_height=options.height,
            natural=scale or DEFAULT_SCALE,
        ),
        expected_frames(info, spec),
    )


class Admissions:
    """Admits uploads of a server process: HTTP and gRPC share one object where one process serves both.

    A hostile file can make the probe use all the allowed memory and time. Four files are probed at the same time;
    others wait, without a thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probes = CapacityLimiter(_PROBES)

    async def admit(
        self, path: Path, options: JobOptions, scale: int | None, hole: tuple[int, int] | None = None
    ) -> Admission:
        """Check the webhook, and run the function `admit` when a place is free. Raises InvalidRequest, too."""
        webhook = None
        if isinstance(options, JobRequest):
            webhook, options = checked_webhook(options.webhook, self._settings), options.job_options
        settings = self._settings
        admission = await anyio.to_thread.run_sync(admit, path, options, settings, scale, hole, limiter=self._probes)
        return replace(admission, webhook=webhook)


def webhook_guard(settings: Settings) -> Guard:
    """The guard of webhooks."""
    return Guard(split(settings.webhook_hosts), split(settings.webhook_networks), setting="SKIPVSR_WEBHOOK_HOSTS")


def checked_webhook(url: str | None, settings: Settings) -> str | None:
    """The normal form of a webhook's URL. Raises InvalidRequest if the server does not allow the webhook."""
    if url is None:
        return None
    if settings.webhook_secret is None:
        raise InvalidRequest(
            "this server sends no webhooks: leave the field webhook out, or ask its administrator to set "
            "SKIPVSR_WEBHOOK_SECRET",
            [FieldError("webhook", "this server sends no webhooks")],
        )
    try:
        return webhook_guard(settings).checked(url)
    except InvalidRequest as error:
        error.errors = (FieldError("webhook", str(error)),)
        raise


def oversized(limit: int) -> TooLarge:
    """Create the error for an upload above `limit` bytes."""
    return TooLarge(f"the upload is larger than {limit:,} bytes (SKIPVSR_MAX_UPLOAD_BYTES)")


class Pace:
    """Time limits of an upload. Only time during which the server waits for the client counts.

    Args:
        idle_seconds: maximum time without data.
        min_rate: minimum of bytes per second after `idle_seconds`, on average; 0: no minimum.
    """

    def __init__(self, idle_seconds: float, min_rate: float) -> None:
        self._idle, self._rate = idle_seconds, min_rate
        self._waited = self._since = 0.0
        self._received = 0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Time limits of an upload that begins now."""
        return cls(settings.upload_idle_seconds, settings.upload_min_rate)

    async def next(self, data: AsyncIterator[T]) -> T | None:
        """Wait for the next part of the data, which `received` must count; None at the end. Raises UploadStalled."""
        try:
            async with asyncio.timeout(self._begin()):
                return await anext(data, None)
        except TimeoutError:
            raise self.stalled() from None

    def _begin(self) -> float:
        """Begin to wait for data. Returns the seconds until the data is late."""
        self._since = time.monotonic()
        allowed = self._idle + self._received / self._rate - self._waited if self._rate else self._idle
        return max(0.0, min(self._idle, allowed))

    def received(self, size: int) -> None:
        """End the wait: `size` bytes have arrived."""
        self._waited += time.monotonic() - self._since
        self._received += size

    def stalled(self) -> UploadStalled:
        """Create the error for data that did not arrive in time."""
        self.received(0)
        if time.monotonic() - self._since < self._idle:
            return UploadStalled(
                f"the upload is slower than {self._rate:,.0f} bytes per second (SKIPVSR_UPLOAD_MIN_RATE): send the "
                "file again over a faster connection"
            )
        return UploadStalled(f"no data arrived for {self._idle:g} s (SKIPVSR_UPLOAD_IDLE_SECONDS): send the file again")
