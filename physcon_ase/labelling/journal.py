"""Journal of a labelling run: one line of JSON per finished geometry, from which the store is written at the end.

The first line contains the fingerprint of the run. An incomplete last line, left by a crash, is removed. Arrays are
base64-encoded little-endian float32.
"""

import base64
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final

import numpy as np

from physcon_ase.errors import StoreError
from physcon_ase.labelling.engines import EngineLabel
from physcon_ase.labelling.geometries import Geometry, Rejected

_SYNC_SECONDS: Final = 1.0
"""Interval [s] of fsync calls: at most this time is lost in a power failure; a killed process loses nothing."""


@dataclass(frozen=True)
class Entry:
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

    entries: dict[tuple[int, int], Entry] = field(default_factory=dict)
    """Entries by molecule and geometry."""
    complete: dict[int, int] = field(default_factory=dict)
    """Number of geometries of each finished molecule."""


def labelled_line(molecule: int, number: int, geometry: Geometry, label: EngineLabel) -> str:
    """Journal line of a labelled geometry."""
    kind, positions = geometry
    extras: dict[str, Any] = {} if label.charges is None else {"charges": _packed(label.charges)}
    if label.force_spread is not None:
        extras["spread"] = label.force_spread
    return _line(
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
    return _line(m=molecule, g=number, kind=rejected.kind, error=rejected.error, reason=rejected.reason)


def complete_line(molecule: int, n_geometries: int) -> str:
    """Journal line that marks a molecule as finished."""
    return _line(m=molecule, n=n_geometries)


class Journal:
    """Open journal file."""

    def __init__(self, path: Path, fingerprint: str):
        """Creates a journal, or opens that of an interrupted run.

        Raises:
            StoreError: the file belongs to a different run, or is not a journal.
        """
        self.path, self.finished = path, Finished()
        n_bytes = self._read(fingerprint) if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(n_bytes)
        self._synced = monotonic()
        if n_bytes == 0:
            self._append([_line(journal="physcon label", fingerprint=fingerprint)])

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def note(self, lines: Iterable[str]) -> list[int]:
        """Appends lines and returns the molecules finished by them."""
        lines = list(lines)
        self._append(lines)
        done = []
        for line in lines:
            done += _take(json.loads(line), self.finished)
        return done

    def _append(self, lines: list[str]) -> None:
        self._file.write("".join(lines).encode())
        self._file.flush()
        if monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = monotonic()

    def _read(self, fingerprint: str) -> int:
        """Reads all complete lines and returns their length in bytes."""
        content = self.path.read_bytes()
        n_bytes = content.rfind(b"\n") + 1
        lines = content[:n_bytes].splitlines()
        try:
            records = [json.loads(line) for line in lines]
        except ValueError as error:
            raise StoreError(f"{self.path} is not a labelling journal ({error}); delete it to start again") from error
        if records and records[0].get("fingerprint") != fingerprint:
            raise StoreError(
                f"{self.path} belongs to a run with different molecules, engine, geometries, selection or seed; "
                "choose another output, or delete it to start again"
            )
        for record in records[1:]:
            _take(record, self.finished)
        return n_bytes


def _take(record: dict[str, Any], finished: Finished) -> list[int]:
    """Adds a record; returns the molecule if it is finished by this record."""
    molecule = record["m"]
    if "n" in record:
        finished.complete[molecule] = record["n"]
        return [molecule]
    entry = Entry(
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


def _line(**values: Any) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()


def _unpacked(text: str | None, shape: tuple[int, ...]) -> np.ndarray | None:
    return None if text is None else np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(shape)
