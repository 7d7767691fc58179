"""Comparison of geometries with each other and with a molecular graph.

Positions are in Å and in the atom order of the graph. Improper rotations are excluded, so enantiomers differ.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem
from scipy.optimize import linear_sum_assignment

from physcon_ase.chem.graph import MolGraph, neighbours_of, signed_volumes
from physcon_ase.chem.smiles import to_rdkit

BROKEN_BEYOND: Final = 1.3
"""Ratio of bond length to the sum of covalent radii above which a bond counts as broken. The largest ratio in 5,000 DFT
minima of QM9 is 1.28 (below 1.07 in 99 % of the molecules), in 5,000 drug-like molecules 1.10."""

FORMED_BELOW: Final = 1.2
"""Ratio of distance to the sum of covalent radii below which two non-bonded atoms count as bonded. The smallest ratio
in the same minima is 1.25 for 1,3-pairs (small bicycles) and 1.45 for atoms farther apart in the graph."""

MAX_SYMMETRIES: Final = 10_000
"""Maximum number of atom mappings compared by `symmetric_rmsd`; C60 has 120, tri-tert-butylbenzene 1,296."""

_PERIODIC_TABLE: Final = Chem.GetPeriodicTable()
_COVALENT_RADII: Final = np.array([0.0] + [_PERIODIC_TABLE.GetRcovalent(number) for number in range(1, 119)])
"""Covalent radius [Å] by atomic number, for all elements; agrees with `units.COVALENT_RADII`."""


@dataclass(frozen=True)
class BondCheck:
    """Comparison of the bonds of a geometry with those of its graph."""

    intact: bool
    """Whether no bond is broken or formed."""
    broken: list[tuple[int, int]]
    """Atom pairs that are bonded in the graph but too far apart."""
    formed: list[tuple[int, int]]
    """Atom pairs that are not bonded in the graph but within bonding distance."""


@dataclass(frozen=True)
class StereoCheck:
    """Comparison of the configuration of a geometry with that of its graph."""

    intact: bool
    """Whether no stereocentre is inverted and no double bond isomerised."""
    inverted: list[tuple[int, int, int, int]]
    """`MolGraph.tetrahedra` whose signed volume is not positive."""
    flipped: list[tuple[int, int, int, int]]
    """`MolGraph.double_bonds` with the wrong cis/trans configuration."""


def rmsd(a: Float[np.ndarray, "atoms 3"], b: Float[np.ndarray, "atoms 3"]) -> float:
    """Root mean square deviation [Å] after optimal rotation and translation."""
    return _root_mean_square(aligned(a, b) - b)


def aligned(a: Float[np.ndarray, "atoms 3"], onto: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
    """`a` superimposed on another geometry of the same atoms by rotation and translation.

    Kabsch 1976, doi 10.1107/S0567739476001873.
    """
    rotation, centre_a, centre_onto = _superposition(a, onto)
    return (a - centre_a) @ rotation + centre_onto


def symmetric_rmsd(
    graph: MolGraph,
    a: Float[np.ndarray, "atoms 3"],
    b: Float[np.ndarray, "atoms 3"],
    *,
    heavy_only: bool = True,
) -> float:
    """Symmetry-corrected RMSD [Å]: minimum over all permutations of topologically equivalent atoms.

    Permutations preserve the configuration of stereocentres and stereo double bonds. Terminal atoms that are equivalent
    by resonance (nitro, carboxylate) are permuted as well. The value is an upper bound if there are more than
    `MAX_SYMMETRIES` permutations; with hydrogens, the heavy atoms are then permuted and aligned first and the hydrogens
    of each atom are assigned afterwards.

    Args:
        graph: the molecule.
        a: first geometry.
        b: second geometry.
        heavy_only: whether hydrogens are ignored; molecules without heavy atoms are compared in full.
    """
    heavy = np.flatnonzero(graph.atomic_numbers > 1)
    if heavy_only and len(heavy):
        return _best_rmsd(a[heavy], b[heavy], symmetries(graph))
    maps = symmetries(graph, heavy_only=False)
    if len(maps) < MAX_SYMMETRIES:
        return _best_rmsd(a, b, maps)
    return min(_rmsd_with_assigned_hydrogens(graph, a, b, heavy, exchange) for exchange in symmetries(graph))


def symmetries(graph: MolGraph, *, heavy_only: bool = True) -> Int[np.ndarray, "maps atoms"]:
    """Permutations of equivalent atoms, at most `MAX_SYMMETRIES`; map k pairs atom i with atom maps[k, i].

    Args:
        graph: the molecule.
        heavy_only: whether only heavy atoms are mapped; indices then count heavy atoms.
    """
    mol = to_rdkit(graph)
    if heavy_only and (graph.atomic_numbers > 1).any():
        mol = Chem.RemoveAllHs(mol)
    mol = _with_equal_terminal_atoms(mol)
    maps = mol.GetSubstructMatches(mol, uniquify=False, useChirality=True, maxMatches=MAX_SYMMETRIES)
    return np.array(maps, dtype=np.int64).reshape(-1, mol.GetNumAtoms())


def bonds_intact(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> BondCheck:
    """Compares interatomic distances with covalent radii; NaN positions count as broken bonds."""
    first, second, stretch = _stretches(graph.atomic_numbers, positions)
    bonded = np.zeros((graph.n_atoms, graph.n_atoms), dtype=bool)
    bonded[graph.bonds[:, 0], graph.bonds[:, 1]] = True
    is_bond = bonded[first, second]
    broken = is_bond & ~(stretch <= BROKEN_BEYOND)
    formed = ~is_bond & (stretch < FORMED_BELOW)
    return BondCheck(
        intact=not (broken.any() or formed.any()),
        broken=list(zip(first[broken].tolist(), second[broken].tolist(), strict=True)),
        formed=list(zip(first[formed].tolist(), second[formed].tolist(), strict=True)),
    )


def _stretches(atomic_numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and second atom of every pair, and the ratio of their distance to the sum of their covalent radii."""
    first, second = np.triu_indices(len(atomic_numbers), k=1)
    radii = _COVALENT_RADII[atomic_numbers]
    return first, second, np.linalg.norm(positions[first] - positions[second], axis=1) / (radii[first] + radii[second])


def stereo_intact(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> StereoCheck:
    """Checks the chirality of each stereocentre and the cis/trans configuration of each stereo double bond.

    Planar centres and NaN positions count as not intact.
    """
    inverted = graph.tetrahedra[~(signed_volumes(graph.tetrahedra, positions) > 0)]
    same_side = _cosine_of_torsion(*np.moveaxis(positions[graph.double_bonds], 1, 0))
    right_side = np.where(graph.double_bond_is_cis, same_side > 0, same_side < 0)
    flipped = graph.double_bonds[~right_side]
    return StereoCheck(
        intact=not (len(inverted) or len(flipped)),
        inverted=[tuple(corners) for corners in inverted.tolist()],
        flipped=[tuple(atoms) for atoms in flipped.tolist()],
    )


def bond_lengths_mae(graph: MolGraph, a: Float[np.ndarray, "atoms 3"], b: Float[np.ndarray, "atoms 3"]) -> float:
    """Mean absolute deviation [Å] of bond lengths between heavy atoms; NaN if there are none."""
    bonds = graph.bonds[(graph.atomic_numbers[graph.bonds] > 1).all(axis=1)]
    if len(bonds) == 0:
        return float("nan")
    lengths_a, lengths_b = (np.linalg.norm(p[bonds[:, 0]] - p[bonds[:, 1]], axis=1) for p in (a, b))
    return float(np.abs(lengths_a - lengths_b).mean())


def bond_angles_mae(graph: MolGraph, a: Float[np.ndarray, "atoms 3"], b: Float[np.ndarray, "atoms 3"]) -> float:
    """Mean absolute deviation [degrees] of bond angles between heavy atoms; NaN if there are none."""
    angles = _heavy_angles(graph)
    if len(angles) == 0:
        return float("nan")
    return float(np.abs(_angles_deg(angles, a) - _angles_deg(angles, b)).mean())


def distance_mae_rmse(a: Float[np.ndarray, "atoms 3"], b: Float[np.ndarray, "atoms 3"]) -> tuple[float, float]:
    """Mean absolute and root mean square deviation [Å] of the distances of all atom pairs; (0, 0) for a single atom.

    Definitions that divide by n², including the zero diagonal of the distance matrix, give values smaller by a factor
    of (n - 1)/n (MAE) and its square root (RMSE).
    """
    first, second = np.triu_indices(len(a), k=1)
    if len(first) == 0:
        return 0.0, 0.0
    distances_a, distances_b = (np.linalg.norm(p[first] - p[second], axis=1) for p in (a, b))
    difference = distances_a - distances_b
    return float(np.abs(difference).mean()), float(np.sqrt((difference**2).mean()))


def _root_mean_square(displacements: Float[np.ndarray, "atoms 3"]) -> float:
    return float(np.sqrt((displacements**2).sum(axis=1).mean()))


def _superposition(a: np.ndarray, onto: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation and centroids that minimise the RMSD of (a - centre_a) @ rotation + centre_onto to `onto`."""
    centre_a, centre_onto = a.mean(axis=0), onto.mean(axis=0)
    left, _, right = np.linalg.svd((a - centre_a).T @ (onto - centre_onto))
    # Flip the last singular vector if the optimal orthogonal matrix is a reflection.
    left[:, -1] *= np.sign(np.linalg.det(left) * np.linalg.det(right))
    return left @ right, centre_a, centre_onto


def _best_rmsd(a: np.ndarray, b: np.ndarray, maps: Int[np.ndarray, "maps atoms"]) -> float:
    return rmsd(a, b[maps[_closest_map(a, b, maps)]])


def _closest_map(a: np.ndarray, b: np.ndarray, maps: np.ndarray) -> int:
    """Index of the map of lowest RMSD: largest sum of singular values of the covariance, the last one signed."""
    covariances = np.einsum("ix,kiy->kxy", a - a.mean(axis=0), (b - b.mean(axis=0))[maps])
    overlaps = np.linalg.svd(covariances, compute_uv=False)
    overlaps[:, 2] *= np.sign(np.linalg.det(covariances))
    return int(overlaps.sum(axis=1).argmax())


def _rmsd_with_assigned_hydrogens(
    graph: MolGraph, a: np.ndarray, b: np.ndarray, heavy: np.ndarray, exchange: Int[np.ndarray, " heavy"]
) -> float:
    rotation, centre_a, centre_b = _superposition(a[heavy], b[heavy[exchange]])
    moved = (a - centre_a) @ rotation + centre_b
    order = np.arange(graph.n_atoms)
    order[heavy] = heavy[exchange]
    hydrogens = _hydrogens_of(graph)
    for atom, partner in zip(heavy.tolist(), heavy[exchange].tolist(), strict=True):
        own, others = hydrogens[atom], hydrogens[partner]
        distances = np.linalg.norm(moved[own][:, None] - b[others][None], axis=-1)
        rows, columns = linear_sum_assignment(distances**2)
        order[np.array(own, dtype=int)[rows]] = np.array(others, dtype=int)[columns]
    return rmsd(a, b[order])


def _hydrogens_of(graph: MolGraph) -> list[list[int]]:
    hydrogens: list[list[int]] = [[] for _ in range(graph.n_atoms)]
    for first, second in graph.bonds.tolist():
        for atom, other in ((first, second), (second, first)):
            if graph.atomic_numbers[other] == 1:
                hydrogens[atom].append(other)
    return hydrogens


def _with_equal_terminal_atoms(mol: Chem.Mol) -> Chem.Mol:
    """Copy in which terminal O, S and N atoms without hydrogen are neutral and equally bonded, e.g. nitro oxygens.

    Their bonds get an order that no other bond has, so that C=O and C-O-H remain distinct.
    """
    mol = Chem.RWMol(mol)
    for atom in mol.GetAtoms():
        if atom.GetSymbol() in ("O", "S", "N") and atom.GetDegree() == 1 and atom.GetTotalNumHs() == 0:
            bond = atom.GetBonds()[0]
            if bond.GetOtherAtom(atom).GetDegree() > 1 and bond.GetBondType() != Chem.BondType.TRIPLE:
                atom.SetFormalCharge(0)
                bond.SetBondType(Chem.BondType.ONEANDAHALF)
    return mol


def _cosine_of_torsion(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> Float[np.ndarray, " torsions"]:
    """Unnormalised cosine of the torsion angle: positive for cis, negative for trans."""
    axis = c - b
    return (np.cross(a - b, axis) * np.cross(d - c, axis)).sum(axis=1)


def _heavy_angles(graph: MolGraph) -> Int[np.ndarray, "angles 3"]:
    is_heavy = graph.atomic_numbers > 1
    angles = [
        (one, apex, other)
        for apex, around in enumerate(neighbours_of(graph))
        for one, other in combinations([atom for atom in around if is_heavy[atom]], 2)
        if is_heavy[apex]
    ]
    return np.array(angles, dtype=np.int64).reshape(-1, 3)


def _angles_deg(angles: Int[np.ndarray, "angles 3"], positions: np.ndarray) -> Float[np.ndarray, " angles"]:
    one, apex, other = np.moveaxis(positions[angles], 1, 0)
    first, second = one - apex, other - apex
    # Unlike arccos, atan2 is accurate near 0 and 180 degrees.
    sine = np.linalg.norm(np.cross(first, second), axis=1)
    return np.degrees(np.arctan2(sine, (first * second).sum(axis=1)))
