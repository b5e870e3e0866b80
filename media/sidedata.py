"""What comes beside a picture: looked at, and named where a result can't have it."""

from __future__ import annotations

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
