"""Skipping blocks where an estimator expects little of them: execution, its counters, and how estimators are fitted."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from commands.train_skip import windows
from model.engine.loading import load_model
from model.engine.upscaler import ChunkResult, Upscaler, groups
from model.errors import BadWeights
from model.gates.estimator import Estimator, Gate, Layout, load_estimator
from model.mask.rectangles import Cost, Rectangle, segments
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.routing import PRESETS, Preset
from model.training.clip_runner import Clip, ClipRunner, shuffled, sub_pixels
from model.training.fit_estimator import LeastSquares, align, fit, measure
from model.zoo.models import CARDS, PACKAGED, load_network
from tests.support.clips import make_clip

LAYOUT = Layout(backward=((1, 3), (3, 5)), forward=((1, 3), (3, 5)), tail=True)
DENSE = Preset(mask=False, overhead=60, dense_above=10.0)


def network() -> BasicVSR:
    torch.manual_seed(5)
    return BasicVSR(NetworkConfig(channels=8, blocks=6, flow="light")).eval()


def estimator(added: float | None = None) -> Estimator:
    """Seeded gates; with `added`, heads that expect this log error of every tile, and the network's own to be 0."""
    torch.manual_seed(6)
    made = Estimator(NetworkConfig(channels=8, blocks=6, flow="light"), LAYOUT)
    if added is not None:
        for module in made.modules():
            if isinstance(module, Gate):
                last = module.head[2]
                assert isinstance(last, nn.Linear)
                with torch.no_grad():
                    last.weight.zero_()
                    last.bias.copy_(torch.tensor([added, 0.0]))
    return made


def by_magnitude() -> Estimator:
    """Gates that expect the more of a tile, the larger its features are."""
    made = estimator()
    for module in made.modules():
        if isinstance(module, Gate):
            first, last = module.head[0], module.head[2]
            assert isinstance(first, nn.Linear)
            assert isinstance(last, nn.Linear)
            with torch.no_grad():
                for layer in (first, last):
                    layer.weight.zero_()
                    layer.bias.zero_()
                inputs = module.surrogate.in_channels
                first.weight[0, :inputs] = 1 / inputs
                first.bias[0] = 20.0  # so that ReLU lets it pass
                last.weight[0, 0] = 1.0
                last.bias[0] = -20.0
    return made


def upscaler(gates: Estimator | None) -> Upscaler:
    return Upscaler("seeded", network(), "seeded:5", torch.device("cpu"), torch.float32, gates)


def moving(count: int = 5, height: int = 40, width: int = 56) -> np.ndarray:
    """Noise on the left, flat on the right, moving two pixels a frame."""
    picture = np.full((height, width + 2 * count, 3), 90, np.uint8)
    picture[:, : width // 2] = np.random.default_rng(0).integers(0, 255, (height, width // 2, 3))
    return np.stack([picture[:, 2 * i : 2 * i + width] for i in range(count)])


def run(model: Upscaler, frames: np.ndarray, numbers: Preset | str, chunk: int = 5) -> list[ChunkResult]:
    state, results = None, []
    for group, last in groups(frames, chunk, 2):
        results.append(model.forward(np.stack(group), state, lookahead=2, last=last, routing=numbers))
        state = results[-1].state
    return results


def images(results: list[ChunkResult]) -> np.ndarray:
    return np.concatenate([result.frames for result in results])


def with_error_budget(error_budget: float) -> Preset:
    budgets = {f"{part}error_budget": error_budget for part in ("", "backward_", "tail_")}
    return Preset(mask=False, overhead=60, dense_above=10.0, halo=4, **budgets)


def test_error_budget_zero_is_dense_bit_for_bit() -> None:
    clip = moving()
    dense, gated = run(upscaler(None), clip, DENSE), run(upscaler(estimator()), clip, DENSE)
    assert np.array_equal(images(dense), images(gated))
    assert np.array_equal(images(dense), images(run(upscaler(estimator()), clip, "off")))
    assert all(report.units_skipped == 0 for result in gated for report in result.reports)


def test_gates_that_let_everything_through_are_dense() -> None:
    results = run(upscaler(estimator(added=10.0)), moving(), with_error_budget(0.5))
    assert np.array_equal(images(results), images(run(upscaler(None), moving(), "off")))
    assert results[0].reports[0].skip_ratio == 0


def test_skipped_units_are_counted() -> None:
    result = run(upscaler(estimator(added=-10.0)), moving(), with_error_budget(0.5))[0]
    report = result.reports[0]
    assert report.skip_ratio == pytest.approx(4 / 6, abs=1e-3)  # two groups of two, of six blocks
    assert (report.units_reused, report.tiles_reused) == (0, 0)
    assert report.units_left_out == report.units_skipped
    assert result.dense_seconds > 0


def test_all_is_run_where_the_backward_branch_begins() -> None:
    """There heads expect too little: with it skipped, the last frame lost most by far."""
    reports = run(upscaler(estimator(added=-10.0)), moving(), with_error_budget(0.5))[0].reports
    assert [report.skip_ratio for report in reports] == pytest.approx([4 / 6] * 4 + [2 / 6], abs=1e-3)


def test_execution_does_what_the_rule_says_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rectangles with a halo against whole frames and a mask: the same but for what lies within a halo's reach."""
    monkeypatch.setattr("model.gates.skipping.CELL", 24)  # the frames are small
    clip, gates = moving(), by_magnitude()
    model = upscaler(gates)
    lab = ClipRunner(model.network, gates, Clip("moving", clip, np.zeros((5, 160, 224, 3), np.uint8)))
    with torch.inference_mode():
        twin = lab.dense()
        looks = [
            _gate(gates, key).expected(x, x[:, :8])[0] for key, xs in twin.entry.items() if key[0] != "tail" for x in xs
        ]
    threshold = float(torch.stack(looks).median().exp())
    shares = [r.skip_ratio for r in run(model, clip, with_error_budget(threshold))[0].reports]
    assert min(shares) > 0
    assert max(shares) < 0.6
    with torch.inference_mode():
        whole = lab.run(lambda key, x, c: _gate(gates, key).expected(x, c)[0] < math.log(threshold))
    routed = images(run(model, clip, with_error_budget(threshold)))
    for image, ours in zip(whole.images, routed, strict=True):
        difference = (image.permute(1, 2, 0).numpy() - ours.astype(np.float32)).__abs__()
        assert np.median(difference) <= 0.6
        assert difference.mean() < 2.0


def _gate(gates: Estimator, key: tuple[str, int]) -> Gate:
    gate = gates.tail_gate if key[0] == "tail" else gates.groups(key[0])[key[1]].gate
    assert gate is not None
    return gate


def test_chunks_make_no_difference() -> None:
    clip, gates = moving(9), estimator()
    numbers = with_error_budget(1.0)
    model = upscaler(gates)
    whole = [model.forward(clip, None, lookahead=0, last=True, routing=numbers)]
    state, parts = None, []
    for group, last in groups(clip, 2, 7):
        parts.append(model.forward(np.stack(group), state, lookahead=7, last=last, routing=numbers))
        state = parts[-1].state
    assert np.array_equal(images(whole), images(parts))
    assert 0 < whole[0].reports[0].skip_ratio < 1


def test_mask_and_estimator_share_a_frame() -> None:
    """A still half is reused, and of the other half blocks are skipped; each is counted for itself."""
    clip = moving(4, 64, 96)
    clip[:, :, 48:] = 90
    numbers = Preset(overhead=60, error_budget=0.5, backward_error_budget=0.5, dense_above=10.0)
    report = run(upscaler(estimator(added=-10.0)), clip, numbers)[0].reports[2]
    assert report.units_reused > 0
    assert report.units_skipped > 0
    assert report.units_left_out < report.units_total


def test_segments_are_the_cheapest_of_all() -> None:
    random = np.random.default_rng(0)
    cost = Cost(tile=8, halo=2, overhead=100)
    for _ in range(30):
        penalty = random.exponential(60, (2, 7)) * random.integers(0, 2, (2, 7))
        found = segments(penalty, 16, 56, cost, 2)
        cheapest = min(_price(penalty, np.array(chosen), cost) for chosen in product([False, True], repeat=7))
        chosen = np.zeros(7, np.bool_)
        for rectangle in found:
            assert (rectangle.y0, rectangle.y1) == (0, 16)
            chosen[rectangle.x0 // 8 : rectangle.x1 // 8] = True
        assert _price(penalty, chosen, cost) == pytest.approx(cheapest)


def _price(penalty: np.ndarray, chosen: np.ndarray, cost: Cost) -> float:
    """What computing those columns of tiles costs, and leaving out the others."""
    runs = int((np.diff([0, *chosen.astype(int)]) == 1).sum())
    tall = 16 + 2 * cost.halo
    return float(penalty[:, ~chosen].sum() + chosen.sum() * 8 * tall + runs * (cost.overhead + 2 * cost.halo * tall))


def test_segments_of_the_last_band_end_with_the_frame() -> None:
    rectangles = segments(np.full((3, 2), 1e6), 20, 12, Cost(8, 2, 100), 2)
    assert rectangles == (Rectangle(0, 0, 16, 12), Rectangle(16, 0, 20, 12))
    assert segments(np.zeros((3, 2)), 20, 12, Cost(8, 2, 100), 2) == ()


def test_saved_and_loaded(tmp_path: Path) -> None:
    made, path = estimator(), tmp_path / "skip.safetensors"
    made.save(path, "some:1")
    loaded = load_estimator(path, "some:1", network())
    assert loaded is not None
    assert loaded.layout == LAYOUT
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), loaded.state_dict().values(), strict=True))
    assert load_estimator(path, "other:2", network()) is None  # fitted to other weights
    assert load_estimator(tmp_path / "none.safetensors", "some:1", network()) is None
    path.write_bytes(b"nothing")
    with pytest.raises(BadWeights, match="holds no estimator"):
        load_estimator(path, "some:1", network())


def test_estimators_that_come_along_belong_to_the_weights_that_come_along() -> None:
    """One whose weights were trained anew since would silently not be used."""
    for path in PACKAGED.glob("skip-small*.safetensors"):
        name = path.stem.removeprefix("skip-")
        network, fingerprint = load_network(name, Path())
        assert load_estimator(path, fingerprint, network) is not None, name
    official = {f"skip-{card.name}": f"{card.name}:{card.sha256[:16]}" for card in CARDS if card.sha256}
    for name, fingerprint in official.items():
        path = PACKAGED / f"{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["network"] == fingerprint
        assert load_estimator(path, fingerprint, BasicVSR(NetworkConfig())) is not None, name


def test_reads_what_was_written_while_all_weights_were_adapted_or_none(tmp_path: Path) -> None:
    made = Estimator(network().config, LAYOUT, network())
    made.save(tmp_path / "new.safetensors", "some:1")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        facts = file.metadata() | {"adapted": "true"}
        save_file({key: file.get_tensor(key) for key in file.keys()}, tmp_path / "old.safetensors", facts)  # noqa: SIM118
    loaded = load_estimator(tmp_path / "old.safetensors", "some:1", network())
    assert loaded is not None
    assert loaded.adapted is not None


def test_what_a_network_knows_of_its_input_is_not_rounded(tmp_path: Path) -> None:
    config = NetworkConfig(channels=8, blocks=2)
    made = Estimator(config, Layout((), (), tail=False), BasicVSR(config))
    made.save(tmp_path / "gates.safetensors", "some:1")
    loaded = load_estimator(tmp_path / "gates.safetensors", "some:1", BasicVSR(config))
    assert loaded is not None
    assert loaded.adapted is not None
    assert all(a.equal(b) for a, b in zip(loaded.adapted.buffers(), BasicVSR(config).buffers(), strict=True))


def test_a_job_with_gates_at_work_is_told_from_one_with_other_gates() -> None:
    """So that one which was under way when an estimator was replaced starts anew, and no other does."""
    light = load_model("small", weights_dir=Path(), device="cpu", precision="fp32", threads=1)
    assert light.estimator is not None
    before = {routing: light.identity(routing) for routing in ("off", "balanced", "fast")}
    light.estimator.digest = "another"
    assert {routing for routing, told in before.items() if told != light.identity(routing)} == {"balanced", "fast"}


def test_a_job_is_told_from_one_that_was_routed_by_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    light = load_model("small", weights_dir=Path(), device="cpu", precision="fp32", threads=1)
    before = {routing: light.identity(routing) for routing in ("off", "balanced", "fast")}
    monkeypatch.setitem(PRESETS, "balanced", replace(PRESETS["balanced"], luma=9.0))
    assert {routing for routing, told in before.items() if told != light.identity(routing)} == {"balanced"}
    monkeypatch.setattr("model.engine.upscaler.crop_overhead", lambda *_: 77)  # on another machine
    assert light.identity("fast") == before["fast"]


def test_least_squares_recovers_a_convolution() -> None:
    torch.manual_seed(0)
    known, found = nn.Conv2d(4, 3, 3, 1, 1), nn.Conv2d(4, 3, 3, 1, 1)
    sums = LeastSquares(4, 3)
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(1, 4, 24, 32)
            sums.add(x, known(x), torch.rand(1, 1, 24, 32) + 0.1)
    sums.solve(found)
    assert torch.allclose(known.weight, found.weight, atol=1e-2)
    assert torch.allclose(known.bias, found.bias, atol=1e-2)


def test_sub_pixels_are_the_order_of_a_light_tail() -> None:
    image = torch.rand(1, 3, 8, 12)
    assert torch.equal(shuffled(sub_pixels(image, 4), 4), image)
    assert torch.equal(sub_pixels(image, 4)[0, :3, 1, 2], image[0, :, 4, 8])


@pytest.mark.slow
def test_a_fit_makes_surrogates_better_and_heads_that_tell_tiles_apart() -> None:
    clips = [
        Clip(str(seed), lr, np.repeat(np.repeat(lr, 4, 1), 4, 2))
        for seed in range(2)
        for lr in [np.roll(moving(4), 5 * seed, axis=2)]
    ]
    net, gates = network().requires_grad_(False), estimator().requires_grad_(False)
    with torch.inference_mode():
        before = _error(net, gates, clips[0])
        explained = fit(net, gates, clips, error_budget=0.5, rounds=1, say=lambda _: None)
        after = _error(net, gates, clips[0])
        align(net, gates, clips, 0.5)
        table = measure(net, gates, clips)
    assert after < 0.2 * before
    assert explained["tail", 0] > 0.5  # what a random network's trunks do hardly reaches its image
    looks, added, own = table["forward", 1]
    assert looks.shape == (2 * 4 * 35, 16)
    assert added.shape == own.shape == (2 * 4 * 35,)


def _error(net: BasicVSR, gates: Estimator, clip: Clip) -> float:
    lab = ClipRunner(net, gates, clip)
    everywhere = lab.run(lambda key, x, change: torch.ones(5, 7, dtype=torch.bool))
    return sum(float((a - b).square().mean()) for a, b in zip(everywhere.images, lab.dense().images, strict=True))


def test_a_model_without_an_estimator_runs_all_blocks() -> None:
    model = load_model("tiny", weights_dir=Path(), device="cpu", precision="fp32", threads=1)
    assert model.estimator is None
    result = model.forward(moving(), None, lookahead=0, last=True, routing=with_error_budget(0.5))
    assert result.reports[0].units_skipped == 0


def test_training_windows_are_the_same_each_time(tmp_path: Path) -> None:
    make_clip(tmp_path / "one.mp4", frames=12, width=160, height=128)
    first, again = list(windows(tmp_path, 4)), list(windows(tmp_path, 4))
    assert [clip.name for clip in first] == ["one"]
    assert [clip.hr.shape for clip in first] == [(4, 128, 160, 3)]
    assert [clip.lr.shape for clip in first] == [(4, 32, 40, 3)]
    assert all(np.array_equal(a.hr, b.hr) for a, b in zip(first, again, strict=True))


def test_fast_skips_blocks_of_light_networks_and_of_adapted_ones() -> None:
    """Of the paper's network as it is, the upsampler's gate alone is worth its time."""
    assert upscaler(estimator()).preset("fast").error_budget == 0
    assert upscaler(estimator()).preset("fast", error_budget=0.01).error_budget == 0.01
    adapted = estimator()
    adapted.adapted = network()
    assert 0 < upscaler(adapted).preset("fast").error_budget < PRESETS["fast"].error_budget
    assert upscaler(adapted).preset("fast").backward_error_budget == upscaler(adapted).preset("fast").error_budget
    assert upscaler(adapted).preset("fast").backward_every == 1
    assert not upscaler(adapted).preset("fast").negated_flow
    assert upscaler(adapted).preset("balanced").error_budget == 0
    assert upscaler(adapted).preset("balanced").backward_error_budget == 0
    light = load_model("small", weights_dir=Path(), device="cpu", precision="fp32", threads=1)
    assert light.estimator is not None
    assert light.estimator.adapted is not None
    fast = Upscaler("plain", light.network, "plain", light.device, light.dtype).preset("fast")
    assert (fast.backward_every, fast.backward_error_budget, fast.negated_flow) == (1, fast.error_budget, True)
    assert light.preset("fast").error_budget > light.preset("balanced").error_budget > 0
    assert light.preset("fast").backward_error_budget > light.preset("balanced").backward_error_budget > 0
    assert light.preset("fast").backward_every > light.preset("balanced").backward_every == 1


def test_gates_rest_where_only_the_networks_own_weights_are_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapted weights would take as long in a wider number format as the gates save."""
    light = load_model("small", weights_dir=Path(), device="cpu", precision="fp32", threads=1)
    monkeypatch.setattr("model.engine.upscaler.has_integers", lambda network: network is light.network)
    for name in ("balanced", "fast"):
        assert light.preset(name).error_budget == light.preset(name).backward_error_budget == 0
        assert light.preset(name).backward_every == 1
    assert light.preset("fast", error_budget=0.02).error_budget == 0.02
    monkeypatch.setattr("model.engine.upscaler.has_integers", lambda network: True)
    for name in ("balanced", "fast"):
        assert light.preset(name).backward_error_budget > 0
        assert light.preset(name).error_budget == 0, "cells of the forward branch gain nothing on integers"


def test_what_comes_along_for_small_skips_where_little_is_to_see() -> None:
    """Ripples beside a blurred half: hardly anything is lost, and cells are left out."""
    light = load_model("small", weights_dir=Path(), device="cpu", precision="fp32", threads=1)
    columns = np.mgrid[:96, :160][1]
    clip = np.stack([128 + 60 * np.sin((columns + i) / np.where(columns < 64, 1.5, 40)) for i in range(4)])
    frames = np.repeat(clip[..., None], 3, axis=3).astype(np.uint8)
    dense = light.forward(frames, None, lookahead=0, last=True, routing="off").frames
    numbers = light.preset("fast", mask=False)
    result = light.forward(frames, None, lookahead=0, last=True, routing=numbers)
    assert all(report.units_reused == 0 for report in result.reports)
    assert result.reports[2].skip_ratio > 0.2
    error = np.square(result.frames.astype(float) - dense).mean()
    assert error < 4.0  # 42 dB
