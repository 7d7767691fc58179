"""Environments of atoms: element, bonded neighbours, and how many neighbours those have.

Their counts over the training molecules show which atoms of a molecule are represented in the training data. The
environments of small molecules occur in few other molecules, so small molecules are counted as a whole, by level of
theory: their energies at one level do not follow from those at another.
"""

import functools
import hashlib
from collections import Counter
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from physcon_ase.units import CHEMICAL_SYMBOLS, COVALENT_RADII, FALLBACK_RADIUS

SMALL: Final = 3
"""Number of heavy atoms up to which a molecule is small."""

_BONDED: Final = 1.25
"""Distance below which two atoms count as bonded, in units of the sum of their covalent radii."""


def environment_hashes(
    atomic_numbers: Integer[np.ndarray, " atoms"], bonds: Int[np.ndarray, "bonds 2"]
) -> Int[np.ndarray, " atoms"]:
    """64-bit hash of the environment of each atom, the same in every molecule and on every machine."""
    return np.array([_hashed(key) for key in _keys(atomic_numbers, bonds)], dtype=np.int64)


def small_molecule_hashes(
    atomic_numbers: Integer[np.ndarray, " atoms"], bonds: Int[np.ndarray, "bonds 2"], level: str
) -> Int[np.ndarray, " atoms"]:
    """64-bit hash of the level and the molecule of each atom; 0 for molecules of more than `SMALL` heavy atoms."""
    n_atoms = len(atomic_numbers)
    links = coo_array((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(n_atoms, n_atoms))
    _, parts = connected_components(links, directed=False)
    keys, hashes = _keys(atomic_numbers, bonds), np.zeros(n_atoms, dtype=np.int64)
    for part in np.unique(parts):
        own = np.flatnonzero(parts == part)
        if (atomic_numbers[own] > 1).sum() <= SMALL:
            hashes[own] = _hashed((level, *sorted(keys[atom] for atom in own)))
    return hashes


def environment_names(atomic_numbers: Integer[np.ndarray, " atoms"], bonds: Int[np.ndarray, "bonds 2"]) -> list[str]:
    """Description of the environment of each atom, such as "S bonded to C, F, 2 O"."""
    return [_named(key) for key in _keys(atomic_numbers, bonds)]


def covalent_radii(atomic_numbers: Integer[np.ndarray, " atoms"]) -> Float[np.ndarray, " atoms"]:
    """Covalent radius [Å] of each atom."""
    return np.array([COVALENT_RADII.get(number, FALLBACK_RADIUS) for number in atomic_numbers.tolist()])


def bonds_by_distance(
    atomic_numbers: Integer[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]
) -> Int[np.ndarray, "bonds 2"]:
    """Pairs of atoms closer than 1.25 times the sum of their covalent radii; for geometries without a graph."""
    radii = covalent_radii(atomic_numbers)
    close = squareform(pdist(positions)) < _BONDED * (radii[:, None] + radii)
    return np.argwhere(np.triu(close, k=1))


_Key = tuple[int, tuple[tuple[int, int], ...]]
"""Atomic number; atomic number and number of neighbours of each neighbour, sorted."""


def _keys(atomic_numbers: np.ndarray, bonds: np.ndarray) -> list[_Key]:
    numbers, neighbours = atomic_numbers.tolist(), [[] for _ in atomic_numbers]
    for first, second in bonds.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    return [
        (number, tuple(sorted((numbers[other], len(neighbours[other])) for other in own)))
        for number, own in zip(numbers, neighbours, strict=True)
    ]


@functools.lru_cache(maxsize=2**18)
def _hashed(key: _Key | tuple[str | _Key, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little", signed=True)


def _named(key: _Key) -> str:
    number, neighbours = key
    counts = Counter(CHEMICAL_SYMBOLS[other] for other, _ in neighbours)
    listed = ", ".join(symbol if count == 1 else f"{count} {symbol}" for symbol, count in sorted(counts.items()))
    return f"{CHEMICAL_SYMBOLS[number]} bonded to {listed or 'no atom'}"
