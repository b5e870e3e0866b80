"""Opening untrusted files: which containers, codecs and protocols libav may use on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from media.errors import UnsupportedFile, UnusableVideo
from media.limits import Limits

# Demuxers that read one file and nothing else. Playlists (hls, concat, dash, sdp), text art (tty), image sequences
# and virtual devices (lavfi) are not among them: those follow what the file says to other files or to the network.
CONTAINERS = {
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


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIDEO_CODECS = _names("""
    h264 hevc av1 libdav1d vp8 vp9 mpeg1video mpeg2video mpeg4 msmpeg4v2 msmpeg4v3 msmpeg4 h263 h263i flv theora mjpeg
    prores dnxhd dvvideo ffv1 huffyuv ffvhuff utvideo rawvideo v210 qtrle png wmv1 wmv2 wmv3 vc1
""")
AUDIO_CODECS = _names("""
    aac aac_latm mp3 mp3float mp2 mp2float mp1 mp1float ac3 eac3 dca truehd mlp opus libopus vorbis flac alac wavpack
    tta wmav1 wmav2 wmapro amrnb amrwb adpcm_ms adpcm_ima_wav adpcm_ima_qt pcm_alaw pcm_mulaw pcm_u8 pcm_s8 pcm_s16le
    pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_f32le pcm_f32be pcm_f64le pcm_bluray
""")
SUBTITLE_CODECS = _names("mov_text subrip srt ass ssa webvtt text dvdsub dvbsub pgssub")

_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(part for name in CONTAINERS for part in name.split(",")),
    "codec_whitelist": ",".join(sorted(VIDEO_CODECS | AUDIO_CODECS | SUBTITLE_CODECS)),
}


@contextmanager
def open_untrusted(path: Path, limits: Limits) -> Iterator[InputContainer]:
    """Open `path` with the allow-lists above.

    Raises:
        UnsupportedFile: it is not a media file, or of a kind that is not taken.
        OverLimit: more bytes or streams than allowed.
    """
    size = path.stat().st_size
    if size == 0:
        raise UnsupportedFile("the file is empty")
    limits.check("max_upload_bytes", size, "the file")
    options = _OPTIONS | {"probesize": str(limits.max_probe_bytes), "max_streams": str(limits.max_streams + 1)}
    try:
        # "file:" keeps a name such as "http:…" or "concat:…" from being taken for a protocol.
        container = av.open(f"file:{path}", options=options, metadata_errors="replace")
    except av.error.FFmpegError as e:
        raise UnsupportedFile(
            f"not a video file of a kind that is taken, or its header is broken ({_reason(e)})"
        ) from e
    with container:
        if container.format.name not in CONTAINERS:
            raise UnsupportedFile(f"files of type {container.format.name} are not taken")
        limits.check("max_streams", len(container.streams), "the file")
        yield container


def video_stream(container: InputContainer) -> VideoStream:
    """The stream to upscale: the best that is not cover art.

    Raises:
        UnusableVideo: there is none.
        UnsupportedFile: its codec is not taken.
    """
    best = container.streams.best("video")
    candidates = ([best] if isinstance(best, VideoStream) else []) + list(container.streams.video)
    for stream in candidates:
        if not stream.disposition & _ATTACHED_PIC:
            break
    else:
        raise UnusableVideo("the file has no video track" + (", only sound" if container.streams.audio else ""))
    if stream.codec_context is None or stream.codec_context.name not in VIDEO_CODECS:
        name = stream.codec_context.codec.canonical_name if stream.codec_context else "an unknown codec"
        raise UnsupportedFile(f"video in {name} is not taken; convert it to H.264, HEVC, AV1 or VP9 first")
    return stream


def container_name(container: InputContainer) -> str:
    """A short name: mp4, mkv, webm, avi, …"""
    return CONTAINERS.get(container.format.name, container.format.name)


def _reason(error: av.error.FFmpegError) -> str:
    return (error.strerror or "unreadable").lower()


_ATTACHED_PIC = av.stream.Disposition.attached_pic
