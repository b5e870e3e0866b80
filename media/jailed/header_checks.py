"""Refusals and warnings from the container's header."""

from __future__ import annotations

import sys
from typing import Final

from av.stream import Disposition
from av.video.stream import VideoStream

from media.demux.side_data import DOLBY_VISION, SECOND_VIEW
from media.demux.track_header import DolbyVision, TrackHeader
from media.errors import UnusableVideo

ENCRYPTED: Final = "The video is encrypted (DRM), so its pictures can't be read. Take a copy without encryption."
_OWN_COLORS: Final = (
    "The video is Dolby Vision profile {}, whose colours only Dolby Vision players can show. "
    "Convert the video to HDR10 or SDR first."
)
_ALWAYS_OWN: Final = 5
"""The profile whose base layer is never compatible with other formats."""
_VDR_PROFILE, _FULL_RANGE, _ORDER = 4, 10, sys.byteorder
"""Places of vdr_rpu_profile and bl_video_full_range_flag in libav's AVDOVIRpuDataHeader."""
_MAYBE_OWN: Final = (10, 20)
"""Profiles whose base layer can be compatible: AV1, and MV-HEVC."""


def check_encryption(header: TrackHeader) -> None:
    """Raise UnusableVideo for an encrypted track."""
    if header.encrypted:
        raise UnusableVideo(ENCRYPTED)


def check_dolby_vision(record: DolbyVision | None, metadata: bytes | None) -> None:
    """Raise UnusableVideo if the base layer of Dolby Vision has colours of its own (IPT).

    Args:
        record: from the container's header.
        metadata: libav's AVDOVIMetadata of the first frame, for streams without such a header.
    """
    profile = _profile(metadata) if record is None else record.profile
    if profile == _ALWAYS_OWN or (record and profile in _MAYBE_OWN and record.base_layer == 0):
        raise UnusableVideo(_OWN_COLORS.format(profile))


def _profile(metadata: bytes | None) -> int | None:
    """5 if the frame is of profile 5: libav's rule for streams that do not name their profile."""
    if metadata is None or len(metadata) < 8:
        return None
    header = metadata[int.from_bytes(metadata[:8], _ORDER) :]
    return _ALWAYS_OWN if len(header) > _FULL_RANGE and header[_VDR_PROFILE] == 0 and header[_FULL_RANGE] else None


def header_warnings(header: TrackHeader, stream: VideoStream) -> list[str]:
    """Warnings about parts of the video that the result does not hold."""
    warnings = []
    if header.crop:
        warnings.append(
            f"The container crops the picture of {header.crop.of[0]}×{header.crop.of[1]} to "
            f"{header.crop.width}×{header.crop.height}; the result holds the shown part."
        )
    if header.dolby_vision:
        warnings.append(DOLBY_VISION)
        if header.dolby_vision.enhancement_layer:
            warnings.append("The enhancement layer of Dolby Vision is dropped.")
    if stream.disposition & Disposition.multilayer:
        warnings.append(SECOND_VIEW)
    return warnings
