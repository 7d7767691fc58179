"""Geometries compared with each other, and with the graph that they should have.

Positions are in Å and in the order of the graph's atoms. Nothing here reflects a geometry: mirror images differ.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem
from scipy.optimize import linear_sum_assignment

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import to_rdkit

BROKEN_BEYOND: Final = 1.3
"""A bond longer than this times the sum of the covalent radii is broken. Of 5,000 DFT minima of QM9 the longest bond
has 1.28 (99 of 100 molecules stay below 1.07), of 5,000 drug-like ones 1.10."""

FORMED_BELOW: Final = 1.2
"""Two atoms without a bond that are closer than this times the sum of the covalent radii have formed one. In the same
minima the closest pair two bonds apart has 1.25 (small bicycles), the closest pair farther apart 1.45."""

MAX_SYMMETRIES: Final = 10_000
"""Symmetry maps compared by `symmetric_rmsd`; C60 has 120, tri-tert-butylbenzene 1,296."""

_PERIODIC_TABLE: Final = Chem.GetPeriodicTable()
_COVALENT_RADII: Final = np.array([0.0] + [_PERIODIC_TABLE.GetRcovalent(number) for number in range(1, 119)])
"""Covalent radius [Å] by atomic number; the values of `units.COVALENT_RADII`, continued to all elements."""


@dataclass(frozen=True)
class BondCheck:
    """Whether a geometry still has the bonds of its graph."""

    intact: bool
    """No bond broken, none formed."""
    broken: list[tuple[int, int]]
    """Bonded atoms that are too far apart."""
    formed: list[tuple[int, int]]
    """Atoms without a bond that are as close as bonded ones."""


@dataclass(frozen=True)
class StereoCheck:
    """Whether a geometry still has the configuration of its graph."""

    intact: bool
    """No centre inverted, no double bond flipped."""
    inverted: list[tuple[int, int, int, int]]
    """`MolGraph.tetrahedra` whose signed volume is not positive."""
    flipped: list[tuple[int, int, int, int]]
    """`MolGraph.double_bonds` that are on the wrong side."""


def rmsd(a: Float[np.ndarray, "atoms 3"], b: Float[np.ndarray, "atoms 3"]) -> float:
    """Root mean square distance [Å] of corresponding atoms after the best rotation and translation."""
    return _root_mean_square(aligned(a, b) - b)


def aligned(a: Float[np.ndarray, "atoms 3"], onto: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
    """`a` rotated and translated onto another geometry of the same atoms.

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
    """Smallest RMSD [Å] over all ways to exchange atoms that the graph cannot tell apart.

    Exchanges keep the configuration of stereocentres and stereo double bonds. Terminal atoms that resonance makes
    equivalent (nitro, carboxylate) are exchanged too. Beyond `MAX_SYMMETRIES` exchanges the value is an upper bound.
    With hydrogens, if there are too many exchanges, each exchange of heavy atoms is tried with the hydrogens of every
    atom assigned after alignment on the heavy atoms; this too is an upper bound.

    Args:
        graph: the molecule.
        a: one geometry.
        b: another one.
        heavy_only: leaves the hydrogens out; a molecule of hydrogen only is compared whole.
    """
    heavy = np.flatnonzero(graph.atomic_numbers > 1)
    if heavy_only and len(heavy):
        return _best_rmsd(a[heavy], b[heavy], symmetries(graph))
    maps = symmetries(graph, heavy_only=False)
    if len(maps) < MAX_SYMMETRIES:
        return _best_rmsd(a, b, maps)
    return min(_rmsd_with_assigned_hydrogens(graph, a, b, heavy, exchange) for exchange in symmetries(graph))


def symmetries(graph: MolGraph, *, heavy_only: bool = True) -> Int[np.ndarray, "maps atoms"]:
    """Ways to exchange equivalent atoms: atom i of one geometry may be compared with atom maps[k, i] of another.

    Args:
        graph: the molecule.
        heavy_only: over the heavy atoms alone, counted without the hydrogens; at most `MAX_SYMMETRIES` either way.
    """
    mol = to_rdkit(graph)
    if heavy_only and (graph.atomic_numbers > 1).any():
        mol = Chem.RemoveAllHs(mol)
    mol = _with_equal_terminal_atoms(mol)
    maps = mol.GetSubstructMatches(mol, uniquify=False, useChirality=True, maxMatches=MAX_SYMMETRIES)
    return np.array(maps, dtype=np.int64).reshape(-1, mol.GetNumAtoms())


def bonds_intact(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> BondCheck:
    """Compares distances with covalent radii; positions that are NaN count as broken bonds."""
    first, second = np.triu_indices(graph.n_atoms, k=1)
    radii = _COVALENT_RADII[graph.atomic_numbers]
    stretch = np.linalg.norm(positions[first] - positions[second], axis=1) / (radii[first] + radii[second])
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


def stereo_intact(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> StereoCheck:
    """Checks the sign of each stereocentre's volume and the side of each stereo double bond; flat or NaN is lost."""
    inverted = graph.tetrahedra[~(signed_volumes(graph.tetrahedra, positions) > 0)]
    same_side = _cosine_of_torsion(*np.moveaxis(positions[graph.double_bonds], 1, 0))
    right_side = np.where(graph.double_bond_is_cis, same_side > 0, same_side < 0)
    flipped = graph.double_bonds[~right_side]
    return StereoCheck(
        intact=not (len(inverted) or len(flipped)),
        inverted=[tuple(corners) for corners in inverted.tolist()],
        flipped=[tuple(atoms) for atoms in flipped.tolist()],
    )


def signed_volumes(
    tetrahedra: Int[np.ndarray, "stereocentres 4"], positions: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, " stereocentres"]:
    """Six times the volume [Å³] of each tetrahedron of atoms, positive for those of `MolGraph.tetrahedra`."""
    a, b, c, d = np.moveaxis(positions[tetrahedra], 1, 0)
    return ((a - d) * np.cross(b - d, c - d)).sum(axis=1)


def bond_lengths_mae(graph: MolGraph, a: Float[np.ndarray, "atoms 3"], b: Float[np.ndarray, "atoms 3"]) -> float:
    """Mean absolute difference [Å] of the bond lengths between heavy atoms; NaN if there are none."""
    bonds = graph.bonds[(graph.atomic_numbers[graph.bonds] > 1).all(axis=1)]
    if len(bonds) == 0:
        return float("nan")
    lengths_a, lengths_b = (np.linalg.norm(p[bonds[:, 0]] - p[bonds[:, 1]], axis=1) for p in (a, b))
    return float(np.abs(lengths_a - lengths_b).mean())


def bond_angles_mae(graph: MolGraph, a: Float[np.ndarray, "atoms 3"], b: Float[np.ndarray, "atoms 3"]) -> float:
    """Mean absolute difference [degrees] of the angles between bonds of heavy atoms; NaN if there are none."""
    angles = _heavy_angles(graph)
    if len(angles) == 0:
        return float("nan")
    return float(np.abs(_angles_deg(angles, a) - _angles_deg(angles, b)).mean())


def distance_mae_rmse(a: Float[np.ndarray, "atoms 3"], b: Float[np.ndarray, "atoms 3"]) -> tuple[float, float]:
    """Mean absolute and root mean square difference [Å] of the distances of all ordered pairs of different atoms.

    Papers that divide by the square of the number of atoms (the zeros of the diagonal included) get smaller values, by
    (n - 1)/n and its root. A single atom gives (0, 0).
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
    """Rotation and the two centres with which (a - centre_a) @ rotation + centre_onto comes closest to `onto`."""
    centre_a, centre_onto = a.mean(axis=0), onto.mean(axis=0)
    left, _, right = np.linalg.svd((a - centre_a).T @ (onto - centre_onto))
    # The last axis is turned round where the best orthogonal matrix would be a reflection.
    left[:, -1] *= np.sign(np.linalg.det(left) * np.linalg.det(right))
    return left @ right, centre_a, centre_onto


def _best_rmsd(a: np.ndarray, b: np.ndarray, maps: Int[np.ndarray, "maps atoms"]) -> float:
    return rmsd(a, b[maps[_closest_map(a, b, maps)]])


def _closest_map(a: np.ndarray, b: np.ndarray, maps: np.ndarray) -> int:
    """The map with the largest overlap Σ singular values of the covariance, the last one signed (Kabsch)."""
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
    """Takes charge and bond order from O, S, N atoms with one neighbour and no hydrogen: nitro oxygens become equal.

    All of them get the same order, which no other bond has, so that C=O and C-O-H stay different.
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
    """Positive for cis, negative for trans; not normalised."""
    axis = c - b
    return (np.cross(a - b, axis) * np.cross(d - c, axis)).sum(axis=1)


def _heavy_angles(graph: MolGraph) -> Int[np.ndarray, "angles 3"]:
    neighbours: list[list[int]] = [[] for _ in range(graph.n_atoms)]
    for first, second in graph.bonds[(graph.atomic_numbers[graph.bonds] > 1).all(axis=1)].tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    angles = [
        (one, apex, other)
        for apex, around in enumerate(neighbours)
        for index, one in enumerate(around)
        for other in around[:index]
    ]
    return np.array(angles, dtype=np.int64).reshape(-1, 3)


def _angles_deg(angles: Int[np.ndarray, "angles 3"], positions: np.ndarray) -> Float[np.ndarray, " angles"]:
    one, apex, other = np.moveaxis(positions[angles], 1, 0)
    first, second = one - apex, other - apex
    # atan2 keeps its precision near 0 and 180 degrees, where arccos loses half of the digits.
    sine = np.linalg.norm(np.cross(first, second), axis=1)
    return np.degrees(np.arctan2(sine, (first * second).sum(axis=1)))
