import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength, FixInternals

from physcon_ase.errors import ConstraintError
from physcon_ase.inference.constraints import check_constraints
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.one import optimize
from physcon_ase.model.physcon import LoadedModel

AGREEMENT = 1e-3
"""Difference [eV] of the energies of `optimize` and `optimize_many` under the same constraints."""

CCOH = (0, 1, 2, 3)
"""Dihedral angle of the hydroxyl group in ASE's ethanol."""


def ethanol() -> Atoms:
    return molecule("CH3CH2OH")


def test_both_functions_find_the_same_minimum_under_a_fixed_dihedral_angle(double: LoadedModel) -> None:
    atoms = ethanol()
    angle = (atoms.get_dihedral(*CCOH) + 40) % 360
    atoms.set_constraint(FixInternals(dihedrals_deg=[[angle, list(CCOH)]]))
    (record,) = optimize_many([atoms], checkpoint=double)
    assert record.status == "ok"
    assert record.result is not None
    assert record.result.atoms.get_dihedral(*CCOH) == pytest.approx(angle, abs=1e-3)
    start = ethanol()
    start.set_dihedral(*CCOH, angle, indices=[3])
    start.set_constraint(FixInternals(dihedrals_deg=[[angle, list(CCOH)]]))
    alone = optimize(start, checkpoint=double)
    assert alone.converged
    assert record.result.energy == pytest.approx(alone.energy, abs=AGREEMENT)
    free = optimize(ethanol(), checkpoint=double)
    assert free.energy < record.result.energy - 10 * AGREEMENT


def test_both_functions_find_the_same_minimum_with_fixed_atoms(double: LoadedModel) -> None:
    atoms = ethanol()
    atoms.set_constraint(FixAtoms([0, 1]))
    (record,) = optimize_many([atoms], checkpoint=double)
    assert record.result is not None
    assert np.allclose(record.result.atoms.positions[:2], atoms.positions[:2], atol=1e-12)
    assert record.result.energy == pytest.approx(optimize(atoms, checkpoint=double).energy, abs=AGREEMENT)
    # as in ASE, the forces on fixed atoms are kept, and get_forces() sets them to 0
    assert np.abs(record.result.atoms.get_forces(apply_constraint=False)[:2]).max() > 0.05
    assert not record.result.atoms.get_forces()[:2].any()


def test_negative_indices_count_from_the_last_atom_of_each_molecule(double: LoadedModel) -> None:
    """Both molecules are in one batch, in which the smaller one has empty slots at the end."""
    water = molecule("H2O")
    water.positions[2] *= 1.2
    water.set_constraint(FixAtoms([-1, -3]))
    small, _ = optimize_many([water, ethanol()], checkpoint=double)
    assert small.result is not None
    assert np.allclose(small.result.atoms.positions[[0, 2]], water.positions[[0, 2]], atol=1e-12)
    assert not np.allclose(small.result.atoms.positions[1], water.positions[1], atol=1e-3)


def test_without_a_value_the_current_dihedral_angle_is_fixed(double: LoadedModel) -> None:
    atoms = ethanol()
    atoms.set_dihedral(*CCOH, 100.0, indices=[3])
    atoms.set_constraint(FixInternals(dihedrals_deg=[[None, list(CCOH)]]))
    (record,) = optimize_many([atoms], checkpoint=double)
    assert record.result is not None
    assert record.result.atoms.get_dihedral(*CCOH) == pytest.approx(100.0, abs=1e-3)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (FixBondLength(0, 1), "FixBondLengths is not supported in batches"),
        (FixAtoms([0, 9]), r"FixAtoms of the atoms \[9\], which do not exist: indices from -9 to 8 are allowed"),
        (FixAtoms([-10]), r"FixAtoms of the atoms \[-10\], which do not exist"),
        (FixInternals(bonds=[[1.5, [0, 1]]]), r"FixInternals\(bonds\) is not supported in batches"),
        (FixInternals(dihedrals_deg=[[0.0, [0, 1, 2, 99]]]), "four different atoms from 0 to 8"),
        (FixInternals(dihedrals_deg=[[None, [0, 1, 2, 99]]]), "four different atoms from 0 to 8"),
        (FixInternals(dihedrals_deg=[[0.0, list(CCOH)]]), "call atoms.set_dihedral first"),
        ([FixInternals(dihedrals_deg=[[None, list(CCOH)]]), FixAtoms(CCOH)], "has fixed atoms only"),
    ],
)
def test_other_constraints_are_a_reason_in_the_record(constraint: object, message: str, double: LoadedModel) -> None:
    atoms = ethanol()
    atoms.set_constraint(constraint)
    with pytest.raises(ConstraintError, match=message):
        check_constraints(atoms)
    constrained, free = optimize_many([atoms, molecule("H2O")], checkpoint=double)
    assert (constrained.status, constrained.error, free.status) == ("failed", "ConstraintError", "ok")


@pytest.mark.parametrize("optimizer", ["lbfgs", "bfgs", "fire"])
def test_a_value_other_than_that_of_the_start_is_held(optimizer: str, double: LoadedModel) -> None:
    atoms = optimize("CCO", checkpoint=double).atoms
    target = atoms.get_dihedral(*CCOH) + 30
    atoms.set_constraint(FixInternals(dihedrals_deg=[[target, list(CCOH)]]))
    result = optimize(atoms, checkpoint=double, optimizer=optimizer)
    assert result.is_ok
    assert result.atoms.get_dihedral(*CCOH) == pytest.approx(target % 360, abs=0.01)


def test_a_fixed_bond_has_its_length(double: LoadedModel) -> None:
    atoms = optimize("CCO", checkpoint=double).atoms
    atoms.set_constraint(FixInternals(bonds=[[1.65, [0, 1]]]))
    result = optimize(atoms, checkpoint=double)
    assert (result.is_ok, result.optimizer) == (True, "BFGS")
    assert result.atoms.get_distance(0, 1) == pytest.approx(1.65, abs=1e-4)


@pytest.mark.parametrize(
    "constraint",
    [FixAtoms([9]), FixBondLength(0, 9), FixInternals(dihedrals_deg=[[0.0, [0, 1, 2, 9]]])],
)
def test_atoms_that_do_not_exist_are_refused_by_optimize(constraint: object, double: LoadedModel) -> None:
    atoms = ethanol()
    atoms.set_constraint(constraint)
    with pytest.raises(ConstraintError, match=r"from (-9|0) to 8"):
        optimize(atoms, checkpoint=double)


def test_a_dihedral_angle_over_a_line_is_not_defined() -> None:
    atoms = molecule("C2H2")
    atoms.set_constraint(FixInternals(dihedrals_deg=[[0.0, [2, 0, 1, 3]]]))
    with pytest.raises(ConstraintError, match="are on a line"):
        check_constraints(atoms)
