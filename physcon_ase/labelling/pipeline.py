"""Molecules in, a labelled store out: sampled and labelled in worker processes, resumable at any moment.

Workers return finished geometries every two seconds (or after each one that takes longer), and the parent appends them
to the journal beside the store (`journal`). What a geometry and its label are depends on the molecule, its row and
the seed, never on the number of workers or on interruptions. With a `Selection` all of this happens twice: a committee
judges the sampled geometries, with a journal of its own, and the chosen ones are labelled.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from physcon_ase.data.store import check_level_name, write_store
from physcon_ase.errors import PhysConError, StoreError
from physcon_ase.labelling.engines import Engine, record_as_dict
from physcon_ase.labelling.geometries import Geometry, Rejected, Sampling, describe_samplings
from physcon_ase.labelling.inputs import Input, KnownGeometry
from physcon_ase.labelling.journal import Entry, Journal
from physcon_ase.labelling.packing import failure_records, pack
from physcon_ase.labelling.selection import (
    Disagreement,
    Selection,
    check_selection,
    committee_engine,
    most_disputed,
)
from physcon_ase.labelling.tasks import Job, Plan
from physcon_ase.labelling.workers import Workers, employed, finished_lines


@dataclass(frozen=True)
class LabelReport:
    """Outcome of a labelling run."""

    output: Path
    """The store."""
    n_molecules: int
    """Molecules asked for."""
    n_labelled: int
    """Geometries with a label."""
    n_resumed: int
    """Those of them, and of the failures, that an earlier run had finished."""
    failures: tuple[dict[str, Any], ...]
    """One record for each geometry (or molecule) without a label: molecule, name, kind, error, reason."""
    failures_path: Path | None
    """Where they are written; None without any."""
    seconds: float
    """Duration."""
    disagreement: Disagreement | None
    """What the committee said, if the geometries were selected."""


@dataclass(frozen=True)
class _Candidates:
    """Geometries that a committee has judged."""

    geometries: dict[int, tuple[Geometry | Rejected, ...]]
    """Those of each molecule that has any, by its row."""
    left: dict[int, frozenset[int]]
    """Numbers of those that get no label."""
    disagreement: Disagreement | None
    """None if the committee could judge none."""


def label(
    molecules: Sequence[Input],
    engine: Engine,
    samplings: Sequence[Sampling],
    output: str | Path,
    *,
    selection: Selection | None = None,
    seed: int = 0,
    processes: int | None = None,
    scheduler: str | None = None,
    source: str = "",
    licence: str = "",
    progress_bar: bool = True,
) -> LabelReport:
    """Samples geometries of molecules, labels them and writes a store; goes on where a run was interrupted.

    Beside the store stand the journal ("<output>.journal", and "<output>.candidates.journal" of a selection, while
    unfinished) and the records of what has no label ("<stem>.failed.jsonl").

    Args:
        molecules: SMILES or geometries.
        engine: what labels.
        samplings: how many geometries of which kind.
        output: the store, a new file.
        selection: which of the geometries are labelled; all of them unless given.
        seed: of all geometries; each molecule draws from it by its row.
        processes: worker processes with one thread each; one per core unless given, and 0 for none (in this process).
        scheduler: address of a Dask scheduler, whose workers are used instead.
        source: `Store.source`, the stem of the output unless given.
        licence: `Store.licence`.
        progress_bar: whether to draw a bar, on a terminal.

    Raises:
        StoreError: the output exists, cannot be written, or its journal is that of another run.
        PhysConError: nothing was asked for, or no geometry got a label.
        EngineError: worker processes die one after the other, or Dask is not installed or does not answer.
    """
    began, output = perf_counter(), Path(output)
    plan = Plan(engine, tuple(samplings), seed)
    _check(molecules, plan, selection, output, processes)
    with _alone(output):
        judged, label_journal = (
            output.with_name(f"{output.name}.{name}") for name in ("candidates.journal", "journal")
        )
        if output.exists() and not label_journal.exists():
            raise StoreError(f"{output} exists already; choose another output, or delete it to label anew")
        description = _describe(plan, selection)
        with employed(processes, scheduler) as workers:
            candidates = None
            if selection is not None:
                judging = replace(plan, engine=committee_engine(selection.committee))
                entries, _ = _finish(molecules, judging, judged, _describe(judging), workers, progress_bar=progress_bar)
                candidates = _choose(entries, selection)
            entries, n_resumed = _finish(
                molecules, plan, label_journal, description, workers, candidates, progress_bar=progress_bar
            )
        failures_path = _write_failures(output, failures := failure_records(molecules, entries))
        disagreement = None if candidates is None else candidates.disagreement
        n_labelled = len(entries) - len(failures)
        if n_labelled:
            provenance = _provenance(description, disagreement)
            level = engine.record.level
            packed = pack(
                molecules, entries, level, source=source or output.stem, licence=licence, provenance=provenance
            )
            write_store(output, packed)
        # the journal of the labels last: killed before it, the next run writes the same store again
        for path in (judged, label_journal):
            path.unlink(missing_ok=True)
    if not n_labelled:
        raise PhysConError(f"none of {len(molecules)} molecules got a label; the first: {failures[0]['reason']}")
    return LabelReport(
        output=output,
        n_molecules=len(molecules),
        n_labelled=n_labelled,
        n_resumed=n_resumed,
        failures=tuple(failures),
        failures_path=failures_path,
        seconds=perf_counter() - began,
        disagreement=disagreement,
    )


def format_label_report(report: LabelReport, engine: Engine, *, n_shown: int = 10) -> str:
    """The report as lines for a terminal; of the failures the first ones."""
    record = engine.record
    where = f"{record.level} of {record.program} {record.version}".strip()
    lines = [f"{report.n_molecules} molecules, {report.n_labelled} geometries labelled at {where}"]
    if report.disagreement is not None:
        told = report.disagreement
        lines.append(
            f"  selected   from {told.n_candidates} candidates, disagreement {told.smallest_chosen:.3f} to "
            f"{told.largest:.3f} eV/Å (median of the candidates {told.median:.3f})"
        )
    if report.n_resumed:
        lines.append(f"  resumed    {report.n_resumed} geometries of an earlier run taken over")
    for failure in report.failures[:n_shown]:
        kind = failure["kind"] or "molecule"
        lines.append(f"  failed     {failure['molecule']} {failure['name']} ({kind}): {failure['reason']}")
    if report.failures:
        lines.append(f"  failures   {len(report.failures)}, all in {report.failures_path}")
    return "\n".join([*lines, f"  written to {report.output} in {report.seconds:.1f} s"])


def _finish(
    molecules: Sequence[Input],
    plan: Plan,
    path: Path,
    description: dict[str, Any],
    workers: Workers,
    candidates: _Candidates | None = None,
    *,
    progress_bar: bool,
) -> tuple[list[Entry], int]:
    """All entries of a journal, once everything is done, and how many of them it had at the beginning."""
    with Journal(path, _fingerprint(molecules, description)) as journal:
        n_resumed = len(journal.finished.entries)
        jobs = _open_jobs(molecules, journal, candidates)
        # disable=None: no bar where the output is no terminal
        bar = tqdm(total=len(molecules), initial=len(molecules) - len(jobs), unit="molecule",
                   disable=None if progress_bar else True)  # fmt: skip
        began, n_before = perf_counter(), n_resumed
        with bar:
            for lines in finished_lines(workers, plan, jobs):
                bar.update(len(journal.note(lines)))
                rate = (len(journal.finished.entries) - n_before) / (perf_counter() - began)
                bar.set_postfix_str(f"{rate:.3g} geometries/s", refresh=False)
        return [journal.finished.entries[key] for key in sorted(journal.finished.entries)], n_resumed


def _open_jobs(molecules: Sequence[Input], journal: Journal, candidates: _Candidates | None) -> list[Job]:
    done: dict[int, set[int]] = {}
    for row, number in journal.finished.entries:
        done.setdefault(row, set()).add(number)
    jobs = [
        Job(row, molecule, frozenset(done.get(row, ())))
        for row, molecule in enumerate(molecules)
        if row not in journal.finished.complete
    ]
    if candidates is None:
        return jobs
    chosen = [
        replace(job, done=job.done | candidates.left[job.row], geometries=candidates.geometries[job.row])
        for job in jobs
        if job.row in candidates.geometries
    ]
    return [job for job in chosen if len(job.done) < len(job.geometries or ())]


def _choose(judged: Sequence[Entry], selection: Selection) -> _Candidates:
    """The geometries that the committee judged, whose disagreement is their "energy"."""
    candidates = [entry for entry in judged if not entry.error]
    scores = np.array([entry.energy for entry in candidates])
    rows = np.array([entry.molecule for entry in candidates], dtype=np.int64)
    chosen = most_disputed(scores, rows, selection.n, per_molecule=selection.per_molecule)
    wanted = {(candidates[index].molecule, candidates[index].geometry) for index in chosen.tolist()}
    geometries: dict[int, list[Geometry | Rejected]] = {}
    left: dict[int, set[int]] = {}
    for entry in judged:
        if entry.positions is None:
            found = Rejected(entry.kind, entry.error, entry.reason)
        else:
            found = (entry.kind, entry.positions.astype(np.float64))
        geometries.setdefault(entry.molecule, []).append(found)
        is_left = not entry.error and (entry.molecule, entry.geometry) not in wanted
        left.setdefault(entry.molecule, set()).update({entry.geometry} if is_left else ())
    disagreement = None
    if len(scores):
        disagreement = Disagreement(
            len(scores), float(np.median(scores)), float(scores[chosen].min()), float(scores.max())
        )
    return _Candidates(
        geometries={row: tuple(found) for row, found in geometries.items()},
        left={row: frozenset(numbers) for row, numbers in left.items()},
        disagreement=disagreement,
    )


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Refuses a second run on the same output, on this machine; a run that was killed locks nothing."""
    lock = FileLock(output.with_name(f"{output.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"another process is labelling {output} at this moment; wait for its end, or choose another output"
        ) from None
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _check(
    molecules: Sequence[Input], plan: Plan, selection: Selection | None, output: Path, processes: int | None
) -> None:
    if not molecules:
        raise PhysConError("no molecules to label; give at least one")
    if not plan.samplings:
        raise PhysConError("no geometries asked for; give at least one sampling")
    check_level_name(plan.engine.record.level)  # now rather than after the last label
    if selection is not None:
        check_selection(selection)
    if plan.seed < 0:
        raise PhysConError(f"the seed is {plan.seed}; allowed are 0 and larger")
    if processes is not None and processes < 0:
        raise PhysConError(f"processes is {processes}; allowed are 1 and larger, and 0 for none besides this one")
    if not output.parent.is_dir():
        raise StoreError(f"there is no folder {output.parent} to write {output.name} to; make it first")


def _fingerprint(molecules: Sequence[Input], description: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, default=_name_of).encode())
    for molecule in molecules:
        digest.update(b"\n")
        if isinstance(molecule, str):
            digest.update(molecule.encode())
        elif isinstance(molecule, KnownGeometry):
            digest.update(molecule.graph.atomic_numbers.tobytes() + molecule.positions.tobytes())
            digest.update(repr([molecule.graph.charge, molecule.name, molecule.minimum_of]).encode())
        else:
            digest.update(np.ascontiguousarray(molecule.numbers).tobytes() + molecule.positions.tobytes())
            digest.update(repr([molecule.info.get(key) for key in ("charge", "spin", "smiles", "name")]).encode())
    return digest.hexdigest()


def _describe(plan: Plan, selection: Selection | None = None) -> dict[str, Any]:
    """Everything that decides the labels, for fingerprint and provenance."""
    description = {
        "engine": record_as_dict(plan.engine.record),
        "geometries": describe_samplings(plan.samplings),
        "seed": plan.seed,
    }
    if selection is not None:
        committee = [record_as_dict(engine.record) for engine in selection.committee]
        description["selection"] = {"n": selection.n, "per_molecule": selection.per_molecule, "committee": committee}
    return description


def _provenance(description: dict[str, Any], disagreement: Disagreement | None) -> str:
    """`Store.provenance`."""
    told = {"made by": f"physcon label {_own_version()}", **description}
    if disagreement is not None:
        told["selection"] = told["selection"] | asdict(disagreement)
    return json.dumps(told, default=_name_of)


def _name_of(value: object) -> str:
    """A setting that is no JSON, such as a function: without its address, which differs in each process."""
    return getattr(value, "__qualname__", type(value).__name__)


def _write_failures(output: Path, failures: Sequence[dict[str, Any]]) -> Path | None:
    path = output.with_name(f"{output.stem}.failed.jsonl")
    if not failures:
        path.unlink(missing_ok=True)  # that of a run whose store was deleted
        return None
    path.write_text("".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures), encoding="utf-8")
    return path


def _own_version() -> str:
    try:
        return version("physcon-ase")
    except PackageNotFoundError:  # a source checkout
        return "(not installed)"
