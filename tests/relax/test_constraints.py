import numpy as np
import pytest
import torch
from ase import Atoms

from physcon_ase.batch import Batch, make_batch
from physcon_ase.relax.constraints import Constraints, make_constraints, project, project_hessians, restore
from physcon_ase.relax.driver import RelaxStatus, relax
from tests.relax.potentials import METHODS, rattled_ethanol, spring_forces
from tests.tiny import ETHANOL, ETHANOL_BONDS, ETHANOL_NUMBERS

CCOH = (0, 1, 2, 8)
"""Dihedral angle of the hydroxyl group of ethanol."""

EXACT = 1e-6
"""[degrees]; the restoration leaves 1e-8 rad."""

ROUNDING = 1e-10


def ethanols(*positions: np.ndarray) -> Batch:
    return make_batch([ETHANOL_NUMBERS] * len(positions), list(positions), dtype=torch.float64)


def dihedral(positions: torch.Tensor) -> float:
    return Atoms(ETHANOL_NUMBERS, positions.numpy()).get_dihedral(*CCOH)


def turned_by(batch: Batch, degrees: float) -> Constraints:
    """The hydroxyl group of each ethanol fixed at some degrees from where it is."""
    return make_constraints(batch, [[(CCOH, np.radians(dihedral(place) + degrees))] for place in batch.positions])


@pytest.mark.parametrize("degrees", [0.0, 5.0, -20.0, 45.0])
def test_restored_angles_are_exact_with_the_sign_of_ase(degrees: float) -> None:
    batch = ethanols(ETHANOL)
    restored, found = restore(turned_by(batch, degrees), batch.positions)
    assert found.all()
    difference = dihedral(restored[0]) - dihedral(batch.positions[0]) - degrees
    assert (difference + 180) % 360 - 180 == pytest.approx(0, abs=EXACT)


def test_projected_steps_change_no_constraint_to_first_order() -> None:
    batch = ethanols(ETHANOL)
    constraints = make_constraints(batch, [[(CCOH, 0.0)]], [[3]])
    step = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    allowed = project(constraints, batch.positions, step)
    assert not allowed[0, 3].any()
    slope, free = (
        (dihedral((batch.positions + 1e-5 * way)[0]) - dihedral((batch.positions - 1e-5 * way)[0])) / 2e-5
        for way in (allowed, step)
    )
    assert abs(slope) < 1e-4
    assert abs(free) > 10
    assert torch.allclose(project(constraints, batch.positions, allowed), allowed, atol=ROUNDING)


def test_projected_hessian_couples_no_constrained_direction() -> None:
    batch = ethanols(ETHANOL)
    constraints = make_constraints(batch, [[(CCOH, 0.0)]], [[0, 1]])
    random = torch.randn(1, 27, 27, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    projected = project_hessians(constraints, batch.positions, random @ random.mT)
    step = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    allowed = project(constraints, batch.positions, step)
    image = (projected @ allowed.flatten(1)[..., None]).view_as(step)
    assert torch.allclose(project(constraints, batch.positions, image), image, atol=1e-8)
    assert torch.linalg.eigvalsh(projected).min() > 0


@pytest.mark.parametrize("method", METHODS)
def test_relaxation_ends_at_the_lowest_energy_under_the_constraints(method: str) -> None:
    batch = ethanols(rattled_ethanol(0), rattled_ethanol(1), rattled_ethanol(2))
    constraints = make_constraints(batch, [[(CCOH, np.radians(angle))] for angle in (280.0, 300.0, 320.0)])
    options = {"method": method, "fmax": 1e-3, "max_steps": 2000, "bonds": [ETHANOL_BONDS] * 3}
    result = relax(spring_forces, batch, constraints=constraints, **options)
    assert result.converged.all()
    for place, angle in zip(result.positions, (280.0, 300.0, 320.0), strict=True):
        assert dihedral(place) == pytest.approx(angle, abs=EXACT)
    # at a constrained minimum the energy rises in every allowed direction, and falls along the constrained one
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        step = 0.01 * torch.randn(3, 9, 3, generator=generator, dtype=torch.float64)
        moved, found = restore(constraints, result.positions + step)
        assert found.all()
        assert (spring_forces(ethanols(*moved.numpy()))[0] > result.energies).all()
    free = relax(spring_forces, batch, **options)
    assert (free.energies < result.energies - 1e-4).all()


@pytest.mark.parametrize("method", METHODS)
def test_fixed_atoms_do_not_move_at_all(method: str) -> None:
    batch = ethanols(rattled_ethanol(3), rattled_ethanol(4))
    constraints = make_constraints(batch, fixed=[[0, 1, 8], []])
    result = relax(spring_forces, batch, constraints=constraints, method=method, bonds=[ETHANOL_BONDS] * 2)
    assert result.converged.all()
    assert torch.equal(result.positions[0, [0, 1, 8]], batch.positions[0, [0, 1, 8]])
    assert not torch.allclose(result.positions[0, 2], batch.positions[0, 2], atol=1e-3)
    alone = relax(spring_forces, ethanols(rattled_ethanol(4)), method=method, bonds=[ETHANOL_BONDS])
    assert result.energies[1].item() == pytest.approx(alone.energies.item(), abs=1e-8)


def test_angles_that_cannot_be_restored_are_no_minimum() -> None:
    batch = ethanols(ETHANOL)
    constraints = make_constraints(batch, [[(CCOH, 0.0)]], [list(CCOH)])
    assert relax(spring_forces, batch, constraints=constraints).statuses == (RelaxStatus.NOT_FINITE,)
