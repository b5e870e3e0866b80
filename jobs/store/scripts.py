"""Lua scripts. Redis runs each script in a single step: no other client acts between check and change.

Fields of a job's hash besides the document's: `token` (fencing token of the owner), `beat` (number of heartbeats),
`request` (a user's request to the running job), `ticket` (id of the RQ ticket), `queued_at` (Unix time in seconds),
`died_at` and `died_there` (frames done at the last worker death, and the number of deaths at that frame),
`changed` (number of the last change, see `jobs.store.changes`).

Changes and removals of a job also work in a full Redis (`allow-oom`, Redis 7), because they free memory.
"""

from __future__ import annotations

from typing import Final

_CHANGES: Final = """
local function announce(prefix, kind, id, owner)
  -- Numbers are times in microseconds: they grow even if Redis loses everything.
  local now = redis.call('TIME')
  local number = now[1] * 1000000 + now[2]
  local last = tonumber(redis.call('GET', prefix .. 'change') or '0')
  if number <= last then number = last + 1 end
  number = string.format('%.0f', number)
  redis.call('SET', prefix .. 'change', number)
  redis.call('PUBLISH', prefix .. 'events', kind .. ' ' .. id .. ' ' .. number .. ' ' .. owner)
  return number
end
local function changed(prefix, job, id, kind)
  -- kind: 'moved' for a change of state, which may move other jobs in the queue; 'changed' otherwise.
  local number = announce(prefix, kind, id, redis.call('HGET', job, 'owner') or '')
  redis.call('ZADD', prefix .. 'changes', number, id)
  redis.call('HSET', job, 'changed', number)
  return number
end
local function removed(prefix, id, owner)
  local number = announce(prefix, 'removed', id, owner)
  redis.call('ZREM', prefix .. 'changes', id)
  redis.call('ZADD', prefix .. 'removed', number, id .. ' ' .. owner)
  redis.call('ZREMRANGEBYRANK', prefix .. 'removed', 0, -10001)
end
local function notify(prefix, job, id, state, number)
  -- Keeps the document of this moment for the job's webhook (`jobs.store.outbox`).
  local url = redis.call('HGET', job, 'webhook') or 'null'
  if url == 'null' or not string.find(',done,failed,cancelled,paused,', ',' .. state .. ',', 1, true) then return end
  local delivery = id .. ':' .. state
  local message = prefix .. 'webhook:' .. delivery
  redis.call('COPY', job, message, 'REPLACE')
  redis.call('HSET', message, 'message', number, 'tries', 0)
  redis.call('ZADD', prefix .. 'webhooks', redis.call('TIME')[1], delivery)
end
"""


def _announcing(script: str) -> str:
    """A script that can call the functions above; a line with the script's flags stays the first line."""
    flags, _, body = script.partition("\n")
    return flags + _CHANGES + body


CHANGED: Final = _announcing("""#!lua flags=allow-oom
-- Announces a change of a job. KEYS[1]: the job's hash; ARGV: key prefix, job id.
changed(ARGV[1], KEYS[1], ARGV[2], 'moved')
""")

TRANSITION: Final = _announcing("""#!lua flags=allow-oom
-- KEYS[1]: the job's hash
-- ARGV: 1 key prefix, 2 job id
--       conditions: 3 states (',a,b,'), 4 token, 5 heartbeats ('' = any)
--       changes: 6 new state, 7 new token, 8 counter to increment ('' = none), 9.. pairs of field and value
-- Returns {outcome, pending request}; `jobs.store.transitions.Outcome` lists the outcomes.
local job, prefix, id = KEYS[1], ARGV[1], ARGV[2]
local state = redis.call('HGET', job, 'state')
if not state then return {'missing', ''} end
local token = redis.call('HGET', job, 'token') or ''
local to = ARGV[6]
local mine = ARGV[7]
if mine == '' then mine = ARGV[4] end
if to ~= '' and to == state and mine ~= '' and mine == token then
  return {'ok', ''} -- a repeated change: the client lost the first answer
end
if ARGV[3] ~= '' and not string.find(ARGV[3], ',' .. state .. ',', 1, true) then return {state, ''} end
if ARGV[4] ~= '' and ARGV[4] ~= token then return {'fenced', ''} end
if ARGV[5] ~= '' and ARGV[5] ~= (redis.call('HGET', job, 'beat') or '0') then return {'alive', ''} end
if to == 'queued' and state == 'failed' and redis.call('HGET', job, 'files_removed') == 'true' then
  return {'gone', ''}
end
local asked = redis.call('HGET', job, 'request') or ''
if to == 'queued' and state == 'running' and asked ~= '' or to == 'paused' and asked == 'cancel' then
  return {'asked', asked} -- the user was told that the request will be carried out
end
if to ~= '' and to ~= state then
  redis.call('HSET', job, 'state', to)
  redis.call('SMOVE', prefix .. 'state:' .. state, prefix .. 'state:' .. to, id)
  redis.call('HDEL', job, 'request')
  if to == 'queued' then
    local now = redis.call('TIME')[1]
    redis.call('HSET', job, 'queued_at', now)
    redis.call('ZADD', prefix .. 'owed', now, id) -- until the ticket is in its line
  else
    redis.call('ZREM', prefix .. 'owed', id)
  end
end
if ARGV[7] ~= '' then redis.call('HSET', job, 'token', ARGV[7]) end
if ARGV[8] ~= '' then redis.call('HINCRBY', job, ARGV[8], 1) end
for i = 9, #ARGV, 2 do
  if ARGV[i] ~= 'request' or asked ~= 'cancel' then redis.call('HSET', job, ARGV[i], ARGV[i + 1]) end
end
if to ~= '' and to ~= state then
  notify(prefix, job, id, to, changed(prefix, job, id, 'moved'))
elseif #ARGV > 8 then
  changed(prefix, job, id, 'changed')
end
return {'ok', redis.call('HGET', job, 'request') or ''}
""")

FORGET: Final = _announcing("""#!lua flags=allow-oom
-- Removes a finished job. KEYS[1]: the job's hash; ARGV: key prefix, job id.
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'done' and state ~= 'failed' and state ~= 'cancelled' then return 0 end
redis.call('SREM', ARGV[1] .. 'state:' .. state, ARGV[2])
redis.call('ZREM', ARGV[1] .. 'jobs', ARGV[2])
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if owner ~= '' then redis.call('SREM', ARGV[1] .. 'owner:' .. owner, ARGV[2]) end
removed(ARGV[1], ARGV[2], owner)
return redis.call('DEL', KEYS[1])
""")

RESTORE: Final = _announcing("""
-- Stores a job unless Redis knows the job. KEYS[1]: the job's hash.
-- ARGV: key prefix, job id, creation time, state, pairs of field and value.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'queued_at', redis.call('TIME')[1], unpack(ARGV, 5))
redis.call('ZADD', ARGV[1] .. 'jobs', ARGV[3], ARGV[2])
redis.call('SADD', ARGV[1] .. 'state:' .. ARGV[4], ARGV[2])
if ARGV[4] == 'queued' then redis.call('ZADD', ARGV[1] .. 'owed', redis.call('TIME')[1], ARGV[2]) end
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if owner ~= '' then redis.call('SADD', ARGV[1] .. 'owner:' .. owner, ARGV[2]) end
changed(ARGV[1], KEYS[1], ARGV[2], 'moved')
return 1
""")

CLAIM_WEBHOOKS: Final = """#!lua flags=allow-oom
-- Takes due webhooks. KEYS[1]: the sorted set of webhooks; ARGV: key prefix, seconds of the claim, maximum number.
local now = tonumber(redis.call('TIME')[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[3])
for _, delivery in ipairs(due) do
  redis.call('ZADD', KEYS[1], now + ARGV[2], delivery)
  redis.call('HINCRBY', ARGV[1] .. 'webhook:' .. delivery, 'tries', 1)
end
return due
"""

END_WEBHOOK: Final = _announcing("""#!lua flags=allow-oom
-- Ends an attempt. KEYS[1]: the sorted set of webhooks.
-- ARGV: 1 key prefix, 2 delivery, 3 message, 4 seconds until the next attempt ('' = none),
--       5 number to add to the tries, 6 job id, 7 warning for the job ('' = none)
local hash = ARGV[1] .. 'webhook:' .. ARGV[2]
if redis.call('HGET', hash, 'message') ~= ARGV[3] then return 0 end -- a newer message has taken the place
if ARGV[4] ~= '' then
  redis.call('ZADD', KEYS[1], redis.call('TIME')[1] + ARGV[4], ARGV[2])
  redis.call('HINCRBY', hash, 'tries', ARGV[5])
  return 1
end
redis.call('ZREM', KEYS[1], ARGV[2])
redis.call('DEL', hash)
local job = ARGV[1] .. 'job:' .. ARGV[6]
if ARGV[7] ~= '' and redis.call('EXISTS', job) == 1 then
  local warnings = cjson.decode(redis.call('HGET', job, 'warnings') or '[]')
  for _, known in ipairs(warnings) do
    if known == ARGV[7] then return 1 end -- a job that pauses again and again gets no endless list
  end
  table.insert(warnings, ARGV[7])
  redis.call('HSET', job, 'warnings', cjson.encode(warnings))
  changed(ARGV[1], job, ARGV[6], 'changed')
end
return 1
""")
