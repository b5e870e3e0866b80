"""Generate documentation from the code: `make docs`.

`.env.example` and `docs/configuration.md` come from `jobs.settings`; both are committed, and a test compares them.
`docs/modules.md` comes from docstrings; `make site` writes the page, and git ignores it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic.fields import FieldInfo

from jobs.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGES = ("commands", "service", "worker", "pipeline", "jobs", "media", "model", "weights", "benchmarks")
"""Top-level packages in the order in which `docs/modules.md` lists them."""

_ENV_HEAD = """\
# Settings of SkipVSR. Copy this file to `.env` and uncomment lines to change them. Environment variables win.
# Files work too: SKIPVSR_API_KEY_FILE and SKIPVSR_REDIS_URL_FILE name a file with the value, and a folder of
# SKIPVSR_SECRETS_DIR holds files named like the variable in lower case.
"""
_ENV_COMPOSE = """
# File with the API key, instead of SKIPVSR_API_KEY. With docker-compose.yml, user 10001 must be able to read the file.
#SKIPVSR_API_KEY_FILE=
# File with the URL of Redis, instead of SKIPVSR_REDIS_URL.
#SKIPVSR_REDIS_URL_FILE=

# Read by docker-compose.yml only:
# Extra package index for torch while images are built (PyTorch's CPU index, or a CUDA index).
#TORCH_INDEX=
# Memory limit of each worker and of the gRPC server.
#SKIPVSR_WORKER_MEMORY=8g
# Ports of Prometheus and Grafana on this machine.
#PROMETHEUS_PORT=9090
#GRAFANA_PORT=3000
# Password of Grafana's administrator at its first start. Empty: a random password.
#GRAFANA_ADMIN_PASSWORD=
"""
_CONFIGURATION_HEAD = """\
# Configuration

<!-- Written by `make docs` from jobs/settings.py. Do not edit by hand. -->

Each setting is an environment variable, or a line of `.env` in the folder where `skipvsr` starts.
An environment variable wins over `.env`. Copy `.env.example` to begin.

Secrets may be files. `SKIPVSR_API_KEY_FILE` and `SKIPVSR_REDIS_URL_FILE` name a file with the value. A folder of
`SKIPVSR_SECRETS_DIR` holds files named like the variable in lower case; a colon separates several folders. A named file
or folder that cannot be read ends the command with one line.

`skipvsr up` stores the password of its Redis in the data folder, in a file that only this user can read. In containers,
Redis creates a password at the start; see [Containers](containers.md#password-of-redis).
An empty value means unset. Unknown values end the command with one line before any work begins.
"""
_GROUPS = (("HTTP API", "http_"), ("gRPC server", "grpc_"), ("Limits on inputs", "max_"))
"""Sections of the configuration page by prefix. All other settings are under "General"."""


def env_example() -> str:
    """Return the text of `.env.example`: every setting, commented out, with its default."""
    entries = [f"\n# {field.description}\n#{_variable(n)}={_default(field)}\n" for n, field in _fields()]
    return _ENV_HEAD + "".join(entries) + _ENV_COMPOSE


def configuration_page() -> str:
    """Return the text of `docs/configuration.md`: one table of settings per section."""
    sections: dict[str, list[str]] = {"General": [], **{title: [] for title, _ in _GROUPS}}
    for name, field in _fields():
        title = next((title for title, prefix in _GROUPS if name.startswith(prefix)), "General")
        default = f"`{value}`" if (value := _default(field)) else "–"
        sections[title].append(f"| `{_variable(name)}` | {default} | {field.description} |\n")
    tables = [
        f"\n## {title}\n\n| variable | default | meaning |\n|---|---|---|\n{''.join(rows)}"
        for title, rows in sections.items()
    ]
    return _CONFIGURATION_HEAD + "".join(tables)


def modules_page(root: Path = ROOT) -> str:
    """Return the text of `docs/modules.md`: every module with the first line of its docstring."""
    parts = ["# Modules\n\nWritten from the docstrings by the build of this site.\n"]
    for package in PACKAGES:
        for folder, rows in _modules(root, package):
            parts.append(f"\n## {folder}\n\n| module | purpose |\n|---|---|\n")
            parts.extend(f"| `{name}` | {purpose} |\n" for name, purpose in rows)
    return "".join(parts)


def _modules(root: Path, package: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each folder of a package with its modules' names and purposes."""
    for folder in sorted({path.parent for path in (root / package).rglob("*.py")}):
        rows = [(path.name, _purpose(path)) for path in sorted(folder.glob("*.py"))]
        yield str(folder.relative_to(root)), [(name, purpose) for name, purpose in rows if purpose]


def _purpose(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _fields() -> list[tuple[str, FieldInfo]]:
    return list(Settings.model_fields.items())


def _variable(name: str) -> str:
    return f"SKIPVSR_{name.upper()}"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def main(arguments: Sequence[str]) -> int:
    """Write the generated files; with the argument `site`, only the page that git ignores."""
    (ROOT / "docs" / "modules.md").write_text(modules_page())
    if list(arguments) != ["site"]:
        (ROOT / ".env.example").write_text(env_example())
        (ROOT / "docs" / "configuration.md").write_text(configuration_page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
