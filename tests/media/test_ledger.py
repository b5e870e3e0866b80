"""The ledger: every loss becomes a sentence with its number, and an unexplained difference does too."""

from __future__ import annotations

import pytest

from media.ledger import Amount, Ledger, Missing, TrackLedger, track_warnings, warnings
from media.sandbox.protocol import Decoded, InvalidMessage, from_line, to_line


def test_a_flawless_track_says_nothing() -> None:
    track = TrackLedger(read=Amount(10, 10, 0.4), written=Amount(10, 10, 0.4))
    assert track.flawless
    assert list(track_warnings(track)) == []


@pytest.mark.parametrize(
    ("track", "sentence"),
    [
        (
            TrackLedger(promised=Amount(seconds=1132.05), written=Amount(frames=37), breaks_off=True),
            "The file breaks off: 37 frames of 1132 s could be read; the rest of the video is missing.",
        ),
        (
            TrackLedger(
                promised=Amount(250, 250, 10.0),
                written=Amount(frames=149),
                missing={Missing.CUT_OFF: 101},
                breaks_off=True,
            ),
            "The file breaks off: 149 frames of 10 s could be read; 101 frames are missing.",
        ),
        (
            TrackLedger(read=Amount(frames=78), written=Amount(frames=15), missing={Missing.NO_KEYFRAME: 63}),
            "63 of 78 frames are missing: the file lacks the earlier frames that they refer to.",
        ),
        (TrackLedger(read=Amount(frames=5), written=Amount(frames=4)), "1 frame is missing."),
        (
            TrackLedger(2, "audio", read=Amount(9), written=Amount(6), missing={Missing.REPEATED_TIME: 3}),
            "Audio track 2 loses 3 packets with a repeated timestamp.",
        ),
        (
            TrackLedger(1, "audio", read=Amount(9), written=Amount(8), missing={Missing.UNDECODABLE: 2}),
            "2 packets of audio track 1 could not be decoded; silence replaces them.",
        ),
        (TrackLedger(1, "audio"), "Audio track 1 has no data in the file; the result lacks its sound."),
        (
            TrackLedger(
                1, "audio", promised=Amount(9), read=Amount(7), written=Amount(7), missing={Missing.CUT_OFF: 2}
            ),
            "Audio track 1 lacks 2 packets of 9: the file does not hold their data.",
        ),
    ],
)
def test_each_loss_is_said_with_its_number(track: TrackLedger, sentence: str) -> None:
    assert warnings(Ledger((track,))) == (sentence,)


def test_a_ledger_crosses_the_jail() -> None:
    ledger = Ledger()
    ledger.track(1, "audio").lose(Missing.REPEATED_TIME, 2)
    ledger.track(1, "audio").lose(Missing.REPEATED_TIME)
    ledger.track(1, "audio").lose(Missing.UNDECODABLE, 0)
    assert ledger.tracks[0].missing == {Missing.REPEATED_TIME: 3}
    assert from_line(to_line(Decoded(ledger))) == Decoded(ledger)


def test_an_unknown_reason_is_no_message() -> None:
    ledger = Ledger((TrackLedger(missing={Missing.CUT_OFF: 1}),))
    with pytest.raises(InvalidMessage):
        from_line(to_line(Decoded(ledger)).replace(b"cut off", b"stolen"))
