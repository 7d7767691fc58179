"""Labelling pipeline: sampling and labelling of geometries in worker processes, resumable after interruption.

Workers return finished geometries every two seconds (or after each geometry that takes longer), and the parent process
appends them to the journal next to the store (`journal`). Geometries and labels only depend on the molecule, its row
and the seed, not on the number of workers or on interruptions. With a `CommitteeSelection`, the sampled geometries are
first evaluated by a committee, with a separate journal, and only the selected ones are labelled.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from physcon_ase.chem.graph import graph_bytes
from physcon_ase.data.store import check_level_name, write_store
from physcon_ase.errors import PhysConError, StoreError
from physcon_ase.jobs.journal import fingerprint, output_lock
from physcon_ase.jobs.progress import Progress
from physcon_ase.jobs.workers import Workers, finished, worker_pool
from physcon_ase.labelling.engines import Engine, record_as_dict
from physcon_ase.labelling.geometries import Geometry, NewtonStep, Rejected
from physcon_ase.labelling.inputs import Input, KnownGeometry, NamedSmiles
from physcon_ase.labelling.journal import LabelEntry, LabelJournal
from physcon_ase.labelling.packing import failure_records, pack
from physcon_ase.labelling.samplings import Sampling, describe_samplings
from physcon_ase.labelling.selection import (
    CommitteeSelection,
    Disagreement,
    check_selection,
    committee_engine,
    most_disputed,
)
from physcon_ase.labelling.tasks import JobQueue, LabelJob, Plan, lost, work
from physcon_ase.plurals import counted


@dataclass(frozen=True)
class LabelReport:
    """Outcome of a labelling run."""

    output: Path
    """Path of the store."""
    n_molecules: int
    """Number of input molecules."""
    n_labelled: int
    """Number of labelled geometries."""
    n_resumed: int
    """Number of geometries (labelled or failed) taken over from an interrupted run."""
    failures: tuple[dict[str, Any], ...]
    """Record of each geometry (or molecule) without a label: molecule, name, kind, error, reason."""
    failures_path: Path | None
    """File with the failure records; None if there are none."""
    seconds: float
    """Wall time [s]."""
    disagreement: Disagreement | None
    """Statistics of the committee disagreement, if geometries were selected."""


@dataclass(frozen=True)
class _Candidates:
    """Geometries evaluated by a committee."""

    geometries: dict[int, tuple[Geometry | Rejected, ...]]
    """Geometries of each molecule by row; only molecules with geometries."""
    left: dict[int, frozenset[int]]
    """Numbers of the geometries that were not selected, by row."""
    disagreement: Disagreement | None
    """Statistics of the disagreement; None if no geometry could be evaluated."""


def label(
    molecules: Sequence[Input],
    engine: Engine,
    samplings: Sequence[Sampling],
    output: str | Path,
    *,
    selection: CommitteeSelection | None = None,
    seed: int = 0,
    processes: int | None = None,
    scheduler: str | None = None,
    source: str = "",
    licence: str = "",
    progress_bar: bool = True,
) -> LabelReport:
    """Samples geometries of molecules, labels them and writes a store; continues an interrupted run.

    Files next to the store: the journal "<output>.journal" (and "<output>.candidates.journal" with a selection) until
    the run is finished, and the failure records "<stem>.failed.jsonl".

    Args:
        molecules: SMILES or geometries.
        engine: engine that computes the labels.
        samplings: samplers and the number of geometries per sampler.
        output: path of the store; must not exist.
        selection: selection of the geometries to be labelled; by default all.
        seed: random seed of all geometries; combined with the row of each molecule.
        processes: number of single-threaded worker processes; by default one per core, 0 to work in this process.
        scheduler: address of a Dask scheduler whose workers are used instead.
        source: `Store.source`; by default the stem of the output.
        licence: `Store.licence`.
        progress_bar: whether to show a progress bar on a terminal.

    Raises:
        StoreError: the output exists or cannot be written, or its journal belongs to a different run.
        PhysConError: there are no molecules or samplings, or no geometry could be labelled.
        EngineError: worker processes crash repeatedly, or Dask is not installed or cannot be reached.
    """
    began, output = perf_counter(), Path(output)
    molecules = [molecules] if isinstance(molecules, str) else molecules
    plan = Plan(engine, tuple(samplings), seed)
    _check(molecules, plan, selection, output, processes)
    with output_lock(output, "labelling"):
        judged, label_journal = (
            output.with_name(f"{output.name}.{name}") for name in ("candidates.journal", "journal")
        )
        if output.exists() and not label_journal.exists():
            raise StoreError(f"{output} exists already; choose another output, or delete it to label again")
        description = _describe(plan, selection)
        with worker_pool(processes, scheduler) as workers:
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
        # The label journal is deleted last; if interrupted before, the next run rewrites the same store.
        for path in (judged, label_journal):
            path.unlink(missing_ok=True)
    if not n_labelled:
        raise PhysConError(
            f"none of {counted(len(molecules), 'molecule')} could be labelled; first failure: {failures[0]['reason']}"
        )
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


def format_labelling_report(report: LabelReport, engine: Engine, *, n_shown: int = 10) -> str:
    """Report as text for the terminal, with the first `n_shown` failures."""
    record = engine.record
    where = f"{record.level} of {record.program} {record.version}".strip()
    n_molecules = counted(report.n_molecules, "molecule")
    n_labelled = counted(report.n_labelled, "geometry", "geometries")
    lines = [f"{n_molecules}, {n_labelled} labelled at {where}"]
    if report.disagreement is not None:
        spread = report.disagreement
        lines.append(
            f"  selected   from {counted(spread.n_candidates, 'candidate')}, disagreement {spread.smallest_chosen:.3f} "
            f"to {spread.largest:.3f} eV/Å (median of the candidates {spread.median:.3f})"
        )
    if report.n_resumed:
        lines.append(f"  resumed    {counted(report.n_resumed, 'geometry', 'geometries')} of an interrupted run")
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
) -> tuple[list[LabelEntry], int]:
    """Finishes all open jobs; returns all entries of the journal and the number of entries of an earlier run."""
    with LabelJournal(path, _fingerprint(molecules, description)) as journal:
        n_resumed = len(journal.finished.entries)
        jobs = _open_jobs(molecules, journal, candidates)
        n_resumed_molecules = len(molecules) - len(jobs)
        began, queue = perf_counter(), JobQueue(jobs, plan.engine, workers.n)
        with Progress(len(molecules), initial=n_resumed_molecules, show=progress_bar) as progress:
            for lines in finished(workers, partial(work, plan), queue, lost):
                n_molecules = len(journal.note(lines))
                rate = (len(journal.finished.entries) - n_resumed) / (perf_counter() - began)
                progress.advance(n_molecules, f"{rate:.3g} geometries/s")
        return [journal.finished.entries[key] for key in sorted(journal.finished.entries)], n_resumed


def _open_jobs(molecules: Sequence[Input], journal: LabelJournal, candidates: _Candidates | None) -> list[LabelJob]:
    done: dict[int, set[int]] = {}
    for row, number in journal.finished.entries:
        done.setdefault(row, set()).add(number)
    jobs = [
        LabelJob(row, molecule, frozenset(done.get(row, ())))
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


def _choose(judged: Sequence[LabelEntry], selection: CommitteeSelection) -> _Candidates:
    """Selects candidates by the committee disagreement, stored as their "energy"."""
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


def _check(
    molecules: Sequence[Input], plan: Plan, selection: CommitteeSelection | None, output: Path, processes: int | None
) -> None:
    if not molecules:
        raise PhysConError("no molecules to label; give at least one")
    if not plan.samplings:
        raise PhysConError("no geometries requested; give at least one sampling")
    check_level_name(plan.engine.record.level)
    if selection is not None:
        check_selection(selection)
        if any(sampling.kind == NewtonStep.kind for sampling in plan.samplings):
            raise PhysConError(
                "geometries of kind 'newton' follow the forces of the labels, which a selection lacks: omit them"
            )
    if plan.seed < 0:
        raise PhysConError(f"the seed is {plan.seed}; it must be 0 or larger")
    if processes is not None and processes < 0:
        raise PhysConError(f"processes is {processes}; it must be 1 or larger, or 0 to work in the current process")
    if not output.parent.is_dir():
        raise StoreError(f"there is no folder {output.parent} to write {output.name} to; create it first")


def _fingerprint(molecules: Sequence[Input], description: dict[str, Any]) -> str:
    return fingerprint(description, map(_bytes_of, molecules), name_of=_name_of)


def _bytes_of(molecule: Input) -> bytes:
    """Bytes of all properties of a molecule on which its labels and its rows of the store depend."""
    if isinstance(molecule, str | PhysConError):
        return str(molecule).encode()
    if isinstance(molecule, NamedSmiles):
        return f"{molecule.smiles}\t{molecule.name}".encode()
    if isinstance(molecule, KnownGeometry):
        atoms = b"".join(graph_bytes(molecule.graph))
        details = [molecule.key_hash, molecule.smiles, molecule.name, molecule.minimum_of, molecule.energy]
    else:
        atoms = np.ascontiguousarray(molecule.numbers).tobytes()
        details = [molecule.info.get(key) for key in ("charge", "spin", "smiles", "name")]
    return atoms + molecule.positions.tobytes() + repr(details).encode()


def _describe(plan: Plan, selection: CommitteeSelection | None = None) -> dict[str, Any]:
    """All settings that determine the labels, for fingerprint and provenance."""
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
    origin = {"made by": f"physcon label {_own_version()}", **description}
    if disagreement is not None:
        origin["selection"] = origin["selection"] | asdict(disagreement)
    return json.dumps(origin, default=_name_of)


def _name_of(value: object) -> str:
    """Name of a setting that cannot be serialised to JSON, e.g. a function; does not include its memory address."""
    return getattr(value, "__qualname__", type(value).__name__)


def _write_failures(output: Path, failures: Sequence[dict[str, Any]]) -> Path | None:
    path = output.with_name(f"{output.stem}.failed.jsonl")
    if not failures:
        path.unlink(missing_ok=True)  # left over from an earlier run
        return None
    path.write_text("".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures), encoding="utf-8")
    return path


def _own_version() -> str:
    try:
        return version("physcon-ase")
    except PackageNotFoundError:  # a source checkout
        return "(not installed)"
