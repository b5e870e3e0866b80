"""Jobs in Redis.

store        `JobStore`: every operation on a job
reader       `JobReader`, the part of `JobStore` that only reads
changes      changes of jobs as they happen, for event streams
outbox       webhooks to deliver
claims       a worker's claim on a job, and its heartbeats
listing      parts of the list of jobs
transitions  one conditional change of a job, and its result
scripts      the Lua scripts that apply a change in one step
hashes       a job document as a Redis hash
connection   the Redis client, and its errors
"""

from jobs.schema import Request
from jobs.store.claims import Claim, HeartbeatCount, HeartbeatReply
from jobs.store.connection import client, connect, unavailable
from jobs.store.listing import Page, Selection
from jobs.store.store import JobStore

__all__ = [
    "Claim",
    "HeartbeatCount",
    "HeartbeatReply",
    "JobStore",
    "Page",
    "Request",
    "Selection",
    "client",
    "connect",
    "unavailable",
]
