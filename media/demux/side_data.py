"""Side data of frames: display matrix, and metadata that the result can't hold."""

from __future__ import annotations

import struct
from typing import Final, cast

from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame

# PyAV reads this side data but can't attach it to a frame, so no encoder receives it.
_UNSUPPORTED: Final = {
    Type.A53_CC: "Closed captions inside the picture (CEA-608/708) are dropped.",
    Type.STEREO3D: "The stereoscopic (3D) picture is kept, but its 3D metadata is dropped.",
    Type.SPHERICAL: "The spherical (360°) picture is kept, but its 360° metadata is dropped.",
    Type.DYNAMIC_HDR_PLUS: "HDR10+ metadata is dropped.",
    Type.DOVI_METADATA: "Dolby Vision metadata is dropped.",
}


def side_data(frame: VideoFrame) -> dict[Type, bytes]:
    """Side data of a frame, by type."""
    try:
        return {cast(SideData, data).type: bytes(cast(SideData, data)) for data in frame.side_data}
    except ValueError:  # PyAV opens none if a frame has one of a type (EXIF) that PyAV does not know
        return {}


def unsupported_side_data(frame: VideoFrame) -> list[str]:
    """One warning for each kind of the frame's side data that the result can't hold."""
    data = side_data(frame)
    return [warning for kind, warning in _UNSUPPORTED.items() if kind in data]


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers of the matrix by which a player rotates the picture. None: no rotation."""
    data = side_data(frame).get(Type.DISPLAYMATRIX)
    if data is not None and len(data) == 36:
        return struct.unpack("=9i", data)
    # EXIF also rotates pictures. PyAV hides EXIF's matrix, but knows the angle.
    turn = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}.get(-int(frame.rotation) % 360)
    if turn is None:
        return None
    cosine, sine = (part << 16 for part in turn)
    return (cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
