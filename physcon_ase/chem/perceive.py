"""Graphs of molecules that come as atoms and bonds, or as atoms alone."""

from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float, Integer
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from physcon_ase.chem.compare import signed_volumes
from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.chem.smiles import (
    graph_from_rdkit,
    multiplicity_of_rdkit,
    rdkit_from_bonds,
    set_positions,
    stereo_of_rdkit,
)
from physcon_ase.errors import BondPerceptionError, EmptyStructureError, NonFinitePositionsError, UnknownElementError
from physcon_ase.units import ATOMIC_NUMBERS

_MAX_VALENCE_ASSIGNMENTS: Final = 10_000
"""Bond-order assignments tried for one geometry, enough for every equilibrium structure met; without it, RDKit's search
is combinatorial."""


def graph_from_bonds(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    bonds: Integer[np.ndarray, "bonds 2"],
    bond_orders: Integer[np.ndarray, " bonds"],
    formal_charges: Integer[np.ndarray, " atoms"] | None = None,
    *,
    positions: Float[np.ndarray, "atoms 3"] | None = None,
) -> MolGraph:
    """The graph of a molecule whose bonds are known, hydrogens included.

    Args:
        atomic_numbers: of each atom.
        bonds: atom indices of each bond.
        bond_orders: coded as `MolGraph.bond_orders`; kept as they are.
        formal_charges: [e] of each atom; absent means 0.
        positions: [Å]; with them the configuration of each tetrahedral centre and stereo double bond is read from the
            geometry, without them it is left open.

    Raises:
        BondPerceptionError: bonds and charges describe no molecule.
        UnknownElementError: an atomic number is no element.
    """
    numbers, orders = np.asarray(atomic_numbers), np.asarray(bond_orders)
    bonds = np.asarray(bonds).reshape(-1, 2)
    charges = np.zeros(len(numbers), dtype=int) if formal_charges is None else np.asarray(formal_charges)
    mol = rdkit_from_bonds(numbers, bonds, orders, charges)
    if positions is not None:
        set_positions(mol, positions)
        with rdBase.BlockLogs():
            Chem.AssignStereochemistryFrom3D(mol)
    # Without positions the molecule carries no stereo labels.
    graph = make_graph(numbers, bonds, orders, charges, multiplicity=multiplicity_of_rdkit(mol), **stereo_of_rdkit(mol))
    return graph if positions is None else _oriented(graph, positions)


def graph_from_geometry(
    atomic_numbers: Integer[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"], charge: int = 0
) -> MolGraph:
    """The graph of a molecule of which only the geometry is known (RDKit's `rdDetermineBonds`), stereo included.

    Closed-shell molecules, of one or several fragments; it finds bonds for about 95 % of the small organic ones.
    A sulfoxide comes out as S+ and O-.

    Args:
        atomic_numbers: of each atom.
        positions: [Å], of an equilibrium structure: bonds are found from distances.
        charge: total charge [e].

    Raises:
        BondPerceptionError: no bonds and formal charges fit the geometry and the total charge.
        EmptyStructureError: there are no atoms.
        NonFinitePositionsError: a position is NaN or infinite.
        UnknownElementError: an atomic number is no element.
    """
    numbers = np.asarray(atomic_numbers)
    _check_geometry(numbers, positions)
    if len(numbers) == 1:  # rdDetermineBonds does not give the charge to a lone atom
        return graph_from_bonds(numbers, np.zeros((0, 2), int), np.zeros(0, int), np.array([charge]))
    mol = rdkit_from_bonds(numbers, np.zeros((0, 2), int), np.zeros(0, int), np.zeros(len(numbers), int))
    for atom in mol.GetAtoms():
        atom.SetNumRadicalElectrons(0)  # sanitisation took the atoms, still without bonds, for radicals
    set_positions(mol, positions)
    try:
        with rdBase.BlockLogs():
            rdDetermineBonds.DetermineBonds(mol, charge=charge, maxIterations=_MAX_VALENCE_ASSIGNMENTS)
    except (ValueError, RuntimeError) as error:
        raise BondPerceptionError(
            f"no bonds found for {len(numbers)} atoms with total charge {charge:+d}: {str(error).splitlines()[0]}; "
            "check the charge, or pass the bonds"
        ) from error
    return _oriented(graph_from_rdkit(mol), positions)


def _oriented(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> MolGraph:
    """The graph with the tetrahedra that the geometry has.

    RDKit looks at three bonds of a centre. If all four point into one half space, as in propellanes, this is not the
    sign of the volume between the neighbours, by which a `MolGraph` is defined.
    """
    is_negative = signed_volumes(graph.tetrahedra, positions) < 0
    if not is_negative.any():
        return graph
    tetrahedra = graph.tetrahedra.copy()
    tetrahedra[is_negative] = tetrahedra[is_negative][:, [1, 0, 2, 3]]
    return replace(graph, tetrahedra=tetrahedra)


def _check_geometry(atomic_numbers: np.ndarray, positions: np.ndarray) -> None:
    if len(atomic_numbers) == 0:
        raise EmptyStructureError("structure with 0 atoms; at least one is needed: pass a molecule")
    unknown = sorted({int(n) for n in atomic_numbers if not 1 <= n <= len(ATOMIC_NUMBERS)})
    if unknown:
        raise UnknownElementError(
            f"atomic numbers {unknown} are no elements; allowed are 1 to {len(ATOMIC_NUMBERS)}: correct the input"
        )
    if not np.isfinite(positions).all():
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise NonFinitePositionsError(
            f"position of atom {atom} is {np.asarray(positions)[atom].tolist()}; only finite numbers are allowed: "
            "check the geometry"
        )
