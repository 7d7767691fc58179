"""Canonical atom order, so that results do not depend on how a molecule was written."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int
from rdkit import Chem, rdBase

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles, graph_from_smiles, to_rdkit
from physcon_ase.errors import PhysConError


@dataclass(frozen=True)
class Reordered:
    """A molecule in another atom order."""

    graph: MolGraph
    """The molecule in the new order."""
    places: Int[np.ndarray, " atoms"]
    """New index of each atom: `positions[places]` converts positions back to the original order."""


def canonical_order(graph: MolGraph) -> Reordered:
    """The molecule in the atom order of its canonical SMILES: the same graph for every spelling and atom order.

    Hydrogens follow the heavy atoms. If the SMILES does not describe the same molecule (rare bonds perceived from a
    geometry), the graph is returned unchanged.
    """
    unchanged = Reordered(graph, np.arange(graph.n_atoms))
    try:
        canonical = graph_from_smiles(canonical_smiles(graph), allow_fragments=True)
    except PhysConError:
        return unchanged
    places = _isomorphism(graph, canonical)
    return unchanged if places is None else Reordered(canonical, places)


def mirror_order(graph: MolGraph) -> Int[np.ndarray, " atoms"] | None:
    """Atom permutation p such that `-positions[p]` is a conformer of the molecule whenever `positions` is.

    The identity for molecules without stereocentres, an exchange of equivalent centres for meso compounds, None for
    chiral molecules.
    """
    if len(graph.tetrahedra) == 0:
        return np.arange(graph.n_atoms)
    return _isomorphism(graph, replace(graph, tetrahedra=graph.tetrahedra[:, [1, 0, 2, 3]]))


def _isomorphism(graph: MolGraph, other: MolGraph) -> Int[np.ndarray, " atoms"] | None:
    """Atom of the other graph that corresponds to each atom, with the same configuration; None if they differ."""
    ranks = [_ranks(each) for each in (graph, other)]
    if graph.n_atoms != other.n_atoms or ranks[0][1] != ranks[1][1]:
        return None
    places = np.empty(graph.n_atoms, dtype=np.int64)
    places[ranks[0][0]] = ranks[1][0]
    return places


def _ranks(graph: MolGraph) -> tuple[list[int], str]:
    """Atoms in the order of the canonical SMILES with explicit hydrogens, and this SMILES."""
    with rdBase.BlockLogs():
        mol = to_rdkit(graph)
        text = Chem.MolToSmiles(mol)
    return list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]), text
