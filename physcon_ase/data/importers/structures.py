"""Conversion of labelled structures to a store."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.graph import MolGraph, graph_bytes
from physcon_ase.data.identity import GeometryIdentity, identify_geometry
from physcon_ase.data.importers.report import ImportReport
from physcon_ase.data.rows import GeometryRow, Label, MoleculeRow, store_from_rows
from physcon_ase.data.store import Store, n_with_forces
from physcon_ase.errors import LabelError, PhysConError
from physcon_ase.plurals import counted


@dataclass(frozen=True)
class Structure:
    """A labelled geometry that has not been assigned to a molecule yet."""

    atomic_numbers: Int[np.ndarray, " atoms"]
    """Atomic number of each atom."""
    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å]."""
    energy: float = float("nan")
    """Total energy [eV]; NaN if absent."""
    forces: np.ndarray | None = None
    """Forces [eV/Å], [atoms, 3]; None if absent. Checked by `store_from_structures`."""
    smiles: str = ""
    """SMILES if known; determines the split."""
    name: str = ""
    """Name of the molecule if known; structures with the same name belong to the same molecule."""
    kind: str = "structure"
    """`Geometries.kind`."""
    minimum_of: str = ""
    """`Geometries.minimum_of`."""
    charge: int = 0
    """Total charge [e]."""
    multiplicity: int = 1
    """Spin multiplicity."""


def store_from_structures(
    structures: Sequence[Structure], level: str, *, source: str, licence: str = "", doi: str = "", provenance: str = ""
) -> tuple[Store, ImportReport]:
    """Groups structures by molecule into a store with labels at one level of theory.

    Structures belong to the same molecule if they have the same name (or, without names, the same SMILES) and the
    same atoms in the same order, and then have the graph of the first of them; minima with other bonds or another
    configuration are molecules of their own. The split of a molecule is determined by its SMILES, given or perceived
    from its first structure, or by its formula and name if perception fails. Strongly distorted geometries may be
    perceived as a different molecule; provide names or SMILES for trajectories to keep their frames in one split.

    Raises:
        LabelError: an energy is infinite, or forces do not match the atoms or are not finite.
        StoreError: positions are not finite.
        PhysConError: a SMILES is invalid or has other atoms, or a charge or multiplicity contradicts the atoms or the
            SMILES.
    """
    identities: dict[tuple, GeometryIdentity] = {}
    molecule_of: dict[tuple, int] = {}
    molecules: list[MoleculeRow] = []
    found: list[GeometryIdentity] = []
    rows = []
    for number, structure in enumerate(structures):
        _check_structure(number, structure)
        atoms = tuple(structure.atomic_numbers.tolist())
        named = (structure.name, structure.smiles, atoms, structure.charge, structure.multiplicity)
        identity = identities.get(named) if structure.name or structure.smiles else None
        if identity is None:
            identity = identities[named] = _identify(number, structure)
        elif structure.minimum_of and not _is_of_graph(structure, identity.graph):
            identity = _identify(number, structure)
        group = (structure.name, identity.key_hash, graph_bytes(identity.graph))
        if group not in molecule_of:
            molecule_of[group] = row = len(molecules)
            name = structure.name or str(row)
            molecules.append(MoleculeRow(identity.graph, identity.smiles, name, identity.key_hash))
            found.append(identity)
        label = Label(structure.energy, structure.forces)
        rows.append(
            GeometryRow(molecule_of[group], structure.positions, structure.kind, structure.minimum_of, {level: label})
        )
    store = store_from_rows(
        molecules, rows, levels=(level,), source=source, licence=licence, doi=doi, provenance=provenance
    )
    return store, _report(store, level, found)


def _is_of_graph(structure: Structure, graph: MolGraph) -> bool:
    """Whether bonds and configuration of a structure are those of a graph with the same atoms."""
    positions = structure.positions
    return bonds_intact(graph, positions).intact and stereo_intact(graph, positions).intact


def _check_structure(number: int, structure: Structure) -> None:
    n_atoms = len(structure.atomic_numbers)
    if np.isinf(structure.energy):
        raise LabelError(f"structure {number}: the energy is {structure.energy}; use NaN for missing energies")
    if structure.forces is None:
        return
    if np.shape(structure.forces) != (n_atoms, 3):
        raise LabelError(f"structure {number}: forces have shape {np.shape(structure.forces)}, expected {(n_atoms, 3)}")
    if not np.isfinite(structure.forces).all():
        raise LabelError(f"structure {number}: the forces are not finite; use None for missing forces")


def identify_structure(structure: Structure) -> GeometryIdentity:
    """Molecule of a structure. Raises the errors of `identify_geometry`."""
    return identify_geometry(
        structure.atomic_numbers,
        structure.positions,
        charge=structure.charge,
        multiplicity=structure.multiplicity,
        smiles=structure.smiles,
        name=structure.name,
    )


def _identify(number: int, structure: Structure) -> GeometryIdentity:
    try:
        return identify_structure(structure)
    except PhysConError as error:
        raise type(error)(f"structure {number}: {error}") from error


def _report(store: Store, level: str, identities: Sequence[GeometryIdentity]) -> ImportReport:
    ways, counts = np.unique([identity.found_by for identity in identities], return_counts=True)
    n_energies = int(np.isfinite(store.labels[level].energy).sum())
    notes = [f"{counted(count, 'molecule')} identified by {way}" for way, count in zip(ways, counts, strict=True)]
    n_forces = counted(n_with_forces(store, level), "geometry", "geometries")
    notes.append(f"{level}: {counted(n_energies, 'energy', 'energies')}, {n_forces} with forces")
    n_bare = sum(len(identity.graph.bonds) == 0 and identity.graph.n_atoms > 1 for identity in identities)
    notes.append(f"{counted(n_bare, 'molecule')} without bonds: the structure task cannot use them")
    n = len(store.geometries)
    return ImportReport(store.source, n, len(store.molecules), n, {}, tuple(notes))
