"""Names of the Redis keys.

skipvsr:job:<id>        hash: one job
skipvsr:jobs            sorted set: job ids by creation time
skipvsr:state:<state>   set: ids of the jobs in one state
skipvsr:complete        string: Redis knows all jobs of the data folder (`jobs.recovery`)
skipvsr:complete:<token>  string: one restoration of lost jobs, while it runs
skipvsr:fence           counter: the last fencing token
skipvsr:tickets         counter: the last ticket number, or place in a line
skipvsr:line:<priority>:<key id>  sorted set: waiting tickets of one API key, in their order (`jobs.lines`)
skipvsr:turns:<priority>          sorted set: API keys with a line, by their turn
skipvsr:parts:<id>      hash: who computes which part of one job (`jobs.parts`)
skipvsr:owed            sorted set: queued jobs without a ticket in a line, by time
skipvsr:bell            list: wakes an idle worker
skipvsr:workers         set: names of workers
skipvsr:duty:<duty>     sorted set: names of the workers on a duty, by the end of their term (`jobs.presence`)
skipvsr:worker:<name>   string: one worker's announcement, with a time to live
skipvsr:once:<digest>   string: one idempotency key (`jobs.idempotency`)
skipvsr:owner:<key id>  set: ids of the jobs of one API key
skipvsr:slots:<key id>  sorted set: uploads and streams of one API key, by their expiry (`jobs.allowance`)
skipvsr:rate:<key id>   sorted set: uploads of one API key in the last minute, by time in ms
skipvsr:bytes:<key id>  hash: bytes that one API key has sent today
skipvsr:speed:<digest>  hash: measured speeds of one kind of machine (`jobs.speed_records`)
skipvsr:change          counter: the number of the last change of any job (`jobs.store.changes`)
skipvsr:changes         sorted set: job ids by the number of their last change
skipvsr:removed         sorted set: id and owner of the last 10,000 removed jobs, by the number of their removal
skipvsr:events          channel: changes of jobs
skipvsr:webhooks        sorted set: webhooks to deliver, by the time of the next attempt (`jobs.store.outbox`)
skipvsr:webhook:<id>    hash: the job's document for one webhook
"""

from __future__ import annotations

from typing import Final

from jobs.schema import JobState, Priority

PREFIX: Final = "skipvsr:"
JOBS: Final = f"{PREFIX}jobs"
COMPLETE: Final = f"{PREFIX}complete"
FENCE: Final = f"{PREFIX}fence"
TICKETS: Final = f"{PREFIX}tickets"
OWED: Final = f"{PREFIX}owed"
BELL: Final = f"{PREFIX}bell"
WORKERS: Final = f"{PREFIX}workers"
CHANGE: Final = f"{PREFIX}change"
CHANGES: Final = f"{PREFIX}changes"
REMOVED: Final = f"{PREFIX}removed"
EVENTS: Final = f"{PREFIX}events"
WEBHOOKS: Final = f"{PREFIX}webhooks"


def job_key(job_id: str) -> str:
    """Key of a job's hash."""
    return f"{PREFIX}job:{job_id}"


def state_key(state: JobState) -> str:
    """Key of the set of jobs in a state."""
    return f"{PREFIX}state:{state}"


def line_key(priority: Priority, owner: str) -> str:
    """Key of an API key's waiting tickets of a priority."""
    return f"{PREFIX}line:{priority}:{owner}"


def turns_key(priority: Priority) -> str:
    """Key of the API keys that wait for their turn in a priority."""
    return f"{PREFIX}turns:{priority}"


def parts_key(job_id: str) -> str:
    """Key of the table of a job's parts."""
    return f"{PREFIX}parts:{job_id}"


def worker_key(name: str) -> str:
    """Key of a worker's announcement."""
    return f"{PREFIX}worker:{name}"


def owner_key(owner: str) -> str:
    """Key of the set of an API key's jobs."""
    return f"{PREFIX}owner:{owner}"


def duty_key(duty: str) -> str:
    """Key of the workers on a duty."""
    return f"{PREFIX}duty:{duty}"


def slots_key(owner: str) -> str:
    """Key of an API key's uploads and streams."""
    return f"{PREFIX}slots:{owner}"


def rate_key(owner: str) -> str:
    """Key of an API key's uploads in the last minute."""
    return f"{PREFIX}rate:{owner}"


def bytes_key(owner: str) -> str:
    """Key of the bytes that an API key has sent today."""
    return f"{PREFIX}bytes:{owner}"


def idempotency_key(digest: str) -> str:
    """Key of an idempotency key with this SHA-256 digest."""
    return f"{PREFIX}once:{digest}"


def speed_key(digest: str) -> str:
    """Key of the speeds of a kind of machine with this digest."""
    return f"{PREFIX}speed:{digest}"


def webhook_key(delivery: str) -> str:
    """Key of the document for a webhook."""
    return f"{PREFIX}webhook:{delivery}"
