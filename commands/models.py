"""`skipvsr models`: list the models, or fetch the official weights."""

from __future__ import annotations

from pathlib import Path

import click

from commands.shared.command_line import Command, option, read_settings


@click.command(cls=Command)
@option("--fetch", is_flag=True, help="Fetch the official BasicVSR weights")
def command(fetch: bool) -> int:
    """List the models."""
    return run(read_settings().weights, fetch=fetch)


def run(weights_dir: Path, *, fetch: bool) -> int:
    """List the models and the unusable files of the weights folder, or fetch the official weights.

    Raises ModelError.
    """
    from model.zoo.official import fetch_official

    if not fetch:
        return _list(weights_dir)
    added = fetch_official(weights_dir)
    for path in added:
        print(f"fetched {path}")
    if not added:
        print(f"the official weights are already in {weights_dir}")
    return 0


def _list(weights_dir: Path) -> int:
    from rich.table import Table

    from commands.shared.console import Console
    from model.zoo.models import cards, unusable

    table = Table("model", "weights", "description", box=None, header_style="bold", pad_edge=False)
    for card in cards(weights_dir):
        table.add_row(card.name, "here" if card.present(weights_dir) else "missing", card.description)
    Console().print(table)
    print(f"user models: NAME.safetensors in {weights_dir}")
    for line in unusable(weights_dir):
        print(f"note: {line}")
    return 0
