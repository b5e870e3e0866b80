"""Who computes which part of a running job: a table in Redis for each job that several workers compute.

The worker that has claimed the job is its *lead*. The lead opens the table; other workers, the *helpers*, claim parts,
send heartbeats and report progress. The plan and the finished chunks lie with the job's files. If the table vanishes,
helpers stop, and the lead or its successor opens the table again.

A part is open, taken, done, or left to the lead. Part 0 always belongs to the lead and has no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from redis import Redis

from jobs import tickets
from jobs.keys import FENCE, TICKETS, job_key, parts_key
from jobs.lines import PARTS, Line, Place
from jobs.schema import JobMetrics, JobState, Priority, Progress, Request
from jobs.store.claims import Claim, HeartbeatReply
from jobs.store.connection import unavailable
from jobs.store.hashes import encode

_KEPT_SECONDS: Final = 86400
OPEN: Final = "open"
TAKEN: Final = "taken"
DONE: Final = "done"
LEFT: Final = "left"

_OPEN: Final = """
-- KEYS: parts, fence; ARGV: plan, part numbers in order, lowest token, seconds to keep. Parts of the same plan stay.
if redis.call('HGET', KEYS[1], 'plan') ~= ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'plan', ARGV[1], 'order', ARGV[2])
for number in string.gmatch(ARGV[2], '%d+') do redis.call('HSETNX', KEYS[1], 'state:' .. number, 'open') end
redis.call('EXPIRE', KEYS[1], ARGV[4])
if tonumber(redis.call('GET', KEYS[2]) or '0') < tonumber(ARGV[3]) then redis.call('SET', KEYS[2], ARGV[3]) end
"""
_CLAIM: Final = """
-- KEYS: parts, fence, job; ARGV: worker, '1' for the lead. Returns number, token and plan; or nothing.
if redis.call('HGET', KEYS[3], 'state') ~= 'running' then return false end
for number in string.gmatch(redis.call('HGET', KEYS[1], 'order') or '', '%d+') do
  local state = redis.call('HGET', KEYS[1], 'state:' .. number)
  if state == 'open' or state == 'left' and ARGV[2] == '1' then
    local token = redis.call('INCR', KEYS[2])
    redis.call('HSET', KEYS[1], 'state:' .. number, 'taken', 'token:' .. number, token, 'beat:' .. number, 0,
      'worker:' .. number, ARGV[1])
    return {tonumber(number), token, redis.call('HGET', KEYS[1], 'plan')}
  end
end
return false
"""
_BEAT: Final = """
-- KEYS: parts, job; ARGV: number, token, seconds to keep, pairs of field and value. Returns {held, request}.
local number = ARGV[1]
if redis.call('HGET', KEYS[1], 'state:' .. number) ~= 'taken' then return {'', ''} end
if redis.call('HGET', KEYS[1], 'token:' .. number) ~= ARGV[2] then return {'', ''} end
local state = redis.call('HGET', KEYS[2], 'state')
if state ~= 'running' and state ~= 'queued' and state ~= 'paused' then return {'', ''} end
redis.call('HINCRBY', KEYS[1], 'beat:' .. number, 1)
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i] .. ':' .. number, ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {'held', state == 'paused' and 'pause' or redis.call('HGET', KEYS[2], 'request') or ''}
"""
_RELEASE: Final = """#!lua flags=allow-oom
-- KEYS: parts; ARGV: number, token, heartbeats ('' = any), new state, pairs of field and value. Returns 1 if held.
local number = ARGV[1]
if redis.call('HGET', KEYS[1], 'state:' .. number) ~= 'taken' then return 0 end
if redis.call('HGET', KEYS[1], 'token:' .. number) ~= ARGV[2] then return 0 end
if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'beat:' .. number) ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'state:' .. number, ARGV[4])
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i] .. ':' .. number, ARGV[i + 1]) end
return 1
"""
_REPORTED: Final = ("progress", "metrics")
"""Fields of a report."""


@dataclass(frozen=True)
class PartClaim(Claim):
    """A worker's claim on a part of a job. The token is that of the part."""

    number: int
    plan: str


class Row(NamedTuple):
    """A part in the table."""

    number: int
    state: str
    token: int
    beat: int
    progress: Progress
    metrics: JobMetrics


class PartTable:
    """The tables in one Redis. Every method may raise StoreUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._open = redis.register_script(_OPEN)
        self._claim = redis.register_script(_CLAIM)
        self._beat = redis.register_script(_BEAT)
        self._release = redis.register_script(_RELEASE)

    def open(self, job_id: str, plan: str, order: Iterable[int], *, above: int) -> None:
        """Let other workers claim the parts of a job in an order; taken and finished parts stay unchanged.

        Tokens exceed `above`.
        """
        with unavailable():
            args: list[Any] = [plan, ",".join(map(str, order)), above, _KEPT_SECONDS]
            self._open(keys=[parts_key(job_id), FENCE], args=args)

    def call(self, job_id: str, priority: Priority, count: int, *, timeout: int) -> None:
        """Ask idle workers for help: one ticket for each of `count` parts. A surplus ticket has no effect."""
        for _ in range(count):
            with unavailable(), self._redis.pipeline() as pipe:
                number, line = int(self._redis.incr(TICKETS)), Line(priority, PARTS)
                tickets.push(self._redis, job_id, number, line, place=Place.BACK, timeout=timeout, pipe=pipe)
                pipe.execute()

    def is_calling(self, priority: Priority) -> bool:
        """Whether tickets for parts wait. Then no worker is idle."""
        with unavailable():
            return bool(self._redis.exists(Line(priority, PARTS).keys[0]))

    def claim(self, job_id: str, worker: str, *, lead: bool = False) -> PartClaim | None:
        """Claim the first open part of a running job; None without one. Parts that are left go to the lead only."""
        with unavailable():
            keys = [parts_key(job_id), FENCE, job_key(job_id)]
            found = cast("list[Any] | None", self._claim(keys=keys, args=[worker, int(lead)]))
        return PartClaim(job_id, int(found[1]), int(found[0]), found[2].decode()) if found else None

    def token(self) -> int:
        """A new token, for taking the files of finished parts over."""
        with unavailable():
            return int(self._redis.incr(FENCE))

    def heartbeat(self, claim: PartClaim, fields: Mapping[str, Any] | None = None) -> HeartbeatReply:
        """Count a heartbeat of a helper, and store its report. The reply passes a user's request to the job on."""
        with unavailable():
            keys = [parts_key(claim.job_id), job_key(claim.job_id)]
            args: list[Any] = [claim.number, claim.token, _KEPT_SECONDS, *_pairs(fields)]
            held, request = cast("list[bytes]", self._beat(keys=keys, args=args))
        return HeartbeatReply(bool(held), Request(request.decode()) if request else None)

    def release(self, claim: PartClaim, state: JobState, fields: Mapping[str, Any] | None = None) -> JobState | None:
        """End a claim: done, failed (left to the lead), or open again. None if another worker has the part."""
        to = {JobState.DONE: DONE, JobState.FAILED: LEFT}.get(state, OPEN)
        return state if self._end(claim.job_id, claim.number, claim.token, "", to, _pairs(fields)) else None

    def take_back(self, job_id: str, row: Row) -> bool:
        """Take a part from a helper that has sent no heartbeat since the row was read. The part is left to the lead."""
        return self._end(job_id, row.number, row.token, row.beat, LEFT)

    def rows(self, job_id: str, count: int) -> list[Row]:
        """The parts of a job with `count` parts, except part 0; empty if the table has vanished."""
        names = ("state", "token", "beat", *_REPORTED)
        fields = [f"{name}:{number}" for number in range(1, count) for name in names]
        with unavailable():
            found = cast("list[bytes | None]", self._redis.hmget(parts_key(job_id), fields))
        rows = zip(range(1, count), *(found[place :: len(names)] for place in range(len(names))), strict=True)
        return [_row(number, *values) for number, *values in rows if values[0]]

    def drop(self, job_id: str) -> None:
        """Remove the table of a job that is done, failed or cancelled. Helpers stop."""
        with unavailable():
            self._redis.delete(parts_key(job_id))

    def _end(
        self, job_id: str, number: int, token: int, beat: int | str, to: str, pairs: list[str] | None = None
    ) -> bool:
        with unavailable():
            return bool(self._release(keys=[parts_key(job_id)], args=[number, token, beat, to, *(pairs or [])]))


def _pairs(fields: Mapping[str, Any] | None) -> list[str]:
    return [text for name in _REPORTED if name in (fields or {}) for text in (name, encode(name, (fields or {})[name]))]


def _row(number: int, state: bytes, token: bytes, beat: bytes, progress: bytes, metrics: bytes) -> Row:
    return Row(
        number,
        state.decode(),
        int(token or 0),
        int(beat or 0),
        Progress.model_validate_json(progress) if progress else Progress(),
        JobMetrics.model_validate_json(metrics) if metrics else JobMetrics(),
    )
