"""What comes beside a picture: looked at, and named where a result can't have it."""

from __future__ import annotations

import struct
from typing import Final, cast

from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame

# PyAV reads such data and can't put them on a frame, so that no encoder sees them.
_LEFT_OUT: Final = {
    Type.A53_CC: "closed captions inside the picture (CEA-608/708) are left out",
    Type.STEREO3D: "the picture is stereoscopic (3D); it stays as it is, but what says so is left out",
    Type.SPHERICAL: "the picture is spherical (360°); it stays as it is, but what says so is left out",
    Type.DYNAMIC_HDR_PLUS: "HDR10+'s metadata are left out",
    Type.DOVI_METADATA: "Dolby Vision's metadata are left out",
}


def side_data(frame: VideoFrame) -> dict[Type, bytes]:
    """What comes with a frame, by its type."""
    try:
        return {cast(SideData, data).type: bytes(cast(SideData, data)) for data in frame.side_data}
    except ValueError:  # PyAV opens none of it if there is one (EXIF) that it has no name for
        return {}


def left_out(frame: VideoFrame) -> list[str]:
    """What of a frame's side data the result won't have, in words."""
    data = side_data(frame)
    return [words for kind, words in _LEFT_OUT.items() if kind in data]


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers of the matrix by which a player turns the picture; None if it doesn't."""
    data = side_data(frame).get(Type.DISPLAYMATRIX)
    if data is not None and len(data) == 36:
        return struct.unpack("=9i", data)
    # EXIF turns pictures, too, and hides its matrix from PyAV, which still tells the angle.
    turn = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}.get(-int(frame.rotation) % 360)
    if turn is None:
        return None
    cosine, sine = (part << 16 for part in turn)
    return (cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
