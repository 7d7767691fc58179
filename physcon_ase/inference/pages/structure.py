"""Geometries of one molecule for a view in three dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from physcon_ase.chem.compare import aligned
from physcon_ase.chem.environments import bonds_by_distance
from physcon_ase.units import CHEMICAL_SYMBOLS

DIGITS: Final = 3
"""Decimal places of positions [Å] on a page."""


@dataclass(frozen=True)
class Structures:
    """Geometries of one molecule: the first is seen from its broad side, and the others are superimposed on it."""

    atomic_numbers: Int[np.ndarray, " atoms"]
    """Atomic numbers."""
    positions: tuple[Float[np.ndarray, "atoms 3"], ...]
    """Positions [Å] of each geometry."""
    labels: tuple[str, ...]
    """Name of each geometry."""
    shown: int = 0
    """Index of the geometry that is shown first."""


def structures_of(
    atomic_numbers: ArrayLike, positions: Sequence[ArrayLike], labels: Sequence[str], shown: int = 0
) -> Structures:
    """Geometries from atomic numbers, positions [Å] and names, and the index of the one that is shown first."""
    numbers = np.asarray(atomic_numbers, dtype=int)
    places = [np.asarray(own, dtype=float).reshape(-1, 3) for own in positions]
    first = _broad_side(places[0])
    others = [aligned(place, first) for place in places[1:]]
    return Structures(numbers, (first, *others), tuple(labels), shown)


def view_of(structures: Structures) -> dict[str, Any]:
    """The geometries as `figures.js` draws them; bonds are inferred from the distances in the first geometry."""
    numbers = structures.atomic_numbers
    first = structures.positions[0]
    return {
        "symbols": [CHEMICAL_SYMBOLS[number] for number in numbers.tolist()],
        "elements": {CHEMICAL_SYMBOLS[number]: _look(number) for number in sorted(set(numbers.tolist()))},
        "bonds": bonds_by_distance(numbers, first).tolist(),
        "shown": structures.shown,
        "positions": [np.round(place, DIGITS).ravel().tolist() for place in structures.positions],
    }


def _look(number: int) -> dict[str, Any]:
    """Colour (CPK, as in Jmol) and radius [Å] of the ball of an element."""
    red, green, blue = (round(255 * float(part)) for part in jmol_colors[number])
    return {"colour": f"rgb({red},{green},{blue})", "radius": round(0.12 + 0.3 * float(covalent_radii[number]), 3)}


def _broad_side(positions: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
    """Positions about their centre, with the longest principal axis along x and the shortest along z."""
    centred = positions - positions.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=True)[2]
    axes *= np.linalg.det(axes)  # a rotation: a reflection would show the enantiomer
    return centred @ axes.T
