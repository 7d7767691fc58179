import numpy as np
import pytest

from physcon_ase.chem.graph import known_bonds, make_graph, pair_types, topological_distances


def test_a_graph_is_made_from_lists() -> None:
    carbonate = make_graph([6, 8, 8, 8], [[0, 1], [2, 0], [0, 3]], [2, 1, 1], [0, 0, -1, -1])
    assert (carbonate.n_atoms, carbonate.charge, carbonate.multiplicity) == (4, -2, 1)
    assert carbonate.bonds.tolist() == [[0, 1], [0, 2], [0, 3]]  # the smaller index first
    assert (carbonate.tetrahedra.shape, carbonate.double_bonds.shape) == ((0, 4), (0, 4))
    assert carbonate.double_bond_is_cis.dtype == bool
    assert make_graph([1], [], []).bonds.shape == (0, 2)


def test_distances_count_bonds() -> None:
    chain = make_graph([6, 6, 6, 8], [[0, 1], [1, 2]], [1, 1])
    assert topological_distances(chain)[0].tolist() == [0, 1, 2, np.inf]


@pytest.mark.parametrize(("is_cis", "expected"), [(True, 12), (False, 13)])
def test_pair_types_tell_bonds_distances_and_the_sides_of_a_double_bond(is_cis: bool, expected: int) -> None:
    difluoroethene = make_graph(
        [9, 6, 6, 9], [[0, 1], [1, 2], [2, 3]], [1, 2, 1], double_bonds=[[0, 1, 2, 3]], double_bond_is_cis=[is_cis]
    )
    types = pair_types(difluoroethene)
    assert types.tolist() == [[15, 1, 7, expected], [1, 15, 2, 7], [7, 2, 15, 1], [expected, 7, 1, 15]]
    aromatic = make_graph([6, 6, 1], [[0, 1]], [12])
    assert pair_types(aromatic)[0].tolist() == [15, 5, 14]


def test_bonds_of_several_atoms_without_any_are_unknown() -> None:
    assert known_bonds(make_graph([8, 1, 1], [], [])) is None
    assert known_bonds(make_graph([18], [], [])).shape == (0, 2)
    assert known_bonds(make_graph([8, 1, 1], [[0, 1]], [1])).tolist() == [[0, 1]]
