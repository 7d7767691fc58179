"""Assembly of a store from a finished labelling run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from physcon_ase.chem.graph import graph_bytes
from physcon_ase.data.store import Geometries, LevelLabels, Store, pack_molecules
from physcon_ase.labelling.geometries import DISPLACED
from physcon_ase.labelling.inputs import Identity, Input, KnownGeometry, identify
from physcon_ase.labelling.journal import Entry


def pack(
    molecules: Sequence[Input],
    entries: Sequence[Entry],
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
    return Store(
        molecules=pack_molecules(
            [identity.graph for identity in kept],
            smiles=[identity.smiles for identity in kept],
            names=[identity.name for identity in kept],
            key_hashes=[identity.key_hash for identity in kept],
        ),
        geometries=Geometries(
            molecule=np.array(molecule_of, dtype=np.int32),
            kind=np.array([entry.kind for entry in labelled], dtype=str),
            minimum_of=np.array(
                [identities[entry.molecule].minimum_of if entry.kind == "start" else "" for entry in labelled],
                dtype=str,
            ),
            positions=_joined([entry.positions for entry in labelled]),
            start=_starts(labelled),
        ),
        labels=_labels(labelled, level, identities),
        source=source,
        licence=licence,
        provenance=provenance,
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


def _starts(labelled: Sequence[Entry]) -> np.ndarray:
    """`Geometries.start`; -1 for conformers and geometries relaxed from them, which are not displacements."""
    index = {entry.molecule: place for place, entry in enumerate(labelled) if entry.kind == "start"}
    return np.array(
        [index.get(entry.molecule, -1) if entry.kind in DISPLACED else -1 for entry in labelled], dtype=np.int32
    )


def _labels(labelled: Sequence[Entry], level: str, identities: Mapping[int, Identity]) -> dict[str, LevelLabels]:
    """Labels of the engine, and known energies of the given minima at their own levels."""
    has_charges = any(entry.charges is not None for entry in labelled)
    spread = np.array([entry.force_spread for entry in labelled], dtype=np.float32)
    labels = {
        level: LevelLabels(
            np.array([entry.energy for entry in labelled]),
            _joined([entry.forces for entry in labelled]),
            _joined([entry.charges for entry in labelled]) if has_charges else None,
            spread if np.isfinite(spread).any() else None,
        )
    }
    known = np.array([identities[entry.molecule].energy if entry.kind == "start" else np.nan for entry in labelled])
    levels = np.array([identities[entry.molecule].minimum_of for entry in labelled])
    for own in np.unique(levels[np.isfinite(known)]).tolist():
        if own != level:
            labels[own] = LevelLabels(np.where(levels == own, known, np.nan))
    return labels


def _joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.concatenate([array for array in arrays if array is not None]).astype(np.float32)


def failure_records(molecules: Sequence[Input], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Record of each entry without a label."""

    def name(molecule: Input) -> str:
        if isinstance(molecule, KnownGeometry):
            return molecule.smiles or molecule.name
        return molecule if isinstance(molecule, str) else molecule.get_chemical_formula()

    return [
        {
            "molecule": entry.molecule,
            "name": name(molecules[entry.molecule]),
            "kind": entry.kind,
            "error": entry.error,
            "reason": entry.reason,
        }
        for entry in entries
        if entry.error
    ]
