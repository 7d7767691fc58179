"""Bonds about which a molecule can turn, and geometries turned about them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from physcon_ase.chem.graph import MolGraph


@dataclass(frozen=True)
class RotatableBond:
    """A bond about which one side of the molecule turns as a whole."""

    bond: tuple[int, int]
    """Its two atoms; the second one belongs to the side that turns."""
    moving: Int[np.ndarray, " atoms"]
    """Atoms of the smaller side, the second atom of the bond left out."""


def rotatable_bonds(graph: MolGraph) -> list[RotatableBond]:
    """Single bonds outside of rings with another neighbour at both ends, methyl and hydroxyl groups included.

    Left out are bonds to an atom of a triple bond or of two double bonds, along which four atoms lie in one line.
    Amides and esters are included.
    """
    neighbours: list[list[int]] = [[] for _ in range(graph.n_atoms)]
    pi_bonds = np.zeros(graph.n_atoms, dtype=int)
    for (first, second), order in zip(graph.bonds.tolist(), graph.bond_orders.tolist(), strict=True):
        neighbours[first].append(second)
        neighbours[second].append(first)
        if order <= 3:  # an aromatic atom has one double bond, or none
            pi_bonds[[first, second]] += order - 1
    found = []
    for (first, second), order in zip(graph.bonds.tolist(), graph.bond_orders.tolist(), strict=True):
        is_terminal = min(len(neighbours[first]), len(neighbours[second])) < 2
        # A nitro group or a sulfone has two pi bonds, but is no line: it has a third neighbour.
        is_linear = any(pi_bonds[end] > 1 and len(neighbours[end]) == 2 for end in (first, second))
        if order != 1 or is_terminal or is_linear:
            continue
        side = _side(neighbours, first, second)
        if side is None:
            continue
        if 2 * len(side) <= graph.n_atoms:
            bond, moving = (first, second), side - {second}
        else:
            bond, moving = (second, first), set(range(graph.n_atoms)) - side - {first}
        found.append(RotatableBond(bond, np.array(sorted(moving), dtype=np.int64)))
    return found


def turned(positions: Float[np.ndarray, "atoms 3"], rotor: RotatableBond, angle: float) -> Float[np.ndarray, "atoms 3"]:
    """The geometry with one side turned about the bond.

    Args:
        positions: [Å].
        rotor: the bond.
        angle: [radians], clockwise when looking from the first atom of the bond to the second.
    """
    first, second = rotor.bond
    axis = positions[second] - positions[first]
    axis = axis / np.linalg.norm(axis)
    arms = positions[rotor.moving] - positions[second]
    # Rodrigues' formula
    along = np.outer(arms @ axis, axis)
    moved = along + np.cos(angle) * (arms - along) + np.sin(angle) * np.cross(axis, arms)
    result = positions.copy()
    result[rotor.moving] = positions[second] + moved
    return result


def _side(neighbours: list[list[int]], first: int, second: int) -> set[int] | None:
    """Atoms on the side of the second atom; None if a ring leads back to the first."""
    seen, waiting = {second}, [second]
    while waiting:
        atom = waiting.pop()
        for other in neighbours[atom]:
            if other == first and atom != second:
                return None
            if other != first and other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen
