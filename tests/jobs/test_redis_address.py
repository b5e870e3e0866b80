"""URLs of Redis."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.connection import parse_url

from jobs.redis_address import sentinels_of
from jobs.settings import Settings


def test_the_url_of_a_server_names_no_sentinels() -> None:
    for url in ("redis://h", "rediss://user:p@h:1/2", "unix://:p@/run/redis.sock"):
        assert sentinels_of(url) is None
        assert Settings(redis_url=url).redis_address == url


def test_sentinels_and_their_server() -> None:
    found = sentinels_of(
        "rediss+sentinel://app:s%40cret@one:1,two,[::1]:3/main/4?sentinel_password=other&ssl_ca_certs=/ca.pem"
    )
    assert found is not None
    assert found.hosts == [("one", 1), ("two", 26379), ("::1", 3)]
    assert found.service == "main"
    assert found.options == {"password": "other", "ssl_ca_certs": "/ca.pem", "ssl": True}
    server = {"username": "app", "password": "s@cret", "db": 4, "ssl_ca_certs": "/ca.pem", "ssl": True}
    assert found.server_options == server
    assert "cret" not in repr(found)
    plain = sentinels_of("redis+sentinel://one/main")
    assert plain is not None
    assert (plain.options, plain.server_options) == ({}, {})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://h:secret@x", "is no URL of Redis: begin with redis://"),
        ("redis+sentinel://:secret@h", "names no server: write redis\\+sentinel://host"),
        ("redis+sentinel:///main", "names no server"),
        ("redis+sentinel://h,/main", "names an empty host"),
    ],
)
def test_a_wrong_url_is_refused_at_the_start(url: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings(redis_url=url)


def test_files_of_tls_become_options_of_the_url(tmp_path: Path) -> None:
    ca, key = tmp_path / "a ca.pem", Path("/key.pem")
    settings = Settings(redis_url="rediss://h", redis_tls_ca=ca, redis_tls_cert=key, redis_tls_key=key)
    options = parse_url(settings.redis_address)  # type: ignore[no-untyped-call]
    assert options["ssl_ca_certs"] == str(ca)
    assert options["ssl_certfile"] == options["ssl_keyfile"] == "/key.pem"
    plain = settings.model_copy(update={"redis_url": "redis://h"})
    assert plain.redis_address == "redis://h", "the embedded Redis needs no files"
