"""Progress bars on the error stream; silent unless the stream is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Advance = Callable[[int], None]
"""Called with the number of bytes since the last call."""
ShowFrames = Callable[[str, int, int | None, float | None], None]
"""Called with the activity, frames done, total frames if known, and frames per second if known."""


@contextmanager
def _progress(*columns: ProgressColumn, quiet: bool) -> Iterator[Progress]:
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        yield progress


@contextmanager
def bytes_bar(activity: str, total: int | None, *, quiet: bool = False) -> Iterator[Advance]:
    """A bar that counts bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with _progress(*columns, quiet=quiet) as progress:
        task = progress.add_task(activity, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def frames_bar(activity: str, *, quiet: bool = False) -> Iterator[ShowFrames]:
    """A bar that counts frames, with the rate and the remaining time."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]}"),
        TimeRemainingColumn(),
    )
    with _progress(*columns, quiet=quiet) as progress:
        task = progress.add_task(activity, total=None, fps="")

        def show(now: str, done: int, total: int | None, fps: float | None) -> None:
            progress.update(task, description=now, completed=done, total=total, fps=f"{fps:.1f} fps" if fps else "")

        yield show
