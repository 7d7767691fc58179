"""Batched relaxation of many molecules."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from tqdm import tqdm

from physcon_ase.batch import Batch, in_chunks, make_batch, threads_for, with_positions
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.errors import PhysConError
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.generator import ATOMS_PER_BATCH
from physcon_ase.inference.intake import charge_and_multiplicity, check_fragments, check_unconstrained, or_error
from physcon_ase.inference.outcome import result_of
from physcon_ase.inference.results import STATUSES, Record, Result
from physcon_ase.inference.starts import Job, Settings, bonds_of, jobs_of, settings_of
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, PhysCon
from physcon_ase.relax.driver import METHODS, RelaxResult, relax

LARGEST_FOR_BFGS: Final = 60
"""Number of atoms above which L-BFGS is used by default, since the diagonalisation in BFGS costs more than it saves."""

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
    fragments: str = "all",
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
        molecules: SMILES, graphs or geometries.
        level: level of theory; by default the first of the checkpoint.
        checkpoint: shipped name, folder or loaded model.
        method: "bfgs", "lbfgs" or "fire"; by default BFGS up to `LARGEST_FOR_BFGS` atoms and L-BFGS above.
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of steps per molecule.
        start: see `optimize`.
        fragments: see `optimize`.
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
    check_fragments(fragments)
    settings = replace(
        settings, method=method, fragments=fragments, n_processes=n_processes, atoms_per_batch=atoms_per_batch
    )
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
    outcomes: list[Any] = [_without_constraints(job) for job in jobs_of(molecules, start, seed, settings)]
    share = (perf_counter() - began) / max(1, len(molecules))
    rows = [row for row, job in enumerate(outcomes) if isinstance(job, Job)]
    for row, outcome in zip(rows, _relax_all([outcomes[row] for row in rows], settings, progress), strict=True):
        outcomes[row] = outcome
    return [
        _record(_name(molecule), outcome, seed, share) for molecule, outcome in zip(molecules, outcomes, strict=True)
    ]


def _without_constraints(job: Job | PhysConError) -> Job | PhysConError:
    if isinstance(job, PhysConError):
        return job
    return or_error(check_unconstrained, job.atoms) or job


def _relax_all(jobs: Sequence[Job], settings: Settings, progress: _Progress) -> list[Result | str]:
    """Results in the order of the jobs; an error message for molecules that do not fit into memory."""
    outcomes: list[Result | str] = [""] * len(jobs)

    def work(rows: list[int]) -> None:
        for row, result in zip(rows, _relax_batch([jobs[row] for row in rows], settings), strict=True):
            outcomes[row] = result
        n_ok = sum(isinstance(outcome, Result) and outcome.is_ok for outcome in (outcomes[row] for row in rows))
        progress.finished(progress.count + n_ok)

    too_large = in_chunks([len(job.atoms) for job in jobs], settings.atoms_per_batch, work)
    for row, message in too_large.items():
        outcomes[row] = message
    return outcomes


def _relax_batch(jobs: Sequence[Job], settings: Settings) -> list[Result]:
    began, model = perf_counter(), settings.loaded.model
    weight = next(model.parameters())
    # Centred in float64, since float32 loses precision far from the origin.
    centres = [job.atoms.positions.mean(axis=0) for job in jobs]
    places = [job.atoms.positions - centre for job, centre in zip(jobs, centres, strict=True)]
    batch = make_batch(
        [job.atoms.numbers for job in jobs],
        places,
        charges=[charge_and_multiplicity(job.atoms)[0] for job in jobs],
        dtype=weight.dtype,
        device=weight.device,
    )
    method = settings.method or ("bfgs" if batch.atomic_numbers.shape[1] <= LARGEST_FOR_BFGS else "lbfgs")
    energy_fn = model.energy_fn(settings.level)
    with threads_for(batch):
        relaxed = relax(
            lambda molecules: energies_and_forces(energy_fn, molecules),
            batch,
            fmax=settings.fmax,
            max_steps=settings.max_steps,
            method=method,
            bonds=[bonds_of(job) for job in jobs],
            history=True,
        )
        uncertainties = _energy_uncertainties(model, settings.level, with_positions(batch, relaxed.positions))
    seconds = (perf_counter() - began) / len(jobs)
    return [
        _result_of_batch(job, settings, relaxed, row, centres[row], uncertainties[row], method, seconds)
        for row, job in enumerate(jobs)
    ]


def _energy_uncertainties(model: PhysCon, level: str, batch: Batch) -> Sequence[float | None]:
    if level not in model.config.energy_uncertainty:
        return [None] * len(batch)
    with torch.no_grad():
        found = model.energy_uncertainties(model.evaluate(batch, level).features, level)
    assert found is not None
    return found.tolist()


def _result_of_batch(
    job: Job,
    settings: Settings,
    relaxed: RelaxResult,
    row: int,
    centre: np.ndarray,
    energy_uncertainty: float | None,
    method: str,
    seconds: float,
) -> Result:
    assert relaxed.trajectories is not None
    way, n_atoms = relaxed.trajectories[row], len(job.atoms)
    return result_of(
        job,
        settings,
        positions=relaxed.positions[row, :n_atoms].double().cpu().numpy() + centre,
        forces=relaxed.forces[row, :n_atoms].double().cpu().numpy(),
        energy_uncertainty=energy_uncertainty,
        energies=way.energies,
        fmax_history=way.fmax,
        status=relaxed.statuses[row],
        seconds=seconds,
        optimizer=f"batched {method}",
    )


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


def _name(molecule: Any) -> str:
    if isinstance(molecule, str):
        return molecule
    if isinstance(molecule, Atoms):
        return molecule.get_chemical_formula()
    return canonical_smiles(molecule) if isinstance(molecule, MolGraph) else repr(molecule)
