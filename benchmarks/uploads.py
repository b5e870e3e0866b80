"""Large uploads: a stock tus client whose server is killed, and many uploads at the same time.

    python -m benchmarks.uploads [--size MB] [--count N] [--each MB] [--out FILE]

The first row: tuspy uploads a file while the server is killed twice (SIGKILL) and started again. The other rows: peak
memory of the API's process during parallel uploads, as PATCHes of tus and as bodies of PUT. All files are random bytes,
and the digests of the received files are compared. The service refuses the bodies of PUT in the end, because random
bytes are no video.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import httpx
import torch
from rich.console import Console
from tusclient.client import TusClient
from tusclient.uploader.uploader import Uploader

from benchmarks.report import machine, one_line, show, write_json
from benchmarks.targets import KEY, Target, in_parallel, target, watched

ROOT: Final = Path(__file__).parents[1]
_MB: Final = 1_000_000
_BLOCK: Final = 1 << 20
_HEADERS: Final = {"X-API-Key": KEY, "Tus-Resumable": "1.0.0"}


@dataclass(frozen=True)
class Row:
    """The outcome of one measurement."""

    uploads: str
    answers: str
    seconds: float
    mb_per_second: float
    before_mb: int
    peak_mb: int
    """Peak memory of the API's process. Its children, which identify files, count apart."""
    slowest_seconds: float
    """Longest wait of another client's health check."""


def killed(size: int) -> Row:
    """Upload a file with tuspy while the server is killed twice."""
    with tempfile.TemporaryDirectory(prefix="uploads") as folder, target("api", ROOT) as server:
        path = Path(folder) / "large"
        expected = _random_file(path, size)
        begun = time.monotonic()
        with path.open("rb") as file:
            client = TusClient(f"http://{server.address}/uploads", headers={"X-API-Key": KEY})
            uploader = client.uploader(file_stream=file, chunk_size=size // 2, retries=100, retry_delay=1)
            thread = threading.Thread(target=uploader.upload)
            thread.start()
            kills = [_kill_at(server, uploader, share * size) for share in (0.3, 0.7)]
            thread.join()
        seconds = time.monotonic() - begun
        offset = int(httpx.head(str(uploader.url), headers=_HEADERS).headers["upload-offset"])
        same = _digests(server)[str(uploader.url).rpartition("/")[2]] == expected
    said = (
        f"killed at {' and '.join(f'{kill / _MB:,.0f}' for kill in kills)} MB; SHA-256 {'equal' if same else 'DIFFERS'}"
    )
    complete = "" if offset == size else f"; only {offset:,} bytes"
    return Row(f"tuspy, {size // _MB:,} MB", said + complete, round(seconds, 1), round(size / _MB / seconds), 0, 0, 0.0)


def _kill_at(server: Target, uploader: Uploader, size: float) -> int:
    """Kill and restart the server when an upload has reached a size; return the size of the file then."""
    while (arrived := sum(path.stat().st_size for path in _files(server))) < size:
        time.sleep(0.02)
    server.restart()
    return arrived


def parallel(count: int, each: int, *, tus: bool) -> Row:
    """Send files at the same time."""
    settings = {"max_uploads": str(count), "max_open_uploads": str(count), "http_max_connections": str(count + 20)}
    with target("api", ROOT, **settings) as server, watched(server) as watch:
        begun = time.monotonic()
        answers = Counter(in_parallel(count, lambda number: _send(server, number, each, tus=tus)))
        seconds = time.monotonic() - begun
        if tus:
            expected = Counter(_digest(_blocks(number, each)) for number in range(count))
            answers["SHA-256 equal" if Counter(_digests(server).values()) == expected else "SHA-256 DIFFERS"] += 1
    return Row(
        f"{count} × {each // _MB} MB, {'tus' if tus else 'PUT'}",
        ", ".join(f"{number} {answer}" if number > 1 else answer for answer, number in answers.most_common()),
        round(seconds, 1),
        round(count * each / _MB / seconds),
        watch.before_mb,
        watch.own_peak_mb,
        round(watch.slowest, 2),
    )


def _send(server: Target, number: int, size: int, *, tus: bool) -> str:
    with httpx.Client(base_url=f"http://{server.address}", timeout=600, headers=_HEADERS) as client:
        length = {"Content-Length": str(size)}
        if not tus:
            return str(client.put(f"/upscale/{number}.mp4", content=_blocks(number, size), headers=length).status_code)
        address = client.post("/uploads", headers={"Upload-Length": str(size)}).headers["location"]
        more = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        return str(client.patch(address, content=_blocks(number, size), headers=length | more).status_code)


def _blocks(seed: int, size: int) -> Iterator[bytes]:
    """Random bytes that differ for each seed: one block, repeated, with its number in front."""
    block = random.Random(seed).randbytes(_BLOCK)
    for start in range(0, size, _BLOCK):
        yield (start.to_bytes(8) + block[8:])[: size - start]


def _random_file(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            block = os.urandom(min(_BLOCK, size - start))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _digest(blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _files(server: Target) -> list[Path]:
    """The bytes of the resumable uploads."""
    folder = server.folder / "data" / "resumable" / "open"
    return [path for path in folder.glob("*") if not path.suffix and path.name != ".lock"] if folder.exists() else []


def _digests(server: Target) -> dict[str, str]:
    found = {}
    for path in _files(server):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1000, metavar="MB", help="size of the file of the stock client")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="number of parallel uploads")
    parser.add_argument("--each", type=int, default=50, metavar="MB", help="size of each parallel upload")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(argv)
    rows = [killed(args.size * _MB)]
    rows += [parallel(args.count, args.each * _MB, tus=tus) for tus in (True, False)]
    console = Console(width=160)
    headers = ("uploads", "answers", "seconds", "MB/s", "before MB", "peak MB", "slowest s")
    show(console, headers, [[str(value) for value in asdict(row).values()] for row in rows])
    facts = machine(torch.device("cpu"))
    console.print(one_line(facts))
    if args.out:
        write_json(args.out, {"machine": facts, "uploads": [asdict(row) for row in rows]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
