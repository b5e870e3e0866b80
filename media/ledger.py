"""The ledger of a job: the promised, read, written and missing parts of each track.

Demuxer, decoder and muxer write into the ledger. `warnings` makes all sentences about losses from it. A difference
without an explanation by a stage also gets a sentence: no loss is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from media.types import counted

_WOVEN_FILM: Final = (
    "The video is film that was woven into interlaced frames (hard telecine). Deinterlacing keeps the frame rate and "
    "leaves a stutter; undo the telecine before (ffmpeg: fieldmatch,decimate)."
)

_UNHEARD_SECONDS: Final = 0.2
"""A conversion of sound may lose less: a codec's first and last samples, and rounding."""


class Missing(Enum):
    """Reason why a part of a track is missing in the result."""

    UNDECODABLE = "undecodable"
    """The decoder refused the packet."""
    NO_KEYFRAME = "no keyframe"
    """The frame needs frames that the file does not hold: before the first keyframe, or after a hole."""
    REPEATED_TIME = "repeated time"
    """The packet repeats a timestamp, or goes back."""
    CUT_OFF = "cut off"
    """The file ends before the packet."""


@dataclass
class Amount:
    """An amount of one track."""

    packets: int = 0
    frames: int = 0
    """Pictures. 0 for other tracks."""
    seconds: float = 0.0
    """Time from the first packet's start to the last packet's end."""


@dataclass
class TrackLedger:
    """Entries of one track."""

    index: int = 0
    """Index in the source."""
    kind: str = "video"
    """libav's type: video, audio or subtitle."""
    promised: Amount = field(default_factory=Amount)
    """Facts of headers and index. 0: they say nothing."""
    read: Amount = field(default_factory=Amount)
    """What the demuxer found. Frames: expected pictures, without hidden and discarded pictures."""
    written: Amount = field(default_factory=Amount)
    """Input of the next stage: the decoder's frames, or the result's packets."""
    missing: dict[Missing, int] = field(default_factory=dict)
    """Reason → number of frames (video) or packets (other tracks) that were not written."""
    concealed: int = 0
    """Corrupt frames that libav repaired by error concealment."""
    repaired_times: int = 0
    """Frames with a missing, repeated or impossible timestamp, which was replaced."""
    restarts: int = 0
    """Times at which the timestamps started over."""
    jumps: int = 0
    """Times at which the timestamps jumped ahead."""
    resized: int = 0
    """Frames that were scaled to the size of the others."""
    breaks_off: bool = False
    """Whether the file ends before the end of the track."""
    woven_film: bool = False
    """Whether the pictures are film that was woven into interlaced frames (hard telecine). Not a fault."""
    dropped_metadata: tuple[str, ...] = ()
    """Warnings about metadata of frames that the result can't hold. Not a fault."""

    def lose(self, reason: Missing, count: int = 1) -> None:
        """Add to the missing parts."""
        if count > 0:
            self.missing[reason] = self.missing.get(reason, 0) + count

    def lost(self, reason: Missing) -> int:
        """The missing parts, for a common reason."""
        return self.missing.get(reason, 0)

    @property
    def flawless(self) -> bool:
        """Whether nothing is missing, repaired or changed."""
        retimed = self.repaired_times or self.restarts or self.jumps
        return not (sum(self.missing.values()) or self.concealed or self.resized or retimed or self.breaks_off)

    @property
    def unexplained(self) -> int:
        """Frames that were read, but neither written nor entered as missing."""
        here = sum(count for reason, count in self.missing.items() if reason is not Missing.CUT_OFF)
        return max(0, self.read.frames - self.written.frames - here)


@dataclass
class Ledger:
    """Entries of all tracks that a stage handled."""

    tracks: tuple[TrackLedger, ...] = ()

    def track(self, index: int, kind: str) -> TrackLedger:
        """The entries of a track. A new track is added."""
        for track in self.tracks:
            if track.index == index:
                return track
        track = TrackLedger(index, kind)
        self.tracks = (*self.tracks, track)
        return track


def warnings(ledger: Ledger) -> tuple[str, ...]:
    """One sentence for each kind of loss and change in each track."""
    return tuple(sentence for track in ledger.tracks for sentence in track_warnings(track))


def track_warnings(track: TrackLedger) -> Iterator[str]:
    """One sentence for each kind of loss and change in a track."""
    sentences = _video(track) if track.kind == "video" else _other(track)
    yield from (sentence for count, sentence in sentences if count)
    yield from track.dropped_metadata


def _video(track: TrackLedger) -> Iterator[tuple[object, str]]:
    undecodable, unreferenced = track.lost(Missing.UNDECODABLE), track.lost(Missing.NO_KEYFRAME)
    yield track.breaks_off, _broken_off(track)
    yield track.concealed, f"{counted(track.concealed, 'damaged frame was', 'damaged frames were')} concealed."
    yield undecodable, f"{counted(undecodable, 'packet')} of the video could not be decoded; frames are missing."
    yield (
        unreferenced,
        f"{_of(unreferenced, track.read.frames)} {'is' if unreferenced == 1 else 'are'} missing: the file lacks the "
        "earlier frames that they refer to.",
    )
    yield track.unexplained, f"{counted(track.unexplained, 'frame is', 'frames are')} missing."
    repaired = counted(track.repaired_times, "frame")
    yield track.repaired_times, f"{repaired} had no usable timestamp and received a new one."
    yield track.restarts, "The video's timestamps start over; the later part follows the earlier part."
    yield track.jumps, "The file's timestamps jump ahead; the gap was removed."
    yield track.woven_film, _WOVEN_FILM
    resized = counted(track.resized, "frame was", "frames were")
    yield track.resized, f"The frame size changes; {resized} scaled to fit the others."


def _other(track: TrackLedger) -> Iterator[tuple[object, str]]:
    name = f"{track.kind.capitalize()} track {track.index}"
    repeated, cut = track.lost(Missing.REPEATED_TIME), track.lost(Missing.CUT_OFF)
    no_data = track.kind == "audio" and not track.read.packets
    yield no_data, f"{name} has no data in the file; the result lacks its sound."
    yield (
        cut and not no_data,
        f"{name} lacks {counted(cut, 'packet')} of {track.promised.packets}: the file does not hold their data.",
    )
    empty = track.read.packets and not track.written.packets
    yield empty, f"{name} could not be converted; the result lacks it."
    short = track.kind == "audio" and not empty and track.flawless and track.read.seconds - track.written.seconds
    yield (
        short > _UNHEARD_SECONDS,
        f"{name} lasts {track.written.seconds:.4g} s in the result, not {track.read.seconds:.4g} s.",
    )
    yield repeated, f"{name} loses {counted(repeated, 'packet')} with a repeated timestamp."
    silent = track.lost(Missing.UNDECODABLE)
    yield (
        silent,
        f"{counted(silent, 'packet')} of {name[0].lower()}{name[1:]} could not be decoded; silence replaces them.",
    )
    yield (
        track.restarts,
        f"The timestamps of {track.kind} track {track.index} start over; the later part follows the earlier part.",
    )


def _broken_off(track: TrackLedger) -> str:
    """The sentence about a file that ends early, with all known numbers."""
    seconds, cut = track.promised.seconds, track.lost(Missing.CUT_OFF)
    there = counted(track.written.frames, "frame")
    if seconds:
        there += f" of {seconds:.4g} s"
    rest = f"{counted(cut, 'frame is', 'frames are')} missing" if cut else "the rest of the video is missing"
    return f"The file breaks off: {there} could be read; {rest}."


def _of(count: int, total: int) -> str:
    return f"{count} of {counted(total, 'frame')}" if total > count else counted(count, "frame")
