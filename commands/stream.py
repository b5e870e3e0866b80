"""`skipvsr stream`: send a file, a camera or a pipe through a gRPC server, frame by frame, and keep what comes back."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np

from commands.addresses import address
from commands.errors import CommandError
from commands.naming import check_names
from jobs.settings import Settings
from media.assemble import assemble
from media.encode.segment import SegmentWriter
from media.live.source import PIPE, LiveSource
from media.probe import probe
from media.reader import Frame, VideoReader
from media.spec import OutputSpec, output_spec
from pipeline.source import media_limits
from service.rpc.client import Answer, Stream, StreamClient
from skipvsr.v1 import upscaler_pb2 as pb

_LINE_SECONDS = 0.5


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Stream IN to OUT. Raises CommandError, MediaError."""
    live = args.source == PIPE or args.source.startswith("/dev/")
    if not live and not Path(args.source).is_file():
        raise CommandError(f"there is no file {args.source}")
    check_names(None if live else Path(args.source), {"the output": args.target})
    try:
        if live:
            _live(args, settings)
        else:
            _file(args, settings, Path(args.source))
    except grpc.RpcError as error:
        code = error.code()
        if code is grpc.StatusCode.UNAVAILABLE:
            raise CommandError(f"no gRPC server answers at {_address(args, settings)} ({error.details()})") from error
        raise CommandError(f"the server ended the stream: {error.details()} ({code.name})") from error
    return 0


def _file(args: argparse.Namespace, settings: Settings, source: Path) -> None:
    limits = media_limits(settings)
    info = probe(source, limits)
    spec = output_spec(info, codec=args.codec, crf=args.crf, limits=limits)
    with (
        tempfile.TemporaryDirectory(dir=args.target.absolute().parent) as folder,
        VideoReader(source, limits=limits) as reader,
    ):
        segment, result = Path(folder) / "segment.mp4", Path(folder) / "result.mp4"
        _stream(args, settings, reader, (info.video.width, info.video.height), spec, segment)
        for warning in assemble([segment], source, result, spec, limits=limits):
            print(f"note: {warning}")
        result.replace(args.target)


def _live(args: argparse.Namespace, settings: Settings) -> None:
    with LiveSource(args.source) as source:
        spec = source.output(codec=args.codec, crf=args.crf)
        _stream(args, settings, source, (source.width, source.height), spec, args.target)


def _stream(
    args: argparse.Namespace,
    settings: Settings,
    frames: Iterable[Frame],
    size: tuple[int, int],
    spec: OutputSpec,
    path: Path,
) -> None:
    key = settings.api_key.get_secret_value() if settings.api_key else None
    credentials = grpc.ssl_channel_credentials(args.ca.read_bytes()) if args.ca else None
    rate = spec.frame_rate.limit_denominator(1001)
    with ExitStack() as stack:
        client = stack.enter_context(StreamClient(_address(args, settings), api_key=key, credentials=credentials))
        stream = client.stream(
            ((frame.pts, _eight_bits(frame)) for frame in frames),
            width=size[0],
            height=size[1],
            model=args.model,
            routing=args.routing,
            lookahead=args.lookahead,
            chunk=args.chunk,
            frame_rate=pb.FrameRate(numerator=rate.numerator, denominator=rate.denominator),
        )
        stack.enter_context(stream)
        writer = stack.enter_context(SegmentWriter(path, spec))
        try:
            for answer in _shown(stream):
                assert answer.rgb is not None
                writer.write(answer.rgb, answer.pts)
        except KeyboardInterrupt:  # of a camera: what came so far is kept
            stream.cancel()
            if not writer.frames:
                raise
    _report(stream, args.target)


def _eight_bits(frame: Frame) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return frame.rgb if frame.rgb.dtype == np.uint8 else (frame.rgb >> 8).astype(np.uint8)  # type: ignore[return-value]


def _shown(stream: Stream) -> Iterator[Answer]:
    """The answers, with a line about them on the terminal: frames a second, latency, what was skipped."""
    begun = due = time.monotonic()
    skipped = 0.0
    terminal = sys.stderr.isatty()
    for count, answer in enumerate(stream, 1):
        skipped += answer.skip_ratio
        now = time.monotonic()
        if terminal and now >= due:
            due = now + _LINE_SECONDS
            rate = count / max(now - begun, 1e-9)
            line = f"{count} frames  {rate:.1f} fps  {answer.server_milliseconds:.0f} ms  {skipped / count:.0%} skipped"
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        yield answer
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _report(stream: Stream, target: Path) -> None:
    accepted, summary = stream.accepted, stream.summary
    if accepted is None or summary is None:
        print(f"{target}  (interrupted)")
        return
    print(
        f"{target}  {accepted.output_width}×{accepted.output_height}, {summary.frames} frames, "
        f"{accepted.effective.model} on {accepted.device}, "
        f"latency {summary.latency_p50_milliseconds:.0f} ms (p95 {summary.latency_p95_milliseconds:.0f}), "
        f"{summary.skip_ratio:.0%} skipped, {summary.speedup:.2f} times the dense network's speed"
    )


def _address(args: argparse.Namespace, settings: Settings) -> str:
    return args.address or address(settings.grpc_host, settings.grpc_port)
