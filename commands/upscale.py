"""`skipvsr upscale`: upscale a file in this process, without a server; the same command resumes an interrupted run."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.shared.command_line import FILE, Command, option, read_settings
from commands.shared.errors import CommandError
from commands.shared.job_options import given, job_options
from jobs.schema import JobOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.settings import Settings
    from model.engine.upscaler import Upscaler
    from pipeline.events import Finished
    from pipeline.skipmap import SkipMap
    from pipeline.task import UpscaleTask


@click.command(cls=Command)
@click.argument("source", type=FILE, metavar="IN", help="Video file")
@click.argument("target", type=FILE, metavar="OUT", help="Result; .mp4, .mkv, .mov or .webm")
@option("--report", type=FILE, metavar="FILE", help="Write times and skip ratio as JSON")
@option("--skipmap", type=FILE, metavar="FILE", help="Write a video that shows computed tiles")
@job_options
def command(source: Path, target: Path, report: Path | None, skipmap: Path | None, **options: Any) -> int:
    """Upscale a file on this machine, without a server."""
    settings = read_settings()
    chosen = JobOptions(**given(options, target))
    return run(source, target, chosen, settings, report=report, skipmap=skipmap)


def run(
    source: Path,
    target: Path,
    options: JobOptions,
    settings: Settings,
    *,
    report: Path | None = None,
    skipmap: Path | None = None,
) -> int:
    """Upscale `source` to `target`; write a JSON `report` and a `skipmap` video, if given.

    Raises CommandError, MediaError, ModelError, OSError.
    """
    from commands.shared.naming import beside, check_names, container_of
    from model.engine.upscaler import load_model
    from pipeline.skipmap import SkipMap
    from pipeline.source import media_limits
    from pipeline.task import UpscaleTask

    if not source.is_file():
        raise CommandError(f"there is no file {source}")
    map_container = container_of(skipmap) if skipmap is not None else ""
    check_names(source, {"the output": target, "the report": report, "the skip map": skipmap})
    limits = media_limits(settings)
    model = load_model(
        options.model if options.model != "auto" else settings.model,
        weights_dir=settings.weights,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )
    folder = beside(target, ".skipvsr")
    if skipmap is not None and (folder / "manifest.json").exists():  # checkpoints do not store what was skipped
        raise CommandError(f"found an interrupted run: finish the run without --skipmap, or delete {folder}")
    task = UpscaleTask(source, folder, options, limits, encoder=settings.encoder)
    resume = "the same command" if skipmap is None else "the same command without --skipmap"
    with _checkpoints(folder, resume), contextlib.ExitStack() as stack:
        skips = None
        if skipmap is not None:
            fields, fold = options.deinterlace == "field", model.config.fold
            skips = stack.enter_context(
                SkipMap(source, folder, skipmap, map_container, limits, fields=fields, fold=fold)
            )
        document = _upscale(task, model, target, skips)
    if report is not None:
        report.write_text(json.dumps(document, indent=2) + "\n")
    return 0


@contextlib.contextmanager
def _checkpoints(folder: Path, resume: str) -> Iterator[None]:
    """A folder for checkpoints; an interrupted or failed run keeps the folder if a checkpoint exists."""
    folder.mkdir(exist_ok=True)
    try:
        yield
    except KeyboardInterrupt:
        raise CommandError(f"interrupted; {resume} resumes from the last finished chunk") from None
    finally:
        if not (folder / "manifest.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _upscale(task: UpscaleTask, model: Upscaler, target: Path, skips: SkipMap | None) -> dict[str, Any]:
    """Upscale to `target`; returns the report."""
    from commands.shared.progress import frames_bar
    from jobs.storage import replace
    from pipeline.events import ChunkDone, Finished, Started, Stopped
    from pipeline.upscale import upscale

    chunks: list[dict[str, float]] = []
    begun = time.perf_counter()
    title = f"upscaling with {model.name}"
    with frames_bar(title) as show, contextlib.closing(upscale(task, model)) as events:
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
                    raise CommandError("stopped")
            progress = event.progress
            show(title, progress.frames_done, progress.frames_total, progress.fps)
    seconds = time.perf_counter() - begun
    if skips is not None:
        skips.finish()
    replace(finished.path, target.absolute())
    _print_result(target, model, finished)
    spec = finished.spec
    return {
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


def _print_result(target: Path, model: Upscaler, finished: Finished) -> None:
    for warning in finished.warnings:
        print(f"note: {warning}")
    progress, spec = finished.progress, finished.spec
    rate = f" at {progress.fps:.2f} fps" if progress.fps else ""
    print(f"{target}  {spec.width}×{spec.height}, {progress.frames_done} frames{rate}, {model.name} on {model.device}")
