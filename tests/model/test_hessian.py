import pytest
import torch

from physcon_ase.batch import Batch, select, with_positions
from physcon_ase.model.hessian import dipole_derivative, hessian
from physcon_ase.model.physcon import PhysCon
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, charged_tiny_model, pack, tiny_model

STEP = 1e-4
"""Displacement [Å] of central differences."""

CLOSE = 1e-6
"""Relative to the largest element; what central differences with this step leave."""


def displaced(batch: Batch) -> tuple[Batch, Batch]:
    """Copies of the molecule displaced along and against each coordinate."""
    steps = STEP * torch.eye(batch.positions.numel(), dtype=torch.float64).view(-1, *batch.positions.shape[1:])
    copies = select(batch, torch.zeros(len(steps), dtype=torch.int64))
    return with_positions(copies, copies.positions + steps), with_positions(copies, copies.positions - steps)


@pytest.mark.parametrize("model", [tiny_model(4), charged_tiny_model()])
@pytest.mark.parametrize("atoms_per_batch", [20, 1000])
def test_the_hessian_is_the_difference_of_forces(model: PhysCon, atoms_per_batch: int) -> None:
    level = model.level_names[0]
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    found = hessian(model.energy_fn(level), batch, atoms_per_batch=atoms_per_batch)
    ahead, behind = (model.evaluate(copies, level, forces=True).forces for copies in displaced(batch))
    assert ahead is not None
    assert behind is not None
    expected = -(ahead - behind).flatten(start_dim=1) / (2 * STEP)
    assert (found - expected).abs().max() < CLOSE * expected.abs().max()
    assert (found - found.T).abs().max() < 1e-10 * expected.abs().max()


def test_the_dipole_derivative_is_the_difference_of_dipoles() -> None:
    model = charged_tiny_model()
    level = model.level_names[0]
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    found = dipole_derivative(model, level, batch)
    assert found is not None
    dipoles = []
    for copies in displaced(batch):
        charges = model.evaluate(copies, level).charges
        assert charges is not None
        dipoles.append((charges[..., None] * copies.positions).sum(dim=1))
    expected = ((dipoles[0] - dipoles[1]) / (2 * STEP)).T
    assert (found - expected).abs().max() < CLOSE * expected.abs().max()


def test_a_model_without_charges_has_no_dipole_derivative() -> None:
    model = tiny_model(4)
    assert dipole_derivative(model, model.level_names[0], pack(model, [(ETHANOL_NUMBERS, ETHANOL)])) is None
