"""Tasks of worker processes: sampling and labelling of molecules."""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

import numpy as np

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import EngineError
from physcon_ase.jobs.workers import WORKER_DIED
from physcon_ase.labelling.engines import Engine, Molecule
from physcon_ase.labelling.geometries import NewtonStep, Rejected, Sampled
from physcon_ase.labelling.inputs import Input, identify
from physcon_ase.labelling.journal import complete_line, failed_line, labelled_line
from physcon_ase.labelling.samplings import Sampling, sample

_TASK_SECONDS: Final = 2.0
"""Time [s] after which a worker returns its results; limits the loss if it is killed to this time or one geometry."""

_LARGEST_TASK: Final = 32
"""Maximum number of molecules per task."""

_LARGEST_BATCHED_TASK: Final = 128
"""Maximum number of molecules per task for batched engines, which need enough molecules to fill their batches."""

_MOST_SLOTS_WASTED: Final = 1.25
"""Maximum ratio of the largest to the smallest molecule of a batch; limits the cost of padding."""


@dataclass(frozen=True)
class Plan:
    """Settings of a run that apply to every molecule."""

    engine: Engine
    """Engine that computes the labels."""
    samplings: tuple[Sampling, ...]
    """Samplers of each molecule."""
    seed: int
    """Random seed of all geometries; combined with the row of each molecule."""


@dataclass(frozen=True)
class LabelJob:
    """One molecule and its remaining work."""

    row: int
    """Row of the molecule in the input."""
    molecule: Input
    """The molecule."""
    done: frozenset[int] = frozenset()
    """Indices of the finished geometries."""
    geometries: tuple[Sampled, ...] | None = None
    """Sampled geometries; None if they have not been sampled yet."""


@dataclass(frozen=True)
class _Opened:
    """A job with sampled geometries."""

    job: LabelJob
    graph: MolGraph
    geometries: list[Sampled]
    done: set[int]

    def take_newton_steps(self, forces: np.ndarray | None) -> None:
        """Replaces the geometries that depend on the forces [eV/Å] at the start geometry (None: no label)."""
        for number, geometry in enumerate(self.geometries):
            if isinstance(geometry, NewtonStep):
                self.geometries[number] = geometry.without_forces() if forces is None else geometry.sampled(forces)

    def waiting(self) -> list[int]:
        """Indices of the geometries to be labelled now."""
        return [
            number
            for number, geometry in enumerate(self.geometries)
            if number not in self.done and not isinstance(geometry, NewtonStep)
        ]


class JobQueue:
    """Waiting jobs (`jobs.workers.Queue`); tasks become smaller towards the end, so that no worker idles for long."""

    def __init__(self, jobs: Sequence[LabelJob], engine: Engine, n_workers: int):
        self._jobs, self._n_workers = deque(jobs), n_workers
        self._largest = _LARGEST_TASK if engine.batched is None else _LARGEST_BATCHED_TASK

    def take(self) -> list[LabelJob]:
        """Removes and returns the jobs of the next task."""
        size = max(1, min(self._largest, len(self._jobs) // (4 * self._n_workers)))
        return [self._jobs.popleft() for _ in range(min(size, len(self._jobs)))]

    def put_back(self, jobs: Sequence[LabelJob]) -> None:
        """Puts unfinished jobs to the front."""
        self._jobs.extendleft(reversed(jobs))


def lost(job: LabelJob) -> tuple[list[str], list[LabelJob]]:
    """Journal lines of a molecule that crashed its worker."""
    number = next(number for number in itertools.count() if number not in job.done)
    return [
        failed_line(job.row, number, Rejected("", "WorkerDied", WORKER_DIED)),
        complete_line(job.row, number + 1),
    ], []


def work(plan: Plan, jobs: Sequence[LabelJob]) -> tuple[list[str], list[LabelJob]]:
    """Samples for one second and labels for two; returns journal lines of finished geometries and unfinished jobs."""
    deadline, lines = monotonic() + _TASK_SECONDS / 2, []
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
    # a separate time limit: otherwise, after slow sampling, only one chunk would be labelled and all others sent again
    deadline = monotonic() + _TASK_SECONDS
    for _ in range(2):  # the second time, geometries that depend on the forces at the start geometries
        for chunk in _chunks(plan.engine, opened):
            if lines and monotonic() > deadline:
                break
            lines += _label_chunk(plan.engine, opened, chunk)
    unfinished = []
    for own in opened:
        if len(own.done) == len(own.geometries):
            lines.append(complete_line(own.job.row, len(own.geometries)))
        else:
            unfinished.append(replace(own.job, geometries=tuple(own.geometries), done=frozenset(own.done)))
    return lines, [*unfinished, *jobs[n_seen:]]


def _open_job(plan: Plan, job: LabelJob) -> _Opened | list[str]:
    """Samples the geometries of a job; journal lines of the failure if the molecule is invalid."""
    try:
        identity = identify(job.molecule)
    except Exception as error:  # of RDKit, too: one molecule must not end a run
        rejected = Rejected("", type(error).__name__, str(error))
        return [failed_line(job.row, 0, rejected), complete_line(job.row, 1)]
    geometries = job.geometries
    if geometries is None:
        own_seed = int(np.random.SeedSequence([plan.seed, job.row]).generate_state(1)[0])
        geometries = sample(identity.graph, plan.samplings, own_seed, identity.start)
    done = set(job.done)
    if any(isinstance(geometry, NewtonStep) and number not in done for number, geometry in enumerate(geometries)):
        # after an interruption: the forces at the start geometry are needed again
        done -= {number for number, geometry in enumerate(geometries) if _is_start(geometry)}
    return _Opened(job, identity.graph, list(geometries), done)


def _is_start(geometry: Sampled) -> bool:
    kind = geometry[0] if isinstance(geometry, tuple) else geometry.kind
    return kind == "start"


def _chunks(engine: Engine, opened: Sequence[_Opened]) -> Iterator[list[tuple[int, int]]]:
    """Groups of geometries labelled in one call, as pairs (index in `opened`, index of the geometry).

    Batched engines get geometries of similar size together; other engines get one geometry at a time.
    """
    waiting = [(index, number) for index, own in enumerate(opened) for number in own.waiting()]
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
        assert not isinstance(geometry, NewtonStep)
        own.done.add(number)
        if isinstance(geometry, Rejected):
            lines.append(failed_line(row, number, geometry))
            if geometry.kind == "start":
                own.take_newton_steps(None)
            continue
        asked_molecules.append(Molecule(graph.atomic_numbers, geometry[1], graph.charge, graph.multiplicity, row))
        asked.append((own, number, geometry))
    for (own, number, geometry), found in zip(asked, engine.label_many(asked_molecules) if asked else [], strict=True):
        if isinstance(found, EngineError):
            lines.append(failed_line(own.job.row, number, Rejected(geometry[0], type(found).__name__, str(found))))
        else:
            lines.append(labelled_line(own.job.row, number, geometry, found))
        if geometry[0] == "start":
            own.take_newton_steps(None if isinstance(found, EngineError) else found.forces)
    return lines
