"""Facts of a video track from the container's header, for which PyAV has no accessor.

The crop, encryption and Dolby Vision's profile.
"""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Final, NamedTuple

from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from media.color.crop import Crop
from media.demux.boxes import SampleEntry, sample_entry
from media.demux.ebml import Elements, flat, unsigned, video_entry

_PIXEL_CROPS: Final = (0x54CC, 0x54BB, 0x54DD, 0x54AA)
"""Matroska's PixelCropLeft, …Top, …Right, …Bottom."""
_ENCODING_TYPE, _ENCRYPTION = 0x5033, 1
_MAPPING, _MAPPED_TYPE, _MAPPED_DATA = 0x41E4, 0x41E7, 0x41ED
"""Matroska's BlockAdditionMapping, BlockAddIDType, BlockAddIDExtraData."""
_DOLBY_VISION: Final = ("dvcC", "dvvC", "dvwC")
_ENCRYPTED_ENTRIES: Final = ("encv", "drmi")
_ASF_ENCRYPTION: Final = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),  # Content Encryption Object
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),  # Extended Content Encryption Object
)
_HEAD: Final = 1 << 18
"""Bytes at the start of a file that are searched for signs of encryption."""
_TS_SYNC: Final = rb"(?s)G.{187}G.{187}G|G.{191}G.{191}G"
_PES: Final = rb"(?s)\x00\x00\x01\xe0..([\x80-\xbf])"
"""Start of a video packet of a program stream, up to the byte with the scrambling control."""


class DolbyVision(NamedTuple):
    """Dolby Vision's configuration record."""

    profile: int
    enhancement_layer: bool
    base_layer: int
    """The picture of the base layer in other players. 0: nothing of use."""


class TrackHeader(NamedTuple):
    """The container's facts about a video track."""

    crop: Crop | None = None
    encrypted: bool = False
    dolby_vision: DolbyVision | None = None


def track_header(path: Path, container: InputContainer, stream: VideoStream) -> TrackHeader:
    """Read the header of the stream's track."""
    match container.format.name:
        case "mov,mp4,m4a,3gp,3g2,mj2":
            entry = sample_entry(path, stream.id)
            return TrackHeader() if entry is None else _from_boxes(entry, (stream.width, stream.height))
        case "matroska,webm":
            entries = [s.index for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            elements = video_entry(path, entries.index(stream.index))
            return TrackHeader() if elements is None else _from_elements(elements, (stream.width, stream.height))
        case "asf" | "asf_o":
            head = _head(path)
            header = head[: int.from_bytes(head[16:24], "little")]
            return TrackHeader(encrypted=any(mark in header for mark in _ASF_ENCRYPTION))
        case "mpegts":
            return TrackHeader(encrypted=_is_scrambled(_head(path), stream.id))
        case "mpeg":
            controls = [found[1][0] & 0x30 for found in re.finditer(_PES, _head(path))]
            return TrackHeader(encrypted=2 * sum(map(bool, controls)) > len(controls))
    return TrackHeader()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_scrambled(head: bytes, pid: int) -> bool:
    """Whether most of the transport packets of one stream have the scrambling control set."""
    found = re.search(_TS_SYNC, head)
    if found is None:
        return False
    size = (len(found[0]) - 1) // 2
    controls = [
        head[at + 3] >> 6
        for at in range(found.start(), len(head) - 3, size)
        if int.from_bytes(head[at + 1 : at + 3], "big") & 0x1FFF == pid
    ]
    return 2 * sum(map(bool, controls)) > len(controls)


def _from_boxes(entry: SampleEntry, size: tuple[int, int]) -> TrackHeader:
    records = [entry.boxes[name] for name in _DOLBY_VISION if name in entry.boxes]
    return TrackHeader(
        crop=_clean_aperture(entry.boxes.get("clap", b""), size),
        encrypted=entry.name in _ENCRYPTED_ENTRIES or "sinf" in entry.boxes,
        dolby_vision=_dolby_vision(records[0]) if records else None,
    )


def _from_elements(elements: Elements, size: tuple[int, int]) -> TrackHeader:
    left, top, right, bottom = (unsigned(elements, crop) for crop in _PIXEL_CROPS)
    mappings = [flat(content) for content in elements.get(_MAPPING, [])]
    names = [name.encode() for name in _DOLBY_VISION]
    records = [m[_MAPPED_DATA][0] for m in mappings if _MAPPED_DATA in m and m.get(_MAPPED_TYPE, [b""])[0] in names]
    return TrackHeader(
        crop=_checked(Crop(left, top, size[0] - left - right, size[1] - top - bottom, size)),
        encrypted=unsigned(elements, _ENCODING_TYPE) == _ENCRYPTION,
        dolby_vision=_dolby_vision(records[0]) if records else None,
    )


def _clean_aperture(data: bytes, size: tuple[int, int]) -> Crop | None:
    """The crop of MP4's box clap: size, and offset between the centres, as fractions."""
    if len(data) < 32:
        return None
    numbers = struct.unpack(">IIIIiIiI", data[:32])
    if not all(numbers[1::2]):
        return None
    width, height, right, down = (Fraction(n, d) for n, d in zip(numbers[::2], numbers[1::2], strict=True))
    left, top = (size[0] - width) / 2 + right, (size[1] - height) / 2 + down
    return _checked(Crop(round(left), round(top), round(width), round(height), size))


def _checked(crop: Crop) -> Crop | None:
    """The crop. None if the whole picture is shown, or the numbers make no sense."""
    inside = crop.left + crop.width <= crop.of[0] and crop.top + crop.height <= crop.of[1]
    possible = inside and min(crop.left, crop.top) >= 0 and min(crop.width, crop.height) > 0
    return crop if possible and (crop.width, crop.height) != crop.of else None


def _dolby_vision(record: bytes) -> DolbyVision | None:
    """Parse the content of the boxes dvcC and dvvC."""
    if len(record) < 5:
        return None
    bits = int.from_bytes(record[2:4], "big")
    return DolbyVision(profile=bits >> 9, enhancement_layer=bool(bits & 2), base_layer=record[4] >> 4)
