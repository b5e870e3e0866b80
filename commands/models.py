"""`skipvsr models`: which models there are, own ones included, and fetching the official weights."""

from __future__ import annotations

from pathlib import Path

from model.zoo.models import cards, fetch_official, unusable


def run(weights_dir: Path, *, fetch: bool) -> int:
    """List the models and what in the weights folder is none, or make sure that the official weights are here.

    Raises ModelError.
    """
    if fetch:
        added = fetch_official(weights_dir)
        for path in added:
            print(f"fetched {path}")
        if not added:
            print(f"the official weights are in {weights_dir} already")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "weights", "what it is", box=None, header_style="bold", pad_edge=False)
    for card in cards(weights_dir):
        table.add_row(card.name, "here" if card.present(weights_dir) else "missing", card.description)
    Console().print(table)
    print(f"own models: NAME.safetensors in {weights_dir}")
    for line in unusable(weights_dir):
        print(f"note: {line}")
    return 0
