"""BasicVSR, one frame at a time.

Chan et al., "BasicVSR: The Search for Essential Components in Video Super-Resolution and Beyond", CVPR 2021
(https://arxiv.org/abs/2012.02181). One class serves the official network of 64 channels x 30 blocks and the light
networks of this project. `NetworkConfig` tells them apart; the checkpoint holds it (`model.zoo.weights_file`).

The network consists of *steps*: `flow`, `backward_step`, `forward_step`, `reconstruct`. The streaming engine calls the
steps and carries the recurrent state from chunk to chunk. `forward` runs the steps over a whole clip, for training and
as the reference. Parameter names are those of BasicSR.

Features are a quarter of the HR frame's height and width for every scale. A network for x2 therefore works on the
*folded* frame (`model.network.folding`): f x f LR pixels become the channels of one *feature pixel*. For x4, f is 1.

Shapes: B batch, T frames, C channels, H x W the LR size in feature pixels, s the scale, f the fold. Images are RGB in
[0, 1]. Flow is in feature pixels, channel 0 horizontal, channel 1 vertical: `warp(x, flow)[y, x] = x[y + flow_y, x +
flow_x]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network import propagation
from model.network.flow import FeatureTable, LightFlow, Pyramid, Sampled, SpyNet, warp
from model.network.folding import STRIDE, fold, means, unfold
from model.network.kernels import convolve, convolve_shuffled, convolve_sorted, with_remainder
from model.network.quantised import block_on_integers, stacked_on_integers

DEFAULT_SCALE: Final = 4
"""Enlargement of a network whose checkpoint names none."""
SCALES: Final = (2, 4)
"""Enlargements that a network can have."""
STRIDES: Final = (STRIDE, 2 * STRIDE)
"""Sides of a feature pixel in HR pixels that a network with a light tail can have."""
Branch = Literal["backward", "forward"]
TrunkFunction = Callable[[Tensor], Tensor]
"""Maps a branch's input [B, in, H, W] to hidden features [B, C, H, W]."""


@dataclass(frozen=True)
class NetworkConfig:
    """Hyperparameters of a network. The defaults are those of the paper."""

    channels: int = 64
    """Width of the hidden features and of every residual block."""
    blocks: int = 30
    """Residual blocks in each of the two branches."""
    flow: Literal["spynet", "light"] = "spynet"
    """Optical flow: SPyNet as in the paper, or a pyramid of small convolutions at half resolution."""
    tail: Literal["full", "light"] = "full"
    """Upsampler: two pixel-shuffle stages and HR convolutions (paper), or one convolution and one pixel shuffle."""
    coupled: bool = False
    """Feed the backward features to the forward trunk, as IconVSR does; no fusion layer is needed then."""
    scale: int = DEFAULT_SCALE
    """Enlargement of height and width."""
    stride: int = STRIDE
    """Side of a feature pixel in HR pixels."""

    @property
    def fold(self) -> int:
        """Side of a feature pixel in LR pixels."""
        return self.stride // self.scale


class ResidualBlock(nn.Module):
    """Residual block: conv, ReLU, conv, plus identity, without normalisation (EDSR, arXiv:1707.02921)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        for conv in (self.conv1, self.conv2):  # small weights: a deep stack starts near the identity
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data *= 0.1
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """Map [B, C, H, W] to [B, C, H, W]; with `overwrite`, inference may write the result into `x`."""
        quantised = block_on_integers(self)
        if quantised is not None:
            return quantised(x, overwrite)
        return convolve(self.conv2, convolve(self.conv1, x, "relu"), plus=x, in_place=overwrite)


class Blocks(nn.Sequential):
    """Residual blocks in order. Inference overwrites the tensors between blocks."""

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """Map [B, C, H, W] to [B, C, H, W]; with `overwrite`, inference may write the result into `x`."""
        for index, block in enumerate(self):
            x = block(x, overwrite=overwrite or index > 0)
        return x


class Trunk(nn.Module):
    """Propagation network of one branch: an input convolution and `blocks` residual blocks."""

    def __init__(self, in_channels: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, 1, 1),
            nn.LeakyReLU(0.1, inplace=True),
            Blocks(*(ResidualBlock(channels) for _ in range(blocks))),
        )

    @property
    def entry(self) -> nn.Conv2d:
        """The input convolution."""
        conv = self.main[0]
        assert isinstance(conv, nn.Conv2d)
        return conv

    @property
    def channels(self) -> int:
        """Width of the hidden features."""
        return self.entry.out_channels

    @property
    def blocks(self) -> Blocks:
        """The residual blocks, in order."""
        blocks = self.main[2]
        assert isinstance(blocks, Blocks)
        return blocks

    def part(self, first: int, last: int) -> Blocks:
        """Return the residual blocks [first, last)."""
        blocks = self.blocks[first:last]
        assert isinstance(blocks, Blocks)
        return blocks

    def head(self, x: Tensor) -> Tensor:
        """Apply the input convolution and its activation: [B, in, H, W] -> [B, C, H, W]."""
        return convolve(self.entry, x, "leaky")

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.head(x), overwrite=True)  # type: ignore[no-any-return]


class BasicVSR(nn.Module):
    """The bidirectional recurrent network; the module's docstring explains the shapes.

    Raises ValueError if `SCALES` lacks the scale of the config.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        self.accelerated = False
        """Whether inference suits an accelerator: few operations on whole frames. On a CPU, tensors fit the cache."""
        if config.scale not in SCALES:
            raise ValueError(f"scale {config.scale!r} is not supported; use {', '.join(map(str, SCALES))}")
        if config.stride not in ((STRIDE,) if config.tail == "full" else STRIDES):
            raise ValueError(f"stride {config.stride!r} is not supported with the {config.tail} tail")
        c = config.channels
        self.spynet: SpyNet | LightFlow = SpyNet() if config.flow == "spynet" else LightFlow()
        pixels = 3 * config.fold**2
        self.backward_trunk = Trunk(pixels + c, c, config.blocks)
        self.forward_trunk = Trunk(pixels + (2 * c if config.coupled else c), c, config.blocks)
        if not config.coupled:
            self.fusion = nn.Conv2d(2 * c, c, 1)
        if config.tail == "full":
            self.upconv1 = nn.Conv2d(c, c * 4, 3, 1, 1)
            self.upconv2 = nn.Conv2d(c, 64 * 4, 3, 1, 1)
            self.conv_hr = nn.Conv2d(64, 64, 3, 1, 1)
            self.conv_last = nn.Conv2d(64, 3, 3, 1, 1)
        else:
            self.conv_last = nn.Conv2d(c, 3 * config.stride**2, 3, 1, 1)

    @property
    def scale(self) -> int:
        """Enlargement of height and width."""
        return self.config.scale

    @property
    def fold(self) -> int:
        """Side of a feature pixel in LR pixels."""
        return self.config.fold

    @property
    def stride(self) -> int:
        """Side of a feature pixel in HR pixels."""
        return self.config.stride

    @property
    def dtype(self) -> torch.dtype:
        """Number format of trunks and tail."""
        return self.conv_last.weight.dtype

    def trunk(self, branch: Branch) -> Trunk:
        """Return the trunk of a branch."""
        return self.backward_trunk if branch == "backward" else self.forward_trunk

    def pyramid(self, lr: Tensor) -> Pyramid:
        """Reduce a frame [B, 3 f f, H, W] to the images that `flow_between` compares."""
        return self.spynet.pyramid(means(lr) if isinstance(self.spynet, SpyNet) else lr)

    def flow_between(self, ref: Pyramid, supp: Pyramid) -> Tensor:
        """Estimate the flow that warps `supp` onto `ref`: [B, 2, H, W], float32."""
        return self.spynet(ref, supp)  # type: ignore[no-any-return]

    def flow(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Estimate the flow that warps `supp` onto `ref`: [B, 3 f f, H, W] twice -> [B, 2, H, W], float32."""
        return self.flow_between(self.pyramid(ref), self.pyramid(supp))

    def pixels(self, lr: Tensor) -> Tensor:
        """Prepare a frame [B, 3 f f, H, W] for the steps: in bfloat16 each channel gets its rounding remainder."""
        return with_remainder(lr, self.dtype) if self.dtype == torch.bfloat16 else lr

    def backward_step(
        self,
        lr: Tensor,
        feat: Sampled | None,
        flow: Tensor | None,
        origin: tuple[int, int] = (0, 0),
        trunk: TrunkFunction | None = None,
    ) -> Tensor:
        """Compute the backward features of one frame, or of a region: [B, C, h, w].

        `lr` [B, 3 f f, h, w], or its `pixels`, is the region whose top left feature pixel (y, x) is `origin`. `feat`
        [B, C, H, W] are the features of the whole next frame, `flow` [B, 2, h, w] the flow of the region towards that
        frame. Both are None at the last frame. The convolutions pad with zeros at the edges of the region, as at those
        of the frame. `trunk` replaces the trunk of the branch (`model.gates.skipping`).
        """
        run: TrunkFunction = trunk or self.backward_trunk
        return run(self._stacked(self.backward_trunk, lr, self._aligned(lr, feat, flow, origin)))

    def forward_step(
        self,
        lr: Tensor,
        back: Tensor,
        feat: Sampled | None,
        flow: Tensor | None,
        origin: tuple[int, int] = (0, 0),
        trunk: TrunkFunction | None = None,
    ) -> Tensor:
        """Compute the forward features of one frame, or of a region: [B, C, h, w].

        `back` [B, C, h, w] are the backward features of the region; `feat` and `flow` belong to the frame before. All
        other arguments are those of `backward_step`.
        """
        aligned = self._aligned(lr, feat, flow, origin)
        run: TrunkFunction = trunk or self.forward_trunk
        return run(self._stacked(self.forward_trunk, lr, *([back] if self.config.coupled else []), aligned))

    def reconstruct(self, lr: Tensor, back: Tensor, feat: Tensor) -> Tensor:
        """Reconstruct the HR frame [B, 3, 4 H, 4 W], float32, from the features of both branches at one frame.

        The network computes a residual to the enlarged LR frame. The sum is float32 for every number format of the
        network: near 1, a step of bfloat16 is half a level of 255.
        """
        x = self._fused(back, feat)
        light = self.config.tail == "light"
        residual = F.pixel_shuffle(self.conv_last(x), self.stride) if light else self._upsampled(x)
        return self.enlarged(lr) + residual.float()

    def enlarged(self, lr: Tensor) -> Tensor:
        """Enlarge a folded frame bilinearly: [B, 3 f f, H, W] -> [B, 3, 4 H, 4 W], float32."""
        whole = unfold(lr.float(), self.fold)
        return F.interpolate(whole, scale_factor=self.scale, mode="bilinear", align_corners=False)

    def residual(self, back: Tensor, feat: Tensor, above: int = 0, below: int = 0) -> Tensor:
        """Compute the residual that `reconstruct` adds to the enlarged LR frame, for `model.network.output`.

        Inference only. The first `above` and the last `below` rows of the features only surround the others.
        [B, 3, 4 H, 4 W] of the others, or from a light tail [B, 48, H, W]: HR pixels of each feature pixel by row,
        column and colour.
        """
        x = self._fused(back, feat)
        if self.config.tail == "full":
            return self._upsampled(x, above, below)
        return _trimmed(convolve_sorted(self.conv_last, x, self.stride), above, below, 0)

    def coarse(self, back: Tensor, feat: Tensor) -> Tensor:
        """Run the first stage of a full tail, before its pixel shuffle: [B, 4 C, h, w]."""
        return convolve(self.upconv1, self._fused(back, feat), "leaky")

    def _fused(self, back: Tensor, feat: Tensor) -> Tensor:
        return feat if self.config.coupled else convolve(self.fusion, torch.cat([back, feat], dim=1), "leaky")

    def _upsampled(self, x: Tensor, above: int = 0, below: int = 0) -> Tensor:
        """Run a full tail after the fusion; each layer leaves out surrounding rows that no later layer sees."""
        for conv in (self.upconv1, self.upconv2):
            x = _trimmed(convolve_shuffled(conv, x), 2 * above, 2 * below, 2)
            above, below = min(2 * above, 2), min(2 * below, 2)
        x = _trimmed(convolve(self.conv_hr, x, "leaky"), above, below, 1)
        return _trimmed(convolve(self.conv_last, x), min(above, 1), min(below, 1), 0)

    def _aligned(self, lr: Tensor, feat: Sampled | None, flow: Tensor | None, origin: tuple[int, int]) -> Tensor:
        if feat is None or flow is None:
            b, _, h, w = lr.shape
            return torch.zeros(b, self.config.channels, h, w, dtype=self.dtype, device=lr.device)
        if self.accelerated and isinstance(feat, Tensor):  # number format and memory order change in one operation
            return warp(feat.float(), flow, origin=origin).to(self.dtype, memory_format=torch.channels_last)
        return warp(feat, flow, origin=origin)

    def sampled(self, feat: Tensor) -> Sampled:
        """Return features [B, C, H, W] in the form that the steps sample fastest, any number of times."""
        return feat if self.accelerated else FeatureTable.of(feat)

    def _stacked(self, trunk: Trunk, *parts: Tensor) -> Tensor:
        """Concatenate the channels of parts [B, ., H, W] for a trunk, channels last in memory.

        The result has the network's number format, or consists of the integers that the trunk reads.
        """
        whole = stacked_on_integers(trunk.entry, parts)
        if whole is None:
            whole = torch.cat([part.to(self.dtype) for part in parts], 1)
        return whole.contiguous(memory_format=torch.channels_last)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale whole clips of h x w pixels: [B, T, 3, h, w] -> [B, T, 3, s h, s w]. Both branches see all frames."""
        folded = fold(lr, self.fold)
        return self.cropped(self.propagate(folded, *self.flows(folded)), lr)

    def cropped(self, hr: Tensor, lr: Tensor) -> Tensor:
        """Remove the rows and columns of HR frames that folding added to the LR frames [..., 3, h, w]."""
        return hr[..., : self.scale * lr.shape[-2], : self.scale * lr.shape[-1]]

    def flows(self, lr: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Estimate the flow of a folded clip [B, T, 3 f f, H, W] from each frame to the next, and back.

        Two tensors [B, T - 1, 2, H, W], float32; None for a clip of one frame.
        """
        b, t, _, h, w = lr.shape
        if t == 1:
            return None, None
        older, newer = lr[:, :-1].flatten(0, 1), lr[:, 1:].flatten(0, 1)
        return self.flow(older, newer).view(b, t - 1, 2, h, w), self.flow(newer, older).view(b, t - 1, 2, h, w)

    def propagate(
        self,
        lr: Tensor,
        to_next: Tensor | None,
        to_prev: Tensor | None,
        trunks: tuple[TrunkFunction, TrunkFunction] | None = None,
        margin: int = 0,
    ) -> Tensor:
        """Upscale a folded clip with the given flow (see `flows`).

        `trunks` (backward, forward) replace the network's own.
        The first and last `margin` frames only warm up the branches: they are not reconstructed and pass no gradient.
        Returns [B, T - 2 margin, 3, 4 H, 4 W].
        """
        clip = _WholeClip(self, lr, to_next, to_prev, trunks or (self.backward_trunk, self.forward_trunk), margin)
        propagation.propagate(clip, lr.shape[1], lr.shape[1] - margin)
        return torch.stack(clip.frames, dim=1)


def _trimmed(x: Tensor, above: int, below: int, kept: int) -> Tensor:
    """Keep at most `kept` of the first `above`, and of the last `below`, rows of [B, C, H, W]."""
    return x[..., max(above - kept, 0) : x.shape[-2] - max(below - kept, 0), :]


class _WholeClip:
    """The steps of `BasicVSR.propagate`: whole frames, with gradients between the margins."""

    def __init__(
        self,
        network: BasicVSR,
        lr: Tensor,
        to_next: Tensor | None,
        to_prev: Tensor | None,
        trunks: tuple[TrunkFunction, TrunkFunction],
        margin: int,
    ) -> None:
        self.frames: list[Tensor] = []
        """[B, 3, 4 H, 4 W] each."""
        self._network, self._lr, self._to_next, self._to_prev = network, lr, to_next, to_prev
        self._backward_trunk, self._forward_trunk = trunks
        self._last = lr.shape[1] - 1
        self._learns = torch.is_grad_enabled()
        self._middle = range(margin, lr.shape[1] - margin)

    def backward(self, index: int, after: Tensor | None) -> Tensor | None:
        if index < self._middle.start and not self._network.config.coupled:
            return after  # only the coupled forward branch reads backward features in the margin
        flow = None if self._to_next is None or index == self._last else self._to_next[:, index]
        with self._gradients(index):
            return self._network.backward_step(self._lr[:, index], after, flow, trunk=self._backward_trunk)

    def forward(self, index: int, back: Tensor | None, before: Tensor | None) -> Tensor:
        assert back is not None
        flow = None if self._to_prev is None or index == 0 else self._to_prev[:, index - 1]
        with self._gradients(index):
            return self._network.forward_step(self._lr[:, index], back, before, flow, trunk=self._forward_trunk)

    def output(self, index: int, back: Tensor | None, feat: Tensor | None) -> None:
        assert back is not None
        assert feat is not None
        if index in self._middle:
            self.frames.append(self._network.reconstruct(self._lr[:, index], back, feat))

    def _gradients(self, index: int) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(self._learns and index in self._middle)
