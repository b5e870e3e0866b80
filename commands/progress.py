"""Progress bars on the terminal's error stream; silent where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Advance = Callable[[int], None]
Show = Callable[[str, int, int | None, float | None], None]
"""What is going on, frames done, frames in all if known, frames a second if known."""


def _console() -> Console:
    return Console(stderr=True)


@contextmanager
def bytes_bar(what: str, total: int | None) -> Iterator[Advance]:
    """A bar that counts bytes; the block's value is called with how many more there are."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = _console()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def frames_bar(what: str) -> Iterator[Show]:
    """A bar that counts frames, with frames a second and the time that is left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]}"),
        TimeRemainingColumn(),
    )
    console = _console()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None, fps="")

        def show(now: str, done: int, total: int | None, fps: float | None) -> None:
            progress.update(task, description=now, completed=done, total=total, fps=f"{fps:.1f} fps" if fps else "")

        yield show
