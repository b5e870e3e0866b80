"""Upscaling in this process, file after file with one loaded model; an interrupted file resumes."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.shared.files import Item
from commands.shared.interrupts import stop_event

if TYPE_CHECKING:
    from jobs.settings import Settings
    from jobs.speed_records import SpeedFile
    from media.limits import Limits
    from model.engine.upscaler import Upscaler
    from model.zoo.cache import ModelCache
    from pipeline.events import Finished, Started
    from pipeline.task import UpscaleTask


def import_pipeline() -> None:
    """Import the pipeline, and torch, without garbage collections then and at the end: they hold no garbage.

    With collections, imports take a seventh longer, and the end of the process half a second.
    """
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        import pipeline.upscale  # noqa: F401

        gc.freeze()
    finally:
        gc.enable()


class LocalUpscaler:
    """Upscales files in this process.

    Args:
        model: name of the model; auto: that of the settings.
        settings: the settings.
        quiet: without a progress bar.
        tell: whether to print the expected time before each file.
    """

    def __init__(self, model: str, settings: Settings, *, quiet: bool = False, tell: bool = False) -> None:
        self._name, self._settings = model, settings
        self._quiet, self._tells = quiet, tell

    def check(self) -> None:
        """Load the model, or for `auto` the model of the largest results. Raises ModelError."""
        self._models.get(self._name)

    @cached_property
    def _models(self) -> ModelCache[Upscaler]:
        from model.engine.loading import model_cache

        settings = self._settings
        return model_cache(
            settings.weights,
            default=settings.model,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
        )

    @cached_property
    def _speeds(self) -> SpeedFile:
        """Measurements of earlier runs on this machine."""
        from jobs.speed_records import SpeedFile

        return SpeedFile(self._settings.data_dir / "speeds.json")

    def _machine(self, model: Upscaler) -> str:
        from pipeline.calibration import machine_of

        return machine_of(model, self._settings.encoder)

    @cached_property
    def limits(self) -> Limits:
        """Limits on source files."""
        from pipeline.source import media_limits

        return media_limits(self._settings)

    def upscale(self, item: Item, *, report: Path | None = None, skipmap: Path | None = None) -> dict[str, Any]:
        """Upscale a file; returns the report, with the line for people under `summary`.

        Writes the `report` and a `skipmap` video, if given. Raises CommandError, MediaError, ModelError, OSError.
        """
        from commands.shared.naming import beside, check_names, check_source, container_of
        from pipeline.choice import choose
        from pipeline.source import probe_source
        from pipeline.task import UpscaleTask

        source, target = item.source, item.target
        check_source(source)
        map_container = container_of(skipmap) if skipmap is not None else ""
        check_names(source, {"the output": target, "the report": report, "the skip map": skipmap})
        folder = beside(target, ".skipvsr")
        info = probe_source(source, item.options, self.limits)
        model, natural = choose(self._models, item.options, info.video.width, info.video.height)
        task = UpscaleTask(
            source, folder, item.options, self.limits, encoder=self._settings.encoder, natural=natural, info=info
        )
        with _checkpoints(folder):
            document = self._upscale(task, model, target, skipmap, map_container)
        if report is not None:
            kept = {name: value for name, value in document.items() if name != "summary"}
            report.write_text(json.dumps(kept, indent=2) + "\n")
        return document

    def _upscale(
        self, task: UpscaleTask, model: Upscaler, target: Path, skipmap: Path | None, map_container: str
    ) -> dict[str, Any]:
        from commands.shared.progress import frames_bar
        from jobs.disk import replace
        from jobs.figures import Figures, Report
        from pipeline.events import Finished, Started, Stopped
        from pipeline.skipmap import write_skipmap
        from pipeline.speedometer import Speedometer
        from pipeline.upscale import upscale

        speedometer = Speedometer(model.name, task.options, partial(self._speeds.add, self._machine(model)))
        begun = time.perf_counter()
        title = f"upscaling with {model.name}"
        with (
            frames_bar(title, quiet=self._quiet) as show,
            stop_event() as stop,
            contextlib.closing(upscale(task, model, halt=stop)) as events,
        ):
            for event in events:
                speedometer.take(event)
                match event:
                    case Started():
                        resumed = event.resumed
                        self._tell(event, task, model)
                    case Finished():
                        finished = event
                    case Stopped():
                        raise KeyboardInterrupt
                progress = event.progress
                show(title, progress.frames_done, progress.frames_total, progress.fps)
            seconds = time.perf_counter() - begun
            figures = Figures.read(task.folder)
            assert figures is not None, "a finished run has figures"
            if skipmap is not None:
                fields, total = task.options.deinterlace == "field", finished.progress.frames_total
                for done in write_skipmap(figures, task.source, skipmap, map_container, task.limits, fields=fields):
                    show("writing the skip map", done, total, None)
        replace(finished.path, target.absolute())
        report = Report(
            source=str(task.source),
            target=str(target),
            model=model.name,
            device=figures.facts.device,
            precision=figures.facts.precision,
            options=task.options,
            resumed=resumed,
            size=figures.facts.size,
            progress=finished.progress,
            metrics=finished.metrics.model_copy(update={"processing_seconds": seconds}),
            chunks=figures.chunks,
            warnings=finished.warnings,
        )
        return {"summary": _summary(model, finished), **report.model_dump(mode="json")}

    def _tell(self, started: Started, task: UpscaleTask, model: Upscaler) -> None:
        """Print the expected size and time before the work starts."""
        from commands.shared.expected import sentence
        from pipeline.calibration import calibrate_once
        from pipeline.expected import expected

        if not self._tells:
            return
        settings = self._settings
        calibrate_once(self._speeds, model, settings.encoder, [model.name], settings.weights)
        estimate = expected(started, model.name, task.options, self._speeds.table(self._machine(model)))
        if estimate is not None:
            video = started.info.video
            about = sentence((video.width, video.height), estimate.model_dump())
            print(f"{task.source}: {about}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _checkpoints(folder: Path) -> Iterator[None]:
    """A folder for checkpoints; an interrupted or failed run keeps the folder if a checkpoint exists."""
    folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        if not (folder / "manifest.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _summary(model: Upscaler, finished: Finished) -> str:
    progress, spec = finished.progress, finished.spec
    rate = f" at {progress.fps:.2f} fps" if progress.fps else ""
    return f"{spec.width}×{spec.height}, {progress.frames_done} frames{rate}, {model.name} on {model.device}"
