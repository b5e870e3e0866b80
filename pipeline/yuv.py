"""Conversion to YUV: on the network's device if that is an accelerator, else beside the encoder."""

from __future__ import annotations

from media.color.planes import LAYOUTS, chroma_place, luma_weights
from media.spec import OutputSpec
from media.types import ColorRange
from model.engine.upscaler import Upscaler
from model.engine.yuv import YuvFormat


def device_format(model: Upscaler, spec: OutputSpec, width: int, height: int) -> YuvFormat | None:
    """Return the format of the frames that cross from the network to the encoder; None: RGB.

    `width` and `height` are those of the source. Frames cross as RGB from a CPU, and if the encoder's frames are
    smaller than the network's, mirrored, or of another kind than 4:2:0.
    """
    layout = LAYOUTS.get(spec.pixel_format)
    same_size = (spec.width, spec.height) == (width * model.scale, height * model.scale)
    if layout is None or not model.network.accelerated or not same_size or spec.flip:
        return None
    (red, blue), place = luma_weights(spec.color), chroma_place(spec.color)
    full = spec.color.range == ColorRange.FULL
    return YuvFormat(red, blue, full, layout.bits, layout.interleaved, layout.shift, place.row, place.on_column)
