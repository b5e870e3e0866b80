"""The limits of an API key: jobs at a time, uploads a minute, bytes a day, and waiting time of its own jobs.

Redis counts for all server processes together, and each count is one script. So parallel requests never exceed a limit.
A limit that Redis cannot count, because Redis is full or away, refuses with `StoreUnavailable`. A key without limits
needs no count.

A job at a time is a queued or running job, or a *slot*: a promised job whose upload is in progress, or a live stream. A
slot has the id of its job: the promise and the job count once together. A slot ends by itself if its process dies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from jobs import lines
from jobs.errors import LimitReached, StoreUnavailable, TooLarge
from jobs.keys import bytes_key, owner_key, rate_key, slots_key, state_key
from jobs.schema import JobState
from jobs.store.connection import unavailable

_SLOT_SECONDS: Final = 600
"""Life of a slot without renewal: longer than an upload may pause and its probe may wait."""
_RENEW_SECONDS: Final = 30.0
_BUSY_SECONDS: Final = 30
"""Advice to a client that has reached its number of jobs: nobody knows when a job ends."""
_STEP_BYTES: Final = 8 << 20
"""Bytes counted ahead of their arrival: small messages need no separate count."""

_SLOT: Final = """
-- KEYS: the key's slots, its jobs, queued jobs, running jobs. ARGV: limit, job id, seconds of life.
-- Takes or renews a slot; a queued or running job has its place already. Returns 0 if the limit is reached.
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local mine = redis.call('SISMEMBER', KEYS[3], ARGV[2]) + redis.call('SISMEMBER', KEYS[4], ARGV[2])
if mine == 0 and not redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  local count = redis.call('SINTERCARD', 2, KEYS[2], KEYS[3]) + redis.call('SINTERCARD', 2, KEYS[2], KEYS[4])
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local active = redis.call('SISMEMBER', KEYS[3], id) + redis.call('SISMEMBER', KEYS[4], id)
    if active == 0 then count = count + 1 end
  end
  if count >= tonumber(ARGV[1]) then return 0 end
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""

_RATE: Final = """
-- KEYS[1]: the key's uploads of the last minute. ARGV: limit, a unique name.
-- Counts an upload. Returns 0, or the seconds until the next upload may start.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 60000))
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1])
if over >= 0 then
  local first = redis.call('ZRANGE', KEYS[1], over, over, 'WITHSCORES')
  return math.max(1, math.ceil((first[2] + 60000 - now) / 1000))
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[2])
redis.call('EXPIRE', KEYS[1], 60)
return 0
"""

_BYTES: Final = """
-- KEYS[1]: day and bytes. ARGV: limit, bytes needed, bytes wanted (negative: given back).
-- Returns the bytes granted, or -1 if less than needed are left; and the seconds until the next day (UTC).
local now = tonumber(redis.call('TIME')[1])
local day = string.format('%.0f', math.floor(now / 86400))
local rest = 86400 - now % 86400
local used = 0
if redis.call('HGET', KEYS[1], 'day') == day then used = tonumber(redis.call('HGET', KEYS[1], 'used')) end
local left = tonumber(ARGV[1]) - used
local wanted = tonumber(ARGV[3])
if wanted >= 0 and left < tonumber(ARGV[2]) then return {-1, rest} end
local granted = math.min(wanted, left)
if granted ~= 0 then
  redis.call('HSET', KEYS[1], 'day', day, 'used', string.format('%.0f', math.max(0, used + granted)))
  redis.call('EXPIRE', KEYS[1], rest)
end
return {granted, rest}
"""


@dataclass(frozen=True)
class Limits:
    """Limits of one API key; None: no limit."""

    max_jobs: int | None = None
    """Jobs that wait or run at the same time."""
    uploads_per_minute: int | None = None
    bytes_per_day: int | None = None
    """Bytes of uploads in a day, from midnight to midnight UTC."""


class Allowance:
    """The limits and counts of one API key. Methods raise `LimitReached` and `StoreUnavailable`.

    Args:
        redis: the client.
        owner: id of the API key.
        limits: the key's limits.
        max_wait: seconds that a job of the key may wait before the key may queue no more; 0: no limit.
    """

    def __init__(self, redis: Redis, owner: str, limits: Limits, *, max_wait: float = 0) -> None:
        self.limits, self._max_wait = limits, max_wait
        self._owner = owner
        self._slot = redis.register_script(_SLOT)
        self._rate = redis.register_script(_RATE)
        self._bytes = redis.register_script(_BYTES)
        self._redis = redis

    @contextmanager
    def upload(self, job_id: str, announced: int) -> Iterator[Meter]:
        """Hold a slot for the job of an upload, and count the upload.

        Args:
            job_id: the future job.
            announced: size in bytes; 0 if unknown. A size without room is refused before any byte.
        """
        self.check_wait()
        with self.slot(job_id), self.metered(job_id, announced, holds=True) as meter:
            yield meter

    def check_wait(self) -> None:
        """Raise LimitReached if a job of the key has waited too long: a new job would only wait behind it."""
        if not self._max_wait:
            return
        with unavailable():
            since = lines.oldest(self._redis, self._owner)
        if since is not None and time.time() - since > self._max_wait:
            hours = self._max_wait / 3600
            raise LimitReached(
                f"a job of this API key has waited for more than {hours:g} h (SKIPVSR_MAX_QUEUE_HOURS): try again when "
                "the job has started, or cancel waiting jobs",
                _BUSY_SECONDS,
            )

    @contextmanager
    def stream(self, name: str, *, resumed: bool) -> Iterator[Meter]:
        """Count a live stream as a job at a time, and a stream that begins as an upload too."""
        with self.slot(name), self.metered(name, 0, holds=True, starts=not resumed) as meter:
            yield meter

    @contextmanager
    def metered(self, name: str, announced: int, *, holds: bool = False, starts: bool = True) -> Iterator[Meter]:
        """Count an upload with a unique name, and the bytes that are reported to the meter. Raises TooLarge, too.

        Args:
            name: the future job, or any unique name.
            announced: size in bytes; 0 if unknown.
            holds: whether the meter renews the job's slot.
            starts: whether the upload counts as an upload of this minute.
        """
        most = self.limits.bytes_per_day
        if most is not None and announced > most:
            raise TooLarge(f"the upload is larger than the {most:,} bytes that this API key may send in a day")
        self.grant(announced, 0)
        if starts and self.limits.uploads_per_minute is not None:
            self._count_upload(name, self.limits.uploads_per_minute)
        meter = Meter(self, name if holds else "")
        try:
            yield meter
        finally:
            with suppress(StoreUnavailable):
                meter.close()

    @contextmanager
    def slot(self, job_id: str) -> Iterator[None]:
        """Hold a slot during the block; a queued or running job counts by itself afterwards."""
        self.hold(job_id)
        try:
            yield
        finally:
            if self.limits.max_jobs is not None:
                with suppress(StoreUnavailable), unavailable():  # else the slot ends by itself
                    self._redis.zrem(slots_key(self._owner), job_id)

    def hold(self, job_id: str) -> None:
        """Take or renew a slot for a job."""
        most = self.limits.max_jobs
        if most is None:
            return
        sets = [owner_key(self._owner), state_key(JobState.QUEUED), state_key(JobState.RUNNING)]
        with unavailable():
            held = self._slot(keys=[slots_key(self._owner), *sets], args=[most, job_id, _SLOT_SECONDS])
        if not held:
            raise LimitReached(
                f"this API key may have {most} jobs at a time, uploads and live streams included: try again when a "
                "job has finished, or cancel a job",
                _BUSY_SECONDS,
            )

    def grant(self, need: int, want: int) -> int:
        """Count up to `want` bytes, of which `need` must be left today; return how many were counted."""
        most = self.limits.bytes_per_day
        if most is None or (need == want == 0):
            return want
        with unavailable():
            answer: Any = self._bytes(keys=[bytes_key(self._owner)], args=[most, need, want])
        granted, rest = map(int, answer)
        if granted < 0 and want >= 0:
            raise LimitReached(
                f"this API key may send {most:,} bytes a day, and less is left today: try again after midnight UTC",
                rest,
            )
        return granted

    def _count_upload(self, name: str, most: int) -> None:
        with unavailable():
            wait = int(self._rate(keys=[rate_key(self._owner)], args=[most, name]))
        if wait:
            raise LimitReached(f"this API key may start {most} uploads a minute: try again in {wait} s", wait)


class Meter:
    """Counts the arriving bytes of an upload, and keeps the upload's slot alive.

    Bytes are counted in steps ahead of their arrival; `close` gives the rest of the last step back.

    Args:
        allowance: the key's limits and counts.
        job_id: the job whose slot the meter renews; empty: no slot.
    """

    def __init__(self, allowance: Allowance, job_id: str) -> None:
        self._allowance, self._job_id = allowance, job_id
        self._left = 0
        self._renewed = time.monotonic()
        self._lock = threading.Lock()

    def asks(self, size: int) -> bool:
        """Whether `count` would ask Redis."""
        return self._short(size) or self._stale()

    def count(self, size: int) -> None:
        """Count bytes that have arrived."""
        with self._lock:
            if self._short(size):
                need = size - self._left
                self._left += self._allowance.grant(need, max(need, _STEP_BYTES))
            if self._allowance.limits.bytes_per_day is not None:
                self._left -= size
            if self._stale():
                self._allowance.hold(self._job_id)
                self._renewed = time.monotonic()

    def _short(self, size: int) -> bool:
        return self._allowance.limits.bytes_per_day is not None and size > self._left

    def _stale(self) -> bool:
        held = self._job_id and self._allowance.limits.max_jobs is not None
        return bool(held) and time.monotonic() - self._renewed > _RENEW_SECONDS

    def close(self) -> None:
        """Give uncounted bytes back."""
        with self._lock:
            left, self._left = self._left, 0
        if left:
            self._allowance.grant(0, -left)
