"""Translations and infinitesimal rotations of a molecule, as displacements of its atoms."""

from typing import Final

import numpy as np
from jaxtyping import Float

LINEAR: Final = 0.05
"""Root sum square distance [Å] of the atoms from a line below which a molecule counts as linear. Minima of linear
molecules relaxed to 1e-3 eV/Å deviate by less than 0.01 Å; water, the smallest bent molecule, by 0.5 Å."""


def is_linear(positions: Float[np.ndarray, "atoms 3"]) -> bool:
    """Whether all atoms are on a line, within `LINEAR`; True for one and two atoms."""
    return bool(np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)[1:].max(initial=0.0) < LINEAR)


def rigid_motions(
    positions: Float[np.ndarray, "atoms 3"], masses: Float[np.ndarray, " atoms"] | None = None
) -> Float[np.ndarray, "coordinates motions"]:
    """Orthonormal basis of the translations and rotations: 6 vectors, 5 for a linear molecule, 3 for a single atom.

    Args:
        positions: positions [Å].
        masses: masses [amu], for vectors of mass-weighted coordinates (displacements times the root of the mass);
            vectors of Cartesian displacements if not given.
    """
    weights = np.ones(len(positions)) if masses is None else np.asarray(masses)
    arms = positions - weights @ positions / weights.sum()
    axes = np.eye(3)
    motions = [np.tile(axis, (len(arms), 1)) for axis in axes] + [np.cross(axis, arms) for axis in axes]
    weighted = np.stack(motions) * np.sqrt(weights)[:, None]
    # Rotations and translations are orthogonal about the centre of mass, and the rotation about the line of a linear
    # molecule is the last of the singular vectors.
    translations, rotations = weighted.reshape(2, 3, -1)
    n_rotations = 0 if len(positions) == 1 else 2 if is_linear(positions) else 3
    turning = np.linalg.svd(rotations.T, full_matrices=False)[0][:, :n_rotations]
    return np.concatenate([translations.T / np.sqrt(weights.sum()), turning], axis=1)
