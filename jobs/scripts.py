"""The two scripts that run inside Redis, so that a check and what follows from it are one step.

A job is a hash: `state`, `token` (whose the job is), `beat` (counts heartbeats), `request` (what was asked of a running
job), `queued_at` (seconds since 1970), and the fields of the document as JSON.
"""

from __future__ import annotations

from typing import Final

TRANSITION: Final = """
-- KEYS[1] the job; ARGV: prefix, id, states it may be in (',a,b,' or ''), token it must have ('' = any),
-- beat it must have ('' = any), new state ('' = same), token to give it ('' = same), field to count up ('' = none),
-- then pairs of field and value. Answers {outcome, request}; 'asked' where a request is in the way of the new state,
-- 'gone' where a failed job has no files to go on with.
local job, prefix, id = KEYS[1], ARGV[1], ARGV[2]
local state = redis.call('HGET', job, 'state')
if not state then return {'missing', ''} end
local token = redis.call('HGET', job, 'token') or ''
local to = ARGV[6]
local mine = ARGV[7]
if mine == '' then mine = ARGV[4] end
if to ~= '' and to == state and mine ~= '' and mine == token then
  return {'ok', ''} -- said twice: the first answer was lost on its way
end
if ARGV[3] ~= '' and not string.find(ARGV[3], ',' .. state .. ',', 1, true) then return {state, ''} end
if ARGV[4] ~= '' and ARGV[4] ~= token then return {'fenced', ''} end
if ARGV[5] ~= '' and ARGV[5] ~= (redis.call('HGET', job, 'beat') or '0') then return {'alive', ''} end
if to == 'queued' and state == 'failed' and redis.call('HGET', job, 'files_removed') == 'true' then
  return {'gone', ''}
end
local asked = redis.call('HGET', job, 'request') or ''
if to == 'queued' and state == 'running' and asked ~= '' or to == 'paused' and asked == 'cancel' then
  return {'asked', asked} -- whoever asked has been told that it will be so
end
if to ~= '' and to ~= state then
  redis.call('HSET', job, 'state', to)
  redis.call('SMOVE', prefix .. 'state:' .. state, prefix .. 'state:' .. to, id)
  redis.call('HDEL', job, 'request')
  if to == 'queued' then redis.call('HSET', job, 'queued_at', redis.call('TIME')[1]) end
end
if ARGV[7] ~= '' then redis.call('HSET', job, 'token', ARGV[7]) end
if ARGV[8] ~= '' then redis.call('HINCRBY', job, ARGV[8], 1) end
for i = 9, #ARGV, 2 do
  if ARGV[i] ~= 'request' or asked ~= 'cancel' then redis.call('HSET', job, ARGV[i], ARGV[i + 1]) end
end
return {'ok', redis.call('HGET', job, 'request') or ''}
"""

FORGET: Final = """
-- KEYS[1] the job; ARGV: prefix, id. Removes a job that is over.
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'done' and state ~= 'failed' and state ~= 'cancelled' then return 0 end
redis.call('SREM', ARGV[1] .. 'state:' .. state, ARGV[2])
redis.call('ZREM', ARGV[1] .. 'jobs', ARGV[2])
return redis.call('DEL', KEYS[1])
"""
