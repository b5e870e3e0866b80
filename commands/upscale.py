"""`skipvsr upscale`: upscale files in this process, without a server; the same command resumes an interrupted run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from commands.shared.command_line import FILE, Command, option, read_settings
from commands.shared.errors import Interrupted
from commands.shared.files import file_options, output_of, planned
from commands.shared.job_options import job_options


@click.command(cls=Command)
@file_options
@option("--report", type=FILE, metavar="FILE", help="Write times and skip ratio as JSON")
@option("--skipmap", type=FILE, metavar="FILE", help="Write a video that shows computed tiles")
@job_options
def command(paths: Sequence[Path], report: Path | None, skipmap: Path | None, **options: Any) -> int:
    """Upscale files on this machine, without a server."""
    from commands.shared.batch import run, single
    from commands.shared.local import LocalUpscaler, import_pipeline

    settings = read_settings()
    output = output_of(options)
    items = planned(paths, output, options)
    for name, path in (("--report", report), ("--skipmap", skipmap)):
        if path is not None:
            single(items, name)
    import_pipeline()
    upscaler = LocalUpscaler(items[0].options.model, settings, quiet=output.quiet, tell=output.tells)
    try:
        return run(items, output, partial(upscaler.upscale, report=report, skipmap=skipmap))
    except KeyboardInterrupt:
        resume = "the same command" if skipmap is None else "the same command without --skipmap"
        raise Interrupted(f"interrupted; {resume} resumes from the last finished chunk") from None
