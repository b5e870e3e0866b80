"""Opening untrusted files, with the containers and codecs of `media.demux.formats` only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from media.demux.boxes import breaks_off
from media.demux.ends import Ends, hole
from media.demux.formats import CONTAINERS, OPTIONS, VIDEO_DECODERS, WEBP
from media.demux.webp import PictureStream, is_webp_animation, read_animation
from media.errors import CorruptHeader, HeaderElsewhere, UnsupportedFile, UnusableVideo
from media.limits import Limits

_PROBED: Final = r"^Format (\S+) probed with"
"""A line of libav's log. For a guess by the file's name, libav writes another line."""
_MP4: Final = "mov,mp4,m4a,3gp,3g2,mj2"
_NO_INDEX: Final = "The file looks like MP4, but has no complete index: the download or the recording broke off."
_UNKNOWN_CODEC: Final = r"stream {} \(Video: none \((\S+) / 0x"


@contextmanager
def open_untrusted(path: Path, limits: Limits) -> Iterator[InputContainer]:
    """Open `path` with the allow-lists of `media.demux.formats`.

    Raises:
        UnsupportedFile: not a media file, or not an accepted container.
        HeaderElsewhere: an animated WebP whose ends alone are known.
        OverLimit: more bytes or streams than allowed.
    """
    size = path.stat().st_size
    if size == 0:
        raise UnsupportedFile("The file is empty.")
    limits.check("max_upload_bytes", size, "the file")
    missing = hole()
    if is_webp_animation(path):
        if missing:
            raise HeaderElsewhere("An animated WebP has no header that states its length.")
        with _webp(path, limits) as container:
            yield container
        return
    # With the prefix "file:", libav does not read a name such as "http:…" or "concat:…" as a protocol.
    source = Ends(path, missing) if missing else f"file:{path}"
    options = OPTIONS | {"probesize": str(limits.max_probe_bytes), "max_streams": str(limits.max_streams + 1)}
    try:
        container = av.open(source, "r", options=options, metadata_errors="replace")
    except av.error.FFmpegError as e:
        raise _refusal(path, options, e.strerror or "unreadable") from e
    with container:
        limits.check("max_streams", len(container.streams), "the file")
        yield container


@contextmanager
def _webp(path: Path, limits: Limits) -> Iterator[InputContainer]:
    animation = read_animation(path)
    size = f"the animation ({animation.width}×{animation.height})"
    limits.check("max_pixels", animation.width * animation.height, size)
    limits.check("max_frames", len(animation.parts), "the animation")
    if not animation.parts:
        raise UnusableVideo("The animation has no pictures; the file is corrupt or incomplete.")
    with closing(PictureStream(path, animation)) as stream:
        try:
            container = av.open(stream, "r", format="nut", options=OPTIONS)
        except av.error.FFmpegError as e:
            raise UnusableVideo("The animation's first picture can't be decoded; the file is corrupt.") from e
        with container:
            yield container


def _refusal(path: Path, options: dict[str, str], reason: str) -> UnsupportedFile:
    """The error for a file that libav did not open."""
    found = search_log(f"file:{path}", options, _PROBED)
    if found is None:
        return UnsupportedFile(
            f"The file is not an accepted video format, or its header is corrupt ({reason.lower()})."
        )
    if found in CONTAINERS:
        kind = CONTAINERS[found].title.split(",")[0]
        if found == _MP4 and breaks_off(path, hole()):
            return UnsupportedFile(_NO_INDEX)
        return CorruptHeader(f"The file looks like {kind}, but its header is corrupt ({reason.lower()}).")
    if found.endswith("_pipe"):
        return UnsupportedFile(f"The file is a single picture ({found.removesuffix('_pipe').upper()}), not a video.")
    name = av.ContainerFormat(found.split(",")[0], "r").long_name
    return UnsupportedFile(f"Files of type {found} ({name}) are not accepted.")


def search_log(url: str, options: dict[str, str], pattern: str) -> str | None:
    """Open a file once more, and return the pattern's group in libav's log.

    Changes libav's log level for a moment. Use only in a process with a single task.
    """
    av.logging.set_level(av.logging.DEBUG)
    try:
        with av.logging.Capture(local=True) as lines, suppress(av.error.FFmpegError):
            av.open(url, options=options, metadata_errors="replace").close()
    finally:
        av.logging.set_level(None)
    return next((found[1] for _, _, line in lines if (found := re.search(pattern, line))), None)


def video_stream(container: InputContainer) -> VideoStream:
    """The stream to upscale: libav's best video stream that is not cover art.

    Raises:
        UnusableVideo: no such stream.
        UnsupportedFile: the stream's codec is not accepted.
    """
    best = container.streams.best("video")
    candidates = ([best] if isinstance(best, VideoStream) else []) + list(container.streams.video)
    stream = next((s for s in candidates if not s.disposition & Disposition.attached_pic), None)
    if stream is None or stream.codec_context is None:
        check_index(container)
    if stream is None:
        raise UnusableVideo("The file has no video track" + (", only sound." if container.streams.audio else "."))
    if stream.codec_context is None or stream.codec_context.name not in VIDEO_DECODERS:
        raise UnsupportedFile(
            f"The video codec {_codec(container, stream)} is not accepted. "
            "Convert the video to H.264, HEVC, AV1 or VP9 first."
        )
    return stream


def check_index(container: InputContainer) -> None:
    """Raise UnsupportedFile if an MP4 file ends inside its index."""
    if container.format.name == _MP4 and breaks_off(Path(container.name.removeprefix("file:")), hole()):
        raise UnsupportedFile(_NO_INDEX)


def _codec(container: InputContainer, stream: VideoStream) -> str:
    """Name of the stream's codec, or its four letters in the container if libav does not know the codec."""
    known = stream.codec_context.codec.canonical_name if stream.codec_context else None
    return known or search_log(container.name, OPTIONS, _UNKNOWN_CODEC.format(stream.index)) or "unknown"


def container_name(container: InputContainer) -> str:
    """Short name: mp4, mkv, avi, …"""
    return CONTAINERS[WEBP if container.name == WEBP else container.format.name].short


def video_codec(stream: VideoStream) -> str:
    """libav's name of the stream's codec."""
    return WEBP if stream.container.name == WEBP else stream.codec_context.codec.canonical_name
