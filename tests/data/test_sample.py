import numpy as np
import pytest
import torch

from physcon_ase.batch import make_batch
from physcon_ase.data import sample
from physcon_ase.data.sample import LabelledBatch

NAN = float("nan")


@pytest.fixture
def labelled() -> LabelledBatch:
    """Three hydrogen molecules in three slots: all labels, energy only, forces and charges only."""
    forces, charges = torch.zeros(3, 3, 3), torch.zeros(3, 3)
    forces[1, :2] = NAN
    charges[1, :2] = NAN
    return LabelledBatch(
        batch=make_batch([np.array([1, 1])] * 3, [np.array([[0, 0, 0], [0, 0, 0.7]])] * 3, n_slots=3),
        level=torch.tensor([0, 1, 1]),
        energy=torch.tensor([-30.0, -31.0, NAN], dtype=torch.float64),
        forces=forces,
        is_minimum=torch.tensor([False, False, True]),
        weight=torch.ones(3),
        charges=charges,
        identity=torch.zeros(3, dtype=torch.int64),
    )


def test_absent_labels_are_known(labelled: LabelledBatch):
    assert labelled.has_energy.tolist() == [True, True, False]
    assert labelled.has_forces.tolist() == [True, False, True]
    assert labelled.has_charges.tolist() == [True, False, True]
    assert len(labelled) == 3


def test_energies_stay_in_float64(labelled: LabelledBatch):
    moved = sample.to(labelled, dtype=torch.float32)
    assert moved.energy.dtype == torch.float64
    assert {own.dtype for own in (moved.batch.positions, moved.forces, moved.charges)} == {torch.float32}
    moved = sample.to(labelled, dtype=torch.float64)
    of_dtype = (moved.batch.positions, moved.forces, moved.charges, moved.weight)
    assert {own.dtype for own in of_dtype} == {torch.float64}
    assert moved.level.dtype == torch.int64


def test_selection_keeps_labels_with_their_molecule(labelled: LabelledBatch):
    chosen = sample.select(labelled, torch.tensor([2, 0]))
    assert chosen.energy.isnan().tolist() == [True, False]
    assert chosen.level.tolist() == [1, 0]
    assert chosen.is_minimum.tolist() == [True, False]
    assert sample.select(labelled, torch.tensor([1])).charges[0, :2].isnan().all()
    assert len(chosen.batch) == 2
