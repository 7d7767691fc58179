"""Rotatable bonds and rotations about them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from physcon_ase.chem.graph import MolGraph


@dataclass(frozen=True)
class RotatableBond:
    """A rotatable bond and the atoms that rotate about it."""

    bond: tuple[int, int]
    """Atom indices; the second atom is on the rotating side."""
    moving: Int[np.ndarray, " atoms"]
    """Atoms of the rotating (smaller) side, without the second atom of the bond."""


def rotatable_bonds(graph: MolGraph) -> list[RotatableBond]:
    """Acyclic single bonds between non-terminal atoms, including those of methyl, hydroxyl, amide and ester groups.

    Bonds to linear (sp) atoms are excluded.
    """
    neighbours, pi_bonds = neighbours_of(graph), np.zeros(graph.n_atoms, dtype=int)
    for (first, second), order in zip(graph.bonds.tolist(), graph.bond_orders.tolist(), strict=True):
        if order <= 3:  # aromatic bonds cannot make an atom linear
            pi_bonds[[first, second]] += order - 1
    found = []
    for (first, second), order in zip(graph.bonds.tolist(), graph.bond_orders.tolist(), strict=True):
        is_terminal = min(len(neighbours[first]), len(neighbours[second])) < 2
        # Nitro groups and sulfones also have two pi bonds at one atom, but more than two neighbours.
        is_linear = any(pi_bonds[end] > 1 and len(neighbours[end]) == 2 for end in (first, second))
        if order != 1 or is_terminal or is_linear:
            continue
        rotor = rotor_about(graph, first, second)
        if rotor is not None:
            found.append(rotor)
    return found


def rotor_about(graph: MolGraph, first: int, second: int) -> RotatableBond | None:
    """A bond of any order and the atoms that rotate about it; None if it is part of a ring."""
    side = _side(neighbours_of(graph), first, second)
    if side is None:
        return None
    if 2 * len(side) <= graph.n_atoms:
        bond, moving = (first, second), side - {second}
    else:
        bond, moving = (second, first), set(range(graph.n_atoms)) - side - {first}
    return RotatableBond(bond, np.array(sorted(moving), dtype=np.int64))


def neighbours_of(graph: MolGraph) -> list[list[int]]:
    """Bonded atoms of each atom."""
    neighbours: list[list[int]] = [[] for _ in range(graph.n_atoms)]
    for first, second in graph.bonds.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    return neighbours


def turned(positions: Float[np.ndarray, "atoms 3"], rotor: RotatableBond, angle: float) -> Float[np.ndarray, "atoms 3"]:
    """Positions [Å] after rotation of one side of the molecule about a bond.

    Args:
        positions: positions [Å].
        rotor: the bond.
        angle: rotation angle [radians], clockwise when viewed from the first to the second atom of the bond.
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
    """Atoms on the side of the second atom; None if the bond is part of a ring."""
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
