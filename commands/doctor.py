"""`skipvsr doctor`: check this machine and the settings, a line for each thing that work needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from commands.shared.command_line import Command, option, read_settings

if TYPE_CHECKING:
    from commands.shared.checks import Finding


@click.command(cls=Command)
@option("--json", "as_json", is_flag=True, help="Write the findings as JSON")
def command(as_json: bool) -> int:
    """Check this machine and the settings.

    \b
    ok        fine
    note      work is possible; the line names the cure
    problem   something prevents work; exit status 1
    """
    found = []
    for finding in _findings():
        found.append(finding)
        if not as_json:
            cure = f"; {finding.cure}" if finding.cure else ""
            print(f"{finding.state:<8} {finding.name:<12} {finding.detail}{cure}", flush=True)
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    return 1 if any(finding.state == "problem" for finding in found) else 0


def _findings() -> Iterator[Finding]:
    from pydantic import ValidationError

    from commands.shared.checks import Finding, findings
    from commands.shared.errors import CommandError
    from jobs.errors import SkipVsrError

    try:
        settings = read_settings(warn=False)
    except ValidationError as error:
        for detail in error.errors():
            name = f"SKIPVSR_{'_'.join(map(str, detail['loc'])).upper()}"
            reason = detail["msg"].removeprefix("Value error, ")
            yield Finding("settings", "problem", f"{name}: {reason}", "correct or unset the variable")
    except (CommandError, SkipVsrError) as error:
        yield Finding("settings", "problem", str(error), "correct or unset the variable")
    else:
        yield from findings(settings)
