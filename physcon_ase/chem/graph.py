"""Molecular graph: atoms, bonds, charges and stereochemistry, without positions."""

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.typing import ArrayLike

N_PAIR_TYPES: Final = 16
"""Number of values that `pair_types` can take."""

_CIS, _TRANS, _FAR, _SELF = 12, 13, 14, 15


@dataclass(frozen=True)
class MolGraph:
    """Atoms, bonds, charges and stereochemistry of a molecule; all hydrogens are explicit.

    Stereochemistry is stored as tuples of atom indices that can be checked against a geometry without perception.
    """

    atomic_numbers: UInt8[np.ndarray, " atoms"]
    """Atomic number of each atom."""
    bonds: Int[np.ndarray, "bonds 2"]
    """Atom indices of each bond, the smaller index first."""
    bond_orders: UInt8[np.ndarray, " bonds"]
    """Kekulé bond order 1, 2 or 3, plus 10 for aromatic bonds."""
    formal_charges: Int[np.ndarray, " atoms"]
    """Formal charge [e] of each atom."""
    tetrahedra: Int[np.ndarray, "stereocentres 4"]
    """Neighbours (a, b, c, d) of each tetrahedral stereocentre, ordered such that the signed volume
    (r_a - r_d) · [(r_b - r_d) × (r_c - r_d)] is positive; for a centre with three neighbours, d is the centre."""
    double_bonds: Int[np.ndarray, "stereobonds 4"]
    """Atoms (a, b, c, d) of each stereo double bond b=c; the torsion a-b-c-d is 0° (cis) or 180° (trans)."""
    double_bond_is_cis: np.ndarray
    """Whether a and d are cis, bool [stereobonds]."""
    isotopes: Int[np.ndarray, " atoms"]
    """Mass number of each atom, 0 for the natural mixture; energies and forces do not depend on it."""
    multiplicity: int = 1
    """Spin multiplicity 2S + 1."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms, hydrogens included."""
        return len(self.atomic_numbers)

    @property
    def charge(self) -> int:
        """Total charge [e]."""
        return int(self.formal_charges.sum())


def make_graph(
    atomic_numbers: ArrayLike,
    bonds: ArrayLike,
    bond_orders: ArrayLike,
    formal_charges: ArrayLike | None = None,
    *,
    tetrahedra: ArrayLike = (),
    double_bonds: ArrayLike = (),
    double_bond_is_cis: ArrayLike = (),
    isotopes: ArrayLike | None = None,
    multiplicity: int = 1,
) -> MolGraph:
    """Builds a `MolGraph` from array-likes, converted to the dtypes of its fields."""
    atomic_numbers = np.asarray(atomic_numbers, dtype=np.uint8)
    return MolGraph(
        atomic_numbers=atomic_numbers,
        bonds=np.sort(np.asarray(bonds, dtype=np.int32).reshape(-1, 2), axis=1),
        bond_orders=np.asarray(bond_orders, dtype=np.uint8),
        formal_charges=np.asarray(
            np.zeros(len(atomic_numbers)) if formal_charges is None else formal_charges, dtype=np.int32
        ),
        tetrahedra=np.asarray(tetrahedra, dtype=np.int32).reshape(-1, 4),
        double_bonds=np.asarray(double_bonds, dtype=np.int32).reshape(-1, 4),
        double_bond_is_cis=np.asarray(double_bond_is_cis, dtype=bool),
        isotopes=np.asarray(np.zeros(len(atomic_numbers)) if isotopes is None else isotopes, dtype=np.int32),
        multiplicity=multiplicity,
    )


def known_bonds(graph: MolGraph) -> Int[np.ndarray, "bonds 2"] | None:
    """Bonds of the graph; None if they are unknown, i.e. for several atoms without any bond."""
    return graph.bonds if len(graph.bonds) or graph.n_atoms == 1 else None


def graph_bytes(graph: MolGraph) -> tuple[bytes, ...]:
    """Hashable key of the graph; equal for graphs with identical atoms, bonds and stereochemistry in the same order."""
    return tuple(np.asarray(getattr(graph, field.name)).tobytes() for field in fields(graph))


def neighbours_of(graph: MolGraph) -> list[list[int]]:
    """Bonded atoms of each atom."""
    neighbours: list[list[int]] = [[] for _ in range(graph.n_atoms)]
    for first, second in graph.bonds.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    return neighbours


def topological_distances(graph: MolGraph) -> Float[np.ndarray, "atoms atoms"]:
    """Number of bonds on the shortest path between each pair of atoms; inf between fragments."""
    # Breadth-first search from all atoms at once; five times faster than scipy's shortest_path for small molecules.
    adjacency = np.zeros((graph.n_atoms, graph.n_atoms))
    first, second = graph.bonds.T
    adjacency[first, second] = adjacency[second, first] = 1
    distances = np.full(adjacency.shape, np.inf)
    np.fill_diagonal(distances, 0)
    frontier, bonds_apart = adjacency > 0, 1
    while frontier.any():
        distances[frontier] = bonds_apart
        frontier, bonds_apart = (frontier @ adjacency > 0) & np.isinf(distances), bonds_apart + 1
    return distances


def pair_types(graph: MolGraph) -> UInt8[np.ndarray, "atoms atoms"]:
    """Category of each atom pair; the only bond information available to the model.

    Values: 1-3 bond of that order, 4-6 aromatic bond of Kekulé order 1-3, 7-11 atoms 2-6 bonds apart,
    12/13 cis/trans across a stereo double bond, 14 more than six bonds apart, 15 diagonal. 0 is reserved for padding.
    """
    distance = topological_distances(graph)
    types = np.full(distance.shape, _FAR, dtype=np.uint8)
    for bonds_apart in range(2, 7):
        types[distance == bonds_apart] = 5 + bonds_apart
    np.fill_diagonal(types, _SELF)
    code = np.where(graph.bond_orders > 10, graph.bond_orders - 7, graph.bond_orders)
    first, second = graph.bonds.T
    types[first, second] = types[second, first] = code
    first, last = graph.double_bonds[:, 0], graph.double_bonds[:, 3]
    types[first, last] = types[last, first] = np.where(graph.double_bond_is_cis, _CIS, _TRANS)
    return types


def signed_volumes(
    tetrahedra: Int[np.ndarray, "stereocentres 4"], positions: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, " stereocentres"]:
    """Six times the signed volume [Å³] of each tetrahedron; positive if it matches `MolGraph.tetrahedra`."""
    a, b, c, d = np.moveaxis(positions[tetrahedra], 1, 0)
    return ((a - d) * np.cross(b - d, c - d)).sum(axis=1)
