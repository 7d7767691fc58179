"""Molecules in, a labelled store out: sampled and labelled in worker processes, resumable at any moment.

Workers return finished geometries at least once a second (or after each one that takes longer), and the parent appends
them to the journal beside the store (`journal`). What a geometry and its label are depends on the molecule, its row and
the seed, never on the number of workers or on interruptions. With a `Selection` all of this happens twice: a committee
judges the sampled geometries, with a journal of its own, and the chosen ones are labelled.
"""

import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Final, TypeAlias

import numpy as np
from ase import Atoms
from tqdm import tqdm

from physcon_ase.chem.graph import MolGraph, graph_bytes, make_graph
from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.chem.smiles import canonical_key, canonical_smiles, graph_from_smiles
from physcon_ase.data.sources.ase_files import structure_from_atoms
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import (
    Geometries,
    LevelLabels,
    Store,
    check_level_name,
    geometry_offsets,
    molecule_graph,
    pack_molecules,
    write_store,
)
from physcon_ase.errors import BondPerceptionError, EngineError, PhysConError, StoreError
from physcon_ase.labelling.engines import Engine, Molecule, record_as_dict
from physcon_ase.labelling.geometries import DISPLACED, Geometry, Rejected, Sampling, describe_samplings, sample
from physcon_ase.labelling.journal import Entry, Journal, complete_line, failed_line, labelled_line
from physcon_ase.labelling.selection import (
    Disagreement,
    Selection,
    check_selection,
    committee_engine,
    most_disputed,
)
from physcon_ase.labelling.worker import prepare_worker

_TASK_SECONDS: Final = 2.0
"""A worker returns what it has after this time: no more than that, or one geometry, is lost when it is killed."""

_LARGEST_TASK: Final = 32
"""Molecules that a worker gets at a time."""

_DEATHS: Final = 3
"""Workers that die one after the other, without a result between them, before the run is given up."""

_ALL_DIE: Final = (
    "worker processes die one after the other; finished labels are kept. In a script call label() under "
    "`if __name__ == '__main__'`, and look at memory and at the program with processes=0"
)

_DASK_SECONDS: Final = 30
"""How long a scheduler may take to answer."""

_MOST_SLOTS_WASTED: Final = 1.25
"""Largest molecule of a batch, as a multiple of the smallest: more padding costs more than larger batches save."""


@dataclass(frozen=True)
class KnownGeometry:
    """A geometry whose molecule is known, such as one of a store: nothing has to be perceived."""

    graph: MolGraph
    """The molecule."""
    positions: np.ndarray
    """Positions [Å], [atoms, 3]."""
    key_hash: int
    """`split.key_hash` of the molecule."""
    smiles: str = ""
    """SMILES of the molecule."""
    name: str = ""
    """Name of the molecule."""
    minimum_of: str = ""
    """Level of theory whose minimum the geometry is; empty if of none."""
    energy: float = float("nan")
    """Total energy [eV] at that level; NaN if not known."""


Input: TypeAlias = str | Atoms | KnownGeometry
"""A SMILES, or a geometry; the charge and multiplicity of an `Atoms` are `info["charge"]` and `info["spin"]`, or else 0
and 1."""


def known_geometries(store: Store, *, minima_of: str | None = None) -> list[KnownGeometry]:
    """The geometries of a store, each with its molecule, to be labelled.

    Args:
        store: the store.
        minima_of: level of theory whose minima are taken, with their energies; all geometries unless given.

    Raises:
        StoreError: the store has no minima of that level.
    """
    rows = np.arange(len(store.geometries))
    if minima_of is not None:
        rows = np.flatnonzero(store.geometries.minimum_of == minima_of)
        if not len(rows):
            found = ", ".join(sorted(set(store.geometries.minimum_of.tolist()) - {""})) or "none"
            raise StoreError(f"{store.source} has no minima of {minima_of!r}; it has those of: {found}")
    molecules, offsets = store.molecules, geometry_offsets(store)
    graphs = {
        molecule: molecule_graph(store, molecule) for molecule in np.unique(store.geometries.molecule[rows]).tolist()
    }
    found = []
    for row in rows.tolist():
        molecule, level = int(store.geometries.molecule[row]), str(store.geometries.minimum_of[row])
        labels = store.labels.get(level)
        found.append(
            KnownGeometry(
                graphs[molecule],
                store.geometries.positions[offsets[row] : offsets[row + 1]].astype(np.float64),
                int(molecules.key_hash[molecule]),
                str(molecules.smiles[molecule]),
                str(molecules.name[molecule]),
                level,
                float("nan") if labels is None else float(labels.energy[row]),
            )
        )
    return found


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
class _Plan:
    """What workers do with every molecule."""

    engine: Engine
    samplings: tuple[Sampling, ...]
    seed: int
    selection: Selection | None = None


@dataclass(frozen=True)
class _Candidates:
    """Geometries that a committee has judged."""

    geometries: dict[int, tuple[Geometry | Rejected, ...]]
    """Those of each molecule that has any, by its row."""
    left: dict[int, frozenset[int]]
    """Numbers of those that get no label."""
    disagreement: Disagreement | None
    """None if the committee could judge none."""


@dataclass(frozen=True)
class _Job:
    """One molecule, or what is left to do of it."""

    row: int
    molecule: Input
    done: frozenset[int] = frozenset()
    geometries: tuple[Geometry | Rejected, ...] | None = None
    """None before they were sampled."""


@dataclass(frozen=True)
class _Identity:
    """A molecule as the store knows it."""

    graph: MolGraph
    start: np.ndarray | None
    smiles: str
    key_hash: int
    name: str
    minimum_of: str = ""
    energy: float = float("nan")


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
    plan = _Plan(engine, tuple(samplings), seed, selection)
    _check(molecules, plan, output, processes)
    paths = [output.with_name(f"{output.name}.{name}") for name in ("candidates.journal", "journal")]
    if output.exists() and not paths[1].exists():
        raise StoreError(f"{output} exists already; choose another output, or delete it to label anew")
    with _employed(processes, scheduler) as workers:
        candidates = None
        if selection is not None:
            judging = replace(plan, engine=committee_engine(selection.committee), selection=None)
            judged, _ = _finish(molecules, judging, paths[0], workers, progress_bar=progress_bar)
            candidates = _choose(judged, selection)
        entries, n_resumed = _finish(molecules, plan, paths[1], workers, candidates, progress_bar=progress_bar)
    failures_path = _write_failures(output, failures := _failures(molecules, entries))
    disagreement = None if candidates is None else candidates.disagreement
    is_labelled = not all(entry.error for entry in entries)
    if is_labelled:
        write_store(output, _pack(molecules, entries, plan, disagreement, source or output.stem, licence))
    for path in paths:  # that of the labels last: killed before it, the next run writes the same store again
        path.unlink(missing_ok=True)
    if not is_labelled:
        raise PhysConError(f"none of {len(molecules)} molecules got a label; the first: {failures[0]['reason']}")
    return LabelReport(
        output=output,
        n_molecules=len(molecules),
        n_labelled=len(entries) - len(failures),
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


# ---- in the workers


@dataclass(frozen=True)
class _Opened:
    """A job whose geometries are there."""

    job: _Job
    graph: MolGraph
    geometries: tuple[Geometry | Rejected, ...]
    done: set[int]


def _work(plan: _Plan, jobs: Sequence[_Job]) -> tuple[list[str], list[_Job]]:
    """Journal lines of what is finished, and the jobs that are not."""
    deadline, lines = monotonic() + _TASK_SECONDS, []
    opened: list[_Opened] = []
    n_seen = 0
    for job in jobs:
        if (opened or lines) and monotonic() > deadline:
            break
        n_seen += 1
        found = _open_job(plan, job)
        if isinstance(found, _Opened):
            opened.append(found)
        else:
            lines += found
    for chunk in _chunks(plan.engine, opened):
        if lines and monotonic() > deadline:
            break
        lines += _label_chunk(plan.engine, opened, chunk)
    unfinished = []
    for own in opened:
        if len(own.done) == len(own.geometries):
            lines.append(complete_line(own.job.row, len(own.geometries)))
        else:
            unfinished.append(replace(own.job, geometries=own.geometries, done=frozenset(own.done)))
    return lines, [*unfinished, *jobs[n_seen:]]


def _open_job(plan: _Plan, job: _Job) -> _Opened | list[str]:
    """The molecule with its geometries, or the journal lines that say why there is none."""
    try:
        identity = _identify(job.molecule)
    except PhysConError as error:
        rejected = Rejected("", type(error).__name__, str(error))
        return [failed_line(job.row, 0, rejected), complete_line(job.row, 1)]
    geometries = job.geometries
    if geometries is None:
        own_seed = int(np.random.SeedSequence([plan.seed, job.row]).generate_state(1)[0])
        geometries = tuple(sample(identity.graph, plan.samplings, own_seed, identity.start))
    return _Opened(job, identity.graph, geometries, set(job.done))


def _chunks(engine: Engine, opened: Sequence[_Opened]) -> Iterator[list[tuple[int, int]]]:
    """What is labelled at a time: (index in `opened`, number of the geometry).

    Geometries of like size go together if the engine labels many at a time, else each goes alone.
    """
    waiting = [
        (index, number)
        for index, own in enumerate(opened)
        for number in range(len(own.geometries))
        if number not in own.done
    ]
    if engine.batched is None:
        yield from ([place] for place in waiting)
        return
    groups = [(own.job.row % engine.n_turns, own.graph.n_atoms) for own in opened]
    waiting.sort(key=lambda place: groups[place[0]])
    chunk: list[tuple[int, int]] = []
    for place in waiting:
        turn, size = groups[place[0]]
        if chunk:
            first_turn, smallest = groups[chunk[0][0]]
            is_full = (len(chunk) + 1) * size > engine.batch_slots
            if turn != first_turn or is_full or size > _MOST_SLOTS_WASTED * smallest:
                yield chunk
                chunk = []
        chunk.append(place)
    if chunk:
        yield chunk


def _label_chunk(engine: Engine, opened: Sequence[_Opened], chunk: Sequence[tuple[int, int]]) -> list[str]:
    lines, asked_molecules, asked = [], [], []
    for index, number in chunk:
        own = opened[index]
        geometry, row, graph = own.geometries[number], own.job.row, own.graph
        own.done.add(number)
        if isinstance(geometry, Rejected):
            lines.append(failed_line(row, number, geometry))
            continue
        asked_molecules.append(Molecule(graph.atomic_numbers, geometry[1], graph.charge, graph.multiplicity, row))
        asked.append((row, number, geometry))
    for (row, number, geometry), found in zip(asked, engine.label_many(asked_molecules) if asked else [], strict=True):
        if isinstance(found, EngineError):
            lines.append(failed_line(row, number, Rejected(geometry[0], type(found).__name__, str(found))))
        else:
            lines.append(labelled_line(row, number, geometry, found))
    return lines


def _identify(molecule: Input) -> _Identity:
    if isinstance(molecule, KnownGeometry):
        m = molecule
        return _Identity(m.graph, m.positions, m.smiles, m.key_hash, m.name, m.minimum_of, m.energy)
    if isinstance(molecule, str):
        graph = graph_from_smiles(molecule)
        return _Identity(graph, None, canonical_smiles(graph), key_hash(canonical_key(graph)), molecule)
    structure = structure_from_atoms(molecule)
    numbers, charge, multiplicity = structure.atomic_numbers, structure.charge, structure.multiplicity
    formula = molecule.get_chemical_formula()
    name = structure.name or structure.smiles or formula
    try:
        graph = replace(graph_from_geometry(numbers, structure.positions, charge), multiplicity=multiplicity)
    except BondPerceptionError:  # bonds are optional: a label does not need them
        # the charge stands on the first atom: without bonds nobody knows where it is
        charges = [charge, *[0] * (len(numbers) - 1)]
        graph = make_graph(numbers, np.zeros((0, 2)), np.zeros(0), charges, multiplicity=multiplicity)
        key = canonical_key(structure.smiles) if structure.smiles else f"{formula} {structure.name}".strip()
        return _Identity(graph, structure.positions, structure.smiles, key_hash(key), name)
    smiles = structure.smiles or canonical_smiles(graph)
    return _Identity(graph, structure.positions, smiles, key_hash(canonical_key(smiles)), name)


# ---- in the parent


@dataclass(frozen=True)
class _Workers:
    """Who does the work."""

    executor: Executor
    n: int
    died: tuple[type[BaseException], ...]
    """What the result of a task is when its worker died."""


def _finish(
    molecules: Sequence[Input],
    plan: _Plan,
    path: Path,
    workers: _Workers,
    candidates: _Candidates | None = None,
    *,
    progress_bar: bool,
) -> tuple[list[Entry], int]:
    """All entries of a journal, once everything is done, and how many of them it had at the beginning."""
    with Journal(path, _fingerprint(molecules, plan)) as journal:
        n_resumed = len(journal.finished.entries)
        jobs = _open_jobs(molecules, journal, candidates)
        bar = tqdm(total=len(molecules), initial=len(molecules) - len(jobs), unit="molecule",
                   disable=None if progress_bar else True)  # fmt: skip
        # None: no bar where the output is no terminal
        with bar:
            for lines in _finished_lines(workers, plan, jobs):
                bar.update(len(journal.note(lines)))
        return [journal.finished.entries[key] for key in sorted(journal.finished.entries)], n_resumed


def _open_jobs(molecules: Sequence[Input], journal: Journal, candidates: _Candidates | None) -> list[_Job]:
    done: dict[int, set[int]] = {}
    for row, number in journal.finished.entries:
        done.setdefault(row, set()).add(number)
    jobs = [
        _Job(row, molecule, frozenset(done.get(row, ())))
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


def _finished_lines(workers: _Workers, plan: _Plan, jobs: Sequence[_Job]) -> Iterator[list[str]]:
    """Journal lines as the workers finish them; each worker always finds a second task waiting.

    When a worker dies, nobody knows whose fault it was: the molecules under way are tried again, one at a time, and
    the one during which a worker dies again gets the record of it.
    """
    queue, suspects, n_deaths = deque(jobs), deque[_Job](), 0
    running: dict[Future, list[_Job]] = {}
    while queue or suspects or running:
        is_alone = bool(suspects) and not running
        if is_alone:
            task = [suspects.popleft()]
            running[workers.executor.submit(_work, plan, task)] = task
        while queue and not suspects and not is_alone and len(running) < 2 * workers.n:
            size = max(1, min(_LARGEST_TASK, len(queue) // (4 * workers.n)))
            task = [queue.popleft() for _ in range(min(size, len(queue)))]
            running[workers.executor.submit(_work, plan, task)] = task
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            try:
                lines, rest = future.result()
            except workers.died:
                if not is_alone:
                    suspects.extend(task)
                    continue
                lines, rest, n_deaths = _died(task[0]), [], n_deaths + 1
                if n_deaths == _DEATHS:
                    raise EngineError(_ALL_DIE) from None
            else:
                n_deaths = 0
            (suspects if is_alone else queue).extendleft(reversed(rest))
            yield lines


def _died(job: _Job) -> list[str]:
    number = next(number for number in itertools.count() if number not in job.done)
    reason = "the worker process died, of lack of memory or a fault of the program; label it with fewer processes"
    return [failed_line(job.row, number, Rejected("", "WorkerDied", reason)), complete_line(job.row, number + 1)]


class _InThisProcess(Executor):
    """Does the work at once."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _ProcessPool(Executor):
    """A pool of processes that begins anew when one of them has died."""

    def __init__(self, n_workers: int):
        self.n_workers, self.pool = n_workers, self._new(n_workers)

    @staticmethod
    def _new(n_workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(n_workers, mp_context=get_context("spawn"), initializer=prepare_worker)

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        try:
            return self.pool.submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            self.pool = self._new(self.n_workers)
            return self.pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.pool.shutdown(wait=wait, cancel_futures=cancel_futures)


@contextmanager
def _employed(processes: int | None, scheduler: str | None) -> Iterator[_Workers]:
    if scheduler is not None:
        with _dask_workers(scheduler) as workers:
            yield workers
        return
    n_workers = _n_cores() if processes is None else processes
    if n_workers == 0:
        yield _Workers(_InThisProcess(), 1, ())
        return
    executor = _ProcessPool(n_workers)
    try:
        yield _Workers(executor, n_workers, (BrokenProcessPool,))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _dask_workers(scheduler: str) -> Iterator[_Workers]:
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise EngineError("Dask is not installed: pip install 'physcon-ase[dask]'") from error
    try:
        client: Any = Client(scheduler, timeout=_DASK_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise EngineError(f"no Dask scheduler answers at {scheduler}: {error}; check the address") from error
    with client:
        n_workers = sum(client.nthreads().values())
        if n_workers == 0:
            raise EngineError(f"the Dask scheduler at {scheduler} has no workers; start some, with one thread each")
        yield _Workers(client.get_executor(), n_workers, (KilledWorker,))


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(molecules: Sequence[Input], plan: _Plan, output: Path, processes: int | None) -> None:
    if not molecules:
        raise PhysConError("no molecules to label; give at least one")
    if not plan.samplings:
        raise PhysConError("no geometries asked for; give at least one sampling")
    check_level_name(plan.engine.record.level)  # now rather than after the last label
    if plan.selection is not None:
        check_selection(plan.selection)
    if plan.seed < 0:
        raise PhysConError(f"the seed is {plan.seed}; allowed are 0 and larger")
    if processes is not None and processes < 0:
        raise PhysConError(f"processes is {processes}; allowed are 1 and larger, and 0 for none besides this one")
    if not output.parent.is_dir():
        raise StoreError(f"there is no folder {output.parent} to write {output.name} to; make it first")


def _fingerprint(molecules: Sequence[Input], plan: _Plan) -> str:
    digest = hashlib.sha256(json.dumps(_plan_as_dict(plan), sort_keys=True, default=_name_of).encode())
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


def _plan_as_dict(plan: _Plan) -> dict[str, Any]:
    told = {
        "engine": record_as_dict(plan.engine.record),
        "geometries": describe_samplings(plan.samplings),
        "seed": plan.seed,
    }
    if plan.selection is not None:
        chosen = plan.selection
        committee = [record_as_dict(engine.record) for engine in chosen.committee]
        told["selection"] = {"n": chosen.n, "per_molecule": chosen.per_molecule, "committee": committee}
    return told


def _name_of(value: object) -> str:
    """A setting that is no JSON, such as a function: without its address, which differs in each process."""
    return getattr(value, "__qualname__", type(value).__name__)


def _failures(molecules: Sequence[Input], entries: Sequence[Entry]) -> list[dict[str, Any]]:
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


def _write_failures(output: Path, failures: Sequence[dict[str, Any]]) -> Path | None:
    path = output.with_name(f"{output.stem}.failed.jsonl")
    if not failures:
        path.unlink(missing_ok=True)  # that of a run whose store was deleted
        return None
    path.write_text("".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures), encoding="utf-8")
    return path


def _pack(
    molecules: Sequence[Input],
    entries: Sequence[Entry],
    plan: _Plan,
    disagreement: Disagreement | None,
    source: str,
    licence: str,
) -> Store:
    labelled = [entry for entry in entries if not entry.error]
    identities = {row: _identify(molecules[row]) for row in sorted({entry.molecule for entry in labelled})}
    kept, molecule_of = _group([identities[entry.molecule] for entry in labelled])
    provenance = {"made by": f"physcon label {_own_version()}", **_plan_as_dict(plan)}
    if disagreement is not None:
        provenance["selection"] |= asdict(disagreement)
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
        labels=_labels(labelled, plan.engine.record.level, identities),
        source=source,
        licence=licence,
        provenance=json.dumps(provenance, default=_name_of),
    )


def _group(identities: Sequence[_Identity]) -> tuple[list[_Identity], list[int]]:
    """Molecules of different graphs or names, and the index among them of each identity."""
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
    """`Geometries.start`; conformers and what relaxes from them were not displaced from the start."""
    index = {entry.molecule: place for place, entry in enumerate(labelled) if entry.kind == "start"}
    return np.array(
        [index.get(entry.molecule, -1) if entry.kind in DISPLACED else -1 for entry in labelled], dtype=np.int32
    )


def _labels(labelled: Sequence[Entry], level: str, identities: Mapping[int, _Identity]) -> dict[str, LevelLabels]:
    """Labels of the engine, and the known energies of the starts at their own levels."""
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


def _own_version() -> str:
    try:
        return version("physcon-ase")
    except PackageNotFoundError:  # a source checkout
        return "(not installed)"
