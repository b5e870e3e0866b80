"""Coding of single frames: sizes, colours, keyframes, and untrusted bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from media.errors import UnusableVideo
from media.live import codecs
from media.live.codecs import Coding, Format, FrameDecoder, encoder, frame_bytes
from media.types import ColorRange
from tests.support.media import children

COMPRESSED = [Format.JPEG, Format.PNG, Format.H264, Format.HEVC]


_decoders: list[FrameDecoder] = []


@pytest.fixture(autouse=True)
def _close_decoders(nothing_left_behind: None) -> Iterator[None]:
    yield
    while _decoders:
        _decoders.pop().close()


def decoder(coding: Coding) -> FrameDecoder:
    """A decoder that is closed at the end of the test."""
    _decoders.append(codecs.decoder(coding))
    return _decoders[-1]


def smooth(width: int, height: int, shift: int = 0) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    wave = [127 + 100 * np.sin((x + 2 * y + 3 * shift) / 15), 127 + 100 * np.cos((x + shift) / 11), 255 - 3.0 * y]
    return np.stack(wave, -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("format_", list(Format))
@pytest.mark.parametrize(("width", "height"), [(66, 48), (65, 47)])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("range_", [ColorRange.LIMITED, ColorRange.FULL])
def test_encoding_and_decoding_keep_the_picture(
    format_: Format, width: int, height: int, matrix: int, range_: ColorRange
) -> None:
    if format_.is_video:
        width, height = width & ~1, height & ~1  # a result is never odd: its size is a multiple of 4
    coding = Coding(format_, width, height, matrix=matrix, range=range_, crf=5, quality=95)
    there, back = encoder(coding), decoder(coding)
    coded = [there.encode(smooth(width, height, shift), key=shift == 2) for shift in range(4)]
    frames = [item for number, piece in enumerate(coded) for item in back.decode(piece.data, 10 * number)]
    frames += back.flush()
    assert [item.number for item in frames] == [0, 10, 20, 30]
    assert [piece.key for piece in coded] == ([True, False, True, False] if format_.is_video else [True] * 4)
    lossless = format_ in (Format.RGB24, Format.PNG)
    for shift, item in enumerate(frames):
        assert np.abs(item.rgb.astype(int) - smooth(width, height, shift)).mean() <= (0 if lossless else 2.5)
    if (size := frame_bytes(coding)) is not None:
        assert {len(piece.data) for piece in coded} == {size}


def test_the_named_matrix_is_used() -> None:
    """BT.709 luma of a plain colour in limited range, by the recommendation's formula."""
    rgb = np.full((16, 16, 3), (200, 50, 90), np.uint8)
    luma = 0.2126 * 200 + 0.7152 * 50 + 0.0722 * 90
    for range_, wanted in ((ColorRange.LIMITED, 16 + luma * 219 / 255), (ColorRange.FULL, luma)):
        data = encoder(Coding(Format.YUV420P, 16, 16, matrix=1, range=range_)).encode(rgb, key=True).data
        assert abs(data[0] - wanted) <= 1


@pytest.mark.parametrize("format_", COMPRESSED)
@pytest.mark.parametrize("data", [b"", b"garbage" * 30, b"\xff\xd8\xff", b"\x00\x00\x00\x01\x67" + bytes(40)])
def test_garbage_is_refused(format_: Format, data: bytes) -> None:
    """The error is immediate, or the decoder waits for more bytes and yields no frame."""
    victim = decoder(Coding(format_, 66, 48))
    with contextlib.suppress(UnusableVideo):
        assert victim.decode(data, 0) == []
        assert victim.flush() == []


@pytest.mark.parametrize("format_", COMPRESSED)
@pytest.mark.parametrize(("width", "height"), [(200, 100), (1200, 800), (64, 48)])
def test_another_size_is_refused(format_: Format, width: int, height: int) -> None:
    data = encoder(Coding(format_, width, height)).encode(np.zeros((height, width, 3), np.uint8), key=True).data
    victim = decoder(Coding(format_, 66, 48))
    with pytest.raises(UnusableVideo):
        (victim.decode(data, 0), victim.flush())


def test_raw_frames_have_one_size() -> None:
    with pytest.raises(UnusableVideo, match=r"10 bytes; 66x48 YUV420P has 4,752"):
        decoder(Coding(Format.YUV420P, 66, 48)).decode(bytes(10), 0)


def test_a_dead_process_is_an_error_and_the_next_frame_gets_a_new_one() -> None:
    coding = Coding(Format.PNG, 66, 48)
    data = encoder(coding).encode(smooth(66, 48), key=True).data
    victim = decoder(coding)
    assert children() == [], "the process starts with the first frame"
    assert len(victim.decode(data, 0)) == 1
    (child,) = children()
    os.kill(int(child), signal.SIGKILL)
    with pytest.raises(UnusableVideo, match="SIGKILL"):
        victim.decode(data, 1)
    assert [item.number for item in victim.decode(data, 2)] == [2]


def test_a_frame_that_takes_too_long_ends_the_process() -> None:
    """Also a frame that fills the pipe to a process that reads nothing. The start of the process may take longer."""
    coding = Coding(Format.PNG, 66, 48)
    data = encoder(coding).encode(smooth(66, 48), key=True).data
    for size in (0, 2**20):
        with contextlib.closing(codecs.decoder(coding)) as victim:
            victim.decode(data, 0)
            victim._decoder._child._process.patience = 0.5  # type: ignore[attr-defined]
            os.kill(int(children()[0]), signal.SIGSTOP)
            with pytest.raises(UnusableVideo, match="SKIPVSR_MAX_DECODER_SECONDS"):
                victim.decode(data + bytes(size), 1)
            assert children() == []


def test_closing_ends_a_decoder_that_another_thread_uses() -> None:
    coding = Coding(Format.PNG, 66, 48)
    data = encoder(coding).encode(smooth(66, 48), key=True).data
    victim = decoder(coding)
    victim.decode(data, 0)
    os.kill(int(children()[0]), signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(victim.decode, data, 1)
        time.sleep(0.1)
        victim.close()
        with pytest.raises(UnusableVideo):
            waiting.result(60)
    with pytest.raises(UnusableVideo, match="ended"):
        victim.decode(data, 2)
