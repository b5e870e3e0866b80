"""The console that commands print tables on."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """A console that reports a closed pipe to the entry point. The entry point then exits with status 141."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
