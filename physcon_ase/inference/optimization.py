"""From a SMILES, a graph or a geometry to a relaxed structure: one molecule with ASE's optimisers, many in batches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from tqdm import tqdm

from physcon_ase.batch import Batch, in_chunks, make_batch, threads_for, with_positions
from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.conformers import mmff94_minimize
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.chem.smiles import canonical_smiles, undefined_stereo
from physcon_ase.errors import (
    BondPerceptionError,
    MissingParametersError,
    NonFinitePositionsError,
    OverlappingAtomsError,
    PhysConError,
)
from physcon_ase.inference.calculator import PhysConCalculator, charge_and_multiplicity, check_atoms
from physcon_ase.inference.generator import (
    ATOMS_PER_BATCH,
    MAX_SECONDS,
    Guess,
    StructureGenerator,
    atoms_of,
    checked_graph,
    embed_many,
    or_error,
    unless_error,
)
from physcon_ase.inference.results import STATUSES, Record, Result
from physcon_ase.model.coverage import check_charge, check_elements
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, PhysCon, load_model
from physcon_ase.relax.driver import METHODS, RelaxResult, RelaxStatus, relax
from physcon_ase.valence.model_hessian import model_hessian

STARTS: Final = ("guess", "etkdg", "mmff94")
"""Where a relaxation starts: the structure head's guess, an ETKDG geometry, or that geometry relaxed with MMFF94."""

_CURVATURES: Final = (-50.0, 2000.0)
"""Curvatures [eV/Å²] that no molecule exceeds; that of a triple bond is below 200."""


class SafeBFGS(BFGS):
    """ASE's BFGS that begins again with its first Hessian where the update has ruined it.

    Across a region of negative curvature the denominators of the update pass through zero, and with a curvature of
    10⁸ eV/Å² left behind the molecule never moves again.
    """

    def update(self, pos: np.ndarray, forces: np.ndarray, pos0: np.ndarray | None, forces0: np.ndarray | None) -> None:
        """Called by ASE with the last two geometries and their forces; None before the first step."""
        if self.state is None:
            self._first = np.array(self.H0)  # ASE updates it in place
        super().update(pos, forces, pos0, forces0)
        assert self.state is not None
        curvatures = np.linalg.eigvalsh(self.state.hessian)
        if curvatures[0] < _CURVATURES[0] or curvatures[-1] > _CURVATURES[1]:
            self.state, self.H0 = None, self._first.copy()
            super().update(pos, forces, pos0, forces0)


OPTIMIZERS: Final[dict[str, type[Optimizer]]] = {"bfgs": SafeBFGS, "lbfgs": LBFGS, "fire": FIRE}
"""ASE optimisers with a short name; any other is passed as its class."""

LARGEST_FOR_BFGS: Final = 60
"""Atoms above which batches are relaxed with L-BFGS: diagonalising the Hessian costs more than it saves."""

GUESS_STEPS: Final = 2
"""Evaluations of the structure head for a guess that is relaxed afterwards. More of them (`generator.N_STEPS`) save
steps, but cost more time than these: `examples/benchmarks/guesses.py --evaluations`."""

N_ATTEMPTS: Final = 2
"""Starts that `optimize_many` tries for a molecule whose relaxation does not end well."""

CHANGED_BONDS: Final = "bonds changed on the way, this is another molecule: start from another geometry or seed"
"""Status of a relaxation that broke or formed bonds."""

CHANGED_STEREO: Final = "the configuration changed on the way: start from another geometry or seed"
"""Status of a relaxation that lost its stereochemistry."""


@dataclass(frozen=True)
class _Job:
    """A molecule with its start geometry."""

    graph: MolGraph | None
    atoms: Atoms
    start: str
    seed: int


@dataclass(frozen=True)
class _Settings:
    """What all molecules of a call share."""

    loaded: LoadedModel
    level: str
    fmax: float
    max_steps: int
    max_seconds: float
    method: str | None = None
    n_processes: int = 1
    atoms_per_batch: int = ATOMS_PER_BATCH


def optimize(
    molecule: str | MolGraph | Atoms,
    *,
    level: str | None = None,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    optimizer: str | type[Optimizer] = "bfgs",
    fmax: float = 0.01,
    max_steps: int = 500,
    start: str | Atoms | None = None,
    seed: int = 0,
    trajectory: str | Path | None = None,
    logfile: str | Path | None = None,
    max_seconds: float = MAX_SECONDS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float64,
) -> Result:
    """Relaxes one molecule with an ASE optimiser.

    ASE's BFGS and its kin start with a model Hessian, which halves the number of steps.

    Args:
        molecule: SMILES, graph, or a geometry, which is copied.
        level: level of theory; the first of the checkpoint unless given.
        checkpoint: shipped name, folder or loaded model.
        optimizer: "bfgs", "lbfgs", "fire", or any ASE optimiser class.
        fmax: converged when no atom feels a larger force [eV/Å].
        max_steps: steps at most.
        start: "guess", "etkdg", "mmff94" or a geometry in the order of the graph's atoms. Unless given, a geometry
            starts where it is, and a SMILES or graph from the model's guess, or from ETKDG if the model has no
            structure head; `Result.start` says which.
        seed: of the start geometry.
        trajectory: file that ASE's trajectory goes to.
        logfile: file that ASE's log goes to, "-" for the screen.
        max_seconds: cap on the time for start geometries.
        device: where the model computes; ignored with a loaded model.
        dtype: its number format; ignored with a loaded model.

    Raises:
        PhysConError: the input is refused; see `errors` for the classes. A relaxation that does not converge is no
            error: see `Result.status`.
    """
    make_optimizer = _optimizer_class(optimizer)
    settings = _settings(checkpoint, level, fmax, max_steps, seed, max_seconds, device, dtype)
    began = perf_counter()
    job = unless_error(_jobs([molecule], start, seed, settings)[0])
    atoms = job.atoms.copy()
    atoms.calc = calculator = PhysConCalculator(settings.loaded, level=settings.level)
    run = make_optimizer(atoms, logfile=logfile, trajectory=None if trajectory is None else str(trajectory))
    _use_model_hessian(run, job)
    status, energies, largest_forces = _run(run, atoms, fmax, max_steps)
    forces = atoms.get_forces(apply_constraint=False)
    return _result(
        job,
        settings,
        positions=atoms.positions,
        forces=forces,
        energy_uncertainty=calculator.results.get("energy_uncertainty"),
        energies=energies,
        fmax_history=largest_forces,
        status=status,
        seconds=perf_counter() - began,
        optimizer=type(run).__name__,
    )


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
    """Relaxes molecules in batches; each has its own convergence, its own fate and its own record, in input order.

    A molecule whose relaxation fails, does not converge or ends with other bonds is started once more from an ETKDG
    geometry of another seed; geometries given as such are not.

    Args:
        molecules: SMILES, graphs or geometries.
        level: level of theory; the first of the checkpoint unless given.
        checkpoint: shipped name, folder or loaded model.
        method: "bfgs", "lbfgs" or "fire"; unless given, BFGS up to `LARGEST_FOR_BFGS` atoms and L-BFGS above.
        fmax: converged when no atom feels a larger force [eV/Å].
        max_steps: steps at most, per molecule.
        start: see `optimize`.
        seed: of every start geometry; the attempts after the first count up.
        n_attempts: start geometries that a molecule gets.
        n_processes: processes that look for start geometries; with more than one, a script needs
            ``if __name__ == "__main__":``.
        atoms_per_batch: slots of a batch; halved when memory runs out.
        max_seconds: cap on the time for the start geometry of a molecule.
        on_progress: called with the number of finished molecules and of all.
        progress_bar: whether to draw one, if the output is a terminal.
        device: where the model computes; ignored with a loaded model.
        dtype: its number format; ignored with a loaded model.

    Raises:
        PhysConError: settings or checkpoint are refused. A molecule that fails is a record.
    """
    molecules = list(molecules)
    if method not in (None, *METHODS):
        raise PhysConError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    settings = _settings(checkpoint, level, fmax, max_steps, seed, max_seconds, device, dtype)
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


# ---- start


def _settings(
    checkpoint: str | Path | LoadedModel,
    level: str | None,
    fmax: float,
    max_steps: int,
    seed: int,
    max_seconds: float,
    device: torch.device | str,
    dtype: torch.dtype | str,
) -> _Settings:
    if not fmax > 0:
        raise PhysConError(f"fmax must be a force larger than 0 eV/Å, received {fmax}: .01 is a tight minimum")
    if max_steps < 0:
        raise PhysConError(f"max_steps must be 0 or more, received {max_steps}")
    if seed < 0:
        raise PhysConError(f"seed must be 0 or more, received {seed}")
    loaded = checkpoint if isinstance(checkpoint, LoadedModel) else load_model(checkpoint, device=device, dtype=dtype)
    level = loaded.model.level_names[0] if level is None else loaded.model.level(level).name
    return _Settings(loaded, level, fmax, max_steps, max_seconds)


def _jobs(
    molecules: Sequence[Any], start: str | Atoms | None, seed: int, settings: _Settings
) -> list[_Job | PhysConError]:
    """Each molecule with its start geometry, or with what is wrong with it."""
    jobs: list[_Job | PhysConError | None] = [
        or_error(_job_of_geometry, molecule, start, seed, settings) if isinstance(molecule, Atoms) else None
        for molecule in molecules
    ]
    graphs: dict[int, MolGraph] = {}
    for index, molecule in enumerate(molecules):
        if not isinstance(molecule, Atoms):
            graph = or_error(checked_graph, molecule, settings.loaded.model, settings.level)
            if isinstance(graph, PhysConError):
                jobs[index] = graph
            else:
                graphs[index] = graph
    for index, job in zip(graphs, _jobs_of_graphs(list(graphs.values()), start, seed, settings), strict=True):
        jobs[index] = job
    return [job for job in jobs if job is not None]


def _jobs_of_graphs(
    graphs: Sequence[MolGraph], start: str | Atoms | None, seed: int, settings: _Settings
) -> list[_Job | PhysConError]:
    if isinstance(start, Atoms):
        return [or_error(_job_at, graph, start, seed) for graph in graphs]
    if start is None:
        start = "guess" if settings.loaded.model.structure is not None else "etkdg"
    if start not in STARTS:
        raise PhysConError(f"unknown start {start!r}; choose one of {', '.join(STARTS)}, or pass ase.Atoms")
    if start == "guess":
        generator = StructureGenerator(
            settings.loaded, level=settings.level, n_steps=GUESS_STEPS, max_seconds=settings.max_seconds
        )
        guesses = generator.generate_many(
            graphs, seed=seed, n_processes=settings.n_processes, atoms_per_batch=settings.atoms_per_batch
        )
        return [_job_of_guess(guess) for guess in guesses]
    seeds = [seed] * len(graphs)
    places = embed_many(graphs, seeds, max_seconds=settings.max_seconds, n_processes=settings.n_processes)
    finish = _job_of_etkdg if start == "etkdg" else _job_of_mmff94
    return [
        place if isinstance(place, PhysConError) else finish(graph, place, seed)
        for graph, place in zip(graphs, places, strict=True)
    ]


def _job_of_guess(guess: Guess | PhysConError) -> _Job | PhysConError:
    if isinstance(guess, PhysConError):
        return guess
    start = f"guess ({guess.fallback})" if guess.fallback else "guess"
    return _Job(guess.graph, atoms_of(guess.graph, guess.positions), start, guess.seed)


def _job_of_etkdg(graph: MolGraph, positions: np.ndarray, seed: int) -> _Job:
    return _Job(graph, atoms_of(graph, positions), "etkdg", seed)


def _job_of_mmff94(graph: MolGraph, positions: np.ndarray, seed: int) -> _Job:
    try:
        relaxed = mmff94_minimize(graph, positions).positions
    except MissingParametersError:
        return replace(_job_of_etkdg(graph, positions, seed), start="etkdg (MMFF94 has no parameters)")
    return _Job(graph, atoms_of(graph, relaxed), "mmff94", seed)


def _job_at(graph: MolGraph, start: Atoms, seed: int) -> _Job:
    if start.numbers.tolist() != graph.atomic_numbers.tolist():
        raise PhysConError(
            f"start has the atoms {start.get_chemical_formula('reduce')}, the molecule "
            f"{Atoms(graph.atomic_numbers).get_chemical_formula('reduce')}: give the atoms in the order of the graph "
            "(as StructureGenerator does)"
        )
    atoms = start.copy()
    atoms.info["charge"] = graph.charge
    return _Job(graph, atoms, "geometry", seed)


def _job_of_geometry(atoms: Atoms, start: str | Atoms | None, seed: int, settings: _Settings) -> _Job:
    if start is not None:
        raise PhysConError(
            "start is given, but the molecule is a geometry already: leave start out, or pass a SMILES instead"
        )
    check_atoms(atoms)
    check_elements(atoms.numbers, settings.loaded.model, settings.level)
    charge, multiplicity = charge_and_multiplicity(atoms)
    check_charge(atoms.numbers, charge, multiplicity, settings.loaded.model, settings.level)
    try:
        graph = graph_from_geometry(atoms.numbers, atoms.positions, charge)
    except BondPerceptionError:  # bonds are optional: without them it cannot be said whether they are intact
        graph = None
    return _Job(graph, atoms.copy(), "geometry", seed)


# ---- one molecule, with ASE


def _optimizer_class(optimizer: str | type[Optimizer]) -> type[Optimizer]:
    if isinstance(optimizer, str) and optimizer.lower() in OPTIMIZERS:
        return OPTIMIZERS[optimizer.lower()]
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return optimizer
    raise PhysConError(
        f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}, or pass an ASE optimiser class"
    )


def _use_model_hessian(run: Optimizer, job: _Job) -> None:
    """Replaces the multiple of the unit matrix that ASE's BFGS and its kin begin with."""
    first_guess, n_coordinates = getattr(run, "H0", 0.0), 3 * len(job.atoms)
    if np.shape(first_guess) == (n_coordinates, n_coordinates):
        hessian = model_hessian(job.atoms.numbers, job.atoms.positions, _bonds(job))
        run.H0 = hessian  # pyright: ignore[reportAttributeAccessIssue]  # not every optimiser has it


def _bonds(job: _Job) -> np.ndarray | None:
    return None if job.graph is None else job.graph.bonds


def _run(run: Optimizer, atoms: Atoms, fmax: float, max_steps: int) -> tuple[RelaxStatus, np.ndarray, np.ndarray]:
    """How the run ended, and energy and largest force of every geometry on the way, each pair of the same geometry."""
    energies, largest_forces = [], []
    status, last_good = RelaxStatus.STEP_LIMIT, atoms.positions.copy()
    try:
        for converged in run.irun(fmax=fmax, steps=max_steps):
            energies.append(float(atoms.get_potential_energy()))
            largest_forces.append(float(np.linalg.norm(atoms.get_forces(), axis=1).max()))
            if not np.isfinite([energies[-1], largest_forces[-1]]).all():
                status = RelaxStatus.NOT_FINITE
                break
            last_good = atoms.positions.copy()
            if converged:
                status = RelaxStatus.CONVERGED
    except RuntimeError as error:
        if "LineSearch failed" not in str(error):  # that is what ASE's line searches end with at a rough minimum
            raise
        status = RelaxStatus.STALLED
    except (NonFinitePositionsError, OverlappingAtomsError):
        if not energies:  # the start itself is refused
            raise
        status = RelaxStatus.NOT_FINITE
        atoms.positions = last_good
    finally:
        run.close()
    return status, np.array(energies), np.array(largest_forces)


def _result(
    job: _Job,
    settings: _Settings,
    *,
    positions: np.ndarray,
    forces: np.ndarray,
    energy_uncertainty: float | None,
    energies: np.ndarray,
    fmax_history: np.ndarray,
    status: RelaxStatus,
    seconds: float,
    optimizer: str,
) -> Result:
    graph = job.graph
    has_bonds = None if graph is None else bonds_intact(graph, positions).intact
    has_stereo = None if graph is None else stereo_intact(graph, positions).intact
    result = Result(
        atoms=job.atoms,
        graph=graph,
        smiles="" if graph is None else canonical_smiles(graph),
        energy=float(energies[-1]),
        fmax=float(fmax_history[-1]),
        converged=status is RelaxStatus.CONVERGED,
        steps=len(energies) - 1,
        seconds=seconds,
        energies=energies,
        fmax_history=fmax_history,
        bonds_intact=has_bonds,
        stereo_intact=has_stereo,
        undefined_stereo=() if graph is None else tuple(undefined_stereo(graph)),
        start=job.start,
        optimizer=optimizer,
        model=settings.loaded.name,
        revision=settings.loaded.revision,
        level=settings.level,
        seed=job.seed,
        status=_status(status, has_bonds, has_stereo),
        energy_uncertainty=energy_uncertainty,
    )
    return replace(result, atoms=_labelled(result, positions, forces))


def _status(status: RelaxStatus, has_bonds: bool | None, has_stereo: bool | None) -> str:
    if status is not RelaxStatus.CONVERGED:
        return str(status)
    if has_bonds is False:
        return CHANGED_BONDS
    return CHANGED_STEREO if has_stereo is False else str(status)


_INFO: Final = (
    "smiles", "model", "revision", "level", "units", "energy_uncertainty", "converged", "steps", "fmax",
    "bonds_intact", "stereo_intact", "start", "optimizer", "seed",
)  # fmt: skip
"""Fields of a result that go with its geometry into a file."""


def _labelled(result: Result, positions: np.ndarray, forces: np.ndarray) -> Atoms:
    atoms = result.atoms.copy()
    atoms.positions = positions
    fields = {name: getattr(result, name) for name in _INFO}
    # A reader of extended XYZ cannot tell an empty text or None from a missing one.
    atoms.info.update({name: value for name, value in fields.items() if value is not None and value != ""})
    atoms.calc = SinglePointCalculator(atoms, energy=result.energy, forces=np.array(forces))
    return atoms


# ---- many molecules, in batches


class _Progress:
    """Passes the number of finished molecules on; the one mutable object here."""

    def __init__(self, total: int, progress_bar: bool, on_progress: Callable[[int, int], None] | None):
        # None: no bar where the output is no terminal
        self.count, self.total = 0, total
        self.bar = tqdm(total=total, disable=None if progress_bar else True, unit="molecule")
        self.on_progress = on_progress

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def finished(self, count: int) -> None:
        """So many molecules need no more work."""
        # not the count of the bar: one that is not drawn does not count
        self.bar.update(count - self.count)
        self.count = count
        if self.on_progress is not None:
            self.on_progress(count, self.total)


def _attempt(
    molecules: Sequence[Any], start: str | None, seed: int, settings: _Settings, progress: _Progress
) -> list[Record]:
    """One start geometry and one relaxation for each molecule."""
    began = perf_counter()
    outcomes: list[Any] = [_without_constraints(job) for job in _jobs(molecules, start, seed, settings)]
    share = (perf_counter() - began) / max(1, len(molecules))
    rows = [row for row, job in enumerate(outcomes) if isinstance(job, _Job)]
    for row, outcome in zip(rows, _relax_all([outcomes[row] for row in rows], settings, progress), strict=True):
        outcomes[row] = outcome
    return [
        _record(_name(molecule), outcome, seed, share) for molecule, outcome in zip(molecules, outcomes, strict=True)
    ]


def _without_constraints(job: _Job | PhysConError) -> _Job | PhysConError:
    if isinstance(job, PhysConError) or not job.atoms.constraints:
        return job
    return PhysConError("a geometry with constraints, which batches cannot keep: relax it alone with optimize()")


def _relax_all(jobs: Sequence[_Job], settings: _Settings, progress: _Progress) -> list[Result | str]:
    """Results in the order of the jobs; a text for a molecule that does not fit into the memory."""
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


def _relax_batch(jobs: Sequence[_Job], settings: _Settings) -> list[Result]:
    began, model = perf_counter(), settings.loaded.model
    weight = next(model.parameters())
    # Far from the origin float32 has no digits left for the bonds.
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
            bonds=[_bonds(job) for job in jobs],
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
        _, features = model.atomic_energies_and_features(batch, level)
        found = model.energy_uncertainties(features, level)
    assert found is not None
    return found.tolist()


def _result_of_batch(
    job: _Job,
    settings: _Settings,
    relaxed: RelaxResult,
    row: int,
    centre: np.ndarray,
    energy_uncertainty: float | None,
    method: str,
    seconds: float,
) -> Result:
    assert relaxed.trajectories is not None
    way, n_atoms = relaxed.trajectories[row], len(job.atoms)
    return _result(
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
    """The record of a molecule; its index and number of attempts come later."""
    common = {"index": 0, "name": name, "seed": seed, "attempts": 1}
    if isinstance(outcome, Result):
        result = replace(outcome, seconds=outcome.seconds + share)
        reason = "" if result.is_ok else result.status
        status = "ok" if result.is_ok else "changed" if result.converged else "not converged"
        return Record(status=status, reason=reason, error="", seconds=result.seconds, result=result, **common)
    error, reason = "MemoryError", f"too large for the memory: {outcome}; compute it elsewhere or in float32"
    if isinstance(outcome, PhysConError):
        error, reason = type(outcome).__name__, str(outcome)
    return Record(status="failed", reason=reason, error=error, seconds=share, result=None, **common)


def _better(old: Record | None, new: Record) -> Record:
    """The more useful of two records of a molecule, with the time of both."""
    if old is None:
        return new
    chosen = new if STATUSES.index(new.status) < STATUSES.index(old.status) else old
    return replace(chosen, attempts=new.attempts, seconds=old.seconds + new.seconds)


def _deserves_another(record: Record | None, molecule: Any) -> bool:
    """Whether another start geometry could help; a molecule that was refused stays refused."""
    return record is not None and record.status in ("not converged", "changed") and not isinstance(molecule, Atoms)


def _other_start(start: str | None) -> str:
    return "mmff94" if start == "mmff94" else "etkdg"


def _name(molecule: Any) -> str:
    if isinstance(molecule, str):
        return molecule
    if isinstance(molecule, Atoms):
        return molecule.get_chemical_formula()
    return canonical_smiles(molecule) if isinstance(molecule, MolGraph) else repr(molecule)
