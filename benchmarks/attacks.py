"""Attacks on API and gRPC server: peak memory, answers to the attackers, and how long another client waits.

    python -m benchmarks.attacks [--code FOLDER] [--only WORD] [--out FILE]

Each attack gets a server of its own on loopback, with an API key, 1,024 open files, and the smallest network. `--code`
attacks the servers of another checkout. The attacks end by themselves after half a minute at most.
"""

from __future__ import annotations

import argparse
import resource
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import grpc
import httpx
import torch
from rich.console import Console

from benchmarks.report import machine, one_line, show, write_json
from benchmarks.targets import KEY, Target, in_parallel, target, watched
from benchmarks.upload_attacks import announcements, slow_patches, tiny_patches, wrong_checksums
from skipvsr.v1 import upscaler_pb2 as pb

ROOT: Final = Path(__file__).parents[1]
_MB: Final = 1_000_000
_METADATA: Final = (("x-api-key", KEY),)
_JOBS: Final = "/skipvsr.v1.JobService/"
_HEAD: Final = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
_CHUNKED: Final = (
    b"POST /upscale HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n1\r\na\r\n0\r\n"
)
_LINE: Final = b"X-Filler: " + b"a" * 990 + b"\r\n"
_LARGE: Final = 58 * 2**20
_DRIP_SECONDS: Final = 25.0
_STREAM_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Attack:
    """An attack on a fresh server."""

    name: str
    kind: str
    run: Callable[[Target], list[str]]
    """Attack the server; return the answers."""
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Row:
    """The outcome of an attack."""

    attack: str
    server: str
    answers: str
    before_mb: int
    peak_mb: int
    slowest_seconds: float
    """Longest wait of another client's health check."""
    failures: int
    """Health checks without an answer in 10 s."""


def endless(opening: bytes, piece: bytes) -> Callable[[Target], list[str]]:
    """Two clients send 60 MB of lines each, without a key."""

    def run(server: Target) -> list[str]:
        return [_flood(server, opening, piece, 60 * _MB) for _ in range(2)]

    return run


def idle_connections(server: Target) -> list[str]:
    """1,100 connections that send half a head, for six seconds."""
    found = []
    with ExitStack() as stack:
        for _ in range(1100):
            try:
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 1))
                connection.sendall(_HEAD)
                found.append("open")
            except OSError:
                found.append("refused")
        time.sleep(6)
    return found


def announced_uploads(server: Target) -> list[str]:
    """20 uploads that announce 4 GB and send a byte each second; another client then sends a clip until accepted."""
    clip = ROOT / "examples" / "clip.mp4"
    with ExitStack() as stack:
        attackers = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(20)]
        opening = (
            b"POST /upscale HTTP/1.1\r\nHost: x\r\nX-API-Key: " + KEY.encode() + b"\r\nContent-Length: 4000000000\r\n"
        )
        opening += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        opening += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for attacker in attackers:
            attacker.sendall(opening)
        begun, said = time.monotonic(), ""
        while time.monotonic() - begun < _DRIP_SECONDS:
            for attacker in attackers:
                with suppress(OSError):
                    attacker.sendall(b"x")
            with clip.open("rb") as file:
                headers = {"X-API-Key": KEY}
                answer = httpx.post(
                    f"http://{server.address}/upscale", files={"file": file}, headers=headers, timeout=30
                )
            said = str(answer.status_code)
            if answer.status_code == httpx.codes.ACCEPTED:
                break
            time.sleep(1)
    return [f"other upload: {said} after {time.monotonic() - begun:.0f} s"]


def large_calls(method: str, metadata: tuple[tuple[str, str], ...]) -> Callable[[Target], list[str]]:
    """16 clients send a message of 58 MiB each."""

    def run(server: Target) -> list[str]:
        return in_parallel(16, lambda _: _call(server, method, bytes(_LARGE), metadata))

    return run


def large_uploads(server: Target) -> list[str]:
    """16 clients with the key upload chunks of 58 MiB."""
    parts = [
        pb.CreateJobRequest(config=pb.UploadConfig(filename="a.mp4")),
        pb.CreateJobRequest(chunk=pb.UploadChunk(data=bytes(_LARGE))),
    ]
    return in_parallel(16, lambda _: _upload(server, parts))


def bombs(server: Target) -> list[str]:
    """20 clients with the key upload a file of 200 kB that promises 40 million frames."""
    parts = [
        pb.CreateJobRequest(config=pb.UploadConfig(filename="a.mp4")),
        pb.CreateJobRequest(chunk=pb.UploadChunk(data=_bomb())),
    ]
    return in_parallel(20, lambda _: _upload(server, parts))


def greedy_streams(server: Target) -> list[str]:
    """Eight clients with the key open streams with the longest chunk and look-ahead, send frames and read nothing."""

    def messages() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(config=pb.StreamConfig(width=192, height=108, chunk=64, lookahead=64, routing="off"))
        for number in range(150):
            yield pb.StreamRequest(frame=pb.InputFrame(sequence=number + 1, data=bytes(192 * 108 * 3)))
        time.sleep(_STREAM_SECONDS)

    def stream(_: int) -> str:
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.stream_stream(
                "/skipvsr.v1.UpscalerService/Stream",
                request_serializer=pb.StreamRequest.SerializeToString,
                response_deserializer=pb.StreamResponse.FromString,
            )(messages(), metadata=_METADATA, timeout=_STREAM_SECONDS)
            try:
                chunk = next(call).config.effective.chunk
                time.sleep(_STREAM_SECONDS - 2)
                return f"chunk {chunk}"
            except grpc.RpcError as error:
                return str(error.code().name)

    return in_parallel(8, stream)


ATTACKS: Final = (
    Attack("header lines without end", "api", endless(_HEAD, _LINE)),
    Attack("trailers without end", "api", endless(_CHUNKED, _LINE)),
    Attack("1,100 idle connections", "api", idle_connections),
    Attack(
        "20 uploads announce 4 GB each", "api", announced_uploads,
        (("quota_gb", "8"), ("upload_idle_seconds", "5")),
    ),
    Attack("8 clients: PATCHes of one byte", "api", tiny_patches),
    Attack("8 clients announce 4 GB without end", "api", announcements),
    Attack("20 slow PATCHes of 4 GB", "api", slow_patches, (("quota_gb", "8"), ("upload_idle_seconds", "5"))),
    Attack("8 clients: wrong checksums", "api", wrong_checksums),
    Attack("1,100 idle connections", "grpc", idle_connections),
    Attack("16 calls of 58 MiB, no key", "grpc", large_calls(_JOBS + "GetJob", ())),
    Attack("16 calls of 58 MiB, with key", "grpc", large_calls(_JOBS + "GetJob", _METADATA)),
    Attack("16 upload chunks of 58 MiB", "grpc", large_uploads),
    Attack("20 files promise 40 million frames", "grpc", bombs),
    Attack("8 streams, chunk 64 + look-ahead 64", "grpc", greedy_streams, (("grpc_memory_bytes", "600000000"),)),
)  # fmt: skip


def measure(attack: Attack, code: Path) -> Row:
    """Run one attack."""
    with target(attack.kind, code, **dict(attack.settings)) as server, watched(server) as watch:
        answers = Counter(attack.run(server))
        time.sleep(0.2)
        said = ", ".join(f"{count} {answer}" for answer, count in answers.most_common())
    return Row(
        attack.name,
        "API" if attack.kind == "api" else "gRPC",
        said,
        watch.before_mb,
        watch.peak_mb,
        round(watch.slowest, 3),
        watch.failures,
    )


def _flood(server: Target, opening: bytes, piece: bytes, size: int) -> str:
    """Send up to `size` bytes of `piece` after `opening`; return the status of the answer."""
    block = piece * max(1, 65536 // len(piece))
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection, suppress(OSError):
        connection.sendall(opening)
        with suppress(OSError):  # disconnected
            for _ in range(size // len(block)):
                connection.sendall(block)
        return connection.recv(65536).partition(b" ")[2][:3].decode() or "closed"
    return "closed"


def _call(server: Target, method: str, message: bytes, metadata: tuple[tuple[str, str], ...]) -> str:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options) as channel:
        try:
            channel.unary_unary(method)(message, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def _upload(server: Target, parts: Sequence[pb.CreateJobRequest]) -> str:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options) as channel:
        create = channel.stream_unary(_JOBS + "CreateJob", request_serializer=pb.CreateJobRequest.SerializeToString)
        try:
            create(iter(parts), metadata=_METADATA, timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def _bomb() -> bytes:
    """The example, whose tables of times and sizes now promise 40 million frames."""
    data, frames = bytearray((ROOT / "examples" / "clip.mp4").read_bytes()), 40_000_000
    struct.pack_into(">III", data, data.index(b"stts") + 8, 1, frames, 1)
    struct.pack_into(">II", data, data.index(b"stsz") + 8, 1, frames)
    return bytes(data)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the attacks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, default=ROOT, help="checkout whose servers are attacked")
    parser.add_argument("--only", default="", metavar="WORD", help="only attacks whose name contains the word")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(argv)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    console = Console(width=160)
    rows = [measure(attack, args.code.resolve()) for attack in ATTACKS if args.only in attack.name]
    headers = ("attack", "server", "answers", "before", "peak MB", "slowest s", "no answer")
    show(console, headers, [[str(value) for value in asdict(row).values()] for row in rows])
    facts = machine(torch.device("cpu"))
    console.print(one_line(facts))
    if args.out:
        write_json(args.out, {"machine": facts, "attacks": [asdict(row) for row in rows]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
