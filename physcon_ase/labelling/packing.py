"""Assembly of a store from a finished labelling run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from physcon_ase.chem.graph import graph_bytes
from physcon_ase.data.rows import GeometryRow, Label, MoleculeRow, store_from_rows
from physcon_ase.data.store import Store
from physcon_ase.labelling.geometries import DISPLACED
from physcon_ase.labelling.inputs import Identity, Input, KnownGeometry, NamedSmiles, identify
from physcon_ase.labelling.journal import LabelEntry


def pack(
    molecules: Sequence[Input],
    entries: Sequence[LabelEntry],
    level: str,
    *,
    source: str,
    licence: str,
    provenance: str,
) -> Store:
    """Store of all labelled entries; inputs with the same name and graph are one molecule.

    Args:
        molecules: inputs of the run.
        entries: entries of the finished journal.
        level: level of theory of the labels.
        source: `Store.source`.
        licence: `Store.licence`.
        provenance: `Store.provenance`.
    """
    labelled = [entry for entry in entries if not entry.error]
    identities = {row: identify(molecules[row]) for row in sorted({entry.molecule for entry in labelled})}
    kept, molecule_of = _group([identities[entry.molecule] for entry in labelled])
    start_of = {entry.molecule: place for place, entry in enumerate(labelled) if entry.kind == "start"}
    rows = [
        GeometryRow(
            molecule,
            np.asarray(entry.positions),
            entry.kind,
            identities[entry.molecule].minimum_of if entry.kind == "start" else "",
            _labels(entry, level, identities[entry.molecule]),
            # conformers and geometries relaxed from them are not displacements
            start_of.get(entry.molecule, -1) if entry.kind in DISPLACED else -1,
        )
        for molecule, entry in zip(molecule_of, labelled, strict=True)
    ]
    own = [MoleculeRow(identity.graph, identity.smiles, identity.name, identity.key_hash) for identity in kept]
    return store_from_rows(
        own, rows, levels=(level,), with_starts=True, source=source, licence=licence, provenance=provenance
    )


def _group(identities: Sequence[Identity]) -> tuple[list[Identity], list[int]]:
    """Unique molecules by name and graph, and index of the molecule of each identity."""
    index_by_key: dict[tuple[str, tuple[bytes, ...]], int] = {}
    kept, index_of = [], []
    for identity in identities:
        key = (identity.name, graph_bytes(identity.graph))
        if key not in index_by_key:
            index_by_key[key] = len(kept)
            kept.append(identity)
        index_of.append(index_by_key[key])
    return kept, index_of


def _labels(entry: LabelEntry, level: str, identity: Identity) -> dict[str, Label]:
    """Label of the engine, and the known energy of a given minimum at its own level."""
    labels = {level: Label(entry.energy, entry.forces, entry.charges, entry.force_spread)}
    if entry.kind == "start" and identity.minimum_of != level and np.isfinite(identity.energy):
        labels[identity.minimum_of] = Label(identity.energy)
    return labels


def failure_records(molecules: Sequence[Input], entries: Sequence[LabelEntry]) -> list[dict[str, Any]]:
    """Record of each entry without a label."""
    return [
        {
            "molecule": entry.molecule,
            "name": _name_of(molecules[entry.molecule]),
            "kind": entry.kind,
            "error": entry.error,
            "reason": entry.reason,
        }
        for entry in entries
        if entry.error
    ]


def _name_of(molecule: Input) -> str:
    if isinstance(molecule, KnownGeometry | NamedSmiles):
        return molecule.smiles or molecule.name
    if isinstance(molecule, Atoms):
        return molecule.get_chemical_formula()
    return molecule if isinstance(molecule, str) else ""
