"""Symmetry number of a geometry."""

from typing import Final

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from physcon_ase.chem.compare import aligned
from physcon_ase.chem.graph import MolGraph

TOLERANCE: Final = 0.05
"""RMSD [Å] up to which a geometry counts as superimposed on itself."""

_FLAT: Final = 0.1
"""Area [Å²] spanned by two atoms and the centre below which they define no orientation."""

_SLACK: Final = 0.5
"""Largest deviation [Å] of the distances between two atoms and the centre from those of the atoms that they replace."""


def symmetry_number(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"], *, tolerance: float = TOLERANCE) -> int:
    """Number of proper rotations that map the geometry onto itself, such as 2 for water and 12 for benzene.

    Counts the permutations of atoms of one element that preserve bonds and isotopes and for which the optimal
    superposition by a proper rotation has an RMSD below the tolerance. Bond orders and formal charges do not matter,
    since one resonance structure distinguishes atoms that are equivalent, as in the guanidinium ion.

    Args:
        graph: the molecule; one without bonds if they are not known.
        positions: positions [Å].
        tolerance: largest RMSD [Å].
    """
    centred, kinds = positions - positions.mean(axis=0), _kinds(graph)
    bonded = np.zeros((graph.n_atoms, graph.n_atoms), dtype=bool)
    bonded[graph.bonds[:, 0], graph.bonds[:, 1]] = bonded[graph.bonds[:, 1], graph.bonds[:, 0]] = True
    found = {tuple(map.tolist()) for map in _candidates(centred, kinds) if (bonded[np.ix_(map, map)] == bonded).all()}
    maps = np.array(sorted(found))
    covariances = np.einsum("ix,kiy->kxy", centred, centred[maps])
    overlaps = np.linalg.svd(covariances, compute_uv=False)
    overlaps[:, 2] *= np.sign(np.linalg.det(covariances))
    squares = 2 * ((centred**2).sum() - overlaps.sum(axis=1)) / len(centred)  # of the RMSD
    return int((squares < tolerance**2).sum())


def _kinds(graph: MolGraph) -> Int[np.ndarray, " atoms"]:
    """Class of each atom by element, isotope and, repeatedly, the classes of its neighbours."""
    labels = list(zip(graph.atomic_numbers.tolist(), graph.isotopes.tolist(), strict=True))
    kinds, n_kinds = np.unique(labels, axis=0, return_inverse=True)[1].ravel(), 0
    bonds = np.concatenate([graph.bonds, graph.bonds[:, ::-1]])
    while kinds.max() + 1 > n_kinds:
        n_kinds = int(kinds.max()) + 1
        counts = np.zeros((graph.n_atoms, n_kinds), dtype=np.int64)
        np.add.at(counts, (bonds[:, 0], kinds[bonds[:, 1]]), 1)
        kinds = np.unique(np.column_stack([kinds, counts]), axis=0, return_inverse=True)[1].ravel()
    return kinds


def _candidates(
    centred: Float[np.ndarray, "atoms 3"], kinds: Int[np.ndarray, " atoms"]
) -> list[Int[np.ndarray, " atoms"]]:
    """Permutations of atoms of the same kind by rotations: map k moves atom i to the place of atom map[i]."""
    lengths, products = np.linalg.norm(centred, axis=1), centred @ centred.T
    areas = np.sqrt(np.maximum(np.outer(lengths**2, lengths**2) - products**2, 0))
    if areas.max() < _FLAT:  # an atom, or atoms on a line, which can be turned round
        along = centred @ np.linalg.svd(centred)[2][0]
        forth = np.argsort(along)
        back = np.empty_like(forth)
        back[forth] = forth[::-1]
        return [own for own in (np.arange(len(kinds)), back) if (kinds[own] == kinds).all()]
    # the two atoms with the fewest equivalent ones, and of these the two that span the largest area
    sizes = np.bincount(kinds)[kinds]
    choices = np.outer(sizes, sizes) + np.where(areas > max(_FLAT, 0.2 * areas.max()), -areas / areas.max(), np.inf)
    first, second = np.unravel_index(choices.argmin(), choices.shape)
    frame, apart = _frame(centred[first], centred[second]), cdist(centred, centred)
    other_kind = np.where(kinds[:, None] == kinds, 0.0, np.inf)
    found = []
    for one in np.flatnonzero((kinds == kinds[first]) & (np.abs(lengths - lengths[first]) < _SLACK)):
        is_like = (kinds == kinds[second]) & (np.abs(lengths - lengths[second]) < _SLACK)
        is_like &= (np.abs(apart[one] - apart[first, second]) < _SLACK) & (areas[one] > 0.5 * areas[first, second])
        for other in np.flatnonzero(is_like):
            places = np.arange(len(kinds))
            moved = centred @ frame @ _frame(centred[one], centred[other]).T
            for _ in range(2):  # the second time from the superposition of all atoms
                places = (cdist(moved, centred) + other_kind).argmin(axis=1)
                if len(set(places.tolist())) < len(places):
                    break
                moved = aligned(centred, centred[places])
            else:
                found.append(places)
    return found


def _frame(first: Float[np.ndarray, "3"], second: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Orthonormal axes as columns: the first vector, and the normal of the plane of both as the third."""
    normal = np.cross(first, second)
    axes = np.stack([first, np.cross(normal, first), normal], axis=1)
    return axes / np.linalg.norm(axes, axis=0)
