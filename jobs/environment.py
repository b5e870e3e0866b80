"""The process's surroundings: the usual data folder, and variables that look like settings but are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

_PREFIX: Final = "SKIPVSR_"
_OTHERS: Final = frozenset(_PREFIX + name for name in ("SECRETS_DIR", "DEBUG", "WORKER_MEMORY", "IMAGE", "TAG"))
"""Variables that are no settings; the entry point and docker-compose.yml read them."""


def usual_data_dir() -> Path:
    """The data folder without a setting.

    `data` in a checkout of SkipVSR, or an existing `data` with files of a service; else the user's data folder.
    """
    here = Path("data")
    if Path("jobs/settings.py").is_file() or _is_ours(here):
        return here
    from platformdirs import user_data_path

    return user_data_path("skipvsr", appauthor=False)


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds files of a service."""
    files = ("keys.json", "redis/redis.conf")
    both = (folder / "jobs").is_dir() and (folder / "uploads").is_dir()
    return both or any((folder / name).is_file() for name in files) or any(folder.glob("weights/*.safetensors"))


def unknown_variables(settings: Iterable[str], *sources: Mapping[str, object]) -> list[str]:
    """A line for each misspelt `SKIPVSR_` variable, with the nearest setting.

    Args:
        settings: names of the settings, in lower case and without prefix.
        sources: the environment, and the lines of `.env`.
    """
    known = _OTHERS | {f"{_PREFIX}{name.upper()}" for name in settings}
    given = {name.upper() for source in sources for name in source}
    lines = []
    for name in sorted(name for name in given - known if name.startswith(_PREFIX)):
        nearest = get_close_matches(name, known, n=1, cutoff=0.8)
        lines.append(f"{name} is no setting and has no effect" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return lines
