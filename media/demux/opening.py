"""Opening untrusted files: the containers, codecs and protocols that libav may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from media.errors import UnsupportedFile, UnusableVideo
from media.limits import Limits

# Only demuxers that read one file. Playlists (hls, concat, dash, sdp), text art (tty), image sequences and virtual
# devices (lavfi) would open other files or connections that the file names.
CONTAINERS: Final = {
    "mov,mp4,m4a,3gp,3g2,mj2": "mp4",
    "matroska,webm": "mkv",
    "avi": "avi",
    "flv": "flv",
    "mpegts": "ts",
    "mpeg": "mpg",
    "mpegvideo": "mpg",
    "m4v": "m4v",
    "ogg": "ogg",
    "asf": "wmv",
    "mxf": "mxf",
    "ivf": "ivf",
    "h264": "h264",
    "hevc": "hevc",
    "obu": "obu",
    "yuv4mpegpipe": "y4m",
    "nut": "nut",
}
"""libav's names of the accepted containers → short names."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIDEO_CODECS: Final = _names("""
    h264 hevc av1 libdav1d vp8 vp9 mpeg1video mpeg2video mpeg4 msmpeg4v2 msmpeg4v3 msmpeg4 h263 h263i flv theora mjpeg
    prores dnxhd dvvideo ffv1 huffyuv ffvhuff utvideo rawvideo v210 qtrle png wmv1 wmv2 wmv3 vc1
""")
AUDIO_CODECS: Final = _names("""
    aac aac_latm mp3 mp3float mp2 mp2float mp1 mp1float ac3 eac3 dca truehd mlp opus libopus vorbis flac alac wavpack
    tta wmav1 wmav2 wmapro amrnb amrwb adpcm_ms adpcm_ima_wav adpcm_ima_qt pcm_alaw pcm_mulaw pcm_u8 pcm_s8 pcm_s16le
    pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_f32le pcm_f32be pcm_f64le pcm_bluray
""")
SUBTITLE_CODECS: Final = _names("mov_text subrip srt ass ssa webvtt text dvdsub dvbsub pgssub")

_OPTIONS: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(part for name in CONTAINERS for part in name.split(",")),
    "codec_whitelist": ",".join(sorted(VIDEO_CODECS | AUDIO_CODECS | SUBTITLE_CODECS)),
}


@contextmanager
def open_untrusted(path: Path, limits: Limits) -> Iterator[InputContainer]:
    """Open `path` with the allow-lists of this module.

    Raises:
        UnsupportedFile: not a media file, or not an accepted container.
        OverLimit: more bytes or streams than allowed.
    """
    size = path.stat().st_size
    if size == 0:
        raise UnsupportedFile("The file is empty.")
    limits.check("max_upload_bytes", size, "the file")
    options = _OPTIONS | {"probesize": str(limits.max_probe_bytes), "max_streams": str(limits.max_streams + 1)}
    try:
        # With the prefix "file:", libav does not read a name such as "http:…" or "concat:…" as a protocol.
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except av.error.FFmpegError as e:
        reason = (e.strerror or "unreadable").lower()
        raise UnsupportedFile(f"The file is not an accepted video format, or its header is corrupt ({reason}).") from e
    with container:
        if container.format.name not in CONTAINERS:
            raise UnsupportedFile(f"Files of type {container.format.name} are not accepted.")
        limits.check("max_streams", len(container.streams), "the file")
        yield container


def video_stream(container: InputContainer) -> VideoStream:
    """The stream to upscale: libav's best video stream that is not cover art.

    Raises:
        UnusableVideo: no such stream.
        UnsupportedFile: the stream's codec is not accepted.
    """
    best = container.streams.best("video")
    candidates = ([best] if isinstance(best, VideoStream) else []) + list(container.streams.video)
    stream = next((s for s in candidates if not s.disposition & Disposition.attached_pic), None)
    if stream is None:
        raise UnusableVideo("The file has no video track" + (", only sound." if container.streams.audio else "."))
    if stream.codec_context is None or stream.codec_context.name not in VIDEO_CODECS:
        name = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
        raise UnsupportedFile(
            f"The video codec {name} is not accepted. Convert the video to H.264, HEVC, AV1 or VP9 first."
        )
    return stream


def container_name(container: InputContainer) -> str:
    """Short name: mp4, mkv, avi, …"""
    return CONTAINERS.get(container.format.name, container.format.name)
