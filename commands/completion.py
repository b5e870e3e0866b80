"""`skipvsr completion`: print the script that completes commands and options in a shell."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from commands.shared.command_line import Command

VARIABLE: Final = "_SKIPVSR_COMPLETE"
"""The shell's script sets this environment variable to ask `skipvsr` for completions."""


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL", help="bash, zsh or fish")
@click.pass_context
def command(context: click.Context, shell: str) -> int:
    """Print a shell's completion script.

    \b
    bash: eval "$(skipvsr completion bash)"      in ~/.bashrc
    zsh:  eval "$(skipvsr completion zsh)"       in ~/.zshrc
    fish: skipvsr completion fish | source       in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "skipvsr", VARIABLE).source())
    return 0
