"""Routing leaves out what changes nothing, and only that: checked against the dense network."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.engine.execute import is_dense
from model.engine.upscaler import ChunkResult, Upscaler, groups
from model.errors import ModelError
from model.mask.crop_cost import crop_overhead
from model.mask.plan import plan_chunk
from model.mask.rectangles import Cost, Rectangle, cover, dilate, paint
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.flow import FeatureTable, warp
from model.network.output import write_pixels
from model.routing import TILE, Preset, preset

EXACT = Preset(luma=0.0, chroma=0.0, detail=0.0, reach=2, halo=8, overhead=600, dense_above=10.0)
"""Reuses a tile only if it did not change at all, and never falls back to the dense pass."""


@pytest.fixture(scope="module")
def model() -> Upscaler:
    return seeded()


@pytest.fixture(scope="module", params=[(2, 4), (4, 8)], ids=["x2", "x4"])
def folding(request: pytest.FixtureRequest) -> Upscaler:
    scale, stride = request.param
    return seeded(scale, stride)


def seeded(scale: int = 4, stride: int = 4) -> Upscaler:
    """A small seeded network in float32. Its memory fades fast, as a trained one's does and a random one's does not."""
    torch.manual_seed(3)
    config = NetworkConfig(8, 2, "light", "light", coupled=True, scale=scale, stride=stride)
    network = BasicVSR(config)
    with torch.no_grad():
        for trunk in (network.backward_trunk, network.forward_trunk):
            trunk.main[0].weight[:, -8:] *= 0.2
    return Upscaler("seeded", network, "seeded:3", torch.device("cpu"), torch.float32)


def run(
    model: Upscaler, frames: np.ndarray, routing: str | Preset, chunk: int = 8, lookahead: int = 2
) -> list[ChunkResult]:
    state, results = None, []
    routing = preset(routing, overhead=600) if isinstance(routing, str) else routing
    for group, last in groups(frames, chunk, lookahead):
        results.append(model.forward(np.stack(group), state, lookahead=lookahead, last=last, routing=routing))
        state = results[-1].state
    return results


def images(results: list[ChunkResult]) -> np.ndarray:
    return np.concatenate([result.frames for result in results])


def textured(height: int, width: int) -> np.ndarray:
    """A still picture with detail everywhere."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / a) * np.cos(y / b) for a, b in ((2.3, 3.1), (1.7, 5.0), (4.1, 1.9))]
    return (128 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def moving_edge(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A bright square that crosses a still picture, two pixels a frame."""
    clip = np.repeat(textured(height, width)[None], count, axis=0)
    for i in range(count):
        clip[i, 20:36, 4 + 2 * i : 18 + 2 * i] = 240
    return clip


def test_off_is_the_dense_network_bit_for_bit(model: Upscaler) -> None:
    clip = moving_edge(5)
    lr = [torch.from_numpy(frame).permute(2, 0, 1)[None].float().div(255) for frame in clip]
    lr = [x.contiguous(memory_format=torch.channels_last) for x in lr]
    net, hr = model.network, torch.empty(clip.shape[1] * 4, clip.shape[2] * 4, 3, dtype=torch.uint8)
    with torch.inference_mode():
        back, feat, backs = None, None, []
        for i in reversed(range(5)):
            back = net.backward_step(
                lr[i], None if back is None else FeatureTable.of(back), net.flow(lr[i], lr[i + 1]) if i < 4 else None
            )
            backs.insert(0, back)
        for i, result in enumerate(images(run(model, clip, "off", chunk=5, lookahead=0))):
            flow = net.flow(lr[i], lr[i - 1]) if i else None
            feat = net.forward_step(lr[i], backs[i], None if feat is None else FeatureTable.of(feat), flow)
            write_pixels(hr, F.pad(lr[i], (1, 1, 1, 1), mode="replicate"), net.residual(backs[i], feat))
            assert np.array_equal(result, hr.numpy())
            plain = net.reconstruct(lr[i], backs[i], feat)[0].permute(1, 2, 0) * 255
            assert (plain.clamp(0, 255) - hr).abs().max() < 0.501  # rounded to the nearest level


def test_a_mask_of_all_ones_is_dense(model: Upscaler) -> None:
    random = np.random.default_rng(0).integers(0, 255, (6, 24, 40, 3), np.uint8)
    results = run(model, random, "balanced")
    assert np.array_equal(images(results), images(run(model, random, "off")))
    assert all(report.skip_ratio == 0 for result in results for report in result.reports)


def test_a_moving_edge_never_leaves_a_stale_tile(model: Upscaler) -> None:
    clip = moving_edge(20)
    dense, routed = images(run(model, clip, "off")).astype(int), images(run(model, clip, EXACT)).astype(int)
    side = TILE * 4
    for i in range(len(clip)):
        error = np.square(dense[i] - routed[i]).mean(-1)
        tiles = error[: 64 * 4, : 96 * 4].reshape(64 * 4 // side, side, 96 * 4 // side, side).mean((1, 3))
        # A stale tile would differ by the square's contrast, about a hundred levels.
        assert tiles.max() < 8.0**2, f"frame {i}, tile {np.unravel_index(tiles.argmax(), tiles.shape)}"


def test_routed_chunks_equal_routed_whole(model: Upscaler) -> None:
    clip = moving_edge(14, 48, 56)
    whole = images(run(model, clip, EXACT, chunk=14, lookahead=14)).astype(int)
    for chunk in (1, 7):
        chunked = images(run(model, clip, EXACT, chunk=chunk, lookahead=14)).astype(int)
        assert np.abs(chunked - whole).max() <= 2


def test_the_backward_trunk_rests_by_the_number_of_a_frame(model: Upscaler) -> None:
    clip, numbers = moving_edge(8, 24, 32), Preset(mask=False, overhead=60, backward_every=2, negated_flow=True)
    (result,) = run(model, clip, numbers, chunk=8, lookahead=8)
    assert [report.skip_ratio for report in result.reports] == [0, 0.5, 0, 0.5, 0, 0.5, 0, 0], "never in the last frame"
    assert [report.units_reused for report in result.reports] == [0] * 8
    assert not np.array_equal(result.frames, images(run(model, clip, "off", chunk=8, lookahead=8)))
    for chunk in (1, 3):
        chunked = images(run(model, clip, numbers, chunk=chunk, lookahead=8)).astype(int)
        assert np.abs(chunked - result.frames).max() <= 1


def test_a_resting_frame_has_the_features_of_the_next_aligned(model: Upscaler) -> None:
    clip, net = moving_edge(3, 24, 32), model.network
    lr = list(torch.from_numpy(clip).permute(0, 3, 1, 2).float().div(255)[:, None])
    with torch.inference_mode():
        last = net.backward_step(lr[2], None, None)
        backs = [warp(last, net.flow(lr[1], lr[2])), last]
        backs.insert(0, net.backward_step(lr[0], backs[0], net.flow(lr[0], lr[1])))
        feat, frames = None, []
        for i, back in enumerate(backs):
            feat = net.forward_step(lr[i], back, feat, net.flow(lr[i], lr[i - 1]) if i else None)
            frames.append(net.reconstruct(lr[i], back, feat)[0].permute(1, 2, 0).mul(255).round().clamp(0, 255))
    found = images(run(model, clip, Preset(mask=False, overhead=60, backward_every=2), chunk=3))
    assert np.abs(found - torch.stack(frames).numpy()).max() <= 1


def test_streams_whose_backward_trunk_rests_share_no_batch() -> None:
    """The frames in which it rests may differ."""
    frames = torch.zeros(6, 24, 32, 3, dtype=torch.uint8)
    plans = [plan_chunk(frames, 5, frames[0], index, Preset(overhead=60, backward_every=3)) for index in (0, 10)]
    assert [sorted(plan.rests) for plan in plans] == [[1, 2, 4], [0, 1, 3, 4]]
    assert not any(is_dense(plan, 24, 32) for plan in plans)
    assert not plan_chunk(frames, 5, None, 0, Preset(mask=False, overhead=60)).rests
    assert not plan_chunk(frames, 5, None, 0, Preset(overhead=600, backward_every=3)).rests, "too small for gates"


@pytest.mark.parametrize("size", [(96, 128), (95, 127)])
def test_a_network_on_folded_frames_reuses_tiles_of_sixteen_pixels(folding: Upscaler, size: tuple[int, int]) -> None:
    clip = moving_edge(14, 96, 128)[:, : size[0], : size[1]]
    dense, results = images(run(folding, clip, "off")).astype(int), run(folding, clip, EXACT, 14, 14)
    whole = images(results).astype(int)
    assert np.abs(dense - whole).mean() < 0.5
    reports = [report for result in results for report in result.reports]
    assert np.mean([report.skip_ratio for report in reports]) > 0.3
    assert all(report.left_out.shape == (6, 8) for report in reports)
    for chunk in (1, 7):
        chunked = images(run(folding, clip, EXACT, chunk=chunk, lookahead=14)).astype(int)
        assert np.abs(chunked - whole).max() <= 2


def test_a_still_picture_with_coding_noise_does_not_drift(model: Upscaler) -> None:
    random = np.random.default_rng(1)
    still = textured(48, 64).astype(int)
    clip = np.stack([still + random.integers(-1, 2, still.shape) for _ in range(120)]).clip(0, 255).astype(np.uint8)
    results = run(model, clip, "balanced", chunk=16, lookahead=2)
    out, dense = images(results).astype(float), images(run(model, clip[:24], "off", 12)).astype(float)
    noise = np.abs(dense[23] - dense[12]).mean()  # what the noise alone does to the dense network's output
    assert np.abs(out[-1] - dense[23]).mean() < 1.5 * noise
    skipped = [report.skip_ratio for result in results for report in result.reports]
    assert np.mean(skipped) > 0.85


def test_every_tile_is_refreshed_and_no_frame_pays_for_all() -> None:
    clip = torch.from_numpy(np.repeat(textured(128, 192)[None], 64, axis=0))
    plan = plan_chunk(clip, 64, clip[0], 0, preset("balanced", refresh=64))
    counts = np.zeros((16, 24), int)
    for rectangles in plan.forward:
        mask = paint(rectangles, (16, 24), TILE)
        assert mask.mean() <= 0.25
        counts += mask
    assert counts.min() >= 1


def test_a_slow_fade_is_followed(model: Upscaler) -> None:
    """The comparison is with the frame a tile was computed on, so small steps add up until they count."""
    still = textured(48, 64).astype(float)
    clip = np.stack([still * (1 - 0.4 * i / 39) for i in range(40)]).astype(np.uint8)
    dense, routed = images(run(model, clip, "off")).astype(float), images(run(model, clip, "balanced")).astype(float)
    assert np.abs(dense - routed).mean((1, 2, 3)).max() < 4.0


def test_duplicate_frames_cost_nothing(model: Upscaler) -> None:
    """Animation on twos: each drawing is shown twice."""
    drawings = np.random.default_rng(2).integers(0, 255, (6, 48, 64, 3), np.uint8)
    reports = [r for result in run(model, np.repeat(drawings, 2, axis=0), "balanced", 12, 0) for r in result.reports]
    assert all(report.tiles_reused == 48 for report in reports[1::2])
    assert np.mean([report.skip_ratio for report in reports]) == pytest.approx(0.5, abs=0.02)


def test_reports_and_speedup_are_of_this_machine(model: Upscaler) -> None:
    clip = np.repeat(textured(64, 96)[None], 24, axis=0)
    routed, dense = run(model, clip, "balanced"), run(model, clip, "off")
    assert sum(r.dense_seconds for r in routed) > sum(r.seconds for r in routed)
    for result in dense:
        assert result.dense_seconds == pytest.approx(result.seconds)
        assert all(report.units_skipped == 0 for report in result.reports)


def test_presets_are_named_clearly() -> None:
    assert preset("fast", luma=9.0).luma == 9.0
    with pytest.raises(ModelError, match="off, balanced, fast"):
        preset("turbo")
    changed = preset("balanced", halo=4.0, mask=0)  # as the command line tells them
    assert (type(changed.halo), changed.mask) == (int, False)
    with pytest.raises(ModelError, match="unknown number of a routing: sharpness"):
        preset("fast", sharpness=1.0)
    with pytest.raises(ModelError, match="halo must be a whole number"):
        preset("fast", halo=1.5)
    with pytest.raises(ModelError, match="halo must be a whole number"):
        preset("fast", halo=float("inf"))
    with pytest.raises(ModelError, match="luma must be a number"):
        preset("fast", luma=float("nan"))
    with pytest.raises(ModelError, match="mask must be true or false"):
        preset("fast", mask=0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False), st.floats(0.02, 0.9))
def test_a_cover_covers(h: int, w: int, random, density: float) -> None:
    mask = np.array([[random.random() < density for _ in range(w)] for _ in range(h)])
    cost = Cost(tile=8, halo=4, overhead=200)
    rectangles = cover(mask, h * 8 - 3, w * 8 - 5, cost, dense_above=0.9)
    assert not (mask & ~paint(rectangles, mask.shape, 8)).any()
    assert all(0 <= b.y0 < b.y1 <= h * 8 - 3 and 0 <= b.x0 < b.x1 <= w * 8 - 5 for b in rectangles)
    assert bool(rectangles) == mask.any()


def test_far_corners_are_two_boxes() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[1:3, 1:3] = mask[16:19, 25:28] = True
    rectangles = cover(mask, 160, 240, Cost(8, 4, 500), 0.9)
    assert sorted((b.y0, b.x0, b.y1, b.x1) for b in rectangles) == [(8, 8, 24, 24), (128, 200, 152, 224)]


def test_boxes_grow_inside_of_the_frame() -> None:
    assert Rectangle(10, 4, 20, 30).grown(6, 24, 100) == Rectangle(4, 0, 24, 36)
    assert Rectangle(10, 40, 20, 60).grown(1, 100, 100, 32) == Rectangle(0, 32, 32, 64)
    assert dilate(np.eye(3, dtype=np.bool_)[:1], 1).tolist() == [[True, True, False]]


def test_a_crop_costs_more_pixels_where_pixels_are_fast(model: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, light = torch.device("cpu"), NetworkConfig(32, 4, "light", "light", True)
    slow = crop_overhead(light, cpu, torch.float32)
    for amx in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        fast = crop_overhead(light, cpu, torch.bfloat16)
        assert slow < fast
        slow = fast
    assert model.preset("balanced").overhead == crop_overhead(model.config, cpu, torch.float32)
    assert model.preset("balanced", overhead=7).overhead == 7  # for people who know
