"""What can be labelled: SMILES, structures, and geometries of a store."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from ase import Atoms

from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.chem.smiles import canonical_key, canonical_smiles, graph_from_smiles
from physcon_ase.data.importers.ase_files import structure_from_atoms
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph
from physcon_ase.errors import BondPerceptionError, StoreError


@dataclass(frozen=True)
class KnownGeometry:
    """A geometry whose molecule is known, such as one of a store: nothing has to be perceived."""

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
    """Level of theory whose minimum the geometry is; empty if of none."""
    energy: float = float("nan")
    """Total energy [eV] at that level; NaN if not known."""


Input: TypeAlias = str | Atoms | KnownGeometry
"""A SMILES, or a geometry; the charge and multiplicity of an `Atoms` are `info["charge"]` and `info["spin"]`, or else 0
and 1."""


def known_geometries(store: Store, *, minima_of: str | None = None) -> list[KnownGeometry]:
    """The geometries of a store, each with its molecule, to be labelled.

    Args:
        store: the store.
        minima_of: level of theory whose minima are taken, with their energies; all geometries unless given.

    Raises:
        StoreError: the store has no minima of that level.
    """
    rows = np.arange(len(store.geometries))
    if minima_of is not None:
        rows = np.flatnonzero(store.geometries.minimum_of == minima_of)
        if not len(rows):
            found = ", ".join(sorted(set(store.geometries.minimum_of.tolist()) - {""})) or "none"
            raise StoreError(f"{store.source} has no minima of {minima_of!r}; it has those of: {found}")
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
    """What a store says of a molecule, and the geometry that was given."""

    graph: MolGraph
    """The molecule."""
    start: np.ndarray | None
    """Positions [Å] that were given, [atoms, 3]."""
    smiles: str
    """SMILES, empty if not known."""
    key_hash: int
    """`split.key_hash`."""
    name: str
    """Name in the input."""
    minimum_of: str = ""
    """Level of theory whose minimum the given geometry is; empty if of none."""
    energy: float = float("nan")
    """Total energy [eV] at that level; NaN if not known."""


def identify(molecule: Input) -> Identity:
    """The molecule of an input; bonds of a structure are perceived.

    Raises:
        PhysConError: the input describes no molecule.
    """
    if isinstance(molecule, KnownGeometry):
        m = molecule
        return Identity(m.graph, m.positions, m.smiles, m.key_hash, m.name, m.minimum_of, m.energy)
    if isinstance(molecule, str):
        graph = graph_from_smiles(molecule)
        return Identity(graph, None, canonical_smiles(graph), key_hash(canonical_key(graph)), molecule)
    structure = structure_from_atoms(molecule)
    numbers, charge, multiplicity = structure.atomic_numbers, structure.charge, structure.multiplicity
    formula = molecule.get_chemical_formula()
    name = structure.name or structure.smiles or formula
    try:
        graph = replace(graph_from_geometry(numbers, structure.positions, charge), multiplicity=multiplicity)
    except BondPerceptionError:  # bonds are optional: a label does not need them
        # the charge stands on the first atom: without bonds nobody knows where it is
        charges = [charge, *[0] * (len(numbers) - 1)]
        graph = make_graph(numbers, np.zeros((0, 2)), np.zeros(0), charges, multiplicity=multiplicity)
        key = canonical_key(structure.smiles) if structure.smiles else f"{formula} {structure.name}".strip()
        return Identity(graph, structure.positions, structure.smiles, key_hash(key), name)
    smiles = structure.smiles or canonical_smiles(graph)
    return Identity(graph, structure.positions, smiles, key_hash(canonical_key(smiles)), name)
