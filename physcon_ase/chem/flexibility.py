"""Number of conformers that a search needs, from the torsional degrees of freedom of a molecule."""

from typing import Final

from rdkit import Chem

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import to_rdkit
from physcon_ase.chem.torsions import RotatableBond, rotatable_bonds

N_CONFORMERS: Final = ((7, 50), (12, 200))
"""Largest number of torsional degrees of freedom, and number of embedded geometries up to it; Ebejer, Morris and Deane
2012, doi 10.1021/ci2004658."""

N_CONFORMERS_BEYOND: Final = 300
"""Number of embedded geometries of more flexible molecules."""


def n_conformers(graph: MolGraph) -> int:
    """Number of embedded geometries from which most conformers near the lowest one are found."""
    freedom = torsional_freedom(graph)
    return next((number for limit, number in N_CONFORMERS if freedom <= limit), N_CONFORMERS_BEYOND)


def conformational_bonds(graph: MolGraph) -> list[RotatableBond]:
    """Rotatable bonds except those of symmetric tops (methyl, trifluoromethyl, ammonium)."""
    tops = {atom.GetIdx() for atom in to_rdkit(graph).GetAtoms() if _is_top(atom)}
    return [rotor for rotor in rotatable_bonds(graph) if tops.isdisjoint(rotor.bond)]


def torsional_freedom(graph: MolGraph) -> int:
    """Number of torsional degrees of freedom.

    One for each of `conformational_bonds`, and N - 3 puckering coordinates of each ring with N single bonds (Cremer and
    Pople 1975, doi 10.1021/ja00839a011).
    """
    mol = to_rdkit(graph)  # must outlive its ring information
    order_of = dict(zip(map(tuple, graph.bonds.tolist()), graph.bond_orders.tolist(), strict=True))
    rings = [
        sum(order_of[min(pair), max(pair)] == 1 for pair in zip(ring, [*ring[1:], ring[0]], strict=True))
        for ring in mol.GetRingInfo().AtomRings()
    ]
    return len(conformational_bonds(graph)) + sum(max(0, n_single - 3) for n_single in rings)


def _is_top(atom: Chem.Atom) -> bool:
    """Whether an atom carries three equal terminal atoms."""
    ends = [other.GetSymbol() for other in atom.GetNeighbors() if other.GetDegree() == 1]
    return len(ends) >= 3 and len(set(ends)) == 1
