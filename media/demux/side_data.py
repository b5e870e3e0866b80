"""Side data of frames: display matrix, and metadata that the result can't hold."""

from __future__ import annotations

import struct
from typing import Final, cast

from av.packet import Packet
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_NAMES: Final = {28: "LCEVC", 29: "VIEW_ID", 32: "DYNAMIC_HDR_SMPTE_2094_APP5"}
"""libav's types that PyAV has no name for."""

# No encoder receives this side data: PyAV reads it at most, but can't attach it to a frame.
_UNSUPPORTED: Final = {
    "A53_CC": "Closed captions inside the picture (CEA-608/708) are dropped.",
    "STEREO3D": "The stereoscopic (3D) picture is kept, but its 3D metadata is dropped.",
    "SPHERICAL": "The spherical (360°) picture is kept, but its 360° metadata is dropped.",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata is dropped.",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata is dropped.",
    "DYNAMIC_HDR_SMPTE_2094_APP5": "Dynamic HDR metadata (SMPTE ST 2094-50) is dropped.",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata is dropped; the base layer is kept.",
    "DOVI_METADATA": "Dolby Vision metadata is dropped; the base layer is kept.",
    "AMBIENT_VIEWING_ENVIRONMENT": "The HDR metadata about the light around the screen is dropped.",
    "ICC_PROFILE": "The ICC colour profile is dropped.",
    "ALPHA": "Transparent parts of the picture, which begin after the first frame, are shown as opaque.",
    "LCEVC": "The LCEVC enhancement layer is dropped; the base picture is kept.",
    "VIEW_ID": "The video has a picture for each eye (MV-HEVC); only the first one is kept.",
}
_ALPHA_ADDITION: Final = (1).to_bytes(8, "big")
DOLBY_VISION: Final = _UNSUPPORTED["DOVI_METADATA"]
SECOND_VIEW: Final = _UNSUPPORTED["VIEW_ID"]


def _unnamed(kind: type[Type], number: int) -> Type:
    """A member for a number that PyAV does not know."""
    member = object.__new__(kind)
    vars(member).update(_name_=_NAMES.get(number, f"UNKNOWN_{number}"), _value_=number)
    kind._value2member_map_[number] = member
    return member


# PyAV opens no side data of a frame at all if a single one has a type without a name.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment,method-assign]


def side_data(frame: VideoFrame) -> dict[str, bytes]:
    """Side data of a frame, by libav's name of the type."""
    return {cast(SideData, data).type.name: bytes(cast(SideData, data)) for data in frame.side_data}


def has_alpha_channel(packet: Packet[VideoStream]) -> bool:
    """Whether the packet has WebM's alpha channel: a BlockAdditional with the number 1.

    The track's AlphaMode only allows an alpha channel. Browsers' recordings have the mode, but no alpha channel.
    """
    if packet.stream.metadata.get("alpha_mode") != "1" or not packet.has_sidedata("matroska_block_additional"):
        return False
    return bytes(packet.get_sidedata("matroska_block_additional"))[:8] == _ALPHA_ADDITION


def unsupported_side_data(frame: VideoFrame, packet: Packet[VideoStream] | None = None) -> list[str]:
    """A warning for each kind of side data of frame and packet that the result can't hold."""
    kinds = set(side_data(frame))
    if packet is not None and has_alpha_channel(packet):
        kinds.add("ALPHA")
    if "VIEW_ID" in kinds:
        kinds.discard("STEREO3D")  # describes the pair
    return list(dict.fromkeys(warning for kind, warning in _UNSUPPORTED.items() if kind in kinds))


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers of the matrix by which a player rotates the picture. None: no rotation."""
    data = side_data(frame).get("DISPLAYMATRIX")
    if data is not None and len(data) == 36:
        return struct.unpack("=9i", data)
    # EXIF also rotates pictures. PyAV hides EXIF's matrix, but knows the angle.
    turn = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}.get(-int(frame.rotation) % 360)
    if turn is None:
        return None
    cosine, sine = (part << 16 for part in turn)
    return (cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
