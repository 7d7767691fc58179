"""Order of the equivalent hydrogens of four-coordinate atoms.

The hydrogens of CH2, CH3 or NH3+ are equivalent in the graph and distinct in a geometry, which therefore has copies
that differ by exchanges of hydrogens only. The convention selects one of them:

handedness     With the neighbours (a, b, c, d) of the atom in the order of their indices, the signed volume
               (r_a - r_d) · [(r_b - r_d) × (r_c - r_d)] is negative. The geometries of QM9 follow it without exception.
rotation       With the atom x at the other bond of CH3 or NH3+, and y the neighbour of x with the highest index, of the
               three hydrogens h the one with the lowest index has the dihedral angle h-C-x-y closest to 165°, which
               is far from ties for both staggered and eclipsed groups.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from physcon_ase.chem.graph import MolGraph, neighbours_of, signed_volumes

_FIRST_DIHEDRAL: Final = np.radians(165.0)
"""Dihedral angle h-C-x-y of the first hydrogen of CH3."""

_LINEAR: Final = 0.1
"""Sine of the angle C-x-y below which the dihedral angle is undefined, as in propyne."""


def hydrogen_tetrahedra(graph: MolGraph) -> Int[np.ndarray, "centres 4"]:
    """Neighbours (h, h', c, d) of each atom with four of them, of which h and h' are equivalent hydrogens.

    They are ordered such that the signed volume is positive in the convention, as in `MolGraph.tetrahedra`.
    """
    neighbours = _sorted_neighbours(graph)
    return _tetrahedra(_groups(graph, neighbours), neighbours)


def _tetrahedra(groups: Mapping[int, list[int]], neighbours: list[list[int]]) -> Int[np.ndarray, "centres 4"]:
    found = []
    for centre, hydrogens in groups.items():
        pair, around = hydrogens[:2], neighbours[centre]
        ordered = [*pair, *(i for i in around if i not in pair)]
        if not _is_odd([around.index(i) for i in ordered]):
            ordered[2:] = ordered[:1:-1]
        found.append(ordered)
    return np.array(found, dtype=np.int32).reshape(-1, 4)


def hydrogen_order(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> Int[np.ndarray, " atoms"]:
    """Permutation p such that the hydrogens of `positions[p]` follow the convention."""
    neighbours = _sorted_neighbours(graph)
    groups = _groups(graph, neighbours)
    order = handed_order(_tetrahedra(groups, neighbours), positions)
    triples = {centre: own for centre, own in groups.items() if len(own) == 3}
    for centre, hydrogens in triples.items():
        (other,) = (i for i in neighbours[centre] if i not in hydrogens)
        ends = [i for i in neighbours[other] if i != centre]
        if not ends or (other in triples and other > centre):  # of ethane, one group is rotated against the other
            continue
        own = order[hydrogens]
        angles = _dihedrals(positions[own], *positions[order[[centre, other, ends[-1]]]])
        if angles is not None:
            distances = np.abs((angles - _FIRST_DIHEDRAL + np.pi) % (2 * np.pi) - np.pi)
            order[hydrogens] = np.roll(own, -int(distances.argmin()))
    return order


def handed_order(
    tetrahedra: Int[np.ndarray, "centres 4"], positions: Float[np.ndarray, "atoms 3"]
) -> Int[np.ndarray, " atoms"]:
    """Permutation p such that the hydrogens of `positions[p]` have the handedness of the convention.

    The structure network distinguishes equivalent hydrogens by their handedness only; the rotation of a group makes no
    difference to its training.

    Args:
        tetrahedra: `hydrogen_tetrahedra` of the graph.
        positions: [Å]
    """
    first, second = tetrahedra[signed_volumes(tetrahedra, positions) < 0, :2].T
    order = np.arange(len(positions))
    order[first], order[second] = second, first
    return order


def _sorted_neighbours(graph: MolGraph) -> list[list[int]]:
    return [sorted(own) for own in neighbours_of(graph)]


def _groups(graph: MolGraph, neighbours: list[list[int]]) -> dict[int, list[int]]:
    """The first two or more equivalent hydrogens of each atom with four neighbours."""
    found = {}
    for centre, around in enumerate(neighbours):
        hydrogens = [i for i in around if graph.atomic_numbers[i] == 1 and len(neighbours[i]) == 1]
        isotopes = graph.isotopes[hydrogens].tolist()
        same = ([i for i in hydrogens if graph.isotopes[i] == isotope] for isotope in dict.fromkeys(isotopes))
        equivalent = next((own for own in same if len(own) > 1), None)
        if len(around) == 4 and equivalent is not None:
            found[centre] = equivalent
    return found


def _dihedrals(
    hydrogens: Float[np.ndarray, "hydrogens 3"],
    centre: Float[np.ndarray, " 3"],
    other: Float[np.ndarray, " 3"],
    end: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, " hydrogens"] | None:
    """Dihedral angles h-centre-other-end; None if the last three are on a line."""
    axis = (other - centre) / np.linalg.norm(other - centre)
    reference = (end - other) - ((end - other) @ axis) * axis
    if np.linalg.norm(reference) < _LINEAR * np.linalg.norm(end - other):
        return None
    away = hydrogens - centre
    return np.arctan2(away @ np.cross(reference, axis), away @ reference)


def _is_odd(permutation: list[int]) -> bool:
    return sum(a > b for i, a in enumerate(permutation) for b in permutation[i + 1 :]) % 2 == 1
