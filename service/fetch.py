"""Videos from addresses that callers name: only from allowed hosts, within the limits of uploads.

The guard (`service.outgoing`) checks the host and every address that the name resolves to, and each redirect again.
Compressed transfer is refused: no small answer becomes a large file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import httpx

from jobs.errors import FetchFailed, InvalidRequest
from jobs.settings import Settings
from service.admission import Pace, oversized
from service.names import harmless_name
from service.outgoing import Guard, async_client, split

_REDIRECTS: Final = 5
_CONNECT_SECONDS: Final = 10.0
_BLOCK_BYTES: Final = 64 * 1024
_LONGEST_DISPOSITION: Final = 2048
"""Most characters of a Content-Disposition: the parser's time grows with the square of the length."""
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "SkipVSR"}


@dataclass(frozen=True)
class Remote:
    """An answer whose body is the video."""

    filename: str
    size: int
    """Announced size in bytes; 0: unknown."""
    blocks: AsyncIterator[bytes]


class Fetcher:
    """Fetches videos from the hosts of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        hosts, networks = split(settings.url_hosts), split(settings.url_networks)
        self._guard = Guard(hosts, networks, setting="SKIPVSR_URL_HOSTS") if hosts else None

    @asynccontextmanager
    async def open(self, text: str) -> AsyncIterator[Remote]:
        """Ask for a video; its bytes may be read during the block.

        Raises:
            InvalidRequest: the address is malformed, or the server may not ask its host (AddressRefused).
            FetchFailed: the host does not answer, or answers with an error.
            TooLarge: the video is larger than an upload may be.
            UploadStalled: bytes arrive too slowly.
        """
        if self._guard is None:
            raise InvalidRequest("this server fetches no videos: its administrator can allow hosts (SKIPVSR_URL_HOSTS)")
        url = self._guard.checked(text)
        idle = self._settings.upload_idle_seconds
        try:
            async with (
                asyncio.timeout(self._settings.url_seconds),
                async_client(self._guard, httpx.Timeout(idle, connect=_CONNECT_SECONDS)) as client,
            ):
                answer = await self._answer(client, self._guard, url)
                try:
                    yield self._remote(answer)
                finally:
                    await answer.aclose()
        except TimeoutError:
            seconds = self._settings.url_seconds
            raise FetchFailed(f"the video did not arrive within {seconds:g} s (SKIPVSR_URL_SECONDS)") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise FetchFailed(f"{httpx.URL(url).host} sent no video: {reason[:200]}") from error

    async def _answer(self, client: httpx.AsyncClient, guard: Guard, url: str) -> httpx.Response:
        """Ask for a video, and follow redirects to allowed hosts."""
        for _ in range(_REDIRECTS + 1):
            answer = await client.send(client.build_request("GET", url, headers=_HEADERS), stream=True)
            if answer.status_code == HTTPStatus.OK:
                return answer
            await answer.aclose()
            target = answer.headers.get("location")
            if not answer.is_redirect or not target:
                raise FetchFailed(f"{answer.url.host} answered with status {answer.status_code}, and sent no video")
            url = guard.checked(str(answer.url.join(target)))
        raise FetchFailed(f"{answer.url.host} redirected more than {_REDIRECTS} times")

    def _remote(self, answer: httpx.Response) -> Remote:
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise FetchFailed(f"{answer.url.host} sent the video compressed, although the request forbids this")
        text = answer.headers.get("content-length", "")
        size = int(text) if text.isdecimal() and len(text) < 20 else 0
        if size > self._settings.max_upload_bytes:
            raise oversized(self._settings.max_upload_bytes)
        return Remote(_filename(answer), size, self._blocks(answer))

    async def _blocks(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        """The bytes of the video, at the pace of an upload."""
        pace = Pace.of(self._settings)
        size, blocks = 0, answer.aiter_raw(_BLOCK_BYTES)
        while True:
            try:
                block = await pace.next(blocks)
            except httpx.ReadTimeout:
                raise pace.stalled() from None
            if block is None:
                return
            pace.received(len(block))
            size += len(block)
            if size > self._settings.max_upload_bytes:
                raise oversized(self._settings.max_upload_bytes)
            yield block


def _filename(answer: httpx.Response) -> str:
    """The file's name: that of the answer, or the last part of the address."""
    message = Message()
    text = answer.headers.get("content-disposition", "")
    message["Content-Disposition"] = text if len(text) <= _LONGEST_DISPOSITION else ""
    try:
        params = message.get_params(failobj=[], header="content-disposition")
        names = [collapse_rfc2231_value(value) for key, value in params if key == "filename"]
    except ValueError:  # the host names a character set that decodes nothing
        names = []
    return harmless_name(names[-1] if names else unquote(answer.url.path))  # the exact name stands last (RFC 6266)
