"""`python -m tests.support.broken_device grpc`: a real gRPC server whose device fails with the second batch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from cli import main
from model.engine.upscaler import ChunkResult, Request, Upscaler

whole = Upscaler.forward_many
calls = 0


def forward_many(self: Upscaler, requests: Sequence[Request]) -> list[ChunkResult | Exception]:
    global calls
    calls += 1
    if calls == 1:
        return whole(self, requests)
    error: Exception = torch.AcceleratorError("CUDA error: device-side assert triggered\nSearch for ...")
    return [error for _ in requests]


if __name__ == "__main__":
    Upscaler.forward_many = forward_many  # type: ignore[method-assign]
    sys.exit(main())
