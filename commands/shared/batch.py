"""Several files one after another: a broken file does not stop the others, and the end is a summary."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from commands.shared.errors import CommandError, explained, only_this_file
from commands.shared.files import Item, Output

Upscale = Callable[[Item], dict[str, Any]]
"""Upscales one file; returns the report, whose key `summary` is the line for people, and `warnings` the notes."""


class Report:
    """Prints the outcome of each file, as a line or as JSON, and counts the outcomes.

    Args:
        output: how to report.
        single: whether the command has one file only: an error then ends the command.
    """

    def __init__(self, output: Output, *, single: bool) -> None:
        self._output = output
        self._single = single
        self._counts: Counter[str] = Counter()

    @property
    def status(self) -> int:
        """Exit status of the command."""
        return 1 if self._counts["failed"] else 0

    def done(self, item: Item, report: dict[str, Any]) -> None:
        """Report a finished file."""
        summary = report.pop("summary")
        self._count(item, "done", report)
        if not self._output.quiet and not self._output.as_json:
            for warning in report.get("warnings", ()):
                print(f"note: {warning}")
            print(f"{item.target}  {summary}", flush=True)

    def skipped(self, item: Item) -> None:
        """Report a file whose result exists."""
        self._count(item, "skipped", {"error": "the result exists; --overwrite replaces it"})
        if not self._output.quiet and not self._output.as_json:
            print(f"{item.target}  exists, skipped (--overwrite replaces it)", flush=True)

    def failed(self, item: Item, error: Exception) -> None:
        """Report a file that could not be upscaled. Re-raises the error if the command has no other file."""
        if self._single and not self._output.as_json:
            raise error
        text = message_of(error)
        self._count(item, "failed", {"error": text})
        print(f"skipvsr: {item.source}: {text}", file=sys.stderr, flush=True)

    def finish(self, left: int = 0) -> None:
        """Print the summary of several files, of which `left` were not begun."""
        total = sum(self._counts.values()) + left
        if self._single or not total or (self._output.quiet and not self.status):
            return
        words = {"done": "upscaled", "skipped": "skipped", "failed": "failed"}
        parts = [f"{self._counts[kind]} {word}" for kind, word in words.items() if self._counts[kind] or kind == "done"]
        parts += [f"{left} not begun"] if left else []
        stream = sys.stderr if self._output.as_json or self._output.quiet else sys.stdout
        print(f"{total} file{'s' if total > 1 else ''}: {', '.join(parts)}", file=stream, flush=True)

    def _count(self, item: Item, state: str, more: dict[str, Any]) -> None:
        self._counts[state] += 1
        if self._output.as_json:
            facts = {"source": str(item.source), "target": str(item.target), "state": state, **more}
            print(json.dumps(facts, ensure_ascii=False), flush=True)


def message_of(error: Exception) -> str:
    """One line about any error of a file."""
    if os.environ.get("SKIPVSR_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return " ".join((explained(error) or f"internal error ({type(error).__name__}: {error})").split())


def run(items: Sequence[Item], output: Output, upscale: Upscale) -> int:
    """Upscale the files; returns the exit status. Stops early only for trouble that all files share."""
    report = Report(output, single=len(items) == 1)
    for number, item in enumerate(items, 1):
        if item.target.exists() and not output.overwrite:
            report.skipped(item)
            continue
        try:
            item.target.absolute().parent.mkdir(parents=True, exist_ok=True)
            report.done(item, upscale(item))
        except BrokenPipeError:
            raise
        except Exception as error:
            report.failed(item, error)
            if explained(error) is not None and not only_this_file(error):
                report.finish(len(items) - number)
                return report.status
    report.finish()
    return report.status


def single(items: Sequence[Item], name: str) -> Item:
    """The only file. Raises CommandError if there are several, for the option `name`."""
    if len(items) > 1:
        raise CommandError(f"{name} is for a single file")
    return items[0]
