"""Cover pictures and attached files."""

from __future__ import annotations

from typing import Final

from av.container import InputContainer, OutputContainer
from av.stream import AttachmentStream, Disposition, Stream

_PICTURES: Final = {"png": ("png", "image/png"), "mjpeg": ("jpg", "image/jpeg")}
"""Codec of a cover → file suffix and media type of the attachment."""


def is_cover(stream: Stream) -> bool:
    """Whether the stream is the file's cover picture."""
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def becomes_attachment(kind: str, stream: Stream) -> bool:
    """Whether a container of a kind holds this cover as an attachment."""
    context = stream.codec_context
    return kind == "mkv" and is_cover(stream) and context is not None and context.codec.canonical_name in _PICTURES


def add_covers(target: OutputContainer, kind: str, source: InputContainer) -> None:
    """Add covers to a container with covers as attachments. Reads `source` only up to the covers."""
    for stream in source.streams:
        if not becomes_attachment(kind, stream):
            continue
        # Covers precede all other packets.
        packet = next((packet for packet in source.demux(stream) if packet.size), None)
        if packet is not None and stream.codec_context is not None:
            suffix, media_type = _PICTURES[stream.codec_context.codec.canonical_name]
            target.add_attachment(stream.metadata.get("filename", f"cover.{suffix}"), media_type, bytes(packet))


def add_attachments(
    target: OutputContainer, kind: str, attachments: tuple[AttachmentStream, ...], warnings: list[str]
) -> None:
    """Copy fonts and other attached files to mkv. For other containers, add a warning about each."""
    for stream in attachments:
        name = stream.metadata.get("filename", f"attachment {stream.index}")
        if kind == "mkv":
            target.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
        else:
            warnings.append(f"The attachment {name} is dropped because {kind} can't hold attachments.")
