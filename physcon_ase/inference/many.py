"""Batched relaxation of many molecules."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms

from physcon_ase.batch import Batch, in_chunks, make_batch, threads_for, with_positions
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_and_size, canonical_smiles
from physcon_ase.errors import PhysConError
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.encoding import decoded, encoded
from physcon_ase.inference.formats.rows import Geometry, Row, as_rows
from physcon_ase.inference.intake import at_least_one, charge_and_multiplicity, check_unconstrained, or_error
from physcon_ase.inference.long_runs import Chunk, Item, Task, run
from physcon_ase.inference.outcome import result_of
from physcon_ase.inference.results import STATUSES, Record, Result, record_of
from physcon_ase.inference.starts import STARTS, Job, Settings, bonds_of, jobs_of, settings_of
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, PhysCon, load_model
from physcon_ase.relax.driver import METHODS, RelaxResult, relax

LARGEST_FOR_BFGS: Final = 60
"""Number of atoms above which L-BFGS is used by default, since the diagonalisation in BFGS costs more than it saves."""

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
    level: str | None = None,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    method: str | None = None,
    fmax: float = 0.01,
    max_steps: int = 500,
    start: str | None = None,
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
        level: level of theory; by default the first of the checkpoint.
        checkpoint: shipped name, folder or loaded model.
        method: "bfgs", "lbfgs" or "fire"; by default BFGS up to `LARGEST_FOR_BFGS` atoms and L-BFGS above.
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of steps per molecule.
        start: see `optimize`; geometries whose bonds are known, e.g. those of SD files, are then discarded.
        seed: random seed of the first start geometry of a molecule; incremented for each further attempt, and for
            further rows with the same molecule.
        n_attempts: maximum number of start geometries per molecule.
        n_processes: number of processes; scripts need ``if __name__ == "__main__":`` for more than one.
        scheduler: address of a Dask scheduler whose workers are used instead.
        journal: file to which the record of each molecule is appended at once. If it exists, its records are taken
            over and only the other molecules are relaxed.
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
    if method not in (None, *METHODS):
        raise PhysConError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if start is not None and start not in STARTS:
        raise PhysConError(f"unknown start {start!r}; choose one of {', '.join(STARTS)}")
    at_least_one("atoms_per_batch", atoms_per_batch)
    settings = settings_of(checkpoint, level, fmax, max_steps, seed, max_seconds, device, dtype)
    settings = replace(settings, method=method, atoms_per_batch=atoms_per_batch)
    plan = _Plan(settings, start, max(1, n_attempts), checkpoint, device, dtype)
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
    """Settings of a run, without the model in processes that can load it by its name."""

    settings: Settings
    start: str | None
    n_attempts: int
    checkpoint: str | Path | LoadedModel
    device: torch.device | str
    dtype: torch.dtype | str

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.checkpoint, LoadedModel):
            return self.__dict__
        settings = {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}
        del settings["loaded"]
        return {**self.__dict__, "settings": settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings = state["settings"]
        if not isinstance(settings, Settings):
            settings = Settings(loaded=_loaded(state["checkpoint"], state["device"], state["dtype"]), **settings)
        self.__dict__.update(state, settings=settings)

    @property
    def description(self) -> dict[str, Any]:
        """What the records depend on."""
        told = {
            name: getattr(self.settings, name)
            for name in ("level", "fmax", "max_steps", "max_seconds", "method", "atoms_per_batch")
        }
        weight = next(self.settings.loaded.model.parameters())
        model = {"model": self.settings.loaded.name, "revision": self.settings.loaded.revision}
        return {**told, **model, "dtype": str(weight.dtype), "start": self.start, "n_attempts": self.n_attempts}


@lru_cache(maxsize=1)
def _loaded(checkpoint: str | Path, device: torch.device | str, dtype: torch.dtype | str) -> LoadedModel:
    """The model, loaded once per worker process."""
    return load_model(checkpoint, device=device, dtype=dtype)


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
        how = plan.start if attempt == 0 else _other_start(plan.start)
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
    outcomes: list[Any] = [_without_constraints(job) for job in jobs]
    share = (perf_counter() - began) / len(items)
    places = [place for place, job in enumerate(outcomes) if isinstance(job, Job)]
    for place, outcome in zip(places, _relax_all([outcomes[place] for place in places], settings), strict=True):
        outcomes[place] = outcome
    return [
        _record(item, attempt, seed, outcome, share) for item, seed, outcome in zip(items, seeds, outcomes, strict=True)
    ]


def _without_constraints(job: Job | PhysConError) -> Job | PhysConError:
    if isinstance(job, PhysConError):
        return job
    return or_error(check_unconstrained, job.atoms) or job


def _relax_all(jobs: Sequence[Job], settings: Settings) -> list[Result | str]:
    """Results in the order of the jobs; an error message for molecules that do not fit into memory."""
    outcomes: list[Result | str] = [""] * len(jobs)

    def work(rows: list[int]) -> None:
        for row, result in zip(rows, _relax_batch([jobs[row] for row in rows], settings), strict=True):
            outcomes[row] = result

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


def _record(item: Item, attempt: int, seed: int, outcome: Result | PhysConError | str, share: float) -> Record:
    if isinstance(outcome, Result):
        return record_of(replace(outcome, seconds=outcome.seconds + share), attempts=attempt + 1, **_told(item))
    error, reason = "MemoryError", f"not enough memory: {outcome}; use a machine with more memory, or float32"
    if isinstance(outcome, PhysConError):
        error, reason = type(outcome).__name__, str(outcome)
    return _failed(item, error, reason, share, seed, attempt + 1)


def _lost(item: Item, reason: str) -> Record:
    """Record of a molecule that crashed its process."""
    return _failed(item, "WorkerDied", reason, 0.0, item.seed, 1)


def _failed(item: Item, error: str, reason: str, seconds: float, seed: int, attempts: int) -> Record:
    common = {"seconds": seconds, "seed": seed, "attempts": attempts, "result": None}
    return Record(status="failed", reason=reason, error=error, **common, **_told(item))


def _told(item: Item) -> dict[str, Any]:
    """Fields of a record that say which molecule it is about."""
    row = item.row
    name = row.name or _name(row.molecule)
    return {"index": item.index, "name": name, "smiles": row.smiles, "row": row.number, "source": row.source}


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


def _other_start(start: str | None) -> str:
    return "mmff94" if start == "mmff94" else "etkdg"


def _name(molecule: Any) -> str:
    if isinstance(molecule, str):
        return molecule
    if isinstance(molecule, Atoms):
        return str(molecule.info.get("name") or molecule.get_chemical_formula())
    if isinstance(molecule, MolGraph | Geometry):
        return canonical_smiles(molecule if isinstance(molecule, MolGraph) else molecule.graph)
    return "" if isinstance(molecule, PhysConError) else repr(molecule)
