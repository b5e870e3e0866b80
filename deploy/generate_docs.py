"""Generate documentation from the code: `make docs`.

`.env.example` and `docs/configuration.md` come from `jobs.settings`; both are committed, and a test compares them.
`docs/formats.md` comes from `media.demux.formats`, and is committed and compared, too.
`docs/modules.md` comes from docstrings; `make site` writes the page, and git ignores it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic.fields import FieldInfo

from jobs.settings import Settings
from media.demux.formats import CONTAINERS, REFUSED_CONTAINERS, REFUSED_VIDEO_CODECS, VIDEO_CODECS

ROOT = Path(__file__).parents[1]
PACKAGES = ("commands", "service", "worker", "pipeline", "jobs", "media", "model", "weights", "benchmarks")
"""Top-level packages in the order in which `docs/modules.md` lists them."""

_ENV_HEAD = """\
# Settings of SkipVSR. Copy this file to `.env` and uncomment lines to change them. Environment variables win.
# Files work too: SKIPVSR_API_KEY_FILE, SKIPVSR_REDIS_URL_FILE, SKIPVSR_WEBHOOK_SECRET_FILE and
# SKIPVSR_S3_SECRET_ACCESS_KEY_FILE name a file with the value, and a folder of SKIPVSR_SECRETS_DIR holds files named
# like the variable in lower case.
"""
_ENV_COMPOSE = """
# File with the API key, instead of SKIPVSR_API_KEY. With docker-compose.yml, user 10001 must be able to read the file.
#SKIPVSR_API_KEY_FILE=
# File with the URL of Redis, instead of SKIPVSR_REDIS_URL.
#SKIPVSR_REDIS_URL_FILE=
# File with the secret of webhooks, instead of SKIPVSR_WEBHOOK_SECRET.
#SKIPVSR_WEBHOOK_SECRET_FILE=
# File with the secret of the bucket's access key, instead of SKIPVSR_S3_SECRET_ACCESS_KEY. As for the API key.
#SKIPVSR_S3_SECRET_ACCESS_KEY_FILE=

# Read by docker-compose.yml only:
# Place and version of the images; -api and -worker follow the place. `docker compose build` and `pull` make them.
#SKIPVSR_IMAGE=skipvsr
#SKIPVSR_TAG=0.1.0
# Extra package index for torch while images are built (PyTorch's CPU index, or a CUDA index).
#TORCH_INDEX=
# Image of the S3 server of the profile `s3`.
#S3_IMAGE=versity/versitygw:v1.8.0
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

A file can hold a secret: `SKIPVSR_API_KEY_FILE`, `SKIPVSR_REDIS_URL_FILE`, `SKIPVSR_WEBHOOK_SECRET_FILE` and
`SKIPVSR_S3_SECRET_ACCESS_KEY_FILE` name the file. `SKIPVSR_SECRETS_DIR` names a folder of secret files, or several
folders with colons between. In the folder, each file has the variable's name in lower case. If a named file or folder
cannot be read, the command ends with an error message.

`skipvsr up` stores the password of its Redis in a file of the data folder. Only the user of `skipvsr up` can read this
file. In containers, Redis creates a password at the start; see [Containers](containers.md#password-of-redis).
An empty value means unset. A wrong value ends the command with an error message before any work begins.
"""
_FORMATS_HEAD = """\
# Formats

<!-- Written by `make docs` from media/demux/formats.py. Do not edit by hand. -->

SkipVSR recognises a file's format by the content; the file's name does not matter. A process without access to other
files and to the network reads all of these formats. For any other format, SkipVSR refuses the file with an error that
names the format.

SkipVSR shows transparent parts of GIF, APNG and WebP animations on white, with a warning. SkipVSR refuses other videos
with transparent pixels, encrypted videos, and Dolby Vision profile 5. Only Dolby Vision players can show the colours of
profile 5.
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


def formats_page() -> str:
    """Return the text of `docs/formats.md`: accepted and refused formats."""
    titles: dict[str, list[str]] = {}
    for libav, container in CONTAINERS.items():
        titles.setdefault(container.title, []).append(f"`{libav}`")
    parts = (
        ("Containers", "container | libav's name", [f"{title} | {' '.join(names)}" for title, names in titles.items()]),
        ("Video codecs", "codecs | libav's decoders", _coded_rows(VIDEO_CODECS)),
        ("Containers that are refused because they", "reason | libav's names", _coded_rows(REFUSED_CONTAINERS)),
        ("Video decoders that are refused because they", "reason | libav's names", _coded_rows(REFUSED_VIDEO_CODECS)),
    )
    tables = (f"\n## {title}\n\n| {head} |\n|---|---|\n{_table(rows)}" for title, head, rows in parts)
    return _FORMATS_HEAD + "".join(tables)


def _coded_rows(names: dict[str, str]) -> list[str]:
    return [f"{title} | {' '.join(f'`{name}`' for name in value.split())}" for title, value in names.items()]


def _table(rows: list[str]) -> str:
    return "".join(f"| {row} |\n" for row in rows)


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
    if value is None or field.default_factory is not None:
        return ""
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def main(arguments: Sequence[str]) -> int:
    """Write the generated files; with the argument `site`, only the page that git ignores."""
    (ROOT / "docs" / "modules.md").write_text(modules_page())
    if list(arguments) != ["site"]:
        (ROOT / ".env.example").write_text(env_example())
        (ROOT / "docs" / "configuration.md").write_text(configuration_page())
        (ROOT / "docs" / "formats.md").write_text(formats_page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
