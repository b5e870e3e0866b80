"""Choice of the encoder: hardware if requested and working on this machine, else software.

The bytes of hardware encoders differ between machines. They are used on request, and NVENC beside a network on an
NVIDIA GPU. If a resumed job finds no such encoder, the job starts again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Final

import av
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.encode.encoders import HARDWARE

log = logging.getLogger(__name__)

KINDS: Final = tuple(HARDWARE)
"""Hardware, in the order of `auto`."""
_FRAMES: Final = 3
"""Frames of a trial: more than one, because later frames refer to others."""
_SOFTWARE: Final = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}


@dataclass(frozen=True)
class Encoder:
    """An encoder of libav, and the pixel format of its frames."""

    name: str
    pixel_format: str


def choose(codec: str, wish: str, width: int, height: int, *, deep: bool = False) -> Encoder:
    """Choose the encoder for frames of width × height.

    Each hardware encoder is tested with frames of this size, once in each process. If none works, the software encoder
    is used, and the log gives the reason.

    Args:
        codec: h264, hevc or av1.
        wish: software, nvenc, vaapi, or auto: the first hardware encoder that works.
        deep: whether samples have 10 bits.
    """
    software = Encoder(_SOFTWARE[codec], "yuv420p10le" if deep else "yuv420p")
    if wish == "software":
        return software
    wished = KINDS if wish == "auto" else (wish,)
    troubles = []
    for kind in wished:
        encoder = Encoder(f"{codec}_{kind}", "p010le" if deep else "nv12")
        found = trouble(encoder, width, height)
        if not found:
            return encoder
        troubles.append(f"{encoder.name} does not work on this machine ({found})")
    level = logging.INFO if wish == "auto" else logging.WARNING
    log.log(level, "%s encodes %s at %d×%d: %s", software.name, codec, width, height, "; ".join(troubles))
    return software


@cache
def trouble(encoder: Encoder, width: int, height: int) -> str:
    """Why an encoder, with the options of a job, encodes no frames on this machine; empty if it does."""
    try:
        made = _trial(encoder, width, height)
    except (av.error.FFmpegError, LookupError, ValueError, RuntimeError, NotImplementedError, MemoryError) as error:
        return str(error) or type(error).__name__
    return "" if sum(packet.size > 0 for packet in made) == _FRAMES else "frames are missing"


def _trial(encoder: Encoder, width: int, height: int) -> list[Packet[VideoStream]]:
    context = av.CodecContext.create(encoder.name, "w", hwaccel=accelerator(encoder.name))
    if not (isinstance(context, VideoCodecContext) and context.is_encoder):
        raise ValueError("no encoder of video")
    context.width, context.height, context.pix_fmt = width, height, encoder.pixel_format
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options.update(HARDWARE.get(encoder.name.rpartition("_")[2], {}))
    frame = VideoFrame(width, height, encoder.pixel_format)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    made = []
    for number in range(_FRAMES):
        frame.pts = number
        made += context.encode(frame)
    return made + context.encode(None)


def accelerator(encoder: str) -> HWAccel | None:
    """The device to upload frames to before encoding. None: the encoder uploads them itself."""
    return HWAccel("vaapi") if encoder.endswith("_vaapi") else None
