"""`skipvsr stream`: send a file, a camera or a pipe through a gRPC server, frame by frame, and write the answers."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from commands.shared.command_line import FILE, MODEL_HELP, ROUTINGS, Command, ModelName, option, read_settings
from commands.shared.errors import CommandError

if TYPE_CHECKING:
    from jobs.settings import Settings
    from media.reader import Frame
    from media.spec import OutputSpec
    from skipvsr_client.live import Answer, Stream

_STATUS_SECONDS: Final = 0.5
"""Between updates of the status line."""


@click.command(cls=Command)
@click.argument("source", metavar="IN", help="Video file, camera (/dev/video0), or - for standard input")
@click.argument("target", type=FILE, metavar="OUT", help="Result; .mp4, or for a file also .mkv or .mov")
@option("--address", metavar="HOST:PORT", help="Server; default: the local `skipvsr grpc`")
@option("--ca", type=FILE, metavar="FILE", help="Use TLS; certificate authority (PEM)")
@option("--model", type=ModelName(), default="auto", help=f"Model: {MODEL_HELP}")
@option("--scale", type=click.Choice(["2", "4"]), help="Enlargement; default: the model's")
@option("--routing", type=click.Choice(ROUTINGS), default="balanced", help="Work to skip")
@option("--lookahead", type=int, default=0, metavar="N", help="Frames of delay; more is sharper")
@option("--chunk", type=int, default=1, metavar="N", help="Frames per chunk")
@option("--codec", type=click.Choice(["h264", "hevc"]), default="h264", help="Video codec")
@option("--crf", type=click.IntRange(0, 51), default=18, metavar="0-51", help="Quality; lower is better")
def command(source: str, target: Path, address: str | None, ca: Path | None, **options: Any) -> int:
    """Stream a file, camera or pipe through a gRPC server."""
    from commands.shared import addresses

    settings = read_settings()
    server = address or addresses.address(settings.grpc_host, settings.grpc_port)
    return run(source, target, StreamOptions(server, ca, **options), settings)


@dataclass(frozen=True)
class StreamOptions:
    """Options of a stream."""

    server: str
    """host:port."""
    ca: Path | None
    """Certificate authority (PEM) of a server with TLS; None: plain text."""
    model: str
    scale: str | None
    """Enlargement; None: that of the model."""
    routing: str
    lookahead: int
    """Frames of delay."""
    chunk: int
    codec: str
    crf: int


def run(source: str, target: Path, options: StreamOptions, settings: Settings) -> int:
    """Stream `source` to `target`. Raises CommandError, MediaError."""
    from commands.shared.naming import check_names, check_source
    from media.live.source import PIPE
    from skipvsr_client import ConnectionFailed, Refused

    live = source == PIPE or source.startswith("/dev/")
    if not live:
        check_source(Path(source))
    _check_container(target, live=live)
    check_names(None if live else Path(source), {"the output": target})
    try:
        if live:
            _live(source, target, options, settings)
        else:
            _file(Path(source), target, options, settings)
    except ConnectionFailed as error:
        raise CommandError(str(error)) from error
    except Refused as error:
        raise CommandError(f"the server ended the stream: {error} ({error.title})") from error
    return 0


def _check_container(target: Path, *, live: bool) -> None:
    """Raise CommandError if the suffix of `target` names a container that a stream does not write."""
    from commands.shared.naming import container_of

    container = container_of(target)
    if live and container != "mp4":
        raise CommandError(f"a camera or pipe is written as MP4: end {target.name} in .mp4")
    if container == "webm":
        raise CommandError(f"streams are encoded as H.264 or HEVC, which WebM can't hold: end {target.name} in .mkv")


def _file(source: Path, target: Path, options: StreamOptions, settings: Settings) -> None:
    from commands.shared.naming import container_of
    from media.assemble import assemble
    from media.probe import probe
    from media.reader import VideoReader
    from media.spec import output_spec
    from pipeline.source import media_limits

    limits = media_limits(settings)
    info = probe(source, limits, target=container_of(target))
    spec_at = partial(output_spec, info, codec=options.codec, crf=options.crf, limits=limits)
    with (
        tempfile.TemporaryDirectory(dir=target.absolute().parent) as folder,
        VideoReader(source, canvas=info.video.canvas, limits=limits) as reader,
    ):
        segment, result = Path(folder) / "segment.mp4", Path(folder) / f"result{target.suffix.lower()}"
        size = info.video.width, info.video.height
        stream, spec = _stream(reader, size, lambda scale: spec_at(scale=scale), segment, options, settings)
        _print_summary(stream, target)
        for warning in assemble([segment], source, result, spec, limits=limits).warnings:
            print(f"note: {warning}")
        result.replace(target)


def _live(source: str, target: Path, options: StreamOptions, settings: Settings) -> None:
    from media.live.source import LiveSource

    with LiveSource(source) as camera:
        spec = camera.output(codec=options.codec, crf=options.crf)
        width, height = camera.width, camera.height
        stream, _ = _stream(
            camera,
            (width, height),
            lambda scale: replace(spec, width=scale * width, height=scale * height),
            target,
            options,
            settings,
        )
    _print_summary(stream, target)


def _stream(
    frames: Iterable[Frame],
    size: tuple[int, int],
    spec_at: Callable[[int], OutputSpec],
    path: Path,
    options: StreamOptions,
    settings: Settings,
) -> tuple[Stream, OutputSpec]:
    """Send frames of `size` (width, height), and encode the answers into `path`. ^C keeps the answers so far.

    `spec_at` makes the output for a scale, which the server tells. Returns the stream and the output.
    """
    import grpc

    from media.encode.segment import SegmentWriter
    from media.spec import DEFAULT_SCALE
    from skipvsr.v1 import upscaler_pb2 as pb
    from skipvsr_client.live import StreamClient

    key = settings.api_key.get_secret_value() if settings.api_key else None
    credentials = grpc.ssl_channel_credentials(options.ca.read_bytes()) if options.ca else None
    spec = spec_at(int(options.scale or DEFAULT_SCALE))
    rate = spec.frame_rate.limit_denominator(1001)
    with ExitStack() as stack:
        client = stack.enter_context(StreamClient(options.server, api_key=key, credentials=credentials))
        stream = client.stream(
            ((frame.pts, _eight_bits(frame)) for frame in frames),
            width=size[0],
            height=size[1],
            model=options.model,
            scale=int(options.scale or 0),
            routing=options.routing,
            lookahead=options.lookahead,
            chunk=options.chunk,
            frame_rate=pb.FrameRate(numerator=rate.numerator, denominator=rate.denominator),
        )
        stack.enter_context(stream)
        answers = _with_status_line(stream)
        first = next(answers, None)
        if stream.accepted is not None:
            spec = spec_at(stream.accepted.output_width // size[0])
        writer = stack.enter_context(SegmentWriter(path, spec))
        try:
            for answer in answers if first is None else chain([first], answers):
                assert answer.rgb is not None
                writer.write(answer.rgb, answer.pts)
        except KeyboardInterrupt:
            stream.cancel()
            if not writer.frames:
                raise
    return stream, spec


def _eight_bits(frame: Frame) -> Any:
    """The frame's RGB as uint8 [H, W, 3]."""
    import numpy as np

    return frame.rgb if frame.rgb.dtype == np.uint8 else (frame.rgb >> 8).astype(np.uint8)


def _with_status_line(stream: Stream) -> Iterator[Answer]:
    """The answers, with a status line on a terminal: frames per second, latency, skip ratio."""
    begun = due = time.monotonic()
    skipped = 0.0
    terminal = sys.stderr.isatty()
    for count, answer in enumerate(stream, 1):
        skipped += answer.skip_ratio
        now = time.monotonic()
        if terminal and now >= due:
            due = now + _STATUS_SECONDS
            rate = count / max(now - begun, 1e-9)
            line = f"{count} frames  {rate:.1f} fps  {answer.server_milliseconds:.0f} ms  {skipped / count:.0%} skipped"
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        yield answer
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _print_summary(stream: Stream, target: Path) -> None:
    accepted, summary = stream.accepted, stream.summary
    if accepted is None or summary is None:
        print(f"{target}  (interrupted)")
        return
    print(
        f"{target}  {accepted.output_width}×{accepted.output_height}, {summary.frames} frames, "
        f"{accepted.effective.model} on {accepted.device}, "
        f"latency {summary.latency_p50_milliseconds:.0f} ms (p95 {summary.latency_p95_milliseconds:.0f} ms), "
        f"{summary.skip_ratio:.0%} skipped, speedup {summary.speedup:.2f}"
    )
