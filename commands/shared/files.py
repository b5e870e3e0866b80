"""The input files of a command, and the place of each result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from pydantic import ValidationError

from commands.shared.command_line import FILE, FOLDER, option
from commands.shared.errors import CommandError
from commands.shared.job_options import given
from commands.shared.naming import check_names, check_source, is_marked, marked, renamed, usual_container
from jobs.schema import JobOptions

VIDEOS: Final = frozenset(
    {
        *(".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m1v", ".m2ts"),
        *(".m2v", ".m4v", ".mjpeg", ".mk3d", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv"),
        *(".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
    }
)
"""Endings of the files that a folder's videos have. The content of a file decides whether it is a video."""
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Item:
    """A file to upscale."""

    source: Path
    target: Path
    options: JobOptions


@dataclass(frozen=True)
class Output:
    """The place of the results, and the kind of report."""

    path: Path | None
    folder: Path | None
    overwrite: bool
    as_json: bool
    quiet: bool

    @property
    def tells(self) -> bool:
        """Whether the command prints lines about the work for people."""
        return not (self.quiet or self.as_json)


def file_options(function: Function) -> Function:
    """Add the files of a command, and the options for their results, which `output_of` collects."""
    option("-q", "--quiet", is_flag=True, help="Print errors only")(function)
    option("--json", "as_json", is_flag=True, help="Write one JSON object for each file")(function)
    option("--overwrite", is_flag=True, help="Replace existing results")(function)
    option("--out-dir", type=FOLDER, metavar="DIR", help="Folder of the results, with the names of the inputs")(
        function
    )
    option("-o", "--output", type=FILE, metavar="OUT", help="Result of a single file")(function)
    click.argument("paths", type=FILE, nargs=-1, required=True, metavar="IN...", help="Videos or folders; or IN OUT")(
        function
    )
    return function


def output_of(options: dict[str, Any]) -> Output:
    """Take the options of `file_options` out of a command's options."""
    names = ("output", "out_dir", "overwrite", "as_json", "quiet")
    path, folder, overwrite, as_json, quiet = (options.pop(name) for name in names)
    return Output(path, folder, overwrite, as_json, quiet)


def planned(paths: Sequence[Path], output: Output, options: Mapping[str, Any]) -> list[Item]:
    """The files at `paths` with their results. Raises CommandError, pydantic.ValidationError.

    Forms: `IN OUT`; `IN -o OUT`; `IN`; `A B C`; each with folders in place of files; the last two with --out-dir.
    """
    named = output.path
    if named is None and output.folder is None and len(paths) == 2:
        paths, named = paths[:1], paths[1]
    if named is not None:
        return [_single(paths, named, output, options)]
    if output.folder is not None:
        output.folder.mkdir(parents=True, exist_ok=True)
    items = list(_distinct([_item(source, target, options) for source, target in _sources(paths, output.folder)]))
    if not items:
        raise CommandError(f"there is no video in {', '.join(map(str, paths))}")
    if len(items) == 1 and not paths[0].is_dir():  # the only file: its trouble is the command's
        check_source(items[0].source)
        check_names(items[0].source, {"the output": items[0].target}, overwrite=output.overwrite)
    return items


def _single(paths: Sequence[Path], target: Path, output: Output, options: Mapping[str, Any]) -> Item:
    if output.folder is not None:
        raise CommandError("give either -o or --out-dir, not both")
    if len(paths) > 1:
        raise CommandError("-o names the result of a single file; give --out-dir for several")
    (source,) = paths
    if source.is_dir() or target.is_dir():
        folder = target if target.is_dir() else source
        raise CommandError(f"{folder} is a folder; name the folder of the results with --out-dir {target}")
    chosen = JobOptions(**given(options, target))  # reports invalid options before missing files
    check_source(source)
    check_names(source, {"the output": target})
    if target.exists() and not output.overwrite:
        raise CommandError(f"{target} exists; add --overwrite, or --out-dir DIR to upscale several files")
    return Item(source, target, chosen)


def _sources(paths: Sequence[Path], folder: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """(source, result without its container); the result is None for the default name beside the source."""
    for path in paths:
        if not path.is_dir():
            yield path, folder / path.name if folder else None
            continue
        for source in videos(path, without=folder):
            yield source, folder / source.relative_to(path) if folder else None


def videos(folder: Path, *, without: Path | None = None) -> Iterator[Path]:
    """The videos in a folder and its subfolders, by name; no hidden files, results, or files in `without`."""
    excluded = without.resolve() if without is not None else None
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if _is_open(name) and (here / name).resolve() != excluded)
        for name in sorted(names):
            path = here / name
            if _is_open(name) and path.suffix.lower() in VIDEOS and not is_marked(path):
                yield path


def _is_open(name: str) -> bool:
    """Whether a name is neither hidden nor that of a storage server's own folder (@eaDir, #recycle, lost+found)."""
    return name[0] not in ".@#~" and name != "lost+found"


def _item(source: Path, target: Path | None, options: Mapping[str, Any]) -> Item:
    chosen = fitting(source, options)
    result = marked(source, chosen.container) if target is None else renamed(target, chosen.container)
    return Item(source, result, chosen)


def fitting(source: Path, options: Mapping[str, Any]) -> JobOptions:
    """The options with a container: as wanted, else the source's, else Matroska (for all codecs)."""
    chosen = {name: value for name, value in options.items() if value is not None}
    if chosen.get("container", "auto") != "auto":
        return JobOptions(**chosen)
    try:
        return JobOptions(**{**chosen, "container": usual_container(source)})
    except ValidationError:
        return JobOptions(**{**chosen, "container": "mkv"})


def longer(target: Path, source: Path) -> Path:
    """Another name for a result, if a file that differs only in its suffix has the usual one: clip.avi.mkv."""
    return target.with_name(f"{source.name}{target.suffix}")


def _distinct(items: Sequence[Item]) -> Iterator[Item]:
    """The items, each with a result of its own. Raises CommandError if a result would replace another or an input."""
    sources = {item.source.resolve() for item in items}
    targets: dict[Path, Path] = {}
    for item in items:
        target = item.target
        if (other := targets.get(target.resolve())) is not None and other.name != item.source.name:
            target = longer(target, item.source)
        if target.resolve() in sources:
            raise CommandError(f"the result of {item.source} would replace the input {target}; choose another folder")
        if (other := targets.setdefault(target.resolve(), item.source)) != item.source:
            raise CommandError(f"{other} and {item.source} would have the same result, {target}")
        yield replace(item, target=target)
