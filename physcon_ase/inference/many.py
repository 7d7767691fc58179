"""Batched relaxation of many molecules."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch
from ase import Atoms

from physcon_ase.batch import in_chunks
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_and_size, canonical_smiles
from physcon_ase.errors import PhysConError
from physcon_ase.inference.batched import relax_jobs
from physcon_ase.inference.constraints import check_constraints
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.encoding import decoded, encoded
from physcon_ase.inference.formats.rows import Geometry, Row, as_rows
from physcon_ase.inference.intake import at_least_one, check_fragments, checked_seed, or_error
from physcon_ase.inference.long_runs import Chunk, Item, Task, run
from physcon_ase.inference.results import STATUSES, Record, Result, record_of
from physcon_ase.inference.starts import (
    STARTS,
    PicklableSettings,
    RelaxationJob,
    Settings,
    jobs_of,
    name_of,
    settings_of,
)
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel
from physcon_ase.relax.driver import METHODS

N_ATTEMPTS: Final = 2
"""Default number of start geometries tried for a molecule whose relaxation fails."""

ATOMS_PER_BATCH: Final = 256
"""Default number of slots per batch. On a CPU core larger batches are slower (30 molecules of 13 atoms on average take
2.4 s, and 3.1 s with 1024 slots), and results arrive later; GPUs benefit from larger ones."""

_WINDOW: Final = 256
"""Number of successive molecules that are sorted by size."""


def optimize_many(
    molecules: Iterable[str | MolGraph | Atoms | Any],
    *,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    method: str = "lbfgs",
    fmax: float = 0.01,
    max_steps: int = 500,
    start: str | None = None,
    fragments: str = "all",
    seed: int = 0,
    n_attempts: int = N_ATTEMPTS,
    n_processes: int = 1,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    atoms_per_batch: int = ATOMS_PER_BATCH,
    max_seconds: float = MAX_SECONDS,
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> list[Record]:
    """Relaxes molecules in batches; returns one record per molecule, in input order.

    Molecules whose relaxation does not converge or changes bonds or configuration are restarted from an ETKDG geometry
    with a different seed, unless they were given as geometries. The results depend neither on the number of processes
    nor on interruptions.

    Args:
        molecules: SMILES, graphs, geometries, RDKit molecules or rows of a file; a single one is allowed too.
            Constraints `FixAtoms` and dihedral angles of `FixInternals` are respected.
        level: level of theory; "auto" for the first of the checkpoint that covers the molecule.
        checkpoint: shipped name, folder or loaded model.
        method: "lbfgs" or "fire".
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of steps per molecule.
        start: see `optimize`; geometries whose bonds are known, e.g. those of SD files, are then discarded.
        fragments: see `optimize`.
        seed: random seed of the first start geometry of a molecule; incremented for each further attempt, and for
            further rows with the same molecule.
        n_attempts: maximum number of start geometries per molecule.
        n_processes: number of processes; scripts need ``if __name__ == "__main__":`` for more than one.
        scheduler: address of a Dask scheduler whose workers are used instead.
        journal: file to which the record of each molecule is appended at once. If it exists, its records are reused and
            only the other molecules are relaxed.
        atoms_per_batch: number of slots per batch; halved if memory runs out.
        max_seconds: time limit [s] for the start geometry of a molecule.
        on_progress: called with the number of finished molecules and the total number.
        progress_bar: whether to show a progress bar on a terminal.
        device: device of the model; ignored for a loaded model.
        dtype: dtype of the model; ignored for a loaded model.

    Raises:
        PhysConError: invalid settings or checkpoint. Errors of single molecules are reported in their records.
        StoreError: the journal belongs to a different run.
    """
    rows = as_rows(molecules)
    if method not in METHODS:
        raise PhysConError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if start is not None and start not in STARTS:
        raise PhysConError(f"unknown start {start!r}; choose one of {', '.join(STARTS)}")
    at_least_one("atoms_per_batch", atoms_per_batch)
    check_fragments(fragments)
    seed, settings = checked_seed(seed), settings_of(checkpoint, level, fmax, max_steps, max_seconds, device, dtype)
    settings = replace(settings, method=method, fragments=fragments, atoms_per_batch=atoms_per_batch)
    plan = _Plan(PicklableSettings(settings, checkpoint, device, dtype), start, at_least_one("n_attempts", n_attempts))
    return run(
        Task(partial(_relax_chunk, plan), _lost, encoded, partial(decoded, Record), plan.description | {"seed": seed}),
        _chunks(rows, seed, plan),
        rows,
        n_processes=n_processes,
        scheduler=scheduler,
        journal=journal,
        on_progress=on_progress,
        progress_bar=progress_bar,
    )


@dataclass(frozen=True)
class _Plan:
    """Settings shared by all molecules of a run."""

    shared: PicklableSettings
    start: str | None
    n_attempts: int

    @property
    def settings(self) -> Settings:
        return self.shared.settings

    @property
    def description(self) -> dict[str, Any]:
        """Settings on which the records depend."""
        return {**self.shared.description, "start": self.start, "n_attempts": self.n_attempts}


def _chunks(rows: Sequence[Row], seed: int, plan: _Plan) -> Iterator[Chunk]:
    """Molecules of similar size that fit into one batch; rows with the same molecule have different seeds."""
    seen: Counter[str] = Counter()
    for first in range(0, len(rows), _WINDOW):
        items, sizes = [], []
        for index, row in enumerate(rows[first : first + _WINDOW], start=first):
            key, size = _identity(row.molecule)
            items.append(Item(index, row, seed + plan.n_attempts * seen[key] if key else seed))
            sizes.append(size)
            seen[key] += 1
        groups: list[list[int]] = []
        in_chunks(sizes, plan.settings.atoms_per_batch, groups.append)
        yield from (tuple(items[place] for place in group) for group in groups)


def _identity(molecule: Any) -> tuple[str, int]:
    """Canonical SMILES of a molecule without positions, otherwise "", and its number of atoms."""
    if isinstance(molecule, MolGraph):
        return canonical_smiles(molecule), molecule.n_atoms
    if isinstance(molecule, Atoms):
        return "", len(molecule)
    if isinstance(molecule, Geometry):
        return "", len(molecule.atoms)
    found = or_error(canonical_and_size, molecule) if isinstance(molecule, str) else ("", 1)
    return ("", 1) if isinstance(found, PhysConError) else found


def _relax_chunk(plan: _Plan, chunk: Chunk) -> list[Record]:
    """Relaxes molecules together, with further attempts for those that need them."""
    records: list[Record | None] = [None] * len(chunk)
    pending = list(range(len(chunk)))
    for attempt in range(plan.n_attempts):
        how = plan.start if attempt == 0 else "etkdg"
        new = _attempt([chunk[place] for place in pending], how, attempt, plan.settings)
        for place, record in zip(pending, new, strict=True):
            records[place] = _better(records[place], record)
        pending = [place for place in pending if _deserves_another(records[place])]
    return [record for record in records if record is not None]


def _attempt(items: Sequence[Item], start: str | None, attempt: int, settings: Settings) -> list[Record]:
    """Generates one start geometry for each molecule and relaxes it."""
    if not items:
        return []
    began, seeds = perf_counter(), [item.seed + attempt for item in items]
    jobs = jobs_of([item.row.molecule for item in items], start, seeds, settings)
    outcomes: list[Any] = [_with_supported_constraints(job) for job in jobs]
    share = (perf_counter() - began) / len(items)
    places = [place for place, job in enumerate(outcomes) if isinstance(job, RelaxationJob)]
    for place, outcome in zip(places, relax_jobs([outcomes[place] for place in places], settings), strict=True):
        outcomes[place] = outcome
    return [
        _record(item, attempt, seed, outcome, share) for item, seed, outcome in zip(items, seeds, outcomes, strict=True)
    ]


def _with_supported_constraints(job: RelaxationJob | PhysConError) -> RelaxationJob | PhysConError:
    if isinstance(job, PhysConError):
        return job
    return or_error(check_constraints, job.atoms) or job


def _record(item: Item, attempt: int, seed: int, outcome: Result | PhysConError, share: float) -> Record:
    if isinstance(outcome, Result):
        return record_of(replace(outcome, seconds=outcome.seconds + share), attempts=attempt + 1, **_told(item))
    return _failed(item, type(outcome).__name__, str(outcome), share, seed, attempt + 1)


def _lost(item: Item, reason: str) -> Record:
    """Record of a molecule that crashed its process."""
    return _failed(item, "WorkerDied", reason, 0.0, item.seed, 1)


def _failed(item: Item, error: str, reason: str, seconds: float, seed: int, attempts: int) -> Record:
    common = {"seconds": seconds, "seed": seed, "attempts": attempts, "result": None}
    return Record(status="failed", reason=reason, error=error, **common, **_told(item))


def _told(item: Item) -> dict[str, Any]:
    """Fields of a record that identify its molecule."""
    row = item.row
    name = row.name or name_of(row.molecule)
    told = {"index": item.index, "name": name, "smiles": row.smiles, "row": row.number}
    return {**told, "source": row.source, "fields": row.fields}


def _better(old: Record | None, new: Record) -> Record:
    """The more useful of two records of a molecule, with the total time of both."""
    if old is None:
        return new
    chosen = new if STATUSES.index(new.status) < STATUSES.index(old.status) else old
    return replace(chosen, attempts=new.attempts, seconds=old.seconds + new.seconds)


def _deserves_another(record: Record | None) -> bool:
    """Whether a relaxation should be repeated from another start geometry; not for errors and given geometries."""
    is_given = record is not None and record.result is not None and record.result.start.startswith("geometry")
    return record is not None and record.status in ("not converged", "changed") and not is_given
