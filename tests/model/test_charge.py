"""The total charge as an input: shares, symmetry, derivatives, and neutral molecules that do not notice it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from physcon_ase.batch import Batch, make_batch
from physcon_ase.model.charge import ChargeShares
from physcon_ase.model.config import config_from_dict, config_to_dict
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import PhysCon
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, charged_tiny_model, tiny_model

MOLECULES = [
    (ETHANOL_NUMBERS, ETHANOL),
    (WATER_NUMBERS, WATER),
    (WATER_NUMBERS, 1.1 * WATER),
    (np.array([8]), np.zeros((1, 3))),
]
CHARGES = [0, 1, -1, -1]


def batch_of(charges: list[int]) -> Batch:
    numbers, positions = zip(*MOLECULES, strict=True)
    return make_batch(numbers, positions, charges=charges, dtype=torch.float64)


def forces(model: PhysCon, batch: Batch, level: str = "cheap") -> Tensor:
    return energies_and_forces(model.energy_fn(level), batch)[1]


def test_shares_add_up_to_the_charge_and_empty_slots_have_none() -> None:
    shares = ChargeShares(12).double()
    batch = batch_of([0, 2, -1, -1])
    found = shares.shares(torch.randn(*batch.atomic_numbers.shape, 12, dtype=torch.float64), batch)
    torch.testing.assert_close(found.sum(dim=1), torch.tensor([0.0, 2.0, 1.0, 1.0], dtype=torch.float64))
    assert not found[~batch.atom_mask].any()
    assert (found[1][batch.atom_mask[1]] > 0).all()


def test_neutral_molecules_do_not_notice_that_a_model_knows_charges() -> None:
    charged, plain = charged_tiny_model(), tiny_model(source_vectors=4)
    plain.load_state_dict({k: v for k, v in charged.state_dict().items() if "charge_shares" not in k})
    batch = batch_of([0, 0, 0, 0])
    assert torch.equal(charged.energies(batch, "dft"), plain.energies(batch, "dft"))
    # nor do they in the company of ions
    mixed = batch_of(CHARGES)
    torch.testing.assert_close(charged.energies(mixed, "dft")[0], plain.energies(batch, "dft")[0], rtol=1e-13, atol=0)


def test_an_untrained_charge_changes_nothing_and_a_trained_one_does() -> None:
    model = charged_tiny_model()
    neutral, ions = batch_of([0, 0, 0, 0]), batch_of([1, 1, -1, 1])
    assert (model.energies(ions, "cheap") - model.energies(neutral, "cheap")).abs().min() > 1e-3
    cation, anion = (model.energies(batch_of([0, charge, 0, 0]), "cheap")[1] for charge in (1, -1))
    assert abs(float(cation - anion)) > 1e-3
    torch.nn.init.zeros_(model.encoder.charge_shares.effect[2].weight)
    torch.nn.init.zeros_(model.encoder.charge_shares.effect[2].bias)
    torch.testing.assert_close(model.energies(ions, "cheap"), model.energies(neutral, "cheap"), rtol=1e-13, atol=0)


@pytest.mark.parametrize(("level", "n_own"), [("cheap", 0), ("dft", 0), ("dft", 1), ("dft", 2)])
def test_forces_of_ions_by_hand_are_those_of_autograd(level: str, n_own: int) -> None:
    model = charged_tiny_model(n_own)
    batch = batch_of(CHARGES)
    found = forces(model, batch, level)
    model.requires_grad_(True)
    torch.testing.assert_close(found, forces(model, batch, level).detach(), rtol=1e-10, atol=1e-11)


def test_forces_of_ions_are_the_slope_of_the_energy() -> None:
    model, step = charged_tiny_model(), 1e-4
    batch = batch_of(CHARGES)
    push = torch.zeros_like(batch.positions)
    push[:, 1, 2] = step  # an atom of every molecule but the lone one
    there, back = (replace(batch, positions=batch.positions + sign * push) for sign in (1, -1))
    slope = (model.energies(there, "cheap") - model.energies(back, "cheap")) / (2 * step)
    torch.testing.assert_close(-slope[:3], forces(model, batch)[:3, 1, 2], rtol=1e-5, atol=1e-6)


def test_configurations_without_a_word_on_charge_are_those_of_neutral_models() -> None:
    data = config_to_dict(charged_tiny_model().config)
    assert config_from_dict(data) == charged_tiny_model().config
    del data["encoder"]["charged"]
    for level in data["levels"]:
        del level["charges"]
    old = config_from_dict(data)
    assert not old.encoder.charged
    assert [level.charges for level in old.levels] == [(0,), (0,)]
