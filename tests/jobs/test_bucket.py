"""The bucket of a real S3 server: conditions, errors, certificates, and a server that is killed."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from pydantic import SecretStr

from jobs.bucket import Bucket, Changed
from jobs.errors import InvalidRequest, StorageUnavailable
from jobs.settings import Settings
from jobs.storages import open_storage
from tests.support.certificates import Authority
from tests.support.s3_server import S3Server, s3_server


class _RacingBucket(Bucket):
    """A store that looks at the condition first and writes later, as many stores do."""

    _looked = Barrier(8)

    def put(self, key: str, data: bytes | Path, **conditions: Any) -> str:
        try:
            found = self.get(key)[1]
        except FileNotFoundError:
            found = None
        if (conditions.get("new") and found) or conditions.get("replaces") not in (None, found):
            raise Changed
        if isinstance(data, bytes) and data.startswith(b"writer"):
            self._looked.wait(60)
        return super().put(key, data)


def test_the_check_finds_conditions_that_are_not_one_step_with_the_write(server: S3Server, base: Settings) -> None:
    server.empty()
    settings = server.settings(base, base.data_dir)
    Bucket.from_settings(settings).check()
    with pytest.raises(InvalidRequest, match="lets 8 writers at the same time replace one version of an object"):
        _RacingBucket.from_settings(settings).check()


def test_an_error_of_the_store_is_named(base: Settings, tmp_path: Path) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(501)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        settings = Settings(data_dir=tmp_path, storage="s3://b12", s3_endpoint=endpoint, s3_retry_seconds=0.2)
        keys = {"s3_access_key_id": "someone", "s3_secret_access_key": SecretStr("something")}
        with pytest.raises(StorageUnavailable, match="s3://b12 answers with status 501 Not Implemented"):
            Bucket.from_settings(settings.model_copy(update=keys)).get("a")
        server.shutdown()


@pytest.mark.parametrize("known", [True, False])
def test_a_private_ca_is_a_setting(base: Settings, tmp_path: Path, known: bool) -> None:
    authority = Authority(tmp_path)
    with s3_server(tmp_path / "s3", authority.server()) as server:
        server.empty()
        settings = server.settings(base, base.data_dir)
        assert (settings.s3_endpoint or "").startswith("https://")
        if known:
            Bucket.from_settings(settings.model_copy(update={"s3_ca": authority.ca.cert})).check()
        else:
            with pytest.raises(StorageUnavailable):
                Bucket.from_settings(settings).check()


def test_objects_outlive_a_kill_of_the_test_server(base: Settings, tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as server:
        server.empty()
        bucket = Bucket.from_settings(server.settings(base, base.data_dir))
        etag = bucket.put("a", b"1", new=True)
        bucket.put("b", b"1")
        bucket.delete("b")
        server.kill()
        with pytest.raises(StorageUnavailable):
            bucket.get("a")
        server.start()
        assert bucket.get("a") == (b"1", etag)
        assert [found.key for found in bucket.objects("")] == ["a"]


def test_wrong_storage_is_named(base: Settings, tmp_path: Path) -> None:
    for text in ("s3:/bucket", "bucket", "s3://B", "s3://bucket/../x", "http://bucket", "s3://bucket/a b"):
        with pytest.raises(ValueError, match="is no storage"):
            Settings(data_dir=tmp_path, storage=text)
    with pytest.raises(ValueError, match="is no URL of a store"):
        Settings(data_dir=tmp_path, s3_endpoint="minio:9000")
    wrong = base.model_copy(update={"storage": "s3://bucket", "s3_ca": tmp_path / "missing.pem"})
    with pytest.raises(InvalidRequest, match="SKIPVSR_S"):
        open_storage(wrong)
