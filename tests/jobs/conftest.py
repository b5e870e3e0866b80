"""What tests of buckets share: a server, and the settings of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.support.s3_server import S3Server, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def base(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)
