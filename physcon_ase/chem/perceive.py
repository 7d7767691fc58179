"""Molecular graphs from bond lists or from geometries alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Integer
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from physcon_ase.chem.graph import MolGraph, make_graph, neighbours_of, signed_volumes
from physcon_ase.chem.smiles import (
    graph_from_rdkit,
    multiplicity_of_rdkit,
    rdkit_from_bonds,
    set_isotopes,
    set_positions,
    stereo_of_rdkit,
    undefined_centres,
)
from physcon_ase.errors import BondPerceptionError, EmptyStructureError, NonFinitePositionsError, UnknownElementError
from physcon_ase.plurals import counted
from physcon_ase.units import ATOMIC_NUMBERS

_MAX_VALENCE_ASSIGNMENTS: Final = 10_000
"""Maximum number of bond-order assignments tried per geometry; RDKit's search is combinatorial without a limit."""

_PYRAMIDAL: Final = (15, 33)
"""Atomic numbers of P and As, whose three bonds do not invert at room temperature."""


def graph_from_bonds(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    bonds: Integer[np.ndarray, "bonds 2"],
    bond_orders: Integer[np.ndarray, " bonds"],
    formal_charges: Integer[np.ndarray, " atoms"] | None = None,
    *,
    isotopes: Int[np.ndarray, " atoms"] | None = None,
    positions: Float[np.ndarray, "atoms 3"] | None = None,
) -> MolGraph:
    """Graph of a molecule with known bonds and explicit hydrogens.

    Args:
        atomic_numbers: atomic number of each atom.
        bonds: atom indices of each bond.
        bond_orders: bond orders, encoded as in `MolGraph.bond_orders`; kept unchanged.
        formal_charges: formal charge [e] of each atom; zero if not given.
        isotopes: `MolGraph.isotopes`; the natural mixture if not given.
        positions: positions [Å] from which the configuration of tetrahedral centres and stereo double bonds is
            determined; it is left undefined if not given.

    Raises:
        BondPerceptionError: bonds and charges are not those of a valid molecule.
        UnknownElementError: an atomic number is not that of an element.
    """
    numbers, orders = np.asarray(atomic_numbers), np.asarray(bond_orders)
    bonds = np.asarray(bonds).reshape(-1, 2)
    charges = np.zeros(len(numbers), dtype=int) if formal_charges is None else np.asarray(formal_charges)
    mol = rdkit_from_bonds(numbers, bonds, orders, charges)
    if isotopes is not None:
        set_isotopes(mol, isotopes)
    if positions is not None:
        set_positions(mol, positions)
        with rdBase.BlockLogs():
            Chem.AssignStereochemistryFrom3D(mol)
    # Without positions, `mol` has no stereo labels.
    multiplicity, stereo = multiplicity_of_rdkit(mol), stereo_of_rdkit(mol)
    graph = make_graph(numbers, bonds, orders, charges, isotopes=isotopes, multiplicity=multiplicity, **stereo)
    return graph if positions is None else _oriented(graph, positions)


def graph_from_geometry(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int = 0,
    isotopes: Int[np.ndarray, " atoms"] | None = None,
) -> MolGraph:
    """Graph perceived from a geometry with RDKit's `rdDetermineBonds`, including stereochemistry.

    For closed-shell molecules of one or several fragments; succeeds for about 95 % of small organic molecules.
    Sulfoxides are perceived as S+-O-, and sulfonamide anions with N=S.

    Args:
        atomic_numbers: atomic number of each atom.
        positions: positions [Å] of an equilibrium structure; bonds are inferred from distances.
        charge: total charge [e].
        isotopes: `MolGraph.isotopes`; the natural mixture if not given.

    Raises:
        BondPerceptionError: no assignment of bonds and formal charges fits the geometry and the total charge.
        EmptyStructureError: there are no atoms.
        NonFinitePositionsError: a position is NaN or infinite.
        UnknownElementError: an atomic number is not that of an element.
    """
    numbers = np.asarray(atomic_numbers)
    _check_geometry(numbers, positions)
    if len(numbers) == 1:  # rdDetermineBonds does not assign the charge to a single atom
        return graph_from_bonds(numbers, np.zeros((0, 2), int), np.zeros(0, int), np.array([charge]), isotopes=isotopes)
    mol = rdkit_from_bonds(numbers, np.zeros((0, 2), int), np.zeros(0, int), np.zeros(len(numbers), int))
    if isotopes is not None:
        set_isotopes(mol, isotopes)
    for atom in mol.GetAtoms():
        atom.SetNumRadicalElectrons(0)  # sanitisation treats atoms without bonds as radicals
    set_positions(mol, positions)
    try:
        with rdBase.BlockLogs():
            rdDetermineBonds.DetermineConnectivity(mol)
            nitro_groups = _nitro_groups(mol)
            if len(nitro_groups) > 1:
                _determine_orders_beside(mol, nitro_groups, charge)
            else:
                _determine_orders(mol, charge)
    except (ValueError, RuntimeError) as error:
        raise BondPerceptionError(
            f"no bonds found for {counted(len(numbers), 'atom')} with total charge {charge:+d}: "
            f"{str(error).splitlines()[0]}; check the charge, or pass the bonds explicitly"
        ) from error
    return _oriented(graph_from_rdkit(mol), positions)


def _determine_orders(mol: Chem.Mol, charge: int) -> None:
    """Sets bond orders and formal charges of a molecule with known neighbours, in place."""
    rdDetermineBonds.DetermineBondOrders(mol, charge=charge, maxIterations=_MAX_VALENCE_ASSIGNMENTS)


def _nitro_groups(mol: Chem.Mol) -> list[tuple[int, int, int]]:
    """N and both O of each nitro group of a molecule with known neighbours."""
    found = []
    for atom in mol.GetAtoms():
        around = atom.GetNeighbors()
        ends = [other.GetIdx() for other in around if other.GetSymbol() == "O" and other.GetDegree() == 1]
        if atom.GetSymbol() == "N" and len(around) == 3 and len(ends) == 2:
            found.append((atom.GetIdx(), *ends))
    return found


def _determine_orders_beside(mol: Chem.Mol, nitro_groups: Sequence[tuple[int, int, int]], charge: int) -> None:
    """Sets the bond orders and formal charges of a molecule with several nitro groups, in place; RDKit finds none.

    The groups are replaced by fluorine atoms, which leaves the other bonds and the total charge as they are.
    """
    reduced = Chem.RWMol(mol)
    for nitrogen, *_ in nitro_groups:
        reduced.GetAtomWithIdx(nitrogen).SetAtomicNum(ATOMIC_NUMBERS["F"])
    removed = sorted(oxygen for _, *oxygens in nitro_groups for oxygen in oxygens)
    for oxygen in reversed(removed):
        reduced.RemoveAtom(oxygen)
    _determine_orders(reduced, charge)
    Chem.Kekulize(reduced, clearAromaticFlags=True)
    kept = np.setdiff1d(np.arange(mol.GetNumAtoms()), removed).tolist()
    for atom in reduced.GetAtoms():
        mol.GetAtomWithIdx(kept[atom.GetIdx()]).SetFormalCharge(atom.GetFormalCharge())
    for bond in reduced.GetBonds():
        own = mol.GetBondBetweenAtoms(kept[bond.GetBeginAtomIdx()], kept[bond.GetEndAtomIdx()])
        own.SetBondType(bond.GetBondType())
    for nitrogen, first, second in nitro_groups:
        mol.GetBondBetweenAtoms(nitrogen, first).SetBondType(Chem.BondType.DOUBLE)
        mol.GetAtomWithIdx(nitrogen).SetFormalCharge(1)
        mol.GetAtomWithIdx(second).SetFormalCharge(-1)
    Chem.SanitizeMol(mol)
    Chem.AssignStereochemistryFrom3D(mol)


def _oriented(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> MolGraph:
    """Graph with the orientation of each tetrahedron taken from the geometry; trivalent P and As are added.

    RDKit determines chirality from three bonds of a centre. If all four bonds lie in one half-space, as in propellanes,
    this differs from the sign of the volume spanned by the neighbours, which defines `MolGraph.tetrahedra`.
    """
    graph = _with_pyramidal_centres(graph)
    is_negative = signed_volumes(graph.tetrahedra, positions) < 0
    if not is_negative.any():
        return graph
    tetrahedra = graph.tetrahedra.copy()
    tetrahedra[is_negative] = tetrahedra[is_negative][:, [1, 0, 2, 3]]
    return replace(graph, tetrahedra=tetrahedra)


def _with_pyramidal_centres(graph: MolGraph) -> MolGraph:
    """Graph with the centres of three-coordinate P and As, which RDKit leaves out, in either orientation."""
    if not np.isin(graph.atomic_numbers, _PYRAMIDAL).any():
        return graph
    neighbours = neighbours_of(graph)
    found = [atom for atom in undefined_centres(graph) if graph.atomic_numbers[atom] in _PYRAMIDAL]
    added = [[*neighbours[atom], atom] for atom in found if len(neighbours[atom]) == 3]
    return replace(graph, tetrahedra=np.array([*graph.tetrahedra.tolist(), *added], dtype=np.int32).reshape(-1, 4))


def _check_geometry(atomic_numbers: np.ndarray, positions: np.ndarray) -> None:
    if len(atomic_numbers) == 0:
        raise EmptyStructureError("structure with 0 atoms; at least one is needed: pass a molecule")
    unknown = sorted({int(n) for n in atomic_numbers if not 1 <= n <= len(ATOMIC_NUMBERS)})
    if unknown:
        raise UnknownElementError(
            f"unknown atomic numbers {unknown}; allowed are 1 to {len(ATOMIC_NUMBERS)}: correct the input"
        )
    if not np.isfinite(positions).all():
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise NonFinitePositionsError(
            f"position of atom {atom} is {np.asarray(positions)[atom].tolist()}; positions must be finite: "
            "check the geometry"
        )
