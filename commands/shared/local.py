"""Upscaling in this process, file after file with one loaded model; an interrupted file resumes."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.shared.errors import CommandError
from commands.shared.files import Item
from commands.shared.interrupts import stop_event

if TYPE_CHECKING:
    from jobs.settings import Settings
    from media.limits import Limits
    from model.engine.upscaler import Upscaler
    from pipeline.events import Finished
    from pipeline.skipmap import SkipMap
    from pipeline.task import UpscaleTask


class LocalUpscaler:
    """Upscales files in this process.

    Args:
        model: name of the model; auto: that of the settings.
        settings: the settings.
        quiet: without a progress bar.
    """

    def __init__(self, model: str, settings: Settings, *, quiet: bool = False) -> None:
        self._name = model if model != "auto" else settings.model
        self._settings = settings
        self._quiet = quiet

    @cached_property
    def model(self) -> Upscaler:
        """The model, loaded at the first use. Raises ModelError."""
        from model.engine.upscaler import load_model

        settings = self._settings
        return load_model(
            self._name,
            weights_dir=settings.weights,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
        )

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
        from pipeline.skipmap import SkipMap
        from pipeline.task import UpscaleTask

        source, target = item.source, item.target
        check_source(source)
        map_container = container_of(skipmap) if skipmap is not None else ""
        check_names(source, {"the output": target, "the report": report, "the skip map": skipmap})
        model = self.model
        folder = beside(target, ".skipvsr")
        if skipmap is not None and (folder / "manifest.json").exists():  # checkpoints do not store what was skipped
            raise CommandError(f"found an interrupted run: finish the run without --skipmap, or delete {folder}")
        task = UpscaleTask(source, folder, item.options, self.limits, encoder=self._settings.encoder)
        with _checkpoints(folder), contextlib.ExitStack() as stack:
            skips = None
            if skipmap is not None:
                fields, fold = item.options.deinterlace == "field", model.config.fold
                skips = stack.enter_context(
                    SkipMap(source, folder, skipmap, map_container, self.limits, fields=fields, fold=fold)
                )
            document = self._upscale(task, target, skips)
        if report is not None:
            kept = {name: value for name, value in document.items() if name != "summary"}
            report.write_text(json.dumps(kept, indent=2) + "\n")
        return document

    def _upscale(self, task: UpscaleTask, target: Path, skips: SkipMap | None) -> dict[str, Any]:
        from commands.shared.progress import frames_bar
        from jobs.storage import replace
        from pipeline.events import ChunkDone, Finished, Started, Stopped
        from pipeline.upscale import upscale

        model = self.model
        chunks: list[dict[str, float]] = []
        begun = time.perf_counter()
        title = f"upscaling with {model.name}"
        with (
            frames_bar(title, quiet=self._quiet) as show,
            stop_event() as stop,
            contextlib.closing(upscale(task, model, halt=stop)) as events,
        ):
            for event in events:
                match event:
                    case Started():
                        resumed = event.resumed
                    case ChunkDone():
                        if skips is not None:
                            skips.add(event.reports)
                        chunks.append({"frames": event.frames, "model_seconds": round(event.seconds, 4)})
                    case Finished():
                        finished = event
                    case Stopped():
                        raise KeyboardInterrupt
                progress = event.progress
                show(title, progress.frames_done, progress.frames_total, progress.fps)
        seconds = time.perf_counter() - begun
        if skips is not None:
            skips.finish()
        replace(finished.path, target.absolute())
        spec = finished.spec
        return {
            "summary": _summary(model, finished),
            "source": str(task.source),
            "target": str(target),
            "model": model.name,
            "device": str(model.device),
            "precision": str(model.dtype).removeprefix("torch."),
            "options": task.options.model_dump(mode="json"),
            "resumed": resumed,
            "size": [spec.width, spec.height],
            "progress": finished.progress.model_dump(),
            "metrics": finished.metrics.model_copy(update={"processing_seconds": seconds}).model_dump(),
            "chunks": chunks,
            "warnings": finished.warnings,
        }


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
