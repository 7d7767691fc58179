"""Batched relaxation of many molecules."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch
from ase import Atoms
from tqdm import tqdm

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import PhysConError
from physcon_ase.inference.batched import relax_jobs
from physcon_ase.inference.constraints import check_constraints
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.generator import ATOMS_PER_BATCH
from physcon_ase.inference.intake import or_error
from physcon_ase.inference.results import STATUSES, Record, Result
from physcon_ase.inference.starts import Job, Settings, jobs_of, name_of, settings_of
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel
from physcon_ase.relax.driver import METHODS

N_ATTEMPTS: Final = 2
"""Default number of start geometries tried for a molecule whose relaxation fails."""


def optimize_many(
    molecules: Iterable[str | MolGraph | Atoms],
    *,
    level: str | None = None,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    method: str | None = None,
    fmax: float = 0.01,
    max_steps: int = 500,
    start: str | None = None,
    seed: int = 0,
    n_attempts: int = N_ATTEMPTS,
    n_processes: int = 1,
    atoms_per_batch: int = ATOMS_PER_BATCH,
    max_seconds: float = MAX_SECONDS,
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> list[Record]:
    """Relaxes molecules in batches; returns one record per molecule, in input order.

    Molecules whose relaxation does not converge or changes bonds or configuration are restarted from an ETKDG geometry
    with a different seed, unless they were given as geometries.

    Args:
        molecules: SMILES, graphs or geometries; `FixAtoms` and dihedral angles of `FixInternals` are respected.
        level: level of theory; by default the first of the checkpoint.
        checkpoint: shipped name, folder or loaded model.
        method: "bfgs", "lbfgs" or "fire"; by default BFGS up to `batched.LARGEST_FOR_BFGS` atoms and L-BFGS above.
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of steps per molecule.
        start: see `optimize`.
        seed: random seed of every start geometry; incremented for each further attempt.
        n_attempts: maximum number of start geometries per molecule.
        n_processes: number of processes that generate start geometries; scripts need
            ``if __name__ == "__main__":`` for more than one.
        atoms_per_batch: number of slots per batch; halved if memory runs out.
        max_seconds: time limit [s] for the start geometry of a molecule.
        on_progress: called with the number of finished molecules and the total number.
        progress_bar: whether to show a progress bar on a terminal.
        device: device of the model; ignored for a loaded model.
        dtype: dtype of the model; ignored for a loaded model.

    Raises:
        PhysConError: invalid settings or checkpoint. Errors of single molecules are reported in their records.
    """
    molecules = list(molecules)
    if method not in (None, *METHODS):
        raise PhysConError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    settings = settings_of(checkpoint, level, fmax, max_steps, seed, max_seconds, device, dtype)
    settings = replace(settings, method=method, n_processes=n_processes, atoms_per_batch=atoms_per_batch)
    records: list[Record | None] = [None] * len(molecules)
    pending = list(range(len(molecules)))
    with _Progress(len(molecules), progress_bar, on_progress) as progress:
        for attempt in range(max(1, n_attempts)):
            how = start if attempt == 0 else _other_start(start)
            new = _attempt([molecules[index] for index in pending], how, seed + attempt, settings, progress)
            for index, record in zip(pending, new, strict=True):
                records[index] = _better(records[index], replace(record, index=index, attempts=attempt + 1))
            is_last = attempt + 1 >= n_attempts
            pending = [i for i in pending if not is_last and _deserves_another(records[i], molecules[i])]
            progress.finished(len(molecules) - len(pending))
    return [record for record in records if record is not None]


class _Progress:
    """Reports the number of finished molecules to the progress bar and the callback."""

    def __init__(self, total: int, progress_bar: bool, on_progress: Callable[[int, int], None] | None):
        # disable=None: no bar if the output is not a terminal
        self.count, self.total = 0, total
        self.bar = tqdm(total=total, disable=None if progress_bar else True, unit="molecule")
        self.on_progress = on_progress

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, results: Sequence[Result]) -> None:
        """Counts the successful ones among new results as finished."""
        self.finished(self.count + sum(result.is_ok for result in results))

    def finished(self, count: int) -> None:
        """Sets the number of finished molecules."""
        # self.bar.n cannot be used, since a disabled bar does not count
        self.bar.update(count - self.count)
        self.count = count
        if self.on_progress is not None:
            self.on_progress(count, self.total)


def _attempt(
    molecules: Sequence[Any], start: str | None, seed: int, settings: Settings, progress: _Progress
) -> list[Record]:
    """Generates one start geometry for each molecule and relaxes it."""
    began = perf_counter()
    outcomes: list[Any] = [_with_supported_constraints(job) for job in jobs_of(molecules, start, seed, settings)]
    share = (perf_counter() - began) / max(1, len(molecules))
    rows = [row for row, job in enumerate(outcomes) if isinstance(job, Job)]
    relaxed = relax_jobs([outcomes[row] for row in rows], settings, on_batch=progress.add)
    for row, outcome in zip(rows, relaxed, strict=True):
        outcomes[row] = outcome
    return [
        _record(name_of(molecule), outcome, seed, share) for molecule, outcome in zip(molecules, outcomes, strict=True)
    ]


def _with_supported_constraints(job: Job | PhysConError) -> Job | PhysConError:
    if isinstance(job, PhysConError):
        return job
    return or_error(check_constraints, job.atoms) or job


def _record(name: str, outcome: Result | PhysConError | str, seed: int, share: float) -> Record:
    """Record of a molecule; index and number of attempts are set by the caller."""
    common = {"index": 0, "name": name, "seed": seed, "attempts": 1}
    if isinstance(outcome, Result):
        result = replace(outcome, seconds=outcome.seconds + share)
        reason = "" if result.is_ok else result.status
        status = "ok" if result.is_ok else "changed" if result.converged else "not converged"
        return Record(status=status, reason=reason, error="", seconds=result.seconds, result=result, **common)
    error, reason = "MemoryError", f"not enough memory: {outcome}; use a machine with more memory, or float32"
    if isinstance(outcome, PhysConError):
        error, reason = type(outcome).__name__, str(outcome)
    return Record(status="failed", reason=reason, error=error, seconds=share, result=None, **common)


def _better(old: Record | None, new: Record) -> Record:
    """The more useful of two records of a molecule, with the total time of both."""
    if old is None:
        return new
    chosen = new if STATUSES.index(new.status) < STATUSES.index(old.status) else old
    return replace(chosen, attempts=new.attempts, seconds=old.seconds + new.seconds)


def _deserves_another(record: Record | None, molecule: Any) -> bool:
    """Whether a relaxation should be repeated from another start geometry; not for errors and given geometries."""
    return record is not None and record.status in ("not converged", "changed") and not isinstance(molecule, Atoms)


def _other_start(start: str | None) -> str:
    return "mmff94" if start == "mmff94" else "etkdg"
