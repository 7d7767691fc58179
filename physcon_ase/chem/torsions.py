"""Rotatable bonds and rotations about them."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem, rdBase

from physcon_ase.chem.graph import MolGraph, neighbours_of
from physcon_ase.chem.smiles import canonical_smiles, to_rdkit
from physcon_ase.errors import ConstraintError

_MAX_MATCHES: Final = 100_000
"""Largest number of matches of a pattern; hydrogens make them many."""


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


def dihedral_matching(graph: MolGraph, smarts: str) -> tuple[int, int, int, int]:
    """Atoms of the dihedral angle that matches a SMARTS pattern; of several about the same bond, the first ones.

    Args:
        graph: the molecule, with its hydrogens.
        smarts: pattern of four atoms, or of more with the map numbers 1 to 4.

    Raises:
        ConstraintError: the pattern is invalid, or matches no bond or several.
    """
    with rdBase.BlockLogs():
        pattern = Chem.MolFromSmarts(smarts)
    if pattern is None:
        raise ConstraintError(f"the pattern {smarts!r} is no SMARTS: give four atoms, such as [#6]-[#6]-[#7]-[#6]")
    numbers = {atom.GetAtomMapNum(): atom.GetIdx() for atom in pattern.GetAtoms()}
    members = [numbers.get(number) for number in range(1, 5)] if any(numbers) else list(range(pattern.GetNumAtoms()))
    if len(members) != 4 or None in members:
        raise ConstraintError(
            f"the pattern {smarts!r} does not select four atoms: give four, or mark four of them with :1 to :4"
        )
    matches = to_rdkit(graph).GetSubstructMatches(pattern, uniquify=False, maxMatches=_MAX_MATCHES)
    found = sorted(tuple(match[member] for member in members) for match in matches)
    bonds = sorted({(min(match[1:3]), max(match[1:3])) for match in found})
    if len(bonds) != 1:
        named = f"{len(bonds)} bonds ({', '.join(f'{a}-{b}' for a, b in bonds[:5])})" if bonds else "no bond"
        raise ConstraintError(
            f"the pattern {smarts!r} matches {named} of {canonical_smiles(graph)!r}, but one is needed: change it, or "
            "give atom indices"
        )
    first, second, third, fourth = found[0]
    return first, second, third, fourth


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
