"""`skipvsr upscale`: a file, here and now, without a server. What ^C leaves is gone on from by the same command."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from commands.errors import CommandError
from commands.naming import beside, check_names, container_of
from commands.progress import frames_bar
from jobs.schema import JobOptions
from jobs.settings import Settings
from jobs.storage import replace
from model.engine.upscaler import Upscaler, load_model
from pipeline.events import ChunkDone, Finished, Started, Stopped
from pipeline.skipmap import SkipMap
from pipeline.source import media_limits
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale


def run(
    source: Path,
    target: Path,
    options: JobOptions,
    settings: Settings,
    *,
    report: Path | None = None,
    skipmap: Path | None = None,
) -> int:
    """Upscale `source` to `target`; describe the work in `report` (JSON) and show it in `skipmap` (a video), if given.

    Raises CommandError, MediaError, ModelError, OSError.
    """
    if not source.is_file():
        raise CommandError(f"there is no file {source}")
    map_container = container_of(skipmap) if skipmap is not None else ""
    check_names(source, {"the output": target, "the report": report, "the skip map": skipmap})
    name = options.model if options.model != "auto" else settings.model
    model = load_model(
        name,
        weights_dir=settings.weights,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )
    folder = beside(target, ".skipvsr")
    if skipmap is not None and (folder / "manifest.json").exists():  # of its chunks nobody knows what was skipped
        raise CommandError(f"an interrupted run is there: finish it without --skipmap, or delete {folder}")
    folder.mkdir(exist_ok=True)
    limits = media_limits(settings)
    try:
        order = UpscaleTask(source, folder, options, limits, encoder=settings.encoder)
        with contextlib.ExitStack() as stack:
            skips = None
            if skipmap is not None:
                skips = stack.enter_context(SkipMap(source, folder, skipmap, map_container, limits))
            document = _work(order, model, target, skips)
    except KeyboardInterrupt:
        command = "the same command" if skipmap is None else "the same command without --skipmap"
        raise CommandError(f"interrupted; {command} goes on from the last chunk that was done") from None
    finally:
        if not (folder / "manifest.json").exists():  # nothing to go on from
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    if report is not None:
        report.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _work(order: UpscaleTask, model: Upscaler, target: Path, skips: SkipMap | None) -> dict[str, Any]:
    chunks: list[dict[str, float]] = []
    begun = time.perf_counter()
    events = upscale(order, model)
    with frames_bar(f"upscaling with {model.name}") as show, contextlib.closing(events):
        for event in events:
            match event:
                case Started():
                    started = event
                case ChunkDone():
                    if skips is not None:
                        skips.add(event.reports)
                    chunks.append({"frames": event.frames, "model_seconds": round(event.seconds, 4)})
                case Finished():
                    finished = event
                case Stopped():
                    raise CommandError("stopped")
            progress = event.progress
            show(f"upscaling with {model.name}", progress.frames_done, progress.frames_total, progress.fps)
    seconds = time.perf_counter() - begun
    if skips is not None:
        skips.finish()
    replace(finished.path, target.absolute())
    for warning in finished.warnings:
        print(f"note: {warning}")
    progress, metrics, spec = finished.progress, finished.metrics, finished.spec
    rate = f" at {progress.fps:.2f} fps" if progress.fps else ""
    print(f"{target}  {spec.width}×{spec.height}, {progress.frames_done} frames{rate}, {model.name} on {model.device}")
    return {
        "source": str(order.source),
        "target": str(target),
        "model": model.name,
        "device": str(model.device),
        "precision": str(model.dtype).removeprefix("torch."),
        "options": order.options.model_dump(mode="json"),
        "resumed": started.resumed,
        "size": [spec.width, spec.height],
        "progress": progress.model_dump(),
        "metrics": metrics.model_copy(update={"processing_seconds": seconds}).model_dump(),
        "chunks": chunks,
        "warnings": finished.warnings,
    }
