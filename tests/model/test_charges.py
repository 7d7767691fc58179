"""Partial charges: their sum, their derivatives, and what the total charge changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from physcon_ase.batch import Batch, make_batch, with_positions
from physcon_ase.model.charges import ChargeEffect, ChargeHead
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import PhysCon
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, charged_tiny_model

MOLECULES = [
    (ETHANOL_NUMBERS, ETHANOL),
    (WATER_NUMBERS, WATER),
    (WATER_NUMBERS, 1.1 * WATER),
    (np.array([8]), np.zeros((1, 3))),
]
CHARGES = [0, 1, -1, -2]


def batch_of(charges: list[int]) -> Batch:
    numbers, positions = zip(*MOLECULES, strict=True)
    return make_batch(numbers, positions, charges=charges, dtype=torch.float64)


def forces(model: PhysCon, batch: Batch, level: str = "cheap") -> Tensor:
    return energies_and_forces(model.energy_fn(level), batch)[1]


def test_charges_add_up_to_the_total_charge_and_empty_slots_have_none() -> None:
    model, batch = charged_tiny_model(), batch_of(CHARGES)
    outputs = model.evaluate(batch, "cheap")
    assert len(outputs.local_charges) == 2
    for charges in (outputs.charges, outputs.early_charges):
        assert charges is not None
        torch.testing.assert_close(charges.sum(dim=1), torch.tensor(CHARGES, dtype=torch.float64))
        assert not charges[~batch.atom_mask].any()
    for local in outputs.local_charges:
        assert (local.sum(dim=1) - torch.tensor(CHARGES)).abs().max() > 0.1
        assert not local[~batch.atom_mask].any()


def test_charges_that_are_right_locally_are_left_alone() -> None:
    head = ChargeHead(12).double()
    batch, features = batch_of(CHARGES), torch.randn(4, 9, 12, dtype=torch.float64)
    # the local charges are made to sum to the total charge
    with torch.no_grad():
        head.network[2].weight[0].zero_()
    for total in (0, 1):
        head.network[2].bias.data[0] = total / 3
        water = head(features[1:2], torch.tensor([total]), batch.atom_mask[1:2])
        torch.testing.assert_close(water.partial, water.local, rtol=0, atol=1e-12)


def test_derivatives_of_charges_and_of_their_effect_are_those_of_autograd() -> None:
    head, effect = ChargeHead(12).double(), ChargeEffect(12).double()
    torch.nn.init.normal_(effect.last.weight)
    batch = batch_of(CHARGES)
    features = torch.randn(4, 9, 12, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(4, 9, dtype=torch.float64) * batch.atom_mask
    charges = head(features, batch.charge, batch.atom_mask)
    (expected,) = torch.autograd.grad(charges.partial, features, grad)
    torch.testing.assert_close(head.pull_back(charges, grad, batch.atom_mask), expected)
    q = charges.partial.detach().requires_grad_()
    changed, hidden = effect(features, q)
    weights = torch.randn_like(changed)
    expected = torch.autograd.grad(changed, (features, q), weights)
    for found, by_autograd in zip(effect.pull_back(hidden, weights), expected, strict=True):
        torch.testing.assert_close(found, by_autograd)


def test_the_total_charge_changes_the_energy_and_an_untrained_effect_does_not() -> None:
    model = charged_tiny_model()
    network = model.energy
    neutral, ions = batch_of([0, 0, 0, 0]), batch_of([1, 1, -1, 1])
    assert (model.energies(ions, "cheap") - model.energies(neutral, "cheap")).abs().min() > 1e-3
    torch.nn.init.zeros_(network.charge_effect.last.weight)
    network.long_range = None
    torch.testing.assert_close(model.energies(ions, "cheap"), model.energies(neutral, "cheap"), rtol=1e-13, atol=0)


@pytest.mark.parametrize("level", ["cheap", "dft"])
def test_forces_of_ions_by_hand_are_those_of_autograd(level: str) -> None:
    model = charged_tiny_model()
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


def test_charges_turn_with_nothing_and_follow_the_order_of_the_atoms() -> None:
    model, batch = charged_tiny_model(), batch_of(CHARGES)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = replace(
        with_positions(batch, batch.positions[:, order] @ torch.linalg.qr(torch.randn(3, 3).double())[0]),
        atomic_numbers=batch.atomic_numbers[:, order],
    )
    expected, found = (model.evaluate(own, "cheap").charges for own in (batch, moved))
    torch.testing.assert_close(found, expected[:, order], rtol=0, atol=1e-10)
