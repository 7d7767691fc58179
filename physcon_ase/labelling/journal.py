"""Journal of a labelling run: one line per finished geometry, from which the store is written at the end.

Arrays are float32.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from physcon_ase.jobs import journal
from physcon_ase.jobs.journal import json_line, packed, unpacked
from physcon_ase.labelling.engines import EngineLabel
from physcon_ase.labelling.geometries import Geometry, Rejected


@dataclass(frozen=True)
class LabelEntry:
    """Label of one geometry, or the reason why it has none."""

    molecule: int
    """Row of the molecule in the input."""
    geometry: int
    """Index of the geometry within the molecule."""
    kind: str
    """`Geometries.kind`; empty if the molecule itself failed."""
    positions: np.ndarray | None = None
    """Positions [Å], float32 [atoms, 3]; None without a label."""
    energy: float = float("nan")
    """Total energy [eV]."""
    forces: np.ndarray | None = None
    """Forces [eV/Å], float32 [atoms, 3]; None without a label."""
    charges: np.ndarray | None = None
    """Partial charges [e], float32 [atoms]; None if absent."""
    force_spread: float = float("nan")
    """`EngineLabel.force_spread` [eV/Å]; NaN if absent."""
    error: str = ""
    """Name of the error class; empty with a label."""
    reason: str = ""
    """Error message; empty with a label."""


@dataclass(frozen=True)
class Finished:
    """Content of a journal."""

    entries: dict[tuple[int, int], LabelEntry] = field(default_factory=dict)
    """Entries by molecule and geometry."""
    complete: dict[int, int] = field(default_factory=dict)
    """Number of geometries of each finished molecule."""


def labelled_line(molecule: int, number: int, geometry: Geometry, label: EngineLabel) -> str:
    """Journal line of a labelled geometry."""
    kind, positions = geometry
    extras: dict[str, Any] = {} if label.charges is None else {"charges": _packed(label.charges)}
    if label.force_spread is not None:
        extras["spread"] = label.force_spread
    return json_line(
        m=molecule,
        g=number,
        kind=kind,
        positions=_packed(positions),
        energy=label.energy,
        forces=_packed(label.forces),
        **extras,
    )


def failed_line(molecule: int, number: int, rejected: Rejected) -> str:
    """Journal line of a geometry without a label."""
    return json_line(m=molecule, g=number, kind=rejected.kind, error=rejected.error, reason=rejected.reason)


def complete_line(molecule: int, n_geometries: int) -> str:
    """Journal line that marks a molecule as finished."""
    return json_line(m=molecule, n=n_geometries)


class LabelJournal:
    """Open journal of a labelling run."""

    def __init__(self, path: Path, fingerprint: str):
        """Creates a journal, or opens that of an interrupted run; see `jobs.journal.Journal`."""
        self._file = journal.Journal(
            path,
            fingerprint,
            program="physcon label",
            depends_on="molecules, engine, geometries, selection or seed",
        )
        self.finished = Finished()
        for record in self._file.resumed:
            _take(record, self.finished)

    def __enter__(self) -> "LabelJournal":
        self._file.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.__exit__(kind, error, traceback)

    def note(self, lines: Iterable[str]) -> list[int]:
        """Appends lines and returns the molecules finished by them."""
        lines = list(lines)
        self._file.append(lines)
        done = []
        for line in lines:
            done += _take(json.loads(line), self.finished)
        return done


def _take(record: dict[str, Any], finished: Finished) -> list[int]:
    """Adds a record; returns the molecule if it is finished by this record."""
    molecule = record["m"]
    if "n" in record:
        finished.complete[molecule] = record["n"]
        return [molecule]
    entry = LabelEntry(
        molecule,
        record["g"],
        record["kind"],
        _unpacked(record.get("positions"), (-1, 3)),
        record.get("energy", float("nan")),
        _unpacked(record.get("forces"), (-1, 3)),
        _unpacked(record.get("charges"), (-1,)),
        record.get("spread", float("nan")),
        record.get("error", ""),
        record.get("reason", ""),
    )
    finished.entries.setdefault((molecule, entry.geometry), entry)
    return []


def _packed(array: np.ndarray) -> str:
    return packed(array, "<f4")


def _unpacked(text: str | None, shape: tuple[int, ...]) -> np.ndarray | None:
    return None if text is None else unpacked(text, "<f4", shape)
