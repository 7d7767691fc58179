import math

import numpy as np
import pytest
import torch

from physcon_ase.batch import Batch, make_batch, with_positions
from physcon_ase.training.losses.displacement import displacement_loss
from physcon_ase.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from physcon_ase.valence.internals import torsion_vectors
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, labelled_with

SMOOTHING = 0.002
"""Half-width [Å] of the smoothed kink."""


@pytest.fixture
def batch() -> Batch:
    return make_batch([ETHANOL_NUMBERS, WATER_NUMBERS], [ETHANOL, WATER], dtype=torch.float64)


def test_the_loss_is_the_mean_step_of_the_labelled_atoms(batch: Batch) -> None:
    label = torch.zeros_like(batch.positions)
    label[1, :3] = math.nan
    wrong = torch.ones_like(batch.positions)  # a uniform force moves all atoms of ethanol by F / .01
    loss = displacement_loss(wrong, labelled_with(batch, label)).item()
    assert loss == pytest.approx(100 * math.sqrt(3), abs=2 * SMOOTHING)


def test_the_loss_reaches_the_forces_but_not_the_positions(batch: Batch) -> None:
    positions = batch.positions.clone().requires_grad_()
    forces = torch.ones_like(positions).requires_grad_()
    moved = with_positions(batch, positions)
    displacement_loss(forces, labelled_with(moved, torch.zeros_like(batch.positions))).backward()
    assert positions.grad is None
    assert forces.grad is not None
    assert forces.grad[0].abs().min() > 0


def test_a_force_along_a_torsion_moves_the_atoms_as_far_as_half_a_torsion_constant_says() -> None:
    # Flat hydrogen peroxide: whatever moves atoms out of the plane is its torsion, all that is stiff lies within.
    positions = np.array([[0.0, 0.95, 0.0], [0.0, 0.0, 0.0], [1.45, 0.0, 0.0], [1.45, -0.95, 0.0]])
    batch = make_batch([np.array([1, 8, 8, 1])], [positions], dtype=torch.float64)
    along = torsion_vectors(batch.positions, torch.tensor([[[0, 1, 2, 3]]]))[0]
    square = along.square().sum().item()
    bonds = ((0.95, 2.10, 0.3949), (1.45, 2.87, 0.28), (0.95, 2.10, 0.3949))  # length [Å], reference and decay [bohr]
    strength = math.exp(sum(decay * (at_rest**2 - (r / ANGSTROM_PER_BOHR) ** 2) for r, at_rest, decay in bonds))
    stiffness = 0.0025 * EV_PER_HARTREE * strength * square + 0.01
    expected = 0.1 * along[0].norm(dim=1).mean().item() / stiffness
    loss = displacement_loss(0.1 * along, labelled_with(batch, torch.zeros_like(batch.positions))).item()
    assert loss == pytest.approx(expected, abs=SMOOTHING)
    assert loss > 20 * SMOOTHING


def test_atoms_that_have_come_apart_do_not_count(batch: Batch) -> None:
    apart = batch.positions.clone()
    apart[0, 8] += 3.0  # the hydroxyl hydrogen of ethanol
    forces, moved = torch.ones_like(apart), with_positions(batch, apart)
    label = torch.zeros_like(apart)
    label[0, :9] = math.nan
    alone = displacement_loss(forces, labelled_with(moved, label))
    assert alone > 0
    together = displacement_loss(forces, labelled_with(moved, torch.zeros_like(apart)))
    torch.testing.assert_close(together, alone)
