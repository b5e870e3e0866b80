"""Where servers listen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from commands.shared.addresses import warn_if_open
from jobs.allowance import Limits
from jobs.settings import Settings
from service.key_file import KeyFile


@pytest.mark.parametrize(
    ("host", "key", "warns"),
    [
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("192.168.1.7", None, True),
        ("nas.lan", None, True),
        ("0.0.0.0", "secret", False),
        ("127.0.0.1", None, False),
        ("::1", None, False),
        ("localhost", None, False),
    ],
)
def test_a_server_that_is_open_to_others_without_a_key_warns(
    host: str, key: str | None, warns: bool, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_open(Settings(data_dir=data_dir, api_key=SecretStr(key) if key else None), host, "the API")
    assert ("without SKIPVSR_API_KEY" in caplog.text) is warns


def test_a_server_with_keys_in_its_data_folder_does_not_warn(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeyFile(data_dir / "keys.json").add("laptop", frozenset(), Limits())
    warn_if_open(Settings(data_dir=data_dir), "0.0.0.0", "the API")
    assert caplog.text == ""
