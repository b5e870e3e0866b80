"""Building blocks of the command line: help layout, options with several values, parameter types.

Click parses the command line: `rq` brings Click to every image, and Click imports faster than other typed libraries.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from commands.shared.errors import CommandError

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

    from jobs.settings import Settings

MODELS: Final = (
    "auto",
    "small",
    "small-x2",
    "small-clean",
    "basicvsr-video",
    "basicvsr-reds",
    "basicvsr-vimeo-bi",
    "basicvsr-vimeo-bd",
)
"""Built-in models for help and completion; a user model in the weights folder is a valid name too."""
ROUTINGS: Final = ("off", "balanced", "fast")
FILE: Final = click.Path(path_type=Path, readable=False)
FOLDER: Final = click.Path(path_type=Path, file_okay=False, readable=False)
"""For shell completion only: commands check paths themselves, in their own words."""
COUNT: Final = click.IntRange(min=1)
WARNED: Final = "_SKIPVSR_WARNED"
"""Variable of child processes whose parent has printed the warnings about settings."""
_FIRST_COLUMN: Final = 38
_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


class _Help(click.HelpFormatter):
    """Help with a first column wide enough for an option and its choices."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = _FIRST_COLUMN, col_spacing: int = 2) -> None:
        super().write_dl(rows, col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Help


class _Option(click.Option):
    """An option whose help leaves out the range: the metavar or the error message shows the range."""

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


option = partial(click.option, cls=_Option)


class Command(click.Command):
    """A command whose repeatable options also take several values at once: `--models a b`."""

    context_class = _Context

    def __init__(self, *args: Any, **more: Any) -> None:
        more["context_settings"] = {**_CONTEXT, **more.get("context_settings", {})}
        super().__init__(*args, **more)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "Show this help"
        return option

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `--models a b` as `--models a --models b`."""
        repeatable = {name for option in self.params if _repeats(option) for name in option.opts}
        return super().parse_args(ctx, list(_repeated(args, repeatable)))


class Group(Command, click.Group):
    """A command with subcommands."""

    command_class = Command


def _repeats(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and parameter.multiple


def _repeated(args: Sequence[str], repeatable: set[str]) -> Iterable[str]:
    option = None
    for before, word in pairwise(["", *args]):
        if word.startswith("-"):
            option = word if word in repeatable else None
        elif option is not None and before != option:
            yield option
        yield word


class Positive(click.ParamType[float]):
    """A finite number above 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            self.fail(f"{value!r} is not a number above 0", param, ctx)
        return number


class ModelName(click.ParamType[str]):
    """A model's name; only the weights folder says whether the model exists."""

    name = "name"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "NAME"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Complete the names of built-in models and of the files in the weights folder."""
        from click.shell_completion import CompletionItem

        try:
            users = [path.stem for path in read_settings().weights.glob("*.safetensors")]
        except ValueError:  # an invalid setting: a completion is no place to complain
            users = []
        names = dict.fromkeys([*MODELS, *sorted(users)])
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


MODEL_HELP: Final = f"{', '.join(MODELS)}, or a user model"


def read_settings(*, warn: bool = True) -> Settings:
    """Settings from the environment, from `.env`, and from files in the folders SKIPVSR_SECRETS_DIR, if set.

    A colon separates several folders. A secret file has the name of its variable. With `warn`, prints a line for each
    misspelt `SKIPVSR_` variable, once in a process. Raises pydantic.ValidationError, InvalidRequest if a secret cannot
    be read, or CommandError if a folder does not exist.
    """
    from jobs.secret_files import check_folder
    from jobs.settings import Settings

    folders = [Path(folder) for folder in os.environ.get("SKIPVSR_SECRETS_DIR", "").split(os.pathsep) if folder]
    for folder in folders:
        if not folder.is_dir():
            raise CommandError(f"SKIPVSR_SECRETS_DIR: no folder {folder}; its secrets are missing")
        check_folder(folder, Settings.model_fields)
    settings = Settings(_secrets_dir=folders or None)
    if warn and not {"_SKIPVSR_COMPLETE", WARNED} & os.environ.keys():  # a completion is no place for a warning
        for line in Settings.unknown_variables():
            _warn_once(line)
    return settings


@cache
def _warn_once(line: str) -> None:
    print(f"skipvsr: warning: {line}", file=sys.stderr, flush=True)
