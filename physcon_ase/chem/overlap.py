"""Detection of overlapping atoms; does not import RDKit, which is slow to load."""

from typing import Final

import numpy as np
from jaxtyping import Float, Integer
from scipy.spatial.distance import pdist, squareform

from physcon_ase.units import CHEMICAL_SYMBOLS

CLOSEST_ATOMS: Final = 0.3
"""Distance [Å] below which two atoms are considered an input error (duplicate atoms, wrong unit). Compressing the
shortest bond, H2 with 0.74 Å, to this distance takes more than 5 eV."""


def overlapping_atoms(atomic_numbers: Integer[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]) -> str:
    """Description of the two closest atoms if they are closer than `CLOSEST_ATOMS`; empty otherwise."""
    squared = pdist(positions, "sqeuclidean")
    if not len(squared) or squared.min() >= CLOSEST_ATOMS**2:
        return ""
    table = squareform(squared)
    np.fill_diagonal(table, np.inf)
    first, second = sorted(int(i) for i in np.unravel_index(table.argmin(), table.shape))
    names = [f"{atom} ({CHEMICAL_SYMBOLS.get(int(atomic_numbers[atom]), 'X')})" for atom in (first, second)]
    return (
        f"atoms {names[0]} and {names[1]} are {table[first, second] ** 0.5:.3f} Å apart; at least {CLOSEST_ATOMS} Å is "
        "needed: check for duplicate atoms and for positions that are not in Å"
    )
