"""Groups of frames, the network's unit of input."""

from __future__ import annotations

from dataclasses import dataclass

from media.live.codecs import Rgb
from service.rpc.session import FrameTicket
from service.rpc.stream_config import StreamConfig


@dataclass(frozen=True)
class FrameGroup:
    """Frames for one call of the network."""

    frames: list[Rgb]
    tickets: list[FrameTicket]
    last: bool
    """The group ends its scene: the network also emits all frames held back as look-ahead, and drops its state."""


class FrameGrouper:
    """Collects frames until a call of the network can emit `chunk` frames (see `model.engine.upscaler.groups`)."""

    def __init__(self, config: StreamConfig, *, pending: int) -> None:
        """`pending`: number of look-ahead frames in the recurrent state, after a resumption."""
        self._config = config
        self._size = config.chunk + config.lookahead - pending
        self._frames: list[Rgb] = []
        self._tickets: list[FrameTicket] = []

    def add(self, rgb: Rgb, ticket: FrameTicket) -> FrameGroup | None:
        """Add a frame. Returns a group if complete."""
        self._frames.append(rgb)
        self._tickets.append(ticket)
        return self._take(last=False) if len(self._frames) >= self._size else None

    def add_last(self, rgb: Rgb, ticket: FrameTicket) -> None:
        """Add the stream's last frame. The frame always becomes part of the last group."""
        self._frames.append(rgb)
        self._tickets.append(ticket)

    def end(self) -> FrameGroup:
        """Return the remaining frames as the scene's last group, which may be empty."""
        group = self._take(last=True)
        self._size = self._config.chunk + self._config.lookahead
        return group

    def _take(self, *, last: bool) -> FrameGroup:
        group = FrameGroup(self._frames, self._tickets, last)
        self._frames, self._tickets = [], []
        self._size = self._config.chunk
        return group
