import numpy as np
import pytest
import torch

from physcon_ase.batch import Batch, make_batch
from physcon_ase.model.springs import spring_hessian
from physcon_ase.valence.model_hessian import newton_steps
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS

ROUNDING = 1e-9


@pytest.fixture
def batch() -> Batch:
    return make_batch([ETHANOL_NUMBERS, WATER_NUMBERS], [ETHANOL, WATER], dtype=torch.float64)


def rigid_motions(batch: Batch) -> torch.Tensor:
    """[molecules, 6, slots, 3]"""
    mask = batch.atom_mask[..., None].double()
    axes = torch.eye(3, dtype=torch.float64)
    shifts = [axis.expand_as(batch.positions) * mask for axis in axes]
    turns = [torch.linalg.cross(axis.expand_as(batch.positions), batch.positions) * mask for axis in axes]
    return torch.stack([*shifts, *turns], dim=1)


def test_rigid_motions_meet_nothing_but_the_softest_spring(batch: Batch) -> None:
    hessian = spring_hessian(batch)
    motions = rigid_motions(batch).flatten(2)
    torch.testing.assert_close(hessian @ motions.transpose(1, 2), 0.1 * motions.transpose(1, 2), atol=ROUNDING, rtol=0)


def test_the_hessian_is_symmetric_and_positive(batch: Batch) -> None:
    hessian = spring_hessian(batch)
    torch.testing.assert_close(hessian, hessian.transpose(1, 2), atol=ROUNDING, rtol=0)
    assert torch.linalg.eigvalsh(hessian).min().item() == pytest.approx(0.1, abs=ROUNDING)


def test_a_bond_is_stiffer_than_an_angle_and_an_angle_than_a_torsion(batch: Batch) -> None:
    hessian = spring_hessian(batch)[0]

    def stiffness(atom: int, direction: np.ndarray) -> float:
        motion = torch.zeros(9, 3, dtype=torch.float64)
        motion[atom] = torch.as_tensor(direction / np.linalg.norm(direction))
        return (motion.flatten() @ hessian @ motion.flatten()).item()

    along = ETHANOL[8] - ETHANOL[2]  # the O-H bond
    in_plane = np.cross(np.cross(along, ETHANOL[1] - ETHANOL[2]), along)
    turning = np.cross(along, ETHANOL[1] - ETHANOL[2])
    values = [stiffness(8, direction) for direction in (along, in_plane, turning)]
    assert values[0] > 3 * values[1] > 9 * values[2]


def test_newton_steps_solve_for_the_forces_and_leave_empty_slots_alone(batch: Batch) -> None:
    forces = torch.randn(batch.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    forces = forces * batch.atom_mask[..., None]
    steps = newton_steps(forces, spring_hessian(batch))
    back = (spring_hessian(batch) @ steps.flatten(1)[..., None]).view_as(forces)
    torch.testing.assert_close(back, forces, atol=1e-8, rtol=0)
    assert steps[1, 3:].abs().max().item() == 0


def test_padding_changes_nothing(batch: Batch) -> None:
    alone = make_batch([WATER_NUMBERS], [WATER], dtype=torch.float64)
    forces = torch.randn(1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    padded = torch.zeros_like(batch.positions)
    padded[1, :3] = forces[0]
    found, expected = newton_steps(padded, spring_hessian(batch)), newton_steps(forces, spring_hessian(alone))
    torch.testing.assert_close(found[1, :3], expected[0], atol=1e-9, rtol=0)
