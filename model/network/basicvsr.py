"""BasicVSR: the network, one frame at a time.

Chan et al., "BasicVSR: The Search for Essential Components in Video Super-Resolution and Beyond", CVPR 2021
(https://arxiv.org/abs/2012.02181). One class serves the official 64 x 30 network and this project's light ones;
`NetworkConfig` says which, and is read from the checkpoint (`model.zoo.models`), never from a flag.

The network is written as *steps* (`flow`, `backward_step`, `forward_step`, `reconstruct`), so that the streaming
engine can carry the recurrent state from chunk to chunk; `forward` runs them over a whole clip, for training and as
the reference. Parameter names are BasicSR's.

Shapes: B batch, T frames, C channels, H x W the LR size in pixels. Images are RGB in [0, 1]. Flow is in LR pixels,
channel 0 horizontal, channel 1 vertical: `warp(x, flow)[y, x] = x[y + flow_y, x + flow_x]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.flow import LightFlow, SpyNet, Table, warp
from model.network.kernels import convolve, convolve_shuffled, convolve_sorted, with_remainder

SCALE = 4
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NetworkConfig:
    """What distinguishes one network of the family from another. The defaults are the paper's."""

    channels: int = 64
    """Width of the hidden features, and of every residual block."""
    blocks: int = 30
    """Residual blocks in each of the two branches."""
    flow: Literal["spynet", "light"] = "spynet"
    """Optical flow: SPyNet as in the paper, or a pyramid of small convolutions at half resolution."""
    tail: Literal["full", "light"] = "full"
    """Upsampler: two pixel-shuffle stages and HR convolutions (paper), or one convolution and PixelShuffle(4)."""
    coupled: bool = False
    """True: the forward trunk also sees the backward features (as IconVSR's does), and no fusion layer is needed."""


class ResidualBlock(nn.Module):
    """conv, ReLU, conv, plus identity; no normalisation (EDSR, arXiv:1707.02921)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        for conv in (self.conv1, self.conv2):  # small at first: a deep stack starts near the identity
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data *= 0.1
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """[B, C, H, W] twice; `overwrite`: at inference `x` may become the result."""
        return convolve(self.conv2, convolve(self.conv1, x, "relu"), plus=x, in_place=overwrite)


class Blocks(nn.Sequential):
    """Residual blocks, or a slice of them, in order. What comes in is kept, all between may be overwritten."""

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self):
            x = block(x, overwrite=index > 0)
        return x


class Trunk(nn.Module):
    """One branch's propagation network: an input convolution and `blocks` residual blocks."""

    def __init__(self, in_channels: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, 1, 1),
            nn.LeakyReLU(0.1, inplace=True),
            Blocks(*(ResidualBlock(channels) for _ in range(blocks))),
        )

    @property
    def blocks(self) -> Blocks:
        """The residual blocks, in order."""
        blocks = self.main[2]
        assert isinstance(blocks, Blocks)
        return blocks

    def head(self, x: Tensor) -> Tensor:
        """The input convolution with its activation: [B, in, H, W] -> [B, C, H, W]."""
        conv = self.main[0]
        assert isinstance(conv, nn.Conv2d)
        return convolve(conv, x, "leaky")

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.head(x))  # type: ignore[no-any-return]


class BasicVSR(nn.Module):
    """The bidirectional recurrent network; see the module's docstring for shapes."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        c = config.channels
        self.spynet: SpyNet | LightFlow = SpyNet() if config.flow == "spynet" else LightFlow()
        self.backward_trunk = Trunk(3 + c, c, config.blocks)
        self.forward_trunk = Trunk(3 + (2 * c if config.coupled else c), c, config.blocks)
        if not config.coupled:
            self.fusion = nn.Conv2d(2 * c, c, 1)
        if config.tail == "full":
            self.upconv1 = nn.Conv2d(c, c * 4, 3, 1, 1)
            self.upconv2 = nn.Conv2d(c, 64 * 4, 3, 1, 1)
            self.conv_hr = nn.Conv2d(64, 64, 3, 1, 1)
            self.conv_last = nn.Conv2d(64, 3, 3, 1, 1)
        else:
            self.conv_last = nn.Conv2d(c, 3 * SCALE * SCALE, 3, 1, 1)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which trunk and tail compute."""
        return self.conv_last.weight.dtype

    def flow(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Flow that warps `supp` onto `ref`: [B, 3, H, W] twice -> [B, 2, H, W], float32."""
        return self.spynet(ref, supp)  # type: ignore[no-any-return]

    def pixels(self, lr: Tensor) -> Tensor:
        """A frame [B, 3, H, W] as the branches' steps are best given it: bfloat16 would round it by itself."""
        return with_remainder(lr, self.dtype) if self.dtype == torch.bfloat16 else lr

    def backward_step(
        self,
        lr: Tensor,
        feat: Tensor | Table | None,
        flow: Tensor | None,
        origin: tuple[int, int] = (0, 0),
        trunk: Run | None = None,
    ) -> Tensor:
        """Hidden features of the backward branch at one frame, or in a region of it.

        `lr` [B, 3, h, w], or its `pixels`, is the region whose top left pixel (y, x) is `origin`; `feat` [B, C, H, W]
        the features of the whole frame after, and `flow` [B, 2, h, w] the region's towards it; both None at the last
        frame. Returns [B, C, h, w]. At the region's edges the network sees zeros, as it does at the frame's. `trunk`
        stands in for the branch's trunk, if given (`model.gates.skipping`).
        """
        run: Run = trunk or self.backward_trunk
        return run(self._stacked(lr, self._aligned(lr, feat, flow, origin)))

    def forward_step(
        self,
        lr: Tensor,
        back: Tensor,
        feat: Tensor | Table | None,
        flow: Tensor | None,
        origin: tuple[int, int] = (0, 0),
        trunk: Run | None = None,
    ) -> Tensor:
        """The same for the forward branch; `back` [B, C, h, w] are the backward branch's features of the region."""
        aligned = self._aligned(lr, feat, flow, origin)
        run: Run = trunk or self.forward_trunk
        return run(self._stacked(lr, back, aligned) if self.config.coupled else self._stacked(lr, aligned))

    def reconstruct(self, lr: Tensor, back: Tensor, feat: Tensor) -> Tensor:
        """The HR frame from both branches' features at one frame: [B, 3, 4 H, 4 W], float32.

        The network computes a residual to the enlarged LR frame. The sum is float32 whatever the network's type:
        bfloat16 near 1 is as coarse as half a level of 255.
        """
        base = F.interpolate(lr.float(), scale_factor=SCALE, mode="bilinear", align_corners=False)
        x = self._fused(back, feat)
        residual = F.pixel_shuffle(self.conv_last(x), SCALE) if self.config.tail == "light" else self._upsampled(x)
        return base + residual.float()

    def residual(self, back: Tensor, feat: Tensor) -> Tensor:
        """What `reconstruct` adds to the enlarged LR frame, as `model.network.output` takes it; for inference.

        [B, 3, 4 H, 4 W], or from a light tail [B, 48, H, W]: the sub-pixels of each LR pixel by row, column and colour.
        """
        x = self._fused(back, feat)
        return convolve_sorted(self.conv_last, x, SCALE) if self.config.tail == "light" else self._upsampled(x)

    def coarse(self, back: Tensor, feat: Tensor) -> Tensor:
        """The upsampler's first stage, before its pixel shuffle (not of a light tail): [B, 4 C, h, w]."""
        return convolve(self.upconv1, self._fused(back, feat), "leaky")

    def _fused(self, back: Tensor, feat: Tensor) -> Tensor:
        return feat if self.config.coupled else convolve(self.fusion, torch.cat([back, feat], dim=1), "leaky")

    def _upsampled(self, x: Tensor) -> Tensor:
        x = convolve_shuffled(self.upconv2, convolve_shuffled(self.upconv1, x))
        return convolve(self.conv_last, convolve(self.conv_hr, x, "leaky"))

    def _aligned(self, lr: Tensor, feat: Tensor | Table | None, flow: Tensor | None, origin: tuple[int, int]) -> Tensor:
        if feat is None or flow is None:
            b, _, h, w = lr.shape
            return torch.zeros(b, self.config.channels, h, w, dtype=self.dtype, device=lr.device)
        return warp(feat, flow, origin=origin)

    def _stacked(self, *parts: Tensor) -> Tensor:
        """Channels of all the parts [B, ., H, W], in the network's type, channels last."""
        if torch.is_grad_enabled():
            return torch.cat([part.to(self.dtype) for part in parts], 1).contiguous(memory_format=torch.channels_last)
        b, _, h, w = parts[0].shape
        whole = parts[0].new_empty(b, h, w, sum(part.shape[1] for part in parts), dtype=self.dtype)
        at = 0
        for part in parts:  # converted and put into its place in one pass
            whole[..., at : at + part.shape[1]] = part.permute(0, 2, 3, 1)
            at += part.shape[1]
        return whole.permute(0, 3, 1, 2)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale whole clips: [B, T, 3, H, W] -> [B, T, 3, 4 H, 4 W]. Every frame is seen by both branches."""
        return self.propagate(lr, *self.flows(lr))

    def flows(self, lr: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Flow of a clip [B, T, 3, H, W] from each frame to the next, and back: [B, T - 1, 2, H, W]; None if T is 1."""
        b, t, _, h, w = lr.shape
        if t == 1:
            return None, None
        older, newer = lr[:, :-1].reshape(-1, 3, h, w), lr[:, 1:].reshape(-1, 3, h, w)
        return self.flow(older, newer).view(b, t - 1, 2, h, w), self.flow(newer, older).view(b, t - 1, 2, h, w)

    def propagate(
        self,
        lr: Tensor,
        to_next: Tensor | None,
        to_prev: Tensor | None,
        trunks: tuple[Run, Run] | None = None,
        margin: int = 0,
    ) -> Tensor:
        """`forward` with the flow given (as `flows` returns it), and with trunks in place of its own, if given.

        So many frames as the `margin` at either end only lead the branches in: they are not reconstructed, and no
        gradient goes through them. Returns [B, T - 2 margin, 3, 4 H, 4 W].
        """
        backward, forward = trunks or (self.backward_trunk, self.forward_trunk)
        t, learns = lr.shape[1], torch.is_grad_enabled()
        middle = range(margin, t - margin)
        backs: dict[int, Tensor] = {}
        feat: Tensor | None = None
        for i in reversed(range(0 if self.config.coupled else margin, t)):
            flow = None if to_next is None or i == t - 1 else to_next[:, i]
            with torch.set_grad_enabled(learns and i in middle):
                feat = backs[i] = self.backward_step(lr[:, i], feat, flow, trunk=backward)

        frames: list[Tensor] = []
        feat = None
        for i in range(t - margin):
            flow = None if to_prev is None or i == 0 else to_prev[:, i - 1]
            back = backs.get(i, backs[margin])  # only a coupled branch looks at it, and there it is
            with torch.set_grad_enabled(learns and i in middle):
                feat = self.forward_step(lr[:, i], back, feat, flow, trunk=forward)
            if i in middle:
                frames.append(self.reconstruct(lr[:, i], back, feat))
        return torch.stack(frames, dim=1)
