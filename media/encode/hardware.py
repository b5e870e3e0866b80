"""Which encoder does the work: a hardware one where there is one that works, found out by trying; else software.

Hardware encoders give other bytes on other machines. So they are used only where the setting says so, and a job that is
resumed where its encoder is missing starts again.
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
"""Hardware, in the order in which `auto` tries it."""
_SOFTWARE: Final = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}


@dataclass(frozen=True)
class Encoder:
    """An encoder of libav, and the format of the frames that it takes."""

    name: str
    pixel_format: str


def choose(codec: str, wish: str, width: int, height: int, *, deep: bool = False) -> Encoder:
    """The encoder for a codec (h264, hevc, av1) and frames of width × height, of 10 bits if `deep`.

    `wish` is software, nvenc, vaapi, or auto for the first of these two that works. Each is tried with a frame of that
    size, once a process; where none works it is software, and the log says so.
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
        "%s encodes %s at %d×%d: %s does not work here",
        software.name,
        codec,
        width,
        height,
        " or ".join(wished),
    )
    return software


@cache
def works(encoder: Encoder, width: int, height: int) -> bool:
    """Whether an encoder really encodes a frame here."""
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
        log.info("the encoder %s does not work here: %s", encoder.name, error)
        return False
    return any(packet.size for packet in made)


def accelerator(encoder: str) -> HWAccel | None:
    """The device that frames are uploaded to before encoding, where the encoder doesn't do it by itself."""
    return HWAccel("vaapi") if encoder.endswith("_vaapi") else None
