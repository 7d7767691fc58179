"""Enumeration of the stereoisomers of molecules of partly undefined configuration."""

from typing import Final

from rdkit import Chem, rdBase
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import (
    canonical_smiles,
    graph_from_rdkit,
    graph_from_smiles,
    to_rdkit,
    undefined_centres,
    undefined_stereo,
)
from physcon_ase.errors import TooManyStereoisomersError

MOST_COMBINATIONS: Final = 64
"""Default of the largest number of combinations of configurations that are enumerated."""


def stereoisomers(smiles: str, *, limit: int = MOST_COMBINATIONS) -> list[str]:
    """SMILES of all stereoisomers of a molecule; of the molecule alone if its configuration is defined.

    Raises the errors of `graph_from_smiles` and `stereoisomers_of`.
    """
    graph = graph_from_smiles(smiles, allow_fragments=True)
    return [canonical_smiles(isomer) for isomer in stereoisomers_of(graph, limit=limit)]


def stereoisomers_of(graph: MolGraph, *, limit: int = MOST_COMBINATIONS) -> list[MolGraph]:
    """All stereoisomers of a molecule, in its atom order; the molecule itself if its configuration is defined.

    Every undefined tetrahedral centre and double bond (`smiles.undefined_stereo`) has either configuration; the others
    are kept. Meso forms occur once, and combinations that fused or bridged rings do not allow are left out.

    Args:
        graph: the molecule.
        limit: largest number of combinations, two for each undefined centre or double bond.

    Raises:
        TooManyStereoisomersError: there are more combinations.
    """
    undefined = undefined_stereo(graph)
    if not undefined:
        return [graph]
    if 2 ** len(undefined) > limit:
        raise TooManyStereoisomersError(
            f"{canonical_smiles(graph)!r} has {len(undefined)} undefined stereocentres and double bonds, "
            f"{2 ** len(undefined)} combinations, but only {limit} are enumerated: define some of them"
        )
    mol = to_rdkit(graph)
    is_fused = any(mol.GetRingInfo().NumAtomRings(centre) > 1 for centre in undefined_centres(graph))
    options = StereoEnumerationOptions(tryEmbedding=is_fused, onlyUnassigned=True, unique=True, maxIsomers=0)
    with rdBase.BlockLogs():
        found: list[Chem.Mol] = list(EnumerateStereoisomers(mol, options=options))
    return [graph_from_rdkit(isomer) for isomer in found] or [graph]
