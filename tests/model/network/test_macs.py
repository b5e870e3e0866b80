"""The table of multiply-accumulates equals a count, so that loading a model need not count."""

from __future__ import annotations

import pytest
import torch

from model.network import macs
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.zoo.models import CARDS, config_of
from weights import FOLDER


@pytest.mark.parametrize("config", macs._COUNTED, ids=lambda config: f"{config.channels}x{config.blocks}")
def test_the_table_equals_a_count(config: NetworkConfig) -> None:
    with torch.device("meta"):
        network = BasicVSR(config)
    side = macs.SIDE * network.fold
    assert macs.step_macs(network) == macs.macs_of_steps(network, side, side)


def test_the_table_holds_all_packaged_models() -> None:
    assert {config_of(card.name, FOLDER) for card in CARDS} <= macs._COUNTED.keys()
