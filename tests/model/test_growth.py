"""A wider network begins as the narrower one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from physcon_ase.batch import make_batch
from physcon_ase.model.config import EncoderConfig
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.growth import can_grow, grown
from physcon_ase.model.physcon import PhysCon
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, enliven, tiny_model

NARROW = tiny_model(source_vectors=3, charged=True, long_range=True)


def wider(**sizes: int) -> PhysCon:
    """Random weights of a wider network, with those of `NARROW` in it."""
    narrow, old = NARROW.config.encoder, dict(NARROW.named_parameters())
    wide = PhysCon(replace(NARROW.config, encoder=replace(narrow, **sizes)), dtype=torch.float64)
    enliven(wide)
    with torch.no_grad():
        for name, weights in wide.named_parameters():
            weights.copy_(grown(name, old[name], weights, narrow, wide.config.encoder))
    return wide


@pytest.mark.parametrize(
    "sizes",
    [
        {"source_scalars": 6},
        {"source_scalars": 6, "first_scalars": 4},
        {"source_vectors": 5},
        {"mixed_channels": 13},
        {"hidden": 20},
        {"n_radial": 7},
        {"channels": 18},
        {"first_scalars": 5, "source_scalars": 6, "source_vectors": 4, "mixed_channels": 14, "hidden": 16, "n_radial": 6},
    ],
)
def test_a_wider_network_begins_with_the_energies_and_forces_of_the_narrower_one(sizes: dict[str, int]) -> None:
    model = wider(**sizes)
    batch = make_batch([ETHANOL_NUMBERS], [ETHANOL], charges=[1], dtype=torch.float64)
    for level in NARROW.level_names:
        found, expected = (energies_and_forces(own.energy_fn(level), batch) for own in (model, NARROW))
        for value, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(value, reference, rtol=0, atol=1e-10)
    assert np.abs(expected[1].numpy()).max() > 0.1


@pytest.mark.parametrize(
    ("sizes", "possible"),
    [
        ({"hidden": 20}, True),
        ({"hidden": 10}, False),
        ({"source_scalars": 6, "first_scalars": 3}, False),
        ({"n_layers": 3}, False),
        ({"cutoff": 6.0}, False),
        ({"charged": False}, False),
    ],
)
def test_only_networks_of_the_same_kind_grow(sizes: dict, possible: bool) -> None:
    narrow: EncoderConfig = NARROW.config.encoder
    assert can_grow(narrow, replace(narrow, **sizes)) is possible
