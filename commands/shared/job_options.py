"""Command-line options for the fields of `JobOptions`: types, choices, ranges and defaults come from the schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from pydantic import ValidationError

from commands.shared.command_line import MODEL_HELP, ModelName, option
from commands.shared.naming import container_of
from jobs.schema import JobOptions

HELP: Final = {
    "model": f"Model: {MODEL_HELP}",
    "scale": "Enlargement; default: 4, or less for 2160 lines",
    "height": "Height in pixels, instead of --scale",
    "chunk": "Frames per chunk",
    "lookahead": "Frames of look-ahead after a chunk",
    "routing": "Work to skip",
    "codec": "Video codec",
    "container": "File format; default: suffix of OUT or IN",
    "crf": "Quality; lower is better",
    "deinterlace": "Frames of interlaced video",
    "priority": "Queue of the job",
    "segments": "Segments for several workers",
}
"""One line for each field, shorter than the API's description."""

Function = TypeVar("Function", bound=Callable[..., Any])


def job_options(function: Function) -> Function:
    """Add an option for each field of `JobOptions`; an absent option is None."""
    schema = JobOptions.model_json_schema()
    for name, field in reversed(schema["properties"].items()):
        facts = _flat(field, schema.get("$defs", {}))
        kind, metavar = _type(name, facts)
        default = field.get("default")
        option(
            f"--{name}",
            type=kind,
            metavar=metavar,
            default=None,
            show_default=False if default is None or name == "container" else str(default),
            help=HELP[name],
        )(function)
    return function


def given(options: Mapping[str, Any], target: Path) -> dict[str, Any]:
    """The options that the user gave; the container follows from the name of `target` unless given.

    Raises CommandError if the suffix of `target` names no container.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    if "container" not in chosen:
        chosen["container"] = container_of(target, " (or give --container)")
    return chosen


class _Segments(click.ParamType[str]):
    """auto, off, or a number of segments."""

    name = "segments"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "auto|off|N"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return JobOptions(segments=value).segments
        except ValidationError:
            self.fail(f"{value!r} is not auto, off or a number from 1 to 64", param, ctx)


def _flat(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a field without `null` and references."""
    if "anyOf" in field:
        field = next(choice for choice in field["anyOf"] if choice.get("type") != "null")
    if "$ref" in field:
        return definitions[field["$ref"].rpartition("/")[2]]  # type: ignore[no-any-return]
    return field


def _type(name: str, facts: Mapping[str, Any]) -> tuple[click.ParamType[Any], str | None]:
    """(parameter type, metavar) of a field."""
    if name == "model":
        return ModelName(), None
    if "enum" in facts:
        return click.Choice(facts["enum"]), None
    if name == "segments":
        return _Segments(), None
    if facts["type"] == "integer":
        low, high = facts["minimum"], facts["maximum"]
        return click.IntRange(low, high), f"{low}-{high}"
    raise TypeError(f"--{name}: no option type for {facts}")
