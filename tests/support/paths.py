"""Where the repository and the tests' own data are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository's root."""
DATA = ROOT / "tests" / "data"
"""Small files that tests read."""
