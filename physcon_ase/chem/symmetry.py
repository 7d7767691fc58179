"""Symmetry number of a geometry."""

from typing import Final

import numpy as np
from jaxtyping import Float

from physcon_ase.chem.compare import MAX_SYMMETRIES, symmetries
from physcon_ase.chem.graph import MolGraph

TOLERANCE: Final = 0.05
"""RMSD [Å] up to which a geometry counts as superimposed on itself."""


def symmetry_number(
    graph: MolGraph, positions: Float[np.ndarray, "atoms 3"], *, tolerance: float = TOLERANCE
) -> int | None:
    """Number of proper rotations that map the geometry onto itself, such as 2 for water and 12 for benzene.

    Counts the permutations of equivalent atoms (isotopes are distinguished) for which the optimal superposition by a
    proper rotation has an RMSD below the tolerance.

    Args:
        graph: the molecule.
        positions: positions [Å].
        tolerance: largest RMSD [Å].

    Returns:
        The symmetry number; None if there are too many permutations to try (`compare.MAX_SYMMETRIES`).
    """
    maps = symmetries(graph, heavy_only=False)
    if len(maps) >= MAX_SYMMETRIES:
        return None
    centred = positions - positions.mean(axis=0)
    covariances = np.einsum("ix,kiy->kxy", centred, centred[maps])
    overlaps = np.linalg.svd(covariances, compute_uv=False)
    overlaps[:, 2] *= np.sign(np.linalg.det(covariances))
    squares = 2 * ((centred**2).sum() - overlaps.sum(axis=1)) / len(centred)  # of the RMSD
    return int((squares < tolerance**2).sum())
