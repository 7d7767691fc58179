"""Records of conformer searches, scans, strains and vibrations of many molecules, as JSON lines and tables."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar, runtime_checkable

from physcon_ase.inference.files import check_output
from physcon_ase.inference.formats.rows import fields_beside
from physcon_ase.inference.formats.summary import one_line, write_table
from physcon_ase.inference.formats.text import replacing
from physcon_ase.inference.long_runs import Outcome
from physcon_ase.inference.results import Status
from physcon_ase.inference.starts import name_of

LINES: Final = ".jsonl"
"""Suffix of files with one line of JSON per molecule, failures included."""

TABLES: Final = (".csv", ".tsv")
"""Suffixes of tables with one row per molecule, failures included."""

_ORIGIN: Final = ("row", "source", "name", "status", "reason", "error", "input")
"""Columns of every table before those of the results."""


@runtime_checkable
class _Dictionary(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


ResultT = TypeVar("ResultT", bound=_Dictionary)


@dataclass(frozen=True)
class RunRecord(Generic[ResultT]):
    """Outcome of `ensemble_many`, `scan_many`, `strain_many` or `vibrations_many` for one molecule."""

    kind: str
    """ "ensemble", "scan", "strain" or "vibrations"."""
    index: int
    """Index in the input."""
    name: str
    """Name in the input; without one the SMILES as given, or the chemical formula."""
    status: Status
    """Judgement of the result; "failed": no result."""
    reason: str
    """Problem and remedy; empty if the status is "ok"."""
    error: str
    """Class name of the error of a failed molecule, empty otherwise."""
    seconds: float
    """Wall time [s]."""
    result: ResultT | None
    """`Ensemble`, `Scan`, `Strain` or `Vibrations`; None if it failed."""
    smiles: str = ""
    """SMILES as given; empty for other input."""
    row: int = 0
    """Number of the molecule in its file, from 1 (the line of a list or table); 0 without a file."""
    source: str = ""
    """Name of the file; empty without a file."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Other columns of a table, or data fields of an SD record."""

    def to_dict(self) -> dict[str, Any]:
        """The result, if there is one, with origin, status and reason, for instance for `json.dump`."""
        found = {} if self.result is None else self.result.to_dict()
        return {**found, "kind": self.kind, **_origin(self), "seconds": self.seconds, "fields": dict(self.fields)}


def record_of_outcome(kind: str, outcome: Outcome, judged: Callable[[Any], tuple[Status, str]]) -> RunRecord[Any]:
    """Record of the outcome of a run; `judged` gives the status of a result and its reason."""
    row, found = outcome.row, outcome.result
    status, reason = ("failed", outcome.reason) if found is None else judged(found)
    return RunRecord(
        kind=kind,
        index=outcome.index,
        name=row.name or name_of(row.molecule),
        status=status,
        reason=reason,
        error=outcome.error,
        seconds=outcome.seconds,
        result=found,
        smiles=row.smiles,
        row=row.number,
        source=row.source,
        fields=row.fields,
    )


def judged_by_doubts(doubts: Sequence[str]) -> tuple[Status, str]:
    """Status of a result without other problems, and its reason."""
    return ("uncertain", "; ".join(doubts)) if doubts else ("ok", "")


def format_run_record(record: RunRecord[Any], summary: str) -> str:
    """One line of a record for the terminal; `summary` describes its result."""
    told = summary if record.result is not None else f"{record.error}: {one_line(record.reason)}"
    reason = f", {one_line(record.reason)}" if record.result is not None and record.reason else ""
    return f"{record.index:5d}  {record.status:13s}  {record.name}  {told}{reason}"


def write_lines(records: Sequence[RunRecord[Any]], path: str | Path, *, inputs: Iterable[str | Path] = ()) -> None:
    """Writes one line of JSON per molecule (.jsonl), failures included.

    Raises:
        PhysConError: see `files.check_output`.
    """
    with replacing(check_output(path, inputs, kinds=(LINES,))) as file:
        file.writelines(json.dumps(record.to_dict()) + "\n" for record in records)


def write_run_table(
    records: Sequence[RunRecord[Any]],
    path: str | Path,
    columns: Sequence[str],
    values_of: Callable[[Any], Mapping[str, Any]],
    *,
    inputs: Iterable[str | Path] = (),
) -> None:
    """Writes a table (.csv, .tsv) with one row per molecule, failures and further columns of the input included.

    Args:
        records: the records.
        path: output file.
        columns: names of the columns of a result.
        values_of: values of these columns of a result.
        inputs: input files, which must not be overwritten.

    Raises:
        PhysConError: see `files.check_output`.
    """
    path = check_output(path, inputs, kinds=TABLES)
    own = (*_ORIGIN, *columns, "seconds")
    others = [fields_beside(record.fields, own) for record in records]
    names = dict.fromkeys(name for fields in others for name in fields)
    rows = [
        {
            **_origin(record),
            **({} if record.result is None else values_of(record.result)),
            "reason": one_line(record.reason),
            "seconds": record.seconds,
            **fields,
        }
        for record, fields in zip(records, others, strict=True)
    ]
    write_table([*own, *names], rows, path)


def _origin(record: RunRecord[Any]) -> dict[str, Any]:
    fields = {"row": record.row or record.index + 1, "source": record.source, "name": record.name}
    return {**fields, "status": record.status, "reason": record.reason, "error": record.error, "input": record.smiles}
