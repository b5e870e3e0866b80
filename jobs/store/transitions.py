"""One conditional change of a job, and the result of applying the change in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from jobs.keys import PREFIX
from jobs.schema import JobState, Request
from jobs.store.hashes import encode


class Outcome(StrEnum):
    """Result of a transition. The values are the script's answers, except `WRONG_STATE`."""

    APPLIED = "ok"
    MISSING = "missing"
    """No job has this id."""
    WRONG_STATE = "wrong state"
    """The job is in none of the expected states; the script answers with the state."""
    FENCED = "fenced"
    """The job carries another fencing token."""
    ALIVE = "alive"
    """The worker sent a heartbeat after the expected one."""
    FILES_REMOVED = "gone"
    """The files of the failed job are removed."""
    REQUEST_PENDING = "asked"
    """A user's request has priority over the new state."""


@dataclass(frozen=True)
class Transition:
    """One conditional change of a job. A condition or change that is None or empty does not apply."""

    from_states: tuple[JobState, ...] = ()
    """Condition: the allowed states of the job."""
    token: int | None = None
    """Condition: the job carries this fencing token."""
    beat: int | None = None
    """Condition: the worker has sent this number of heartbeats."""
    to: JobState | None = None
    """Change: the new state."""
    new_token: int | None = None
    """Change: the new fencing token."""
    increment: str = ""
    """Change: the name of a counter field to increment."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Change: new values of fields."""

    def arguments(self, job_id: str) -> list[str]:
        """ARGV of `scripts.TRANSITION`."""
        states = f",{','.join(self.from_states)}," if self.from_states else ""
        numbers = ["" if value is None else str(value) for value in (self.token, self.beat, self.to, self.new_token)]
        pairs = [text for name, value in self.fields.items() for text in (name, encode(name, value))]
        return [PREFIX, job_id, states, *numbers, self.increment, *pairs]


@dataclass(frozen=True)
class TransitionResult:
    """Answer of the script."""

    outcome: Outcome
    state: JobState | None
    """State of the job if the outcome is `WRONG_STATE`."""
    request: Request | None
    """The user's request to the job, if one is pending."""

    @classmethod
    def parse(cls, outcome: bytes, request: bytes) -> TransitionResult:
        """Read the script's two strings."""
        text, asked = outcome.decode(), Request(request.decode()) if request else None
        if text in _STATES:
            return cls(Outcome.WRONG_STATE, JobState(text), asked)
        return cls(Outcome(text), None, asked)

    @property
    def applied(self) -> bool:
        """Whether the change took place."""
        return self.outcome is Outcome.APPLIED


_STATES: Final = frozenset(JobState)
