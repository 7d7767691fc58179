"""Inputs of a labelling run: SMILES, structures, and geometries of a store."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from ase import Atoms

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_key, canonical_smiles, graph_from_smiles
from physcon_ase.data.importers.ase_files import structure_from_atoms
from physcon_ase.data.importers.structures import identify_structure
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph
from physcon_ase.errors import PhysConError, StoreError


@dataclass(frozen=True)
class NamedSmiles:
    """SMILES with a name, e.g. from a list."""

    smiles: str
    """SMILES of the molecule."""
    name: str
    """Name of the molecule."""


@dataclass(frozen=True)
class KnownGeometry:
    """Geometry with a known molecular graph, e.g. from a store."""

    graph: MolGraph
    """The molecule."""
    positions: np.ndarray
    """Positions [Å], [atoms, 3]."""
    key_hash: int
    """`split.key_hash` of the molecule."""
    smiles: str = ""
    """SMILES of the molecule."""
    name: str = ""
    """Name of the molecule."""
    minimum_of: str = ""
    """Level of theory at which the geometry is a minimum; empty if it is not one."""
    energy: float = float("nan")
    """Total energy [eV] at this level; NaN if unknown."""


Input: TypeAlias = str | NamedSmiles | Atoms | KnownGeometry | PhysConError
"""A SMILES or a geometry, or the reason why a molecule could not be read, which becomes a failure. `Atoms` have the
charge `info["charge"]` (default: that of `info["smiles"]`, or 0) and the multiplicity `info["spin"]` (default 1)."""


def known_geometry(graph: MolGraph, positions: np.ndarray, name: str = "") -> KnownGeometry:
    """Geometry of a molecule from its graph, positions [Å] and name (default: the canonical SMILES)."""
    smiles = canonical_smiles(graph)
    return KnownGeometry(graph, positions, key_hash(canonical_key(graph)), smiles, name or smiles)


def known_geometries(store: Store, *, minima_of: str | None = None) -> list[KnownGeometry]:
    """Geometries of a store with their molecules, as input of a labelling run.

    Args:
        store: the store.
        minima_of: level of theory whose minima are used, with their energies; by default all geometries.

    Raises:
        StoreError: the store has no minima of this level.
    """
    rows = np.arange(len(store.geometries))
    if minima_of is not None:
        rows = np.flatnonzero(store.geometries.minimum_of == minima_of)
        if not len(rows):
            found = ", ".join(sorted(set(store.geometries.minimum_of.tolist()) - {""})) or "none"
            raise StoreError(f"{store.source} has no minima of {minima_of!r}; available levels: {found}")
    molecules, offsets = store.molecules, geometry_offsets(store)
    graphs = {
        molecule: molecule_graph(store, molecule) for molecule in np.unique(store.geometries.molecule[rows]).tolist()
    }
    found = []
    for row in rows.tolist():
        molecule, level = int(store.geometries.molecule[row]), str(store.geometries.minimum_of[row])
        labels = store.labels.get(level)
        found.append(
            KnownGeometry(
                graphs[molecule],
                store.geometries.positions[offsets[row] : offsets[row + 1]].astype(np.float64),
                int(molecules.key_hash[molecule]),
                str(molecules.smiles[molecule]),
                str(molecules.name[molecule]),
                level,
                float("nan") if labels is None else float(labels.energy[row]),
            )
        )
    return found


@dataclass(frozen=True)
class Identity:
    """Molecule of an input, and its given geometry."""

    graph: MolGraph
    """The molecule."""
    start: np.ndarray | None
    """Given positions [Å], [atoms, 3]; None for a SMILES."""
    smiles: str
    """SMILES, empty if unknown."""
    key_hash: int
    """`split.key_hash` of the molecule."""
    name: str
    """Name in the input."""
    minimum_of: str = ""
    """Level of theory at which the given geometry is a minimum; empty if it is not one."""
    energy: float = float("nan")
    """Total energy [eV] at this level; NaN if unknown."""


def identify(molecule: Input) -> Identity:
    """Determines the molecule of an input; the bonds of `Atoms` are perceived.

    Raises:
        PhysConError: the input is not a valid molecule.
    """
    if isinstance(molecule, KnownGeometry):
        m = molecule
        return Identity(m.graph, m.positions, m.smiles, m.key_hash, m.name, m.minimum_of, m.energy)
    if isinstance(molecule, PhysConError):
        raise molecule
    if isinstance(molecule, str):
        molecule = NamedSmiles(molecule, name=molecule)
    if isinstance(molecule, NamedSmiles):
        graph = graph_from_smiles(molecule.smiles, keep_isotopes=False)
        return Identity(graph, None, canonical_smiles(graph), key_hash(canonical_key(graph)), molecule.name)
    structure = structure_from_atoms(molecule)
    name = structure.name or structure.smiles or molecule.get_chemical_formula()
    found = identify_structure(structure)  # labelling does not require bonds
    return Identity(found.graph, structure.positions, found.smiles, found.key_hash, name)
