"""The limits that this machine's kernel enforces on the process that reads untrusted files."""

from __future__ import annotations

import logging
from functools import cache
from typing import Final

from media.errors import MediaError, NoJail
from media.limits import DEFAULT_LIMITS
from media.sandbox.process import Sandbox
from media.sandbox.protocol import Jailed, JailRequest

log = logging.getLogger(__name__)
LAYERS: Final = ("system calls", "files")
"""The layers of the jail that depend on the kernel: a seccomp filter, and Landlock."""
_NEEDS: Final = {"system calls": "seccomp on x86-64 or ARM64", "files": "Landlock, which Linux has since 5.13"}


def missing_layers() -> tuple[str, ...]:
    """Start a child process as for a file, and return the `LAYERS` that the kernel does not enforce.

    Without an answer of the child, all layers count as missing.
    """
    try:
        with Sandbox(JailRequest(), DEFAULT_LIMITS) as process:
            for message in process.messages():
                if isinstance(message, Jailed):
                    return tuple(layer for layer in LAYERS if layer in message.missing)
    except (MediaError, OSError):
        pass
    return LAYERS


def checked_jail(*, required: bool) -> tuple[str, ...]:
    """The missing layers, found out and logged once in a process.

    Raises:
        NoJail: a layer is missing, and the jail is `required`.
    """
    missing = _logged_layers()
    if missing and required:
        raise NoJail(
            f"This machine does not enforce all layers of the decoder's jail ({_described(missing)}), and "
            "SKIPVSR_REQUIRE_JAIL demands all. Use another kernel, or allow these calls in the container's profile."
        )
    return missing


@cache
def _logged_layers() -> tuple[str, ...]:
    missing = missing_layers()
    if missing:
        log.warning(
            "The decoder's jail is incomplete; this machine does not enforce: %s. A malicious video may do harm. "
            "SKIPVSR_REQUIRE_JAIL=true refuses to start in this case.",
            _described(missing),
        )
    else:
        log.debug("The decoder's jail is complete: %s.", ", ".join(LAYERS))
    return missing


def _described(layers: tuple[str, ...]) -> str:
    return "; ".join(f"limits on {layer} need {_NEEDS[layer]}" for layer in layers)
