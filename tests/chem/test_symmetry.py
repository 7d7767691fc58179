import numpy as np
import pytest
from ase.build import molecule

from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.chem.symmetry import symmetry_number

NUMBERS = {
    "H2O": 2, "NH3": 3, "CH4": 12, "C2H6": 6, "C2H4": 4, "C6H6": 12, "CO2": 2, "HCN": 1, "C2H2": 2, "H2": 2,
    "CH3OH": 1, "CH3CH2OH": 1, "C3H4_D2d": 4, "cyclobutane": 4,
}  # fmt: skip
"""Cramer, Essentials of Computational Chemistry, table 10.1, and the orders of the rotational subgroups."""


@pytest.mark.parametrize(("name", "expected"), NUMBERS.items())
def test_the_number_is_that_of_the_proper_rotations(name: str, expected: int) -> None:
    atoms = molecule(name)
    atoms.rattle(1e-3, seed=1)
    assert symmetry_number(graph_from_geometry(atoms.numbers, atoms.positions), atoms.positions) == expected


def test_a_distorted_geometry_and_isotopes_have_less_symmetry() -> None:
    atoms = molecule("CH4")
    atoms.positions[1] *= 1.3
    graph = graph_from_geometry(atoms.numbers, atoms.positions)
    assert symmetry_number(graph, atoms.positions) == 3
    water = molecule("H2O")
    assert symmetry_number(graph_from_smiles("[2H]O"), water.positions[[1, 0, 2]]) == 1
    assert symmetry_number(graph_from_smiles("[2H]O[2H]"), water.positions[[1, 0, 2]]) == 2


def test_an_atom_has_one_and_too_many_permutations_have_none() -> None:
    assert symmetry_number(graph_from_smiles("[Cl-]"), np.zeros((1, 3))) == 1
    graph = graph_from_smiles("CC(C)(C)C")  # 24 * 6**4 permutations
    assert symmetry_number(graph, np.random.default_rng(0).normal(size=(graph.n_atoms, 3))) is None
