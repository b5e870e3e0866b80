"""Pages of the list of jobs: selection, order and numbers, whatever the number of jobs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, cast

from redis import Redis

from jobs.keys import JOBS, job_key, owner_key, state_key
from jobs.schema import Job, JobState
from jobs.store.hashes import from_hash


@dataclass(frozen=True)
class Selection:
    """Which jobs a list holds. A condition that is empty or None does not apply."""

    states: Collection[JobState] = ()
    owner: str | None = None
    """Id of an API key."""
    text: str = ""
    """Part of the file's name; upper and lower case are the same."""


@dataclass(frozen=True)
class Page:
    """A part of the list of jobs, newest first."""

    jobs: list[Job]
    total: int
    """Number of selected jobs on all pages."""
    counts: dict[JobState, int]
    """Number of jobs by state, with the selection's other conditions."""


_SELECT: Final = """#!lua flags=no-writes
-- Returns the number of the selected jobs, and the ids of a page, newest first.
-- KEYS[1]: all jobs; KEYS[2]: the owner's jobs, or empty; KEYS[3]..: sets of states; ARGV: limit, offset.
local function selected(state, ...)
  local sets, weights = {KEYS[1]}, {1}
  for _, key in ipairs({KEYS[2], state}) do
    if key ~= '' then sets[#sets + 1], weights[#weights + 1] = key, 0 end
  end
  local given = {#sets, unpack(sets)}
  given[#given + 1] = 'WEIGHTS'
  for _, word in ipairs({...}) do weights[#weights + 1] = word end
  for _, word in ipairs(weights) do given[#given + 1] = word end
  return redis.call('ZINTER', unpack(given)) -- oldest first
end
local ids = {}
if #KEYS <= 3 then
  ids = selected(KEYS[3] or '')
else
  local found = {}
  for number = 3, #KEYS do
    local pairs_of = selected(KEYS[number], 'WITHSCORES')
    for i = 1, #pairs_of, 2 do found[#found + 1] = {pairs_of[i], tonumber(pairs_of[i + 1])} end
  end
  table.sort(found, function(a, b) return a[2] < b[2] or a[2] == b[2] and a[1] < b[1] end)
  for i, pair in ipairs(found) do ids[i] = pair[1] end
end
local shown, newest = {}, #ids - tonumber(ARGV[2])
for i = newest, math.max(1, newest - tonumber(ARGV[1]) + 1), -1 do shown[#shown + 1] = ids[i] end
return {#ids, shown}
"""
_NAMES: Final = """#!lua flags=no-writes
-- Returns lines with id, state and file name of jobs, newest first, as one text.
-- KEYS[1]: all jobs; KEYS[2]: the owner's jobs, if only those count; ARGV: beginning of the key of a job.
local rows, ids = {}, {}
if KEYS[2] then
  ids = redis.call('ZINTER', 2, KEYS[1], KEYS[2], 'WEIGHTS', 1, 0)
else
  ids = redis.call('ZRANGE', KEYS[1], 0, -1)
end
for number = #ids, 1, -1 do
  local found = redis.call('HMGET', ARGV[1] .. ids[number], 'state', 'filename')
  if found[1] and found[2] then rows[#rows + 1] = ids[number] .. ' ' .. found[1] .. ' ' .. found[2] end
end
return table.concat(rows, '\\n')
"""


def page(redis: Redis, selection: Selection, *, limit: int, offset: int) -> Page:
    """Return the jobs of a selection from the newest to the oldest. Raises RedisError."""
    select = _with_text if selection.text else _without_text
    total, ids, counts = select(redis, selection, limit, offset)
    with redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hgetall(job_key(job_id))
        jobs = [from_hash(raw) for raw in pipe.execute() if raw]
    return Page(jobs, total, counts)


def count(redis: Redis, owner: str | None = None) -> dict[JobState, int]:
    """Return the number of all jobs, or of an owner's jobs, in each state. Raises RedisError."""
    with redis.pipeline(transaction=False) as pipe:
        for state in JobState:
            if owner is None:
                pipe.scard(state_key(state))
            else:
                pipe.sintercard(2, [owner_key(owner), state_key(state)])
        return dict(zip(JobState, pipe.execute(), strict=True))


def _without_text(
    redis: Redis, selection: Selection, limit: int, offset: int
) -> tuple[int, list[str], dict[JobState, int]]:
    owner = selection.owner
    if owner is None and not selection.states:
        with redis.pipeline(transaction=False) as pipe:
            pipe.zcard(JOBS)
            pipe.zrevrange(JOBS, offset, offset + limit - 1)
            total, ids = pipe.execute()
    else:
        states = map(state_key, dict.fromkeys(selection.states))  # a repeated state would only repeat the work
        keys = [JOBS, "" if owner is None else owner_key(owner), *states]
        total, ids = cast("tuple[int, list[bytes]]", redis.eval(_SELECT, len(keys), *keys, limit, offset))
    return total, [job_id.decode() for job_id in ids], count(redis, owner)


def _with_text(
    redis: Redis, selection: Selection, limit: int, offset: int
) -> tuple[int, list[str], dict[JobState, int]]:
    keys = [JOBS] if selection.owner is None else [JOBS, owner_key(selection.owner)]
    found = cast(bytes, redis.eval(_NAMES, len(keys), *keys, job_key(""))).decode()
    rows = [line.split(" ", 2) for line in found.splitlines()]
    names, text = json.loads(f"[{','.join(name for _, _, name in rows)}]"), selection.text.casefold()
    rows = [row for row, name in zip(rows, names, strict=True) if text in name.casefold()]
    counts = Counter(state for _, state, _ in rows)
    ids = [job_id for job_id, state, _ in rows if not selection.states or state in selection.states]
    return len(ids), ids[offset : offset + limit], {state: counts[state] for state in JobState}
