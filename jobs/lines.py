"""Who is next: one line of tickets for each API key and priority. The keys take turns.

A worker takes the first ticket of the key whose turn has come, and the key goes to the end of the turns. A key with a
single job therefore waits for at most one job of every other key, even if the other keys have queued many jobs. Jobs
without a key share one line. A higher priority always comes first.

Each step is a Lua script. Its cost does not grow with the number of waiting jobs. After leaving its line, a ticket is
*owed* to its job until a worker claims the job. The ticket of a dead worker is therefore found again.

Tickets for the parts of running jobs (`jobs.parts`) have a line of their own, whose turn comes when no job of the
priority waits. No list or count of waiting jobs holds that line.

An idle worker waits at the *bell*. Whoever leaves a ticket in a line rings, unless the bell rings already; each worker
that takes a ticket and leaves others rings for the next worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

from redis import Redis

from jobs.keys import BELL, OWED, PREFIX, TICKETS, line_key, turns_key
from jobs.schema import Priority

PRIORITIES: Final = tuple(Priority)
"""From the first to the last."""
PARTS: Final = "~parts"
"""In place of an API key: the line of the parts of running jobs."""


class Place(StrEnum):
    """Place of a new ticket."""

    BACK = "back"
    """Behind all tickets of the key."""
    FRONT = "front"
    """Before all tickets of the key; the key waits for its turn."""
    FIRST = "first"
    """Before all tickets of the priority: a worker had begun the job, and gives the turn back."""


@dataclass(frozen=True)
class Line:
    """Tickets of an API key and a priority."""

    priority: Priority
    owner: str = ""
    """Id of the API key; empty: none."""

    @property
    def keys(self) -> list[str]:
        """Redis keys of the line and of the turns of its priority."""
        return [line_key(self.priority, self.owner), turns_key(self.priority)]


_RING: Final = f"""
local function ring(bell)
  for _, priority in ipairs({{{", ".join(f"'{priority}'" for priority in PRIORITIES)}}}) do
    if redis.call('EXISTS', '{PREFIX}turns:' .. priority) == 1 then
      if redis.call('EXISTS', bell) == 0 then redis.call('RPUSH', bell, 1) end
      return
    end
  end
  redis.call('DEL', bell)
end
local function job_of(ticket) return string.match(ticket, '^(.*)-') or '' end
"""

_PUSH: Final = f"""{_RING}
-- KEYS: line, turns, owed, bell, counter; ARGV: ticket, owner, place.
local number = redis.call('INCR', KEYS[5])
redis.call('ZADD', KEYS[1], ARGV[3] == 'back' and number or -number, ARGV[1])
if ARGV[2] == '{PARTS}' then
  redis.call('ZADD', KEYS[2], 'inf', ARGV[2])
elseif ARGV[3] == 'first' then
  redis.call('ZADD', KEYS[2], -number, ARGV[2])
else
  redis.call('ZADD', KEYS[2], 'NX', number, ARGV[2])
end
redis.call('ZREM', KEYS[3], job_of(ARGV[1]))
ring(KEYS[4])
"""

_TAKE: Final = f"""#!lua flags=allow-oom
{_RING}
-- KEYS: owed, bell, counter; ARGV: priorities, from the first to the last. Returns a priority and a ticket, or nothing.
for _, priority in ipairs(ARGV) do
  local turns = '{PREFIX}turns:' .. priority
  local next = redis.call('ZRANGE', turns, 0, 0)
  while next[1] do
    local line = '{PREFIX}line:' .. priority .. ':' .. next[1]
    local ticket = redis.call('ZPOPMIN', line)[1]
    if redis.call('EXISTS', line) == 1 then
      redis.call('ZADD', turns, next[1] == '{PARTS}' and 'inf' or redis.call('INCR', KEYS[3]), next[1])
    else
      redis.call('ZREM', turns, next[1])
    end
    if ticket then
      redis.call('ZADD', KEYS[1], redis.call('TIME')[1], job_of(ticket))
      ring(KEYS[2])
      return {{priority, ticket}}
    end
    next = redis.call('ZRANGE', turns, 0, 0)
  end
end
ring(KEYS[2])
return false
"""

_REMOVE: Final = f"""#!lua flags=allow-oom
{_RING}
-- KEYS: line, turns, bell; ARGV: ticket, owner.
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', KEYS[2], ARGV[2]) end
ring(KEYS[3])
"""

_LIST: Final = f"""#!lua flags=no-writes
-- ARGV: priorities. Returns the lines of each priority in the order of the turns: owner, tickets.
local found = {{}}
for i, priority in ipairs(ARGV) do
  local lines = {{}}
  for _, owner in ipairs(redis.call('ZRANGE', '{PREFIX}turns:' .. priority, 0, -1)) do
    if owner ~= '{PARTS}' then
      lines[#lines + 1] = redis.call('ZRANGE', '{PREFIX}line:' .. priority .. ':' .. owner, 0, -1)
    end
  end
  found[i] = lines
end
return found
"""

_DEPTHS: Final = f"""#!lua flags=no-writes
-- ARGV: priorities. Returns the number of tickets of each priority.
local found = {{}}
for i, priority in ipairs(ARGV) do
  found[i] = 0
  for _, owner in ipairs(redis.call('ZRANGE', '{PREFIX}turns:' .. priority, 0, -1)) do
    if owner ~= '{PARTS}' then
      found[i] = found[i] + redis.call('ZCARD', '{PREFIX}line:' .. priority .. ':' .. owner)
    end
  end
end
return found
"""

_OLDEST: Final = f"""#!lua flags=no-writes
-- ARGV: owner, or '*' for all; priorities. Returns the time at which the longest waiting job was queued, or nothing.
local oldest = nil
local function look(line, ...)
  local ticket = redis.call('ZRANGE', line, ...)[1]
  local job = ticket and string.match(ticket, '^(.*)-')
  local since = job and tonumber(redis.call('HGET', '{PREFIX}job:' .. job, 'queued_at') or nil)
  if since and (not oldest or since < oldest) then oldest = since end
end
for i = 2, #ARGV do
  local owners = {{ARGV[1]}}
  if ARGV[1] == '*' then owners = redis.call('ZRANGE', '{PREFIX}turns:' .. ARGV[i], 0, -1) end
  for _, owner in ipairs(owners) do
    if owner ~= '{PARTS}' then
      local line = '{PREFIX}line:' .. ARGV[i] .. ':' .. owner
      look(line, '(0', '+inf', 'BYSCORE', 'LIMIT', 0, 1) -- each half of a line is in the order of time
      look(line, '(0', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1)
    end
  end
end
return oldest
"""

_OWED: Final = """#!lua flags=allow-oom
-- KEYS: owed, queued jobs. Returns the jobs that wait for a ticket, and forgets all others.
local found = {}
for _, job in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.call('SISMEMBER', KEYS[2], job) == 1 then
    found[#found + 1] = job
  else
    redis.call('ZREM', KEYS[1], job)
  end
end
return found
"""


def push(redis: Any, line: Line, ticket: str, place: Place) -> None:
    """Put a ticket into a line; `redis` may be a pipeline."""
    redis.eval(_PUSH, 5, *line.keys, OWED, BELL, TICKETS, ticket, line.owner, place)


def take(redis: Redis) -> tuple[Priority, bytes] | None:
    """Take the next ticket of all lines; None if no ticket waits. The ticket is owed to its job from now on."""
    found = cast("list[bytes] | None", redis.eval(_TAKE, 3, OWED, BELL, TICKETS, *PRIORITIES))
    return (Priority(found[0].decode()), found[1]) if found else None


def remove(redis: Redis, line: Line, ticket: str) -> None:
    """Remove a ticket from its line, if the ticket is there."""
    redis.eval(_REMOVE, 3, *line.keys, BELL, ticket, line.owner)


def wait(redis: Redis, seconds: float) -> bool:
    """Wait for the bell; return False if it did not ring. After a ring, another worker may take the ticket first."""
    return redis.blpop([BELL], seconds) is not None


def waiting(redis: Redis) -> dict[Priority, list[bytes]]:
    """All tickets by priority, in the order in which workers would take the tickets now."""
    found = cast("list[list[list[bytes]]]", redis.eval(_LIST, 0, *PRIORITIES))
    return {priority: list(_in_turn(lines)) for priority, lines in zip(PRIORITIES, found, strict=True)}


def depths(redis: Redis) -> dict[Priority, int]:
    """Number of tickets of each priority."""
    return dict(zip(PRIORITIES, cast("list[int]", redis.eval(_DEPTHS, 0, *PRIORITIES)), strict=True))


def oldest(redis: Redis, owner: str | None = None) -> int | None:
    """Unix time at which the longest waiting job of all keys, or of one, was queued; None if no job waits."""
    return cast("int | None", redis.eval(_OLDEST, 0, "*" if owner is None else owner, *PRIORITIES))


def owed(redis: Redis, queued: str) -> list[str]:
    """Ids of the jobs in the set `queued` without a ticket in a line."""
    return [job.decode(errors="replace") for job in cast("list[bytes]", redis.eval(_OWED, 2, OWED, queued))]


def _in_turn(lines: list[list[bytes]]) -> Iterator[bytes]:
    turns = deque(map(iter, lines))
    while turns:
        line = turns.popleft()
        for ticket in line:
            yield ticket
            turns.append(line)
            break
