import math

import numpy as np
import pytest
import torch

from physcon_ase.batch import Batch, make_batch, with_positions
from physcon_ase.training.losses.displacement import displacement_loss
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


def test_a_force_along_a_torsion_counts_for_far_more_than_one_along_a_bond(batch: Batch) -> None:
    def loss(direction: np.ndarray, *atoms: int) -> float:
        forces = torch.zeros_like(batch.positions)
        for atom, sign in zip(atoms, (1, -1), strict=False):
            forces[0, atom] = sign * torch.from_numpy(direction / np.linalg.norm(direction))
        return displacement_loss(forces, labelled_with(batch, torch.zeros_like(batch.positions))).item()

    hydroxyl, axis = ETHANOL[8] - ETHANOL[2], ETHANOL[2] - ETHANOL[1]
    assert loss(np.cross(axis, hydroxyl), 8) > 20 * loss(hydroxyl, 8, 2)
