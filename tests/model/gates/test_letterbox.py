"""Where black bars end, and that gates leave nothing out there."""

import numpy as np
import pytest
import torch

from model.gates.letterbox import BESIDE, DARK, letterbox_edges
from model.mask.rectangles import Rectangle
from tests.model.gates.test_estimator import estimator, images, moving, run, upscaler, with_error_budget


def framed(
    top: int = 0, bottom: int = 0, left: int = 0, right: int = 0, size: tuple[int, int] = (60, 90)
) -> np.ndarray:
    """A grey frame with bars that thick."""
    frame = np.full((*size, 3), 90, np.uint8)
    frame[:top] = frame[size[0] - bottom :] = 16
    frame[:, :left] = frame[:, size[1] - right :] = 16
    return frame


def lines(*frames: np.ndarray) -> list[tuple[list[int], list[int]] | None]:
    """The rows and the columns beside an end, of each frame."""
    found = letterbox_edges(torch.from_numpy(np.stack(frames)))
    return [e and (np.flatnonzero(e.rows).tolist(), np.flatnonzero(e.columns).tolist()) for e in found]


def test_the_lines_around_the_end_of_each_bar_are_found() -> None:
    letterbox = list(range(20 - BESIDE, 20 + BESIDE)), []
    tape = [], [*range(2 + BESIDE), *range(87 - BESIDE, 90)]
    assert lines(framed(top=20), framed(left=2, right=3), framed()) == [letterbox, tape, None]


def test_a_frame_that_is_dark_all_over_has_no_bar() -> None:
    assert lines(np.full((60, 90, 3), DARK, np.uint8)) == [None]


def test_one_bright_pixel_makes_a_line_part_of_the_picture() -> None:
    frame = framed(top=20)
    frame[0, 50] = 200
    assert lines(frame) == [None]


def test_frames_of_sixteen_bits_have_the_same_bars() -> None:
    wide = framed(bottom=9).astype(np.uint16) * 257
    assert lines(wide) == lines(framed(bottom=9)) != [None]


def test_parts_of_a_box_are_beside_an_end_where_one_of_their_lines_is() -> None:
    (ends,) = letterbox_edges(torch.from_numpy(framed(top=20)[None]))
    assert ends
    # rows 12 to 27 are beside the end; of the rectangle those from 4 on, in parts of 8
    assert ends.within(Rectangle(8, 10, 40, 34), range(0, 32, 8), [0, 12]).tolist() == [[True, True]] * 3 + [
        [False, False]
    ]


def test_gates_leave_nothing_out_where_a_bar_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.gates.skipping.CELL", 24)
    clip = moving(height=96, width=96)  # four by four cells
    clip[:, :40] = 0
    gated, dense = run(upscaler(estimator(added=-10.0)), clip, with_error_budget(0.5)), run(upscaler(None), clip, "off")
    shares = [report.skip_ratio for report in gated[0].reports]
    # of four rows of cells the second holds the lines beside the end; the last frame's backward branch runs whole
    assert shares == pytest.approx([3 / 6] * 4 + [3 / 12], abs=1e-3)
    other = run(upscaler(estimator(added=-10.0)), moving(height=96, width=96), with_error_budget(0.5))
    assert [report.skip_ratio for report in other[0].reports] == pytest.approx([4 / 6] * 4 + [2 / 6], abs=1e-3)
    near = np.s_[-1, 40 * 4 - 8 : 40 * 4 + 8]  # the upsampler's gate too: far from skipped tiles it is the dense one's
    assert np.abs(images(gated)[near].astype(int) - images(dense)[near]).mean() < 1.0
