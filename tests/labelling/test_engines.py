import numpy as np
import pytest
import torch
from ase import Atoms
from tblite.ase import TBLite

from physcon_ase.batch import make_batch
from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines import EngineLabel, engine_forces, tblite_engine
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS

SAME_PROGRAM = 1e-7
"""Two ways to call the same program: its convergence [eV, eV/Å]."""


@pytest.mark.parametrize(("level", "method"), [("gfn2", "GFN2-xTB"), ("gfn1", "GFN1-xTB")])
def test_labels_are_those_of_tblites_own_calculator_in_ev_and_angstrom(level: str, method: str) -> None:
    atoms = Atoms(ETHANOL_NUMBERS, ETHANOL, calculator=TBLite(method=method, verbosity=0))
    label = tblite_engine(level)(ETHANOL_NUMBERS, ETHANOL, 0, 1)
    assert label.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(label.forces, atoms.get_forces(), atol=1e-5)


def test_charge_and_spin_reach_the_program() -> None:
    engine = tblite_engine()
    neutral, cation = (engine(WATER_NUMBERS, WATER, charge, spin).energy for charge, spin in ((0, 1), (1, 2)))
    assert 8 < cation - neutral < 20  # the ionisation energy of water is 12.6 eV


def test_what_the_program_refuses_is_one_error() -> None:
    with pytest.raises(EngineError, match="tblite failed"):
        tblite_engine()(np.array([0, 1]), np.zeros((2, 3)), 0, 1)
    with pytest.raises(EngineError, match="has no level 'pm7'; choose one of gfn2, gfn1"):
        tblite_engine("pm7")


def test_a_geometry_without_label_is_nan_among_the_others() -> None:
    def engine(numbers: np.ndarray, positions: np.ndarray, charge: int, multiplicity: int) -> EngineLabel:
        if len(numbers) == 3:
            raise EngineError("no water today")
        return EngineLabel(1.5, np.ones((len(numbers), 3)))

    batch = make_batch([WATER_NUMBERS, ETHANOL_NUMBERS], [WATER, ETHANOL])
    energies, forces = engine_forces(engine)(batch)
    assert energies.isnan().tolist() == [True, False]
    assert energies[1] == 1.5
    torch.testing.assert_close(forces[1], torch.ones(9, 3))
