"""Choice of the encoder: hardware if requested and working on this machine, else software.

The bytes of hardware encoders differ between machines. They are used only on request, and a job that resumes without
its encoder starts again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Final

import av
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

log = logging.getLogger(__name__)

KINDS: Final = ("nvenc", "vaapi")
"""Hardware, in the order of `auto`."""
_SOFTWARE: Final = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}


@dataclass(frozen=True)
class Encoder:
    """An encoder of libav, and the pixel format of its frames."""

    name: str
    pixel_format: str


def choose(codec: str, wish: str, width: int, height: int, *, deep: bool = False) -> Encoder:
    """Choose the encoder for frames of width × height.

    Each hardware encoder is tested with one frame of this size, once in each process. If none works, the software
    encoder is used, and the log says so.

    Args:
        codec: h264, hevc or av1.
        wish: software, nvenc, vaapi, or auto: the first hardware encoder that works.
        deep: whether samples have 10 bits.
    """
    software = Encoder(_SOFTWARE[codec], "yuv420p10le" if deep else "yuv420p")
    if wish == "software":
        return software
    wished = KINDS if wish == "auto" else (wish,)
    for kind in wished:
        encoder = Encoder(f"{codec}_{kind}", "p010le" if deep else "nv12")
        if works(encoder, width, height):
            return encoder
    log.log(
        logging.INFO if wish == "auto" else logging.WARNING,
        "%s encodes %s at %d×%d: %s does not work on this machine",
        software.name,
        codec,
        width,
        height,
        " or ".join(wished),
    )
    return software


@cache
def works(encoder: Encoder, width: int, height: int) -> bool:
    """Whether an encoder encodes a frame on this machine."""
    try:
        context = av.CodecContext.create(encoder.name, "w", hwaccel=accelerator(encoder.name))
        if not (isinstance(context, VideoCodecContext) and context.is_encoder):
            return False
        context.width, context.height, context.pix_fmt = width, height, encoder.pixel_format
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        frame = VideoFrame(width, height, encoder.pixel_format)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = 0
        made = [*context.encode(frame), *context.encode(None)]
    except (av.error.FFmpegError, LookupError, ValueError, RuntimeError, NotImplementedError, MemoryError) as error:
        log.info("The encoder %s does not work on this machine: %s", encoder.name, error)
        return False
    return any(packet.size for packet in made)


def accelerator(encoder: str) -> HWAccel | None:
    """The device to upload frames to before encoding. None: the encoder uploads them itself."""
    return HWAccel("vaapi") if encoder.endswith("_vaapi") else None
