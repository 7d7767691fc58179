import numpy as np
import pytest
from scipy.spatial.distance import cdist

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.chem.torsions import dihedral_matching, rotatable_bonds, turned
from physcon_ase.errors import ConstraintError

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


@pytest.mark.parametrize(
    ("smiles", "pattern", "found"),
    [
        ("CCCO", "[#6][#6][#6][#8]", (0, 1, 2, 3)),
        ("OCCC", "[#6][#6][#6][#8]", (3, 2, 1, 0)),
        ("CC(=O)Nc1ccccc1", "O=C[NX3][c:4]", None),
        ("CC(=O)Nc1ccccc1", "[O:1]=[C:2][NX3:3][c:4]", (2, 1, 3, 4)),
        ("Cc1ccccc1-c1ccccc1", "cc-!@cc", (1, 6, 7, 8)),
    ],
)
def test_a_pattern_selects_four_atoms(smiles: str, pattern: str, found: tuple[int, ...] | None) -> None:
    if found is None:
        with pytest.raises(ConstraintError, match="does not select four atoms"):
            dihedral_matching(graph_from_smiles(smiles), pattern)
    else:
        assert dihedral_matching(graph_from_smiles(smiles), pattern) == found


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("[C", "is no SMARTS"),
        ("CCC", "does not select four atoms"),
        ("[#6][#6][#6][#8]", r"matches no bond of 'CCCCC'"),
        ("[#6][#6][#6][#6]", r"matches 2 bonds \(1-2, 2-3\) of 'CCCCC', but one is needed"),
    ],
)
def test_a_pattern_of_no_bond_or_several_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        dihedral_matching(graph_from_smiles("CCCCC"), pattern)
