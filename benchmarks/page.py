"""The JSON files of `skipvsr bench model --json` as a Markdown page: a summary, then every clip.

python -m benchmarks.page TITLE=FILE.json … > docs/benchmarks/clips.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_HEAD = """# Speed and quality of every clip

Written by `python -m benchmarks.page` from the JSON files in `results`; each section says on what machine, and how.
`speedup` is against the same model's dense pass on the same frames in the same rounds; `skipped` is the share of
(tile, block) units that were not run; PSNR is that of Y in dB. `worst frame` is the frame that lost most against dense
(with ground truth), or the lowest PSNR against dense (without)."""


def page(sections: Sequence[tuple[str, Path]]) -> Iterator[str]:
    """Lines of the page, with a section for each (title, file)."""
    yield _HEAD
    for title, path in sections:
        content = json.loads(path.read_text())
        options, machine = content["options"], content["machine"]
        yield f"\n## {title}\n"
        when = f"{machine['date']}, commit {machine['commit']}. " if "date" in machine else ""
        yield (
            f"{when}{machine['cpu']}, {machine['cores']} cores, {options['threads']} threads, {machine['device']}, "
            f"torch {machine['torch']}; {options['frames'] or 'all'} frames a clip, {options['rounds']} rounds, "
            f"chunks of {options['chunk']} with {options['lookahead']} of look-ahead. "
            f"`benchmarks/results/{path.name}`\n"
        )
        yield from _table(content["summary"])
        yield ""
        yield from _table([_plain(row) for row in content["rows"]])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row that the page shows."""
    return {
        "clip": row["clip"],
        "model": row["model"],
        "routing": row["routing"],
        "LR": row["lr_size"],
        "ms a frame": row["ms_per_frame"],
        "speedup": row["speedup"],
        "over fp32 reference": row["speedup_over_reference"],
        "skipped": row["skip_ratio"],
        "PSNR": row["psnr_y"],
        "dense PSNR": row["psnr_y_dense"],
        "PSNR to dense": row["psnr_y_to_dense"],
        "worst frame": row["worst_frame_db"],
    }


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    yield "| " + " | ".join(name.replace("_", " ") for name in columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_text(row[name]) for name in columns) + " |"


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1 else _number(value)


def _number(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str]) -> int:
    """Print the page."""
    sections = [(title, Path(path)) for title, _, path in (argument.rpartition("=") for argument in arguments)]
    if not sections or not all(path.is_file() for _, path in sections):
        print(__doc__, file=sys.stderr)
        return 2
    print("\n".join(page(sections)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
