"""A table of files as people have them: outcome, warnings, frames, rates, offset, tags, lengths, differences.

    python -m benchmarks.footage DIR [--only 'made_*'] [--kinds R2 R4] [--before FILE] [--json FILE] [--md FILE]

Each file of the folder passes the pipeline as a job does: the jail, the network `tiny` at scale 2, encoder and muxer.
Pictures above 60,000 pixels bypass the network. Each file has its own process and a time limit. Files named in
`kinds.toml` are checked against their right values; the last table counts the right values of each kind.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.footage.differences import differences
from benchmarks.footage.job import Outcome, run_file
from benchmarks.footage.kinds import Check, Verdict, checks, judge, kinds
from benchmarks.report import machine, write_json

_HEADER = (
    "| file | outcome | frames in → out | rate: source; result, nominal | sound after picture, ms | tags | "
    "seconds of picture; tracks | differences | warnings |\n|---|---|---|---|---|---|---|---|---|"
)


def files(folder: Path, patterns: Sequence[str], names: Sequence[str]) -> list[Path]:
    """The folder's files that match a pattern, and that show one of the kinds, if kinds are given."""
    shown = {check.file for check in checks() if check.kind in names}
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix not in (".md", ".py")]
    return [
        path
        for path in found
        if (not names or path.name in shown) and (not patterns or any(path.match(pattern) for pattern in patterns))
    ]


def run(paths: Iterable[Path], names: Sequence[str], *, seconds: float) -> Iterator[tuple[Outcome, list[Check]]]:
    """Run each file with each set of options that its checks need. Yields the outcome and its checks."""
    for path in paths:
        wanted = [check for check in checks(path.name) if not names or check.kind in names]
        sets = [{}, *(check.options for check in wanted)]
        for options in [one for index, one in enumerate(sets) if one not in sets[:index]]:
            these = [check for check in wanted if check.options == options]
            if options or these or not wanted:
                measures = [c.value.removeprefix("measures.") for c in these if c.value.startswith("measures.")]
                yield run_file(path, options, sorted(set(measures)), seconds=seconds), these


def row(outcome: Outcome) -> str:
    """One line of the table."""
    source, result = outcome.source or {}, outcome.result or {}
    before, after = source.get("picture") or {}, result.get("picture") or {}
    options = ", ".join(f"{name} {value}" for name, value in outcome.options.items())
    lengths = [after.get("seconds"), *(f"{t['kind']} {t['seconds']}" for t in result.get("tracks", []))]
    done = f"{outcome.state} ({result.get('container_name')}, {after.get('codec')})" if result else outcome.state
    cells = [
        outcome.name + (f" ({options})" if options else ""),
        done if result else f"{done}: {outcome.message}",
        f"{before.get('frames', '?')} → {after.get('frames', '?')}",
        f"{before.get('average_rate')}; {after.get('average_rate')}, {after.get('nominal_rate')}",
        f"{source.get('offset_ms')} → {result.get('offset_ms')}",
        f"{len(source.get('tags', {}))} → {len(result.get('tags', {}))}",
        "; ".join(str(length) for length in lengths),
        "; ".join(differences(outcome.source, outcome.result)),
        " ".join(outcome.warnings),
    ]
    return _line(cells)


def verdict_table(verdicts: Sequence[Verdict], before: Path | None) -> Iterator[str]:
    """Lines of the table of right values, kind by kind.

    Args:
        before: JSON of an earlier run, to compare with.
    """
    earlier = [] if before is None else json.loads(before.read_text())["values"]
    old = {_key(value): value for value in earlier}
    titles = kinds()
    yield "| kind | file | value | before | today | right | |"
    yield "|---|---|---|---|---|---|---|"
    for verdict in sorted(verdicts, key=lambda verdict: list(titles).index(verdict.check.kind)):
        check, was = verdict.check, old.get(_key(verdict.as_plain()), {})
        options = "".join(f" ({value})" for value in check.options.values())
        mark = "right" if verdict.right else "WRONG"
        mark += " (before: right)" if was.get("right") and not verdict.right else ""
        found = [_short(was["found"]) if was else "", _short(verdict.found)]
        yield _line([check.kind, check.file + options, check.value, *found, check.right, mark])
    yield ""
    yield "| kind | right before | right today | title |"
    yield "|---|---|---|---|"
    for kind, title in titles.items():
        these = [verdict for verdict in verdicts if verdict.check.kind == kind]
        if these:
            yield f"| {kind} | {_count(these, old)} | {sum(v.right for v in these)} of {len(these)} | {title} |"
    yield f"| all | {_count(verdicts, old)} | {sum(v.right for v in verdicts)} of {len(verdicts)} | |"


def _key(value: dict[str, Any]) -> str:
    return json.dumps([value[name] for name in ("kind", "file", "options", "value", "right_value")])


def _count(verdicts: Sequence[Verdict], old: dict[str, dict[str, Any]]) -> str:
    values = [old[key] for key in map(_key, (v.as_plain() for v in verdicts)) if key in old]
    return f"{sum(value['right'] for value in values)} of {len(values)}" if old else ""


def _short(value: Any) -> str:
    return str(value) if len(str(value)) < 120 else f"{str(value)[:117]}…"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def main() -> int:
    """Print the tables. Status 1 if a value is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.footage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="only files with such names")
    parser.add_argument("--kinds", nargs="+", default=[], metavar="KIND", help="only files and checks of these kinds")
    parser.add_argument("--seconds", type=float, default=600, help="limit of each file")
    parser.add_argument("--before", type=Path, metavar="FILE", help="JSON of an earlier run, to compare values with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all facts and verdicts")
    parser.add_argument("--brief", action="store_true", help="leave the facts of source and result out of the JSON")
    parser.add_argument("--md", type=Path, metavar="FILE", help="write the tables")
    arguments = parser.parse_args()
    ran: list[tuple[Outcome, list[Check]]] = []
    lines = [_HEADER]
    print(_HEADER, flush=True)
    for outcome, these in run(
        files(arguments.folder, arguments.only, arguments.kinds), arguments.kinds, seconds=arguments.seconds
    ):
        ran.append((outcome, these))
        lines.append(row(outcome))
        print(lines[-1], flush=True)
    plain = {outcome.name: outcome for outcome, _ in ran if not outcome.options}
    verdicts = [judge(check, outcome, plain) for outcome, these in ran for check in these]
    table = ["", *verdict_table(verdicts, arguments.before)] if verdicts else []
    print("\n".join(table))
    if arguments.md is not None:
        arguments.md.write_text("\n".join([*lines, *table]) + "\n")
    if arguments.json is not None:
        rows = [_plain(outcome, brief=arguments.brief) for outcome, _ in ran]
        values = [verdict.as_plain() for verdict in verdicts]
        write_json(arguments.json, {"machine": machine(torch.device("cpu")), "files": rows, "values": values})
    return 0 if all(verdict.right for verdict in verdicts) else 1


def _plain(outcome: Outcome, *, brief: bool) -> dict[str, Any]:
    row = outcome.as_plain() | {"differences": differences(outcome.source, outcome.result)}
    left_out = ("source", "result", "document", "words") if brief else ()
    return {name: value for name, value in row.items() if name not in left_out}


if __name__ == "__main__":
    sys.exit(main())
