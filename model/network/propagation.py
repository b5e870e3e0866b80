"""The bidirectional recurrence: the order in which both branches visit the frames of a clip.

Training (`BasicVSR.propagate`), estimator fitting (`model.training.fit_estimator`) and the streaming engine
(`model.engine.execute`) compute a frame in different ways. All three hand their steps to these functions.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Branches(Protocol):
    """The steps of one clip. Features are [B, C, H, W]."""

    def backward(self, index: int, after: Tensor | None) -> Tensor | None:
        """Return the backward features at frame `index`, given those of the frame after; None at the last frame.

        May return `after`, also None, if no later step needs the features of this frame.
        """

    def forward(self, index: int, back: Tensor | None, before: Tensor | None) -> Tensor | None:
        """Return the forward features at frame `index` from its backward and the previous frame's features."""

    def output(self, index: int, back: Tensor | None, feat: Tensor | None) -> None:
        """Use the features of both branches at frame `index`, usually to reconstruct the HR frame."""


def propagate(branches: Branches, frames: int, emitted: int, before: Tensor | None = None) -> Tensor | None:
    """Run the backward branch over `frames` frames, then the forward branch over the first `emitted` of them.

    `before` holds the forward features [B, C, H, W] of the frame before the clip, None at the start of a stream.
    Returns the forward features at the last emitted frame.
    """
    return completed(forward_steps(branches, completed(backward_steps(branches, frames, emitted)), before))


def backward_steps(branches: Branches, frames: int, emitted: int) -> Generator[None, None, list[Tensor | None]]:
    """Run the backward branch over `frames` frames; yield after each frame.

    Returns the features of the first `emitted` frames, the last of these first.
    """
    backs: list[Tensor | None] = []
    back: Tensor | None = None
    for index in reversed(range(frames)):
        back = branches.backward(index, back)
        if index < emitted:
            backs.append(back)
        yield
    return backs


def forward_steps(
    branches: Branches, backs: list[Tensor | None], before: Tensor | None
) -> Generator[None, None, Tensor | None]:
    """Run the forward branch, given the result of `backward_steps`; yield after each frame. Empties `backs`.

    Returns the forward features at the last frame.
    """
    feat = before
    for index in range(len(backs)):
        back = backs.pop()
        feat = branches.forward(index, back, feat)
        branches.output(index, back, feat)
        yield
    return feat


def completed(steps: Generator[None, None, T]) -> T:
    """Run all steps, and return their value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
