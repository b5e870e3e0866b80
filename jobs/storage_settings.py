"""Settings of Redis, the data folder and the bucket. `jobs.settings.Settings` is made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from jobs.environment import usual_data_dir
from jobs.redis_address import sentinels_of, with_tls_files

_STORAGE: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?")
_ENDPOINT: Final = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+/?")


class StorageSettings(BaseSettings):
    """Where jobs and their files are."""

    redis_url: str | None = Field(
        None,
        repr=False,  # the URL may hold a password
        description="URL of the Redis server: redis://, rediss:// (with TLS) or unix://. With Sentinels: "
        "redis+sentinel:// or rediss+sentinel://, the Sentinels' hosts, and the server's name, for "
        "example redis+sentinel://host1:26379,host2:26379/main. Empty: `skipvsr up` starts a Redis "
        "server.",
    )
    redis_tls_ca: Path | None = Field(
        None, description="CA file (PEM) of the certificates of Redis and Sentinels; empty: the system's CAs."
    )
    redis_tls_cert: Path | None = Field(
        None, description="Certificate file (PEM) that clients present to Redis and Sentinels; empty: none."
    )
    redis_tls_key: Path | None = Field(
        None,
        description="Private key file (PEM) of the certificate redis_tls_cert.",
    )
    data_dir: Path = Field(
        default_factory=usual_data_dir,
        description="Folder of uploads, checkpoints, results and weights. Empty: the folder `data` in a checkout of "
        "SkipVSR, or an existing folder `data` with files of a service; else the user's data folder, "
        "`~/.local/share/skipvsr` on Linux.",
    )
    storage: str = Field(
        "",
        description="Place of the job files: `s3://BUCKET` or `s3://BUCKET/PREFIX` for a bucket of an S3-compatible "
        "store, which API, gRPC server and workers on several machines share. Empty: the data folder. The data folder "
        "then holds only uploads, working files and copies of this machine.",
    )
    s3_endpoint: str | None = Field(
        None, description="URL of the S3-compatible store, such as https://minio.example:9000; empty: Amazon S3."
    )
    s3_region: str | None = Field(None, description="Region of the bucket; empty: AWS_REGION, or us-east-1.")
    s3_path_style: bool = Field(
        True, description="true: requests name the bucket in the path; false: in the host name, as Amazon prefers."
    )
    s3_access_key_id: str | None = Field(
        None,
        description="Access key of the bucket. Empty: AWS_ACCESS_KEY_ID, a web identity, or the role of the container "
        "or instance.",
    )
    s3_secret_access_key: SecretStr | None = Field(
        None,
        description="Secret of the access key. Empty: AWS_SECRET_ACCESS_KEY, a web identity, or the role of the "
        "container or instance.",
    )
    s3_ca: Path | None = Field(
        None, description="CA file (PEM) of the store's certificate; empty: the CAs of the system."
    )
    s3_retry_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0,
        description="Seconds for which a server repeats a request to the bucket. Then the API answers with status "
        "503. Workers wait until the bucket answers again.",
    )
    s3_redirect_seconds: Annotated[float, Field(ge=0, le=604_800)] = Field(
        0.0,
        description="Seconds for which a presigned URL of a result is valid. The API then redirects `GET "
        "/jobs/ID/result?direct=true` to the store, and the client must reach the store at "
        "SKIPVSR_S3_ENDPOINT. 0: the API sends all results itself.",
    )
    cache_gb: Annotated[float, Field(ge=0)] = Field(
        10.0, description="Maximum size in GB of this machine's copies from a bucket, for previews and reports."
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str | None) -> str | None:
        if url:
            sentinels_of(url)
        return url

    @field_validator("storage")
    @classmethod
    def _is_storage(cls, text: str) -> str:
        if text and not _STORAGE.fullmatch(text):
            raise ValueError("is no storage: use s3://BUCKET or s3://BUCKET/PREFIX, or leave the setting empty")
        return text

    @field_validator("s3_endpoint")
    @classmethod
    def _is_endpoint(cls, url: str | None) -> str | None:
        if url is not None and not _ENDPOINT.fullmatch(url):
            raise ValueError("is no URL of a store: use https://HOST or https://HOST:PORT")
        return url

    @property
    def redis_address(self) -> str | None:
        """`redis_url` with the files of TLS."""
        files = {"ca_certs": self.redis_tls_ca, "certfile": self.redis_tls_cert, "keyfile": self.redis_tls_key}
        return with_tls_files(self.redis_url, **files) if self.redis_url else None
