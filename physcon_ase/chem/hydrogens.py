"""Order of the equivalent hydrogens of four-coordinate atoms.

The hydrogens of CH2, CH3 or NH3+ are equivalent in the graph and distinct in a geometry: n such groups make 2^n
geometries that differ by exchanges of hydrogens only. The convention selects one of them: with the neighbours
(a, b, c, d) of the atom in the order of their indices, the signed volume (r_a - r_d) · [(r_b - r_d) × (r_c - r_d)] is
negative. The geometries of QM9 follow it without exception.
"""

import numpy as np
from jaxtyping import Float, Int

from physcon_ase.chem.graph import MolGraph, signed_volumes


def hydrogen_tetrahedra(graph: MolGraph) -> Int[np.ndarray, "centres 4"]:
    """Neighbours (h, h', c, d) of each atom with four of them, of which h and h' are equivalent hydrogens.

    They are ordered such that the signed volume is positive in the convention, as in `MolGraph.tetrahedra`.
    """
    degrees = np.bincount(graph.bonds.ravel(), minlength=graph.n_atoms)
    is_hydrogen = (graph.atomic_numbers == 1) & (degrees == 1)
    ends = np.concatenate([graph.bonds, graph.bonds[:, ::-1]])
    found = []
    for centre in np.flatnonzero(degrees == 4).tolist():
        neighbours = np.sort(ends[ends[:, 0] == centre, 1]).tolist()
        pair = _equivalent_pair([i for i in neighbours if is_hydrogen[i]], graph)
        if pair is None:
            continue
        ordered = [*pair, *(i for i in neighbours if i not in pair)]
        if not _is_odd([neighbours.index(i) for i in ordered]):
            ordered[2:] = ordered[:1:-1]
        found.append(ordered)
    return np.array(found, dtype=np.int32).reshape(-1, 4)


def hydrogen_order(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> Int[np.ndarray, " atoms"]:
    """Permutation p such that the hydrogens of `positions[p]` follow the convention."""
    return order_of(hydrogen_tetrahedra(graph), positions)


def order_of(
    tetrahedra: Int[np.ndarray, "centres 4"], positions: Float[np.ndarray, "atoms 3"]
) -> Int[np.ndarray, " atoms"]:
    """`hydrogen_order` from the `hydrogen_tetrahedra` of the graph, for several geometries of one molecule."""
    first, second = tetrahedra[signed_volumes(tetrahedra, positions) < 0, :2].T
    order = np.arange(len(positions))
    order[first], order[second] = second, first
    return order


def _equivalent_pair(hydrogens: list[int], graph: MolGraph) -> list[int] | None:
    """The first two of the same isotope."""
    isotopes = graph.isotopes[hydrogens].tolist()
    for isotope in dict.fromkeys(isotopes):
        same = [i for i, own in zip(hydrogens, isotopes, strict=True) if own == isotope]
        if len(same) > 1:
            return same[:2]
    return None


def _is_odd(permutation: list[int]) -> bool:
    return sum(a > b for i, a in enumerate(permutation) for b in permutation[i + 1 :]) % 2 == 1
