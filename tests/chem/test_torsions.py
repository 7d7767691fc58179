import numpy as np
import pytest
from scipy.spatial.distance import cdist

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.chem.torsions import rotatable_bonds, turned

ROUNDING = 1e-12
"""Of rotations in float64 [Å]."""


def test_a_turn_moves_one_side_about_one_bond_and_nothing_else() -> None:
    graph = graph_from_smiles("CCO")
    rotors = rotatable_bonds(graph)
    assert sorted(tuple(sorted(rotor.bond)) for rotor in rotors) == [(0, 1), (1, 2)]
    start = embed(graph)[0]
    for rotor in rotors:
        first, second = rotor.bond
        place = turned(start, rotor, np.pi / 2)
        is_moving = np.isin(np.arange(graph.n_atoms), rotor.moving)
        np.testing.assert_array_equal(place[~is_moving], start[~is_moving])
        assert (np.abs(place[is_moving] - start[is_moving]).max(axis=1) > 0.1).all()
        rigid = np.isin(np.arange(graph.n_atoms), [first, second])
        for side in (is_moving | rigid, ~is_moving | rigid):
            np.testing.assert_allclose(cdist(place[side], place[side]), cdist(start[side], start[side]), atol=ROUNDING)
        np.testing.assert_allclose(turned(place, rotor, -np.pi / 2), start, atol=ROUNDING)


@pytest.mark.parametrize(
    ("smiles", "n_rotors"),
    [
        ("C", 0),  # nothing beyond the bond
        ("C1CCCCC1", 0),  # a ring
        ("CC#N", 0),  # four atoms in one line
        ("C=C", 0),
        ("CC=C=C", 1),  # the methyl group; cumulated bonds do not turn
        ("c1ccccc1C", 1),
        ("C[N+](=O)[O-]", 1),
        ("CS(C)(=O)=O", 2),
        ("CCCC", 3),
    ],
)
def test_rotatable_bonds_are_single_outside_of_rings_and_lines(smiles: str, n_rotors: int) -> None:
    assert len(rotatable_bonds(graph_from_smiles(smiles))) == n_rotors
