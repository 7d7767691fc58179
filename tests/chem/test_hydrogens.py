import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import make_graph, neighbours_of, signed_volumes
from physcon_ase.chem.hydrogens import handed_order, hydrogen_order, hydrogen_tetrahedra
from physcon_ase.chem.smiles import graph_from_smiles

PROPANE = make_graph(
    [6, 6, 6, *8 * [1]],
    [[0, 1], [1, 2], [0, 3], [0, 4], [0, 5], [1, 6], [1, 7], [2, 8], [2, 9], [2, 10]],
    np.ones(10),
)
OF_QM9 = np.array(
    [
        [-0.286, 1.168, 0.485],
        [-0.243, -0.362, 0.437],
        [0.467, -0.899, -0.809],
        [0.725, 1.592, 0.484],
        [-0.813, 1.575, -0.385],
        [-0.798, 1.529, 1.383],
        [0.26, -0.741, 1.335],
        [-1.266, -0.758, 0.473],
        [1.503, -0.547, -0.856],
        [0.486, -1.993, -0.822],
        [-0.035, -0.563, -1.724],
    ]
)
"""Molecule 13 of QM9, positions [Å]."""


@pytest.mark.parametrize(
    ("smiles", "n_centres"),
    [
        ("C", 1),
        ("CCO", 2),
        ("C[NH3+]", 2),
        ("CNC", 2),
        ("C[C@H](F)O", 1),
        ("c1ccccc1C", 1),
        ("CC(C)C", 3),
        ("[SiH4]", 1),
    ],
)
def test_four_coordinate_atoms_with_equivalent_hydrogens(smiles: str, n_centres: int) -> None:
    graph = graph_from_smiles(smiles)
    tetrahedra = hydrogen_tetrahedra(graph)
    assert tetrahedra.shape == (n_centres, 4)
    assert (graph.atomic_numbers[tetrahedra[:, :2]] == 1).all()


def test_isotopes_are_not_equivalent() -> None:
    assert len(hydrogen_tetrahedra(graph_from_smiles("[2H]C(F)O"))) == 0
    graph = graph_from_smiles("[2H]C([2H])F")
    ((first, second, *_),) = hydrogen_tetrahedra(graph).tolist()
    assert graph.isotopes[[first, second]].tolist() == [2, 2]


def test_qm9_follows_the_convention_of_handedness() -> None:
    tetrahedra = hydrogen_tetrahedra(PROPANE)
    assert handed_order(tetrahedra, OF_QM9).tolist() == list(range(11))
    assert (signed_volumes(np.array([[0, 2, 6, 7]]), OF_QM9) < 0).all()  # neighbours of the middle carbon by index
    exchanged = OF_QM9.copy()
    exchanged[[6, 7]] = OF_QM9[[7, 6]]
    np.testing.assert_array_equal(exchanged[handed_order(tetrahedra, exchanged)], OF_QM9)


def test_reflected_geometries_get_the_handedness_of_the_convention_back() -> None:
    mirrored = OF_QM9 * [1, 1, -1]
    tetrahedra = hydrogen_tetrahedra(PROPANE)
    order = handed_order(tetrahedra, mirrored)
    assert (order != np.arange(11)).sum() == 6  # two hydrogens of each carbon
    for own in (order, hydrogen_order(PROPANE, mirrored)):
        assert (signed_volumes(tetrahedra, mirrored[own]) > 0).all()


def dihedral(positions: np.ndarray, atoms: list[int]) -> float:
    return Atoms(len(positions) * "X", positions).get_dihedral(*atoms)


def test_the_first_hydrogen_of_a_methyl_group_is_nearly_opposite_to_the_last_neighbour() -> None:
    order = hydrogen_order(PROPANE, OF_QM9)
    np.testing.assert_array_equal(order, range(11))  # of QM9
    for first, centre in ((3, 0), (8, 2)):
        assert dihedral(OF_QM9, [first, centre, 1, 7]) == pytest.approx(180, abs=5)
        rotated = OF_QM9.copy()
        rotated[first : first + 3] = OF_QM9[[first + 1, first + 2, first]]
        np.testing.assert_array_equal(rotated[hydrogen_order(PROPANE, rotated)], OF_QM9)


@pytest.mark.parametrize("smiles", ["CCO", "CC[NH3+]", "CC(=O)Cl", "Cc1ccccc1", "COC"])
def test_a_group_of_three_hydrogens_rotated_by_120_degrees_gets_the_same_order(smiles: str) -> None:
    graph = graph_from_smiles(smiles)
    (positions,) = embed(graph, seed=1)
    ordered = positions[hydrogen_order(graph, positions)]
    neighbours = [sorted(own) for own in neighbours_of(graph)]
    groups = [[i for i in own if graph.atomic_numbers[i] == 1] for own in neighbours]
    groups = [own for own in groups if len(own) == 3]
    assert groups
    for group in groups:
        rotated = positions.copy()
        rotated[group] = positions[np.roll(group, 1)]
        np.testing.assert_array_equal(rotated[hydrogen_order(graph, rotated)], ordered)


def test_the_rotation_of_a_methyl_group_on_a_line_of_atoms_is_arbitrary() -> None:
    graph = graph_from_smiles("CC#CC")
    (positions,) = embed(graph, seed=1)
    order = hydrogen_order(graph, positions)
    np.testing.assert_array_equal(order, handed_order(hydrogen_tetrahedra(graph), positions))


@pytest.mark.parametrize("smiles", ["CC", "CCO", "C[NH2+]CC(F)(F)C1CCC1", "C[C@H](O)[C@@H](C)N"])
def test_the_order_is_a_symmetry_of_the_molecule_and_does_not_turn_it(smiles: str) -> None:
    graph = graph_from_smiles(smiles)
    (positions,) = embed(graph, seed=3)
    positions = positions * [1, 1, -1] if len(graph.tetrahedra) == 0 else positions
    order = hydrogen_order(graph, positions)
    turned = positions @ Rotation.from_euler("xyz", [0.3, 1.0, 2.0]).as_matrix().T
    np.testing.assert_array_equal(hydrogen_order(graph, turned), order)
    assert (graph.atomic_numbers[order] == graph.atomic_numbers).all()
    assert (hydrogen_order(graph, positions[order]) == np.arange(graph.n_atoms)).all()
