"""Graphs of several molecules: their fragments, and arrangements of the fragments in space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8
from rdkit import Chem
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles, graph_from_rdkit, to_rdkit
from physcon_ase.errors import FragmentsError

CONTACT: Final = 1.0
"""Smallest ratio of a distance to the sum of van der Waals radii between fragments that are placed apart."""

_STEP: Final = 0.1
"""Step [Å] by which a fragment is moved away from the others."""

_PERIODIC_TABLE: Final = Chem.GetPeriodicTable()
_RADII: Final = np.array([0.0] + [_PERIODIC_TABLE.GetRvdw(number) for number in range(1, 119)])
"""Van der Waals radius [Å] by atomic number."""


@dataclass(frozen=True)
class Fragment:
    """One of the connected parts of a graph."""

    graph: MolGraph
    """The fragment as a separate molecule."""
    atoms: Int[np.ndarray, " atoms"]
    """Index of each of its atoms in the whole graph."""


def fragments_of(graph: MolGraph) -> list[Fragment]:
    """Connected parts of a graph, in the order of their first atoms."""
    indices: list[tuple[int, ...]] = []
    parts = Chem.GetMolFrags(to_rdkit(graph), asMols=True, sanitizeFrags=False, fragsMolAtomMapping=indices)
    return [Fragment(graph_from_rdkit(part), np.array(own)) for part, own in zip(parts, indices, strict=True)]


def n_fragments(graph: MolGraph) -> int:
    """Number of connected parts of a graph."""
    return len(Chem.GetMolFrags(to_rdkit(graph)))


def largest_fragment(graph: MolGraph) -> Fragment:
    """Connected part with the most heavy atoms, of these with the most atoms, then by its SMILES, not its place."""

    def rank(part: Fragment) -> tuple[int, int, str]:
        return int((part.graph.atomic_numbers > 1).sum()), part.graph.n_atoms, canonical_smiles(part.graph)

    return max(fragments_of(graph), key=rank)


def chosen_fragments(graph: MolGraph, choice: str) -> MolGraph:
    """The graph itself, or its fragment with the most heavy atoms.

    Args:
        graph: one or several molecules.
        choice: "all" to keep all fragments, "largest" to keep the largest, "one" to refuse several.

    Raises:
        FragmentsError: several fragments, and `choice` is "one".
    """
    if choice == "all" or n_fragments(graph) <= 1:
        return graph
    if choice == "largest":
        return largest_fragment(graph).graph
    raise FragmentsError(
        f"{canonical_smiles(graph)!r} has {n_fragments(graph)} disconnected fragments; only one molecule is allowed "
        "here: pass one of the dot-separated parts, or use optimize, which relaxes them together or keeps the largest "
        "(fragments='largest')"
    )


def joined(graphs: Sequence[MolGraph]) -> MolGraph:
    """One graph of several molecules; the atoms are those of the first, then those of the second, ..."""
    whole = to_rdkit(graphs[0])
    for graph in graphs[1:]:
        whole = Chem.CombineMols(whole, to_rdkit(graph))
    whole.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(whole)
    return graph_from_rdkit(whole)


def placed_apart(
    atomic_numbers: Sequence[UInt8[np.ndarray, " _"]],
    positions: Sequence[Float[np.ndarray, "_ 3"]],
    *,
    seed: int,
) -> list[Float[np.ndarray, "_ 3"]]:
    """Molecules in contact with each other: rotated at random and moved out of the others in a random direction.

    Args:
        atomic_numbers: atomic numbers of each molecule.
        positions: positions [Å] of each molecule.
        seed: random seed of the orientations and directions.

    Returns:
        Positions [Å] of each molecule; no distance between them is below `CONTACT` times the van der Waals radii.
    """
    generator = np.random.default_rng(seed)
    placed = [positions[0] - positions[0].mean(axis=0)]
    for number in range(1, len(positions)):
        turned = Rotation.random(rng=generator).apply(positions[number] - positions[number].mean(axis=0))
        direction = generator.normal(size=3)
        direction /= np.linalg.norm(direction)
        others = np.concatenate(placed)
        limits = CONTACT * (_RADII[np.concatenate(atomic_numbers[:number])][:, None] + _RADII[atomic_numbers[number]])
        shift = 0.0
        while (cdist(others, turned + shift * direction) < limits).any():
            shift += _STEP
        placed.append(turned + shift * direction)
    return placed
