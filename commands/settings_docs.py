"""Writes what `.env.example` and README.md say of the settings, from the settings themselves: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic.fields import FieldInfo

from jobs.settings import Settings

_HEAD = """\
# Settings of SkipVSR. Copy this file to `.env` and uncomment what is to differ; an environment variable wins over it.
# In containers, a file named like the variable, in lower case, in the folder SKIPVSR_SECRETS_DIR does as well.
"""
_COMPOSE = """
# What docker-compose.yml takes besides:
# where torch is downloaded from besides pip's default index (the address of PyTorch's CPU index, or of a CUDA one)
#TORCH_INDEX=
# a file with the API's key, which user 10001 may read
#SKIPVSR_API_KEY_FILE=./deploy/no-key
# the most memory that a worker may take
#SKIPVSR_WORKER_MEMORY=8g
#PROMETHEUS_PORT=9090
#GRAFANA_PORT=3000
"""
_TABLE = re.compile(r"(?<=<!-- settings: written by `make docs` -->\n).*?(?=<!-- end -->)", re.DOTALL)


def env_example() -> str:
    """What `.env.example` is to hold."""
    entries = [f"\n# {field.description}\n#{_variable(n)}={_default(field)}\n" for n, field in _fields()]
    return _HEAD + "".join(entries) + _COMPOSE


def with_table(readme: str) -> str:
    """The README with its table of settings as it is to be."""
    rows = [
        f"| `{_variable(n)}` | {f'`{default}`' if (default := _default(field)) else ''} | {field.description} |\n"
        for n, field in _fields()
    ]
    table = "| variable | default | what it is |\n|---|---|---|\n" + "".join(rows)
    return _TABLE.sub(lambda _: table, readme)


def _fields() -> list[tuple[str, FieldInfo]]:
    return list(Settings.model_fields.items())


def _variable(name: str) -> str:
    return f"SKIPVSR_{name.upper()}"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    (root / ".env.example").write_text(env_example())
    (root / "README.md").write_text(with_table((root / "README.md").read_text()))
