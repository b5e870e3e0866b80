"""Errors of jobs: their text for the user, and whether another attempt can help."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from media.errors import DecoderCrashed, MediaError, OverLimit, UnsupportedFile, UnusableVideo, Unwritable
from worker.errors import is_final, user_error


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (UnsupportedFile("no video"), True),
        (UnusableVideo("no frames"), True),
        (Unwritable("the container refuses"), True),
        (DecoderCrashed("killed"), False),
        (OverLimit("too large", setting="max_pixels"), False),
        (MediaError("the encoder failed"), False),
        (OSError(errno.EIO, "input/output error"), False),
    ],
)
def test_only_an_error_that_would_come_again_is_final(error: Exception, final: bool) -> None:
    assert is_final(error) is final


def test_no_error_names_a_file_of_the_server() -> None:
    shown = user_error(FileNotFoundError(errno.ENOENT, "No such file", "/srv/secret/input"), Path("data"))
    assert str(shown) == "Unexpected FileNotFoundError: No such file"
