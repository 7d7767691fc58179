import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physcon_ase.chem.graph import MolGraph, make_graph
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


def without_bonds(atoms: Atoms) -> MolGraph:
    return make_graph(atoms.numbers, np.zeros((0, 2)), np.zeros(0))


@pytest.mark.parametrize(("name", "expected"), [*NUMBERS.items(), ("BF3", 6), ("C60", 60), ("CF4", 12)])
def test_bonds_need_not_be_known(name: str, expected: int) -> None:
    atoms = molecule(name)
    assert symmetry_number(without_bonds(atoms), atoms.positions) == expected


def ring(n: int, radius: float) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n) / n
    return radius * np.column_stack([np.cos(angles), np.sin(angles), np.zeros(n)])


@pytest.mark.parametrize(
    ("smiles", "positions", "expected"),
    [
        ("c1cc[cH-]c1", np.concatenate([ring(5, 1.2), ring(5, 2.3)]), 10),
        ("c1ccc[cH+]cc1", np.concatenate([ring(7, 1.6), ring(7, 2.7)]), 14),
        ("F[P-](F)(F)(F)(F)F", 1.6 * np.array([[1, 0, 0], [0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1],
                                               [0, 0, -1]]), 24),
        ("[O-][N+](=O)[O-]", np.concatenate([ring(3, 1.25)[:1], np.zeros((1, 3)), ring(3, 1.25)[1:]]), 6),
    ],
)  # fmt: skip
def test_resonance_structures_do_not_lower_the_symmetry(smiles: str, positions: np.ndarray, expected: int) -> None:
    assert symmetry_number(graph_from_smiles(smiles), positions) == expected


def test_atoms_of_a_different_molecule_in_the_same_place_are_not_exchanged() -> None:
    square = ring(4, 1.0)
    bonded = make_graph(np.ones(4), np.array([[0, 1], [2, 3]]), np.ones(2))
    assert symmetry_number(without_bonds(Atoms("H4")), square) == 8
    assert symmetry_number(bonded, square) == 4


def test_an_atom_has_one_and_a_molecule_with_many_permutations_its_rotations() -> None:
    assert symmetry_number(graph_from_smiles("[Cl-]"), np.zeros((1, 3))) == 1
    graph = graph_from_smiles("CC(C)(C)C")  # 24 * 6**4 permutations
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    carbons = 1.53 * np.stack([tetrahedron[0], np.zeros(3), *tetrahedron[1:]])
    hydrogens = [
        carbon + 1.09 * (corner / 3 - (other - (other @ corner) * corner))
        for corner, carbon in ((place / 1.53, place) for place in carbons if place.any())
        for other in tetrahedron
        if not np.allclose(other, corner)
    ]
    neighbours = [sorted(second for first, second in graph.bonds.tolist() if first == atom) for atom in (0, 2, 3, 4)]
    assert [len([atom for atom in own if atom > 4]) for own in neighbours] == [3, 3, 3, 3]
    assert symmetry_number(graph, np.concatenate([carbons, hydrogens])) == 12
    assert symmetry_number(graph, np.random.default_rng(0).normal(size=(graph.n_atoms, 3))) == 1
