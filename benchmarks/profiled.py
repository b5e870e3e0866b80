"""`skipvsr` with a clock in each part of a job; started by `benchmarks.profile_job`.

    python -P benchmarks/profiled.py FIGURES BEGUN upscale IN OUT …

The arguments after BEGUN, a time of `time.monotonic()`, are those of `skipvsr`. The checkout under measurement is the
working folder; this file imports nothing of its own checkout. Parts that the checkout lacks are left out.
"""

from __future__ import annotations

import functools
import inspect
import json
import resource
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path.cwd()))

_EVERY: Final = 0.02
"""Seconds between two looks at the threads."""
_CHILD: Final = "process: "
_PARTS: Final = (
    ("commands.shared.local", "LocalUpscaler.upscale", "command"),
    ("model.engine.loading", "load_model", "load the model"),
    ("pipeline.calibration", "calibrate_once", "calibrate"),
    ("pipeline.upscale", "probe", "probe"),
    ("pipeline.upscale", "output_spec", "choose the output"),
    ("pipeline.upscale", "sha256_of", "hash the source"),
    ("media.reader", "VideoReader.__iter__", "receive frames"),
    ("pipeline.stages", "run_model", "gather chunks"),
    ("model.engine.upscaler", "Upscaler.forward", "network"),
    ("model.engine.upscaler", "Upscaler.stream", "network"),
    ("media.encode.segment", "SegmentWriter.__init__", "encode: open"),
    ("media.encode.segment", "SegmentWriter.write", "encode: send"),
    ("media.encode.segment", "SegmentWriter._yuv", "encode: RGB to YUV"),
    ("media.encode.segment", "SegmentWriter.drain", "encode: drain"),
    ("media.encode.segment", "SegmentWriter.close", "encode: close"),
    ("pipeline.upscale", "after_chunk", "figures"),
    ("pipeline.upscale", "_Run._add_figures", "figures"),
    ("pipeline.checkpoint", "Checkpoints.commit", "checkpoint"),
    ("pipeline.upscale", "_Run._finish", "write the result"),
)
"""Module, function or method, name of the part. Module functions are looked up where they are used."""


class Clocks:
    """CPU time of each part, without the parts inside; and when each part first began and last ended."""

    def __init__(self, begun: float) -> None:
        self._begun = begun
        self._inside = threading.local()
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def wrap(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function with a clock. A generator's clock runs while the generator computes."""

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            with _Clock(self, self._inside, part):
                return function(*args, **keywords)

        @functools.wraps(function)
        def generate(*args: Any, **keywords: Any) -> Generator[Any, Any, Any]:
            steps, given = function(*args, **keywords), None
            try:
                while True:
                    with _Clock(self, self._inside, part):
                        item = steps.send(given)
                    given = yield item
            except StopIteration as end:
                return end.value
            finally:
                steps.close()

        return generate if inspect.isgeneratorfunction(function) else call

    def begin(self, part: str) -> None:
        """A part begins."""
        self.first.setdefault(part, time.monotonic() - self._begun)

    def end(self, part: str, seconds: float) -> None:
        """A part ends after some CPU seconds."""
        self.cpu[part] += seconds
        self.last[part] = time.monotonic() - self._begun


class _Clock:
    """One call of a part."""

    def __init__(self, clocks: Clocks, inside: Any, part: str) -> None:
        self._clocks, self._inside, self._part = clocks, inside, part

    def __enter__(self) -> None:
        self._clocks.begin(self._part)
        self._outer = getattr(self._inside, "seconds", 0.0)
        self._inside.seconds, self._started = 0.0, time.thread_time()

    def __exit__(self, *_: object) -> None:
        spent = time.thread_time() - self._started
        self._clocks.end(self._part, spent - self._inside.seconds)
        self._inside.seconds = self._outer + spent


class Threads(threading.Thread):
    """CPU time of each thread, from the kernel. Threads of libraries bear the name of the thread that began them."""

    def __init__(self) -> None:
        super().__init__(name="sampler", daemon=True)
        self._seconds: dict[str, tuple[str, float]] = {}
        self._python: set[str] = set()
        run = threading.Thread.run

        def named(thread: threading.Thread) -> None:
            self.name_thread(thread.name)
            run(thread)

        setattr(threading.Thread, "run", named)  # noqa: B010  # mypy refuses a plain assignment
        self.name_thread("main")

    def name_thread(self, name: str) -> None:
        """Name the calling thread, and all threads that libraries begin from it."""
        number = str(threading.get_native_id())
        self._python.add(number)
        Path("/proc/self/task", number, "comm").write_text(name[:15])

    def run(self) -> None:
        """Look at all threads again and again."""
        self.name_thread(self.name)
        while True:
            self.look()
            time.sleep(_EVERY)

    def look(self) -> None:
        """Note the CPU time of all living threads."""
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # the thread has ended
                name = task.joinpath("comm").read_text().strip()
                kind = name if task.name in self._python else f"{name}'s libraries"
                self._seconds[task.name] = kind, int(task.joinpath("schedstat").read_text().split()[0]) / 1e9

    def totals(self) -> dict[str, float]:
        """Seconds by the threads' names."""
        self.look()
        found: defaultdict[str, float] = defaultdict(float)
        for name, seconds in self._seconds.values():
            found[name.split("_")[0]] += seconds
        return found


def _count_children(clocks: Clocks) -> None:
    """Give each child process a part of its own, by its request."""
    sandbox = import_module("media.sandbox.process").Sandbox
    begin, close = sandbox.__init__, sandbox.close

    @functools.wraps(begin)
    def counted_begin(self: Any, request: Any, *args: Any, **keywords: Any) -> None:
        self.part = f"{_CHILD}{type(request).__name__.removesuffix('Request').lower()}"
        clocks.begin(self.part)
        begin(self, request, *args, **keywords)

    @functools.wraps(close)
    def counted_close(self: Any) -> None:
        close(self)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        before = sum(seconds for part, seconds in clocks.cpu.items() if part.startswith(_CHILD))
        clocks.end(self.part, used.ru_utime + used.ru_stime - before)

    sandbox.__init__, sandbox.close = counted_begin, counted_close


def main() -> None:
    """Run the command, then write the figures."""
    figures, begun, *arguments = sys.argv[1:]
    threads, clocks = Threads(), Clocks(float(begun))
    threads.start()
    with_clock = clocks.wrap(import_module, "imports")
    # The command itself imports the pipeline with this function, where the checkout has it.
    clocks.wrap(getattr(with_clock("commands.shared.local"), "import_pipeline", lambda: None), "imports")()
    for module, name, part in _PARTS:
        owner = with_clock(module)
        *classes, attribute = name.split(".")
        for step in classes:
            owner = getattr(owner, step, None)
        function = getattr(owner, attribute, None)
        if function is not None:
            setattr(owner, attribute, clocks.wrap(function, part))
    _count_children(clocks)
    command = with_clock("cli")
    sys.argv = ["skipvsr", *arguments]
    try:
        status = command.main()
    finally:
        own = resource.getrusage(resource.RUSAGE_SELF)
        content = {
            "parts": clocks.cpu,
            "first": clocks.first,
            "last": clocks.last,
            "threads": threads.totals(),
            "process": own.ru_utime + own.ru_stime,
        }
        Path(figures).write_text(json.dumps(content))
    sys.exit(status)


if __name__ == "__main__":
    main()
