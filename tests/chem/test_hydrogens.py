import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import make_graph, signed_volumes
from physcon_ase.chem.hydrogens import hydrogen_order, hydrogen_tetrahedra
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


def test_qm9_follows_the_convention() -> None:
    assert hydrogen_order(PROPANE, OF_QM9).tolist() == list(range(11))
    assert (signed_volumes(np.array([[0, 2, 6, 7]]), OF_QM9) < 0).all()  # neighbours of the middle carbon by index
    exchanged = OF_QM9.copy()
    exchanged[[6, 7]] = OF_QM9[[7, 6]]
    np.testing.assert_array_equal(exchanged[hydrogen_order(PROPANE, exchanged)], OF_QM9)


def test_reflected_geometries_get_the_convention_back() -> None:
    mirrored = OF_QM9 * [1, 1, -1]
    order = hydrogen_order(PROPANE, mirrored)
    assert (order != np.arange(11)).sum() == 6  # two hydrogens of each carbon
    assert (signed_volumes(hydrogen_tetrahedra(PROPANE), mirrored[order]) > 0).all()


@pytest.mark.parametrize("smiles", ["CCO", "C[NH2+]CC(F)(F)C1CCC1", "C[C@H](O)[C@@H](C)N"])
def test_the_order_is_a_symmetry_of_the_molecule_and_does_not_turn_it(smiles: str) -> None:
    graph = graph_from_smiles(smiles)
    (positions,) = embed(graph, seed=3)
    positions = positions * [1, 1, -1] if len(graph.tetrahedra) == 0 else positions
    order = hydrogen_order(graph, positions)
    turned = positions @ Rotation.from_euler("xyz", [0.3, 1.0, 2.0]).as_matrix().T
    np.testing.assert_array_equal(hydrogen_order(graph, turned), order)
    assert (graph.atomic_numbers[order] == graph.atomic_numbers).all()
    assert (hydrogen_order(graph, positions[order]) == np.arange(graph.n_atoms)).all()
