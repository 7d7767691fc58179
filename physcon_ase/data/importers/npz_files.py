"""Import of NumPy archives: bonds and stereochemistry from the structures, and the store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.graph import MolGraph, graph_bytes
from physcon_ase.chem.perceive import graph_from_bonds
from physcon_ase.chem.smiles import canonical_key
from physcon_ase.data.identity import check_composition
from physcon_ase.data.importers.npz_contents import (
    ArchivedGeometry,
    archived_geometries,
    open_archive,
    present_molecules,
)
from physcon_ase.data.importers.report import ImportReport
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Geometries, LevelLabels, Store, n_with_forces, offsets_of, pack_molecules
from physcon_ase.errors import PhysConError, StoreError
from physcon_ase.plurals import counted


def read_archive(
    path: str | Path, *, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Store, ImportReport]:
    """Reads an archive into a store.

    Args:
        path: the archive.
        on_progress: called periodically with the number of processed molecules and their total.

    Raises:
        StoreError: the file is not an archive, has none of the formats of `npz_formats.FORMATS`, or its arrays are
            inconsistent.
        LabelError: labels are not finite and not marked as missing.
    """
    archive, layout = open_archive(path)
    geometries = archived_geometries(archive, layout)
    atoms_of = offsets_of(archive["n_atoms"])
    graphs, hashes = _perceive(path, archive, geometries[0].positions, on_progress)
    geometries = [geometries[0], *(_without_rearranged(geometry, graphs, atoms_of) for geometry in geometries[1:])]
    names = (archive[layout.identifier] if layout.identifier else np.arange(len(graphs))).astype(str)
    if layout.rows_are_conformers:
        first_rows, molecule_of_row = _group_conformers(graphs)
    else:
        first_rows = molecule_of_row = np.arange(len(graphs))
    molecules = pack_molecules(
        [graphs[row] for row in first_rows],
        smiles=archive["smiles"][first_rows].tolist(),
        names=names[first_rows].tolist(),
        key_hashes=[hashes[row] for row in first_rows],
    )
    present = [present_molecules(path, geometry, atoms_of, archive["atomic_numbers"]) for geometry in geometries]
    store = Store(
        molecules=molecules,
        geometries=_join_geometries(geometries, present, atoms_of, molecule_of_row),
        labels=_join_labels(geometries, present, atoms_of),
        source=layout.name,
        licence=layout.licence,
        doi=layout.doi,
        provenance=f"{layout.origin}. Imported from {Path(path).name}; bonds perceived from the structures with RDKit.",
    )
    return store, _report(store, geometries, present)


def _perceive(
    path: str | Path,
    archive: Mapping[str, np.ndarray],
    positions: np.ndarray,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[MolGraph], list[int]]:
    """Graphs, with stereochemistry perceived from the positions, and key hashes."""
    atoms_of, bonds_of = offsets_of(archive["n_atoms"]), offsets_of(archive["n_bonds"])
    graphs, hashes = [], []
    for row, smiles in enumerate(archive["smiles"].tolist()):
        atoms, bonds = slice(atoms_of[row], atoms_of[row + 1]), slice(bonds_of[row], bonds_of[row + 1])
        try:
            graph = graph_from_bonds(
                archive["atomic_numbers"][atoms],
                archive["bonds"][bonds],
                archive["bond_orders"][bonds],
                archive["formal_charges"][atoms],
                positions=positions[atoms],
            )
            if "charge" in archive and graph.charge != archive["charge"][row]:
                raise StoreError(
                    f"formal charges sum to {graph.charge:+d}, expected a total charge of {archive['charge'][row]:+d}"
                )
            check_composition(graph.atomic_numbers, smiles)
            graphs.append(graph)
            hashes.append(key_hash(canonical_key(smiles)))
        except PhysConError as error:
            raise StoreError(f"{path}: row {row} ({smiles}) has no valid molecular graph: {error}") from error
        if on_progress is not None and row % 100 == 0:
            on_progress(row, len(archive["smiles"]))
    return graphs, hashes


def _group_conformers(graphs: Sequence[MolGraph]) -> tuple[np.ndarray, np.ndarray]:
    """First row of each molecule, and molecule of each row; rows with identical graphs are one molecule.

    Conformers with a different atom order, or with exchanged stereocentres of a meso compound, count as separate
    molecules; their split is the same.
    """
    molecule_by_graph: dict[tuple[bytes, ...], int] = {}
    first_rows, molecule_of_row = [], []
    for row, graph in enumerate(graphs):
        key = graph_bytes(graph)
        if key not in molecule_by_graph:
            molecule_by_graph[key] = len(first_rows)
            first_rows.append(row)
        molecule_of_row.append(molecule_by_graph[key])
    return np.array(first_rows, dtype=np.int64), np.array(molecule_of_row, dtype=np.int64)


def _without_rearranged(geometry: ArchivedGeometry, graphs: list[MolGraph], atoms_of: np.ndarray) -> ArchivedGeometry:
    """Changes the kind of minima whose bonds or configuration differ from the graph to "rearranged"."""
    rearranged = np.zeros(len(graphs), dtype=bool)
    for row in np.flatnonzero(geometry.minimum_of != ""):
        positions = geometry.positions[atoms_of[row] : atoms_of[row + 1]].astype(np.float64)
        if np.isfinite(positions).all():
            graph = graphs[row]
            rearranged[row] = not (bonds_intact(graph, positions).intact and stereo_intact(graph, positions).intact)
    return replace(
        geometry,
        kind=np.where(rearranged, "rearranged", geometry.kind),
        minimum_of=np.where(rearranged, "", geometry.minimum_of),
    )


def _join_geometries(
    geometries: list[ArchivedGeometry], present: list[np.ndarray], atoms_of: np.ndarray, molecule_of_row: np.ndarray
) -> Geometries:
    atoms_present = [np.repeat(mask, np.diff(atoms_of)) for mask in present]
    return Geometries(
        molecule=np.concatenate([molecule_of_row[mask] for mask in present]).astype(np.int32),
        kind=np.concatenate([g.kind[mask] for g, mask in zip(geometries, present, strict=True)]),
        minimum_of=np.concatenate([g.minimum_of[mask] for g, mask in zip(geometries, present, strict=True)]),
        positions=np.concatenate([g.positions[mask] for g, mask in zip(geometries, atoms_present, strict=True)]),
    )


def _join_labels(
    geometries: list[ArchivedGeometry], present: list[np.ndarray], atoms_of: np.ndarray
) -> dict[str, LevelLabels]:
    levels = sorted({level for geometry in geometries for level in geometry.energies})
    return {level: _join_level(level, geometries, present, atoms_of) for level in levels}


def _join_level(
    level: str, geometries: list[ArchivedGeometry], present: list[np.ndarray], atoms_of: np.ndarray
) -> LevelLabels:
    no_energy = np.full(len(atoms_of) - 1, np.nan)
    no_forces = np.full((atoms_of[-1], 3), np.nan, dtype=np.float32)
    energies, forces = [], []
    for geometry, mask in zip(geometries, present, strict=True):
        energies.append(geometry.energies.get(level, no_energy)[mask])
        forces.append(geometry.forces.get(level, no_forces)[np.repeat(mask, np.diff(atoms_of))])
    has_forces = any(level in geometry.forces for geometry in geometries)
    return LevelLabels(np.concatenate(energies).astype(np.float64), np.concatenate(forces) if has_forces else None)


def _report(store: Store, geometries: list[ArchivedGeometry], present: list[np.ndarray]) -> ImportReport:
    left_out = {}
    for geometry, mask in zip(geometries, present, strict=True):
        level = np.unique(geometry.minimum_of)[-1]
        if not mask.all():
            left_out[f"{level} minima that the archive marks as missing"] = int((~mask).sum())
    kinds = zip(*np.unique(store.geometries.kind, return_counts=True), strict=True)
    minima = zip(*np.unique(store.geometries.minimum_of, return_counts=True), strict=True)
    n_minima = ", ".join(f"{count} of {level}" for level, count in minima if level)
    notes = [
        "geometries: " + ", ".join(f"{count} {kind}" for kind, count in kinds),
        f"minima: {n_minima or 'none'}",
    ]
    for level, labels in store.labels.items():
        n_energies = int(np.isfinite(labels.energy).sum())
        forces = (
            "no forces"
            if labels.forces is None
            else f"{counted(n_with_forces(store, level), 'geometry', 'geometries')} with forces"
        )
        n_absent = len(labels.energy) - n_energies
        notes.append(f"{level}: {counted(n_energies, 'energy', 'energies')} ({n_absent} absent), {forces}")
    return ImportReport(
        store.source, len(present[0]), len(store.molecules), len(store.geometries), left_out, tuple(notes)
    )
