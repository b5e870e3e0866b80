"""HDR pictures (PQ, HLG) as SDR, for previews. Results keep HDR."""

from __future__ import annotations

from typing import Final

from av.video.frame import VideoFrame

from media.color.filters import filter_chain

_PQ, _HLG = 16, 18
"""Transfer characteristics (H.273, table 3)."""
_BT2020: Final = 9
"""Primaries (H.273, table 2)."""
_WHITE: Final = 203.0
"""cd/m² of diffuse white (ITU-R BT.2408)."""
_BRIGHTEST: Final = 1000.0
"""cd/m² that become white; brighter light is cut off."""
_LIGHT: Final = {
    _PQ: f"{10000 / _WHITE}*pow(max(pow(V,0.01268331)-0.8359375,0)/(18.8515625-18.6875*pow(V,0.01268331)),6.27739463)",
    _HLG: f"{_BRIGHTEST / _WHITE}*pow(if(lt(V,0.5),V*V/3,(exp((V-0.55991073)/0.17883277)+0.28466892)/12),1.2)",
}
"""Light relative to diffuse white, from a code value V of 0 to 1 (ITU-R BT.2100)."""
_SRGB: Final = "if(lt(V,0.0031308),12.92*V,1.055*pow(V,0.41666667)-0.055)"
_TO_BT709: Final = (
    "colorchannelmixer=rr=1.6605:rg=-0.5876:rb=-0.0728:gr=-0.1246:gg=1.1329:gb=-0.0083:br=-0.0182:bg=-0.1006:bb=1.1187"
)
"""BT.2020's primaries in BT.709's, for linear light."""


def to_sdr(rgb: VideoFrame, transfer: int, primaries: int) -> VideoFrame:
    """A picture of full range as rgb24, with the primaries of BT.709 and sRGB's curve. SDR pictures keep their values.

    Highlights are compressed (extended Reinhard), each channel by itself.
    """
    if transfer in _LIGHT:
        frame = rgb.reformat(format="rgb48le")
        most = (_BRIGHTEST / _WHITE) ** 2
        tone = f"st(0,{_LIGHT[transfer]});ld(0)*(1+ld(0)/{most})/(1+ld(0))"
        primary = [_TO_BT709] if primaries == _BT2020 else []
        graph = filter_chain(frame, _curve(tone), *primary, _curve(_SRGB))
        graph.vpush(frame)
        rgb = graph.vpull()
    return rgb if rgb.format.name == "rgb24" else rgb.reformat(format="rgb24")


def _curve(expression: str) -> str:
    """A filter that maps each channel by an expression of V."""
    mapped = f"'clip(65535*({expression.replace('V', '(val/65535)')}),0,65535)'"
    return f"lutrgb=r={mapped}:g={mapped}:b={mapped}"
