import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from physcon_ase.chem.compare import (
    BROKEN_BEYOND,
    FORMED_BELOW,
    MAX_SYMMETRIES,
    aligned,
    bond_angles_mae,
    bond_lengths_mae,
    bonds_intact,
    distance_mae_rmse,
    rmsd,
    stereo_intact,
    symmetric_rmsd,
    symmetries,
)
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import make_graph
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.units import COVALENT_RADII

ROUND_OFF = 1e-7
"""Of distances of some Å in double precision, after a singular value decomposition."""


def moved(positions: np.ndarray, seed: int = 0) -> np.ndarray:
    return Rotation.random(rng=np.random.default_rng(seed)).apply(positions) + np.array([3.0, -50.0, 700.0])


def random_geometry(n_atoms: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_atoms, 3)) * 2


def test_rmsd_ignores_motion_but_not_reflection() -> None:
    a = random_geometry(7)
    assert rmsd(a, moved(a)) < ROUND_OFF
    np.testing.assert_allclose(aligned(moved(a), a), a, atol=1e-6)
    assert rmsd(a, a * [1, 1, -1]) > 0.5


def test_rmsd_is_the_smallest_over_rotations() -> None:
    a, b = random_geometry(5, 1), random_geometry(5, 2)
    centred_a, centred_b = a - a.mean(axis=0), b - b.mean(axis=0)
    turned = Rotation.random(20000, rng=np.random.default_rng(0)).as_matrix() @ centred_a.T
    sampled = np.sqrt(((turned.swapaxes(1, 2) - centred_b) ** 2).sum(axis=2).mean(axis=1)).min()
    assert rmsd(a, b) <= sampled
    assert rmsd(a, b) == pytest.approx(sampled, rel=0.02)  # 20,000 rotations are about 5 degrees apart


@pytest.mark.parametrize("n_atoms", [1, 2, 3])
def test_rmsd_of_few_atoms_is_finite(n_atoms: int) -> None:
    a = random_geometry(n_atoms)
    assert rmsd(a, moved(a)) < ROUND_OFF


@pytest.mark.parametrize(
    ("smiles", "n_maps"),
    [
        ("CC(C)(C)C", 24),
        ("c1ccccc1", 12),
        ("C[N+](=O)[O-]", 2),
        ("CC(=O)[O-]", 2),
        ("CC(=O)O", 1),
        ("CC(N)=O", 1),
        ("C12C3C4C1C5C2C3C45", 48),
        ("[H][H]", 2),
        ("[He]", 1),
        ("C[C@H](O)[C@H](C)O", 2),  # C2 axis
        ("C[C@H](O)[C@@H](C)O", 1),  # meso: exchanging the ends would need a reflection
        ("C/C=C/C=C\\C", 1),
        ("C/C=C/C=C/C", 2),
    ],
)
def test_symmetries_exchange_equivalent_atoms_and_keep_configurations(smiles: str, n_maps: int) -> None:
    assert len(symmetries(graph_from_smiles(smiles))) == n_maps


def test_symmetric_rmsd_sees_through_renumbering_but_not_through_reflection() -> None:
    graph = graph_from_smiles("CC(C)(C)c1ccc([N+](=O)[O-])cc1")
    a = embed(graph)[0]
    order = np.arange(graph.n_atoms)
    order[[0, 2, 3]], order[[9, 10]] = [2, 3, 0], [10, 9]
    b = moved(a)[order]
    assert rmsd(a[:13], b[:13]) > 0.3
    assert symmetric_rmsd(graph, a, b) < ROUND_OFF
    alanine = graph_from_smiles("C[C@H](N)C(=O)O")
    x = embed(alanine)[0]
    assert symmetric_rmsd(alanine, x, x * [-1, 1, 1]) > 0.1


def test_the_hydrogens_of_a_methyl_group_are_exchanged_if_asked_for() -> None:
    graph = graph_from_smiles("CO")
    a = embed(graph)[0]
    b = moved(a)[[0, 1, 3, 4, 2, 5]]
    assert symmetric_rmsd(graph, a, b, heavy_only=False) < ROUND_OFF
    assert rmsd(a, b) > 0.3


def test_many_equivalent_hydrogens_do_not_explode() -> None:
    graph = graph_from_smiles("CC(C)(C)CC(C)(C)C")  # 72 exchanges of heavy atoms, 6^6 of hydrogens for each
    a = embed(graph)[0]
    assert len(symmetries(graph, heavy_only=False)) == MAX_SYMMETRIES
    hydrogens = np.flatnonzero(graph.atomic_numbers == 1)
    order = np.arange(graph.n_atoms)
    order[hydrogens[:3]] = hydrogens[[1, 2, 0]]
    order[hydrogens[-3:]] = hydrogens[[-1, -3, -2]]
    assert symmetric_rmsd(graph, a, moved(a)[order], heavy_only=False) < ROUND_OFF


def test_bonds_of_a_start_geometry_are_intact() -> None:
    graph = graph_from_smiles("CC(=O)Oc1ccccc1C(=O)O")
    check = bonds_intact(graph, embed(graph)[0])
    assert (check.intact, check.broken, check.formed) == (True, [], [])


def test_stretched_bonds_are_broken_and_close_atoms_have_formed_one() -> None:
    bonded = make_graph(np.array([6, 8]), np.array([[0, 1]]), np.array([1]))
    apart = make_graph(np.array([6, 8]), np.zeros((0, 2)), np.zeros(0))
    radii = COVALENT_RADII[6] + COVALENT_RADII[8]
    at = [np.array([[0, 0, 0], [0, 0, factor * radii]]) for factor in (1.0, 1.19, 1.21, 1.29, 1.31)]
    assert (BROKEN_BEYOND, FORMED_BELOW) == (1.3, 1.2)
    assert [bonds_intact(bonded, x).intact for x in at] == [True, True, True, True, False]
    assert [bonds_intact(apart, x).intact for x in at] == [False, False, True, True, True]
    assert bonds_intact(bonded, at[-1]).broken == [(0, 1)]
    assert bonds_intact(apart, at[0]).formed == [(0, 1)]


def test_positions_that_are_no_numbers_are_not_intact() -> None:
    graph = graph_from_smiles("C[C@H](N)/C=C/C")
    nowhere = np.full((graph.n_atoms, 3), np.nan)
    assert len(bonds_intact(graph, nowhere).broken) == len(graph.bonds)
    assert not stereo_intact(graph, nowhere).intact


def test_a_mirrored_geometry_has_lost_its_stereo() -> None:
    graph = graph_from_smiles("C[C@H](N)[S@](=O)/C=C/C")
    positions = embed(graph)[0]
    check = stereo_intact(graph, positions * [1, -1, 1])
    assert stereo_intact(graph, positions).intact
    assert check.inverted == [tuple(corners) for corners in graph.tetrahedra.tolist()]
    assert check.flipped == []  # a mirror leaves cis and trans alone


def test_a_flat_stereocentre_is_lost() -> None:
    graph = graph_from_smiles("F[C@H](Cl)Br")
    assert not stereo_intact(graph, embed(graph)[0] * [1, 1, 0]).intact


def test_bond_lengths_and_angles_are_compared_between_heavy_atoms() -> None:
    graph = graph_from_smiles("COC")
    angle_a, angle_b = np.radians(110.0), np.radians(113.0)
    a, b = np.zeros((9, 3)), np.zeros((9, 3))
    a[0], a[2] = [1.4, 0, 0], 1.4 * np.array([np.cos(angle_a), np.sin(angle_a), 0])
    b[0], b[2] = [1.42, 0, 0], 1.41 * np.array([np.cos(angle_b), np.sin(angle_b), 0])
    b[3:] = 7.0  # hydrogens do not count
    assert bond_lengths_mae(graph, a, b) == pytest.approx(0.015, abs=1e-12)
    assert bond_angles_mae(graph, a, b) == pytest.approx(3.0, abs=1e-9)


def test_without_heavy_bonds_there_is_no_mean() -> None:
    graph = graph_from_smiles("O")
    assert np.isnan(bond_lengths_mae(graph, np.eye(3), np.eye(3)))
    assert np.isnan(bond_angles_mae(graph, np.eye(3), np.eye(3)))


def test_distance_errors_are_means_over_pairs() -> None:
    a = np.array([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    b = np.array([[0.0, 0, 0], [1, 0, 0], [4, 0, 0]])  # two of the three distances differ by 1
    assert distance_mae_rmse(a, b) == pytest.approx((2 / 3, np.sqrt(2 / 3)))
    assert distance_mae_rmse(a[:1], b[:1]) == (0.0, 0.0)
