"""Long runs over many molecules: in processes, with a journal from which an interrupted run continues.

Molecules are distributed in chunks. The content of a chunk must not depend on the number of processes, and a chunk with
a missing result is repeated as a whole, so that results depend neither on the number of processes nor on interruptions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
from ase import Atoms

from physcon_ase.chem.graph import MolGraph, graph_bytes
from physcon_ase.errors import PhysConError
from physcon_ase.inference.encoding import decoded, encoded
from physcon_ase.inference.formats.rows import Geometry, Row, as_rows
from physcon_ase.inference.intake import at_least_one, or_error
from physcon_ase.jobs.journal import Journal, fingerprint, json_line, output_lock
from physcon_ase.jobs.progress import Progress
from physcon_ase.jobs.workers import WORKER_DIED, SingleJobs, finished, worker_pool

_PROGRAM: Final = "physcon"

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Item:
    """One molecule of a run."""

    index: int
    """Index in the input."""
    row: Row
    """The molecule."""
    seed: int
    """Random seed."""


Chunk: TypeAlias = tuple[Item, ...]
"""Molecules that are processed together."""


@dataclass(frozen=True)
class Task(Generic[RecordT]):
    """Functions and settings of a run."""

    work: Callable[[Chunk], list[RecordT]]
    """Function chunk -> record of each molecule; has to be picklable for several processes."""
    lost: Callable[[Item, str], RecordT]
    """Function (molecule, reason) -> record, for a molecule whose process crashed."""
    encode: Callable[[RecordT], Any]
    """Function record -> JSON value."""
    decode: Callable[[Any], RecordT]
    """Inverse of `encode`."""
    settings: Mapping[str, Any]
    """Settings on which the records depend, apart from the molecules; a journal with other settings is refused."""


def run(
    task: Task[RecordT],
    chunks: Iterable[Chunk],
    rows: Sequence[Row],
    *,
    n_processes: int = 1,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
) -> list[RecordT]:
    """Records of all molecules, in input order.

    Args:
        task: functions and settings of the run.
        chunks: the molecules in chunks; may be a generator.
        rows: the molecules in input order.
        n_processes: number of processes; 1 to work in the current process.
        scheduler: address of a Dask scheduler whose workers are used instead.
        journal: file to which records are appended as soon as they are finished. If it exists, its records are reused
            and only the other molecules are processed.
        on_progress: called with the number of finished molecules and the total number.
        progress_bar: whether to show a progress bar on a terminal.

    Raises:
        StoreError: the journal belongs to a different run, or another process is writing it.
        EngineError: processes crash repeatedly, or Dask cannot be used.
        PhysConError: `n_processes` is below 1.
    """
    n_processes = 0 if at_least_one("n_processes", n_processes) == 1 else n_processes
    records: dict[int, RecordT] = {}
    with ExitStack() as stack:
        file = None if journal is None else stack.enter_context(_journal(Path(journal), task, rows, stack))
        if file is not None:
            records |= {line["index"]: task.decode(line["record"]) for line in file.resumed}
        progress = stack.enter_context(Progress(len(rows), initial=len(records), show=progress_bar))
        queue = SingleJobs(chunk for chunk in chunks if any(item.index not in records for item in chunk))
        workers = stack.enter_context(worker_pool(n_processes, scheduler))
        for done in finished(workers, partial(_work, task.work), queue, partial(_lost, task.lost)):
            new = {index: record for index, record in done if index not in records}
            if file is not None:
                file.append(json_line(index=index, record=task.encode(record)) for index, record in new.items())
            records |= new
            progress.advance(len(new))
            if on_progress is not None:
                on_progress(len(records), len(rows))
    return [records[index] for index in range(len(rows))]


def _journal(path: Path, task: Task[Any], rows: Sequence[Row], stack: ExitStack) -> Journal:
    stack.enter_context(output_lock(path, "writing"))
    mark = fingerprint(dict(task.settings), map(_bytes_of, rows))
    return Journal(path, mark, program=_PROGRAM, depends_on="molecules or settings")


def _bytes_of(row: Row) -> bytes:
    """Bytes of all properties of a molecule on which its record depends."""
    fields = dict(row.fields) or ""
    molecule, origin = row.molecule, f"{row.name}\t{row.number}\t{row.source}\t{fields}".encode()
    if isinstance(molecule, Geometry):
        return origin + _graph_bytes(molecule.graph) + _atoms_bytes(molecule.atoms)
    if isinstance(molecule, MolGraph):
        return origin + _graph_bytes(molecule)
    return origin + (_atoms_bytes(molecule) if isinstance(molecule, Atoms) else str(molecule).encode())


def _graph_bytes(graph: MolGraph) -> bytes:
    return b"".join(graph_bytes(graph))


def _atoms_bytes(atoms: Atoms) -> bytes:
    constraints = [encoded(constraint.todict()) for constraint in atoms.constraints]
    # `info` and further arrays, such as names, are part of the record; what cannot be encoded is not
    others = {name: array for name, array in atoms.arrays.items() if name not in ("numbers", "positions", "masses")}
    fields = [or_error(encoded, {name: value}) for name, value in sorted({**others, **atoms.info}.items(), key=str)]
    state = repr([constraints, *("" if isinstance(value, PhysConError) else value for value in fields)]).encode()
    arrays = (atoms.numbers, atoms.positions, atoms.get_masses())
    return b"".join(np.ascontiguousarray(values).tobytes() for values in arrays) + state


def _work(work: Callable[[Chunk], list[Any]], task: list[Chunk]) -> tuple[list[tuple[int, Any]], list[Chunk]]:
    done = [(item.index, record) for chunk in task for item, record in zip(chunk, work(chunk), strict=True)]
    return done, []


def _lost(lost: Callable[[Item, str], Any], chunk: Chunk) -> tuple[list[tuple[int, Any]], list[Chunk]]:
    """Record of a molecule that crashed its process; a larger chunk is divided to find this molecule."""
    if len(chunk) > 1:
        return [], [(item,) for item in chunk]
    return [(item.index, lost(item, WORKER_DIED)) for item in chunk], []


# ---- functions of one molecule


@dataclass(frozen=True)
class Outcome:
    """Result of a function for one molecule of a run, or the reason why there is none."""

    index: int
    """Index in the input."""
    row: Row
    """The molecule."""
    result: Any
    """Result of the function; None if it failed."""
    error: str = ""
    """Class name of the error; empty with a result."""
    reason: str = ""
    """Error message; empty with a result."""
    seconds: float = 0.0
    """Time [s] of the function."""


def run_each(
    function: Callable[[Any, int], RecordT],
    molecules: Any,
    *,
    result_type: type[RecordT],
    settings: Mapping[str, Any],
    seed: int = 0,
    n_processes: int = 1,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
) -> list[Outcome]:
    """Applies a function to many molecules; a `PhysConError` that it raises becomes the outcome of that molecule.

    Args:
        function: called with a molecule and a seed; has to be picklable for several processes, e.g. a
            `functools.partial` of a function of a module.
        molecules: SMILES, graphs, geometries, RDKit molecules or rows of a file.
        result_type: dataclass that the function returns.
        settings: settings on which the results depend, apart from molecules and seed.
        seed: random seed of every molecule.
        n_processes: see `run`.
        scheduler: see `run`.
        journal: see `run`.
        on_progress: see `run`.
        progress_bar: see `run`.

    Raises:
        PhysConError: see `run`.
    """
    rows = as_rows(molecules)
    task = Task(
        partial(_outcomes, function),
        _lost_outcome,
        _encoded_outcome,
        partial(_decoded_outcome, rows, result_type),
        {**settings, "seed": seed},
    )
    chunks = ((Item(index, row, seed),) for index, row in enumerate(rows))
    return run(
        task,
        chunks,
        rows,
        n_processes=n_processes,
        scheduler=scheduler,
        journal=journal,
        on_progress=on_progress,
        progress_bar=progress_bar,
    )


def _outcomes(function: Callable[[Any, int], Any], chunk: Chunk) -> list[Outcome]:
    return [_outcome(function, item) for item in chunk]


def _outcome(function: Callable[[Any, int], Any], item: Item) -> Outcome:
    began, molecule = perf_counter(), item.row.molecule
    try:
        if isinstance(molecule, PhysConError):
            raise molecule
        outcome = Outcome(item.index, item.row, function(molecule, item.seed))
    except PhysConError as error:
        outcome = Outcome(item.index, item.row, None, type(error).__name__, str(error))
    except Exception as error:  # of RDKit, for example: one molecule must not end the run
        reason = " ".join(str(error).split()) or "no reason given"
        outcome = Outcome(item.index, item.row, None, type(error).__name__, f"unexpected error: {reason}")
    return replace(outcome, seconds=perf_counter() - began)


def _lost_outcome(item: Item, reason: str) -> Outcome:
    return Outcome(item.index, item.row, None, "WorkerDied", reason)


def _encoded_outcome(outcome: Outcome) -> Any:
    fields = {name: getattr(outcome, name) for name in ("index", "error", "reason", "seconds")}
    return {**fields, "result": encoded(outcome.result)}


def _decoded_outcome(rows: Sequence[Row], result_type: type, value: dict[str, Any]) -> Outcome:
    result = None if value["result"] is None else decoded(result_type, value["result"])
    return Outcome(**{**value, "row": rows[value["index"]], "result": result})
