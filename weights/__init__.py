"""The project's own weights: safetensors files beside this module, described in README.md."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the files are."""
