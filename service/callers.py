"""The sender of a request, and the sender's rights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from jobs.allowance import Limits
from jobs.errors import Forbidden


class Scope(StrEnum):
    """A right of an API key."""

    READ = "read"
    """List, see and download the key's own jobs."""
    SUBMIT = "submit"
    """Create, pause, resume, cancel and delete the key's own jobs; live streams."""
    ADMIN = "admin"
    """Everything, also with the jobs of all other keys."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Caller:
    """The sender of a request."""

    key_id: str = ""
    """Id of the API key; empty: the administrator's key of the settings, or a server without keys."""
    name: str = ""
    scopes: frozenset[Scope] = frozenset()
    limits: Limits = field(default_factory=Limits)
    cookie: str = field(default="", repr=False, compare=False)
    """Read-only token for the page's cookie; empty: the server has no keys."""
    confirm: Callable[[], None] = field(default=_nothing, repr=False, compare=False)
    """Raises Unauthorized if the key has been revoked or has expired since the request began."""

    @property
    def admin(self) -> bool:
        """Whether the caller may do everything."""
        return Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Raise Forbidden if the caller's key lacks a scope."""
        if scope not in self.scopes and not self.admin:
            raise Forbidden(f"this API key lacks the scope {scope}: ask the server's administrator for another key")

    def may_see(self, owner: str) -> bool:
        """Whether the caller may know the jobs of an owner."""
        return self.admin or (bool(self.key_id) and owner == self.key_id)


ADMINISTRATOR: Final = Caller(name="administrator", scopes=frozenset({Scope.ADMIN}))
"""The holder of `SKIPVSR_API_KEY`, and this program itself."""
ANYBODY: Final = Caller(name="anybody", scopes=frozenset({Scope.ADMIN}))
"""Every caller of a server without API keys."""
