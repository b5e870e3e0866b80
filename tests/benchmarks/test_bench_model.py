"""`skipvsr bench model`: complete rows, and a reference equal to the published network."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks.model import Options, _order, measure, reduced
from benchmarks.reference import Reference
from cli import main
from model.engine.upscaler import groups
from model.network.basicvsr import BasicVSR, NetworkConfig
from tests.support.clips import make_clip
from tests.support.paths import DATA
from tests.support.reference import fill, middle_frame, reference_network

WATER = np.load(DATA / "water_lr.npy")


def test_the_reference_driven_frame_by_frame_is_the_published_forward() -> None:
    import torch

    ours = BasicVSR(NetworkConfig(channels=8, blocks=2)).eval()
    fill(ours)
    theirs = reference_network(8, 2)
    theirs.load_state_dict(ours.state_dict())
    frames = WATER[:5]
    expected = middle_frame(theirs, torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255)
    expected_frame = expected.permute(1, 2, 0).mul(255).round().clamp(0, 255).to(torch.uint8).numpy()
    whole = Reference(ours).forward(frames, None, lookahead=0, last=True).frames
    assert np.abs(whole[2].astype(int) - expected_frame).max() <= 1
    state, parts = None, []
    for group, last in groups(frames, 2, len(frames)):
        result = Reference(ours).forward(np.stack(group), state, lookahead=len(frames), last=last)
        state = result.state
        parts.append(result.frames)
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 1


def test_rows_of_a_clip(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "stripes.mp4", frames=7, width=64, height=50)
    options = Options(
        models=["tiny"], routings=["balanced"], frames=6, rounds=1, chunk=2, lookahead=1, device="cpu", threads=1
    )
    ((dense, routed),) = measure([clip], options, tmp_path)
    assert (dense.routing, routed.routing) == ("off", "balanced")
    assert (dense.clip, dense.lr_size, dense.frames) == ("stripes", "16x12", 6)
    assert (dense.speedup, dense.skip_ratio, dense.psnr_y_to_dense, dense.worst_frame) == (1.0, 0.0, None, None)
    assert dense.psnr_y == dense.psnr_y_dense == routed.psnr_y_dense
    assert min(dense.ms_per_frame_min, routed.ms_per_frame_min) > 0


def test_lr_is_the_quarter_of_what_is_divisible() -> None:
    lr, gt = reduced(WATER[:2, :50, :66], scale=2)
    assert (lr.shape, gt.shape) == ((2, 25, 33, 3), (2, 50, 66, 3))
    lr, gt = reduced(WATER[:2, :50, :66])
    assert (lr.shape, gt.shape) == ((2, 12, 16, 3), (2, 48, 64, 3))
    compressed, same = reduced(WATER[:2, :50, :66], "h264:40")
    assert compressed.shape == lr.shape
    assert not np.array_equal(compressed, lr)
    assert np.array_equal(same, gt)


def test_the_command_writes_rows_and_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a", "b"):
        make_clip(tmp_path / "clips" / f"{name}.mp4", frames=4)
    out = tmp_path / "out.json"
    command = ["bench", "model", "--clips", str(tmp_path / "clips"), "--models", "tiny", "--native", "--threads", "1"]
    assert main([*command, "--rounds", "1", "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    assert [(row["clip"], row["routing"]) for row in content["rows"]][:4] == [
        *(("a", routing) for routing in ("off", "balanced", "fast")),
        ("b", "off"),
    ]
    assert content["rows"][0]["psnr_y"] is None
    assert content["machine"]["torch"]
    assert content["machine"]["date"] == datetime.now(UTC).date().isoformat()
    assert "commit" in content["machine"]
    assert len(content["summary"]) == 3
    assert "over 2 clips" in capsys.readouterr().out
    assert main(["bench", "model", "--clips", str(tmp_path / "none"), "--models", "tiny"]) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_contenders_change_their_order() -> None:
    orders = {tuple(_order(3, turn)) for turn in range(6)}
    assert len(orders) == 6  # every order of three
    assert {tuple(_order(2, turn)) for turn in range(4)} == {(0, 1), (1, 0)}
    assert _order(1, 5) == [0]
