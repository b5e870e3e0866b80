"""Settings of each encoder: closed groups of pictures, reproducible bytes, colour tags in the stream."""

from __future__ import annotations

import os
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Final

from av.codec.context import Flags
from av.video.stream import VideoStream

from media.color.hdr import MasteringDisplay, mastering_display
from media.types import OutputSpec

HARDWARE: Final = {
    "nvenc": {"preset": "p5", "tune": "hq", "rc": "vbr", "forced-idr": "1"},
    "vaapi": {"rc_mode": "CQP"},
}
"""Options of hardware encoders at each quality."""
_MOST_THREADS: Final = 4
"""At 720p, more threads delay frames without being faster."""
_FEW_CORES: Final = 4

# Measured by `python -m benchmarks.encoders` at 1280×720, crf 18, two cores, ms a frame / kB / luma dB: superfast
# 4.1 / 441 / 48.2, veryfast 6.9 / 226 / 47.0, faster 13.6 / 263 / 47.8, medium 20.3 / 255 / 47.8.
_PRESET: Final = "veryfast"
_COARSE: Final = "partitions=i8x8,i4x4"
"""No motion of 8x8 pixels. Enlarged frames hold no motion so fine: without it, six clips that `small` enlarged took 9
to 28 % less time, and 3 % fewer to 1 % more bytes at equal PSNR and SSIM. A camera's own frames would take 9 % more."""
_PQ: Final = 16
"""H.273's transfer characteristics of HDR10."""


def job_threads(cores: int, *, shared: bool) -> int:
    """Threads of the encoder for a job on this machine. A resumed job keeps its number of threads:
    the bytes depend on this number.

    On few cores, the network needs the time of all: there, one thread takes a tenth less time in all than four, pushes
    fewer of the network's threads aside, and makes files 2 to 5 % smaller.

    Args:
        cores: cores of this process.
        shared: whether the network computes on the same cores.
    """
    return 1 if shared and cores <= _FEW_CORES else _MOST_THREADS


def configure(stream: VideoStream, spec: OutputSpec) -> None:
    """Set up the encoder of `stream`. Its time base is one nominal frame."""
    context = stream.codec_context
    stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, spec.pixel_format
    stream.time_base = spec.time_base
    context.framerate = _common_rate(spec.encoder_rate or spec.frame_rate)
    context.time_base = 1 / context.framerate
    context.thread_count = spec.threads
    context.flags |= Flags.closed_gop | Flags.bitexact
    context.sample_aspect_ratio = spec.sample_aspect_ratio
    color = spec.color
    context.colorspace, context.color_range = color.matrix, int(color.range)
    context.color_primaries, context.color_trc = color.primaries, color.transfer
    if color.chroma_location != "unspecified":
        context.options["chroma_sample_location"] = color.chroma_location
    context.options.update(_OPTIONS[spec.encoder](spec))


@cache
def repeatable_x264() -> tuple[str, ...]:
    """Parameters for reproducible bytes of x264 on this machine.

    On CPUs with AVX512, x264's MB-tree reads uninitialised memory. With a used heap, up to half of the runs gave
    different bytes (core 165, 24 frames of 576x384). With the AVX2 code, none of 138 runs did, at the same speed.
    """
    try:
        return ("asm=avx2",) if "avx512f" in Path("/proc/cpuinfo").read_text() else ()
    except OSError:
        return ()


def _x264(spec: OutputSpec) -> dict[str, str]:
    params = ["open-gop=0", *repeatable_x264(), *_hdr(spec, "mastering-display", "cll")]
    if spec.enlarged:
        params.append(_COARSE)
    return {"preset": _PRESET, "crf": str(spec.crf), "x264-params": ":".join(params)}


def _x265(spec: OutputSpec) -> dict[str, str]:
    # x265 gives the same bytes on every run only without frame parallelism and with one pool.
    params = [
        "open-gop=0",
        "log-level=none",
        f"pools={spec.threads}",
        "frame-threads=1",
        "repeat-headers=0",
        "info=0",
        *_hdr(spec, "master-display", "max-cll"),
    ]
    if spec.color.transfer == _PQ:
        params.append("hdr10=1")
    return {"preset": "superfast", "crf": str(spec.crf), "x265-params": ":".join(params)}


def _svtav1(spec: OutputSpec) -> dict[str, str]:
    params = ["lp=1", *_hdr(spec, "mastering-display", "content-light")]
    os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 writes to standard error, past libav's log
    return {"preset": "8", "crf": str(_scaled_crf(spec)), "svtav1-params": ":".join(params)}


def _nvenc(spec: OutputSpec) -> dict[str, str]:
    # 0 is no quality but automatic: libav then asks for 2 Mbit/s
    return {**HARDWARE["nvenc"], "cq": str(max(1, _scaled_crf(spec)))}


def _vaapi(spec: OutputSpec) -> dict[str, str]:
    return {**HARDWARE["vaapi"], "qp": str(_scaled_crf(spec))}


def _scaled_crf(spec: OutputSpec) -> int:
    """CRF on the encoder's scale: up to 63 for AV1, up to 51 for the others."""
    return round(spec.crf * (63 / 51 if spec.codec == "av1" else 1))


_OPTIONS = {
    "libx264": _x264,
    "libx265": _x265,
    "libsvtav1": _svtav1,
    **{f"{codec}_nvenc": _nvenc for codec in ("h264", "hevc", "av1")},
    **{f"{codec}_vaapi": _vaapi for codec in ("h264", "hevc", "av1")},
}


def _hdr(spec: OutputSpec, display: str, light: str) -> list[str]:
    """HDR10's static metadata as parameters. `display` and `light` are the encoder's names of them."""
    out: list[str] = []
    if (values := mastering_display(spec.mastering_display)) is not None:
        out.append(f"{display}={mastering_display_text(values, spec.encoder)}")
    if spec.content_light is not None:
        out.append(f"{light}={spec.content_light[0]},{spec.content_light[1]}")
    return out


def mastering_display_text(display: MasteringDisplay, encoder: str) -> str:
    """Format as `G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)`.

    Chromaticities in 1/50000 and luminances in 1/10000 cd/m². SVT-AV1 expects decimal fractions instead.
    """
    plain = encoder == "libsvtav1"

    def xy(point: tuple[Fraction, Fraction]) -> str:
        return ",".join(f"{float(v):.5f}" if plain else str(round(v * 50000)) for v in point)

    def nits(value: Fraction) -> str:
        return f"{float(value):.4f}" if plain else str(round(value * 10000))

    return (
        f"G({xy(display.green)})B({xy(display.blue)})R({xy(display.red)})WP({xy(display.white)})"
        f"L({nits(display.brightest)},{nits(display.darkest)})"
    )


def _common_rate(rate: Fraction) -> Fraction:
    """The nearest frame rate that every encoder accepts."""
    return min(max(rate, Fraction(1)), Fraction(240)).limit_denominator(1001)
