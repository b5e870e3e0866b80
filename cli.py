"""`skipvsr`: the entry point. Lists and runs the commands, and turns each error into a line and an exit status.

Each command lives in a module of `commands`, imported on demand: `skipvsr --help` and completion stay fast, and
`skipvsr submit` works without torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

import click

from commands.shared.command_line import Group

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from pydantic import ValidationError

COMMANDS: Final = {
    "Upscale": {
        "upscale": "Upscale files on this machine, without a server",
        "submit": "Upscale files on a server and download the results",
        "stream": "Stream a file, camera or pipe through a gRPC server",
        "watch": "Follow a job, or upscale videos on arrival in a folder",
    },
    "Jobs": {
        "jobs": "List the jobs of a server, newest first",
        "status": "Show state, progress and result of a job",
        "download": "Download the result of a job; an interrupted download continues",
        "cancel": "Cancel jobs on a server; their files are removed",
        "pause": "Pause jobs on a server; finished work is kept",
        "resume": "Resume paused or failed jobs on a server",
    },
    "Serve": {
        "up": "Start API, gRPC server, a worker for each GPU, and Redis; ^C stops",
        "api": "Run the HTTP API",
        "worker": "Run a worker, or a worker for each device",
        "grpc": "Run the gRPC server",
        "keys": "Add, list and revoke API keys",
        "doctor": "Check this machine and the settings",
    },
    "Models": {
        "models": "List the models",
        "train": "Train a network, or resume an interrupted run",
        "pack": "Pack training data into a small file for another machine",
        "train-skip": "Fit a confidence estimator for skipping blocks",
        "calibrate": "Choose scales for a model on 8-bit integers",
        "eval": "Measure the quality of a model: PSNR, SSIM, flicker",
        "bench": "Measure speed and quality on this machine",
    },
    "Shell": {
        "completion": "Print a shell's completion script",
    },
}
"""Sections of the help: the commands and their summaries. A command `a-b` is `commands.a_b.command`."""
_SPIN_COUNT: Final = "10000"
"""Spin count of GNU OpenMP: waiting threads spin before they sleep. The default, 300000, can be some percent faster on
idle cores, but is several times slower beside other load."""


class _Commands(Group):
    """A group that imports a command on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"commands.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in section.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        summaries = {name: text for section in COMMANDS.values() for name, text in section.items()}
        items = [CompletionItem(name, help=text) for name, text in summaries.items() if name.startswith(incomplete)]
        return items + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=_Commands)
@click.version_option(package_name="skipvsr", message="%(prog)s %(version)s", help="Show the version")
def skipvsr() -> None:
    """Upscale video with BasicVSR, and skip the work that changes nothing."""
    from model.engine.memory import keep_freed_memory

    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)  # read when torch is first imported
    keep_freed_memory()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: success. 1: failure. 2: wrong usage or setting. 130: ^C. 141: the reader of the output went away.
    """
    from commands.shared import interrupts

    try:
        with interrupts.twice_ends():
            return _run(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", interrupts.STATUS)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (the interpreter flushes it at exit)
        return 141
    except ImportError as error:
        from commands.shared.extras import install_hint

        name = error.name or str(error)
        return _fail(f"this command needs {name}, which is not installed: {install_hint(name)}", 1)
    except Exception as error:
        return _expected(error)


def _run(argv: list[str]) -> int:
    from commands.completion import VARIABLE

    if instruction := os.environ.get(VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(skipvsr, {}, "skipvsr", VARIABLE, instruction)
    try:
        with skipvsr.make_context("skipvsr", argv) as context:
            return int(skipvsr.invoke(context) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.message, file=sys.stderr)
        return 2
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        return _fail(_usage(error), 2)


def _expected(error: Exception) -> int:
    """Exit status of an error with a message for the user. Re-raises any other error."""
    from pydantic import ValidationError

    from commands.shared.errors import explained

    if isinstance(error, ValidationError):
        return _fail(_first(error), 2)
    message = explained(error)
    if message is None:
        raise error
    return _fail(message, 1)


def _fail(message: str, status: int) -> int:
    if os.environ.get("SKIPVSR_DEBUG"):
        import traceback

        traceback.print_exc()
    print(f"skipvsr: {' '.join(message.split())}", file=sys.stderr)
    return status


def _usage(error: click.UsageError) -> str:
    """One line about wrong usage, with suggestions and the command that shows the help."""
    text = error.format_message()
    if isinstance(error, click.NoSuchOption | click.NoSuchCommand):
        suggestions = " or ".join(error.possibilities or [])
        text = error.message.rstrip(".") + (f"; did you mean {suggestions}?" if suggestions else "")
    elif isinstance(error, click.BadParameter) and error.param is not None:
        option = isinstance(error.param, click.Option)
        name = max(error.param.opts, key=len) if option else error.param.human_readable_name
        text = f"missing {name}" if isinstance(error, click.MissingParameter) else f"{name}: {error.message}"
    path = error.ctx.command_path if error.ctx else "skipvsr"
    text = text if text[:2].isupper() else f"{text[:1].lower()}{text[1:]}"  # a metavar stays as it is: IN
    return f"{text.rstrip('.')} (see {path} --help)"


def _first(error: ValidationError) -> str:
    """The first error of a setting or an option."""
    from jobs.settings import Settings

    detail = error.errors()[0]
    where = "_".join(str(part) for part in detail["loc"])
    name = f"SKIPVSR_{where.upper()}" if error.title == Settings.__name__ else f"--{where}" if where else ""
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}".removeprefix(": ")


if __name__ == "__main__":
    sys.exit(main())
