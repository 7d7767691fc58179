"""Relaxation of a single molecule with an ASE optimiser."""

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.optimize import BFGS, FIRE
from ase.optimize.optimize import Optimizer

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import NonFinitePositionsError, OverlappingAtomsError, PhysConError
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.constraints import satisfy_constraints, unsupported_constraint
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.formats.rows import as_rows
from physcon_ase.inference.intake import check_fragments, checked_seed, unless_error
from physcon_ase.inference.outcome import result_of
from physcon_ase.inference.quasi_newton import ModelLBFGS, StalledError
from physcon_ase.inference.results import Result
from physcon_ase.inference.starts import RelaxationJob, bonds_of, jobs_of, settings_of
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel
from physcon_ase.relax.driver import RelaxStatus
from physcon_ase.relax.state import ENERGY_NOISE
from physcon_ase.valence.model_hessian import model_hessian

_RIGID_STIFFNESS: Final = 10.0
"""Force constant [eV/Å²] of translations and rotations in the initial Hessian of a constrained relaxation. Constraints
such as `ase.constraints.FixCom` leave a net force, which would move all atoms far with the unit term alone."""

OPTIMIZERS: Final[dict[str, type[Optimizer]]] = {"lbfgs": ModelLBFGS, "bfgs": BFGS, "fire": FIRE}
"""Optimisers by short name; those of ASE can be passed as a class too."""


def optimize(
    molecule: str | MolGraph | Atoms | Any,
    *,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    optimizer: str | type[Optimizer] = "lbfgs",
    fmax: float = 0.01,
    max_steps: int = 500,
    start: str | Atoms | None = None,
    fragments: str = "all",
    seed: int = 0,
    trajectory: str | Path | None = None,
    logfile: str | Path | None = None,
    max_seconds: float = MAX_SECONDS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float64,
) -> Result:
    """Relaxes one molecule with an ASE optimiser.

    The default optimiser is that of `optimize_many`, an L-BFGS preconditioned with a model Hessian. BFGS and related
    optimisers of ASE start with this Hessian.

    Args:
        molecule: SMILES, graph, geometry, RDKit molecule or row of a file; not modified.
        level: level of theory; "auto" for the first of the checkpoint that covers the molecule.
        checkpoint: shipped name, folder or loaded model.
        optimizer: "lbfgs", "bfgs" (ASE), "fire" (ASE), or any ASE optimiser class. Constraints that L-BFGS does not
            support are handled by BFGS; see `Result.optimizer`.
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of steps.
        start: "mmff94", "etkdg", "guess" (see `starts.STARTS`) or a geometry in the atom order of the graph. By default
            a SMILES or graph starts from "mmff94", and a geometry from its own positions; see `Result.start`.
        fragments: "all" to relax several fragments together, those of a SMILES or graph placed beside each other, or
            "largest" to keep the one with the most heavy atoms.
        seed: random seed of the start geometry.
        trajectory: file for the ASE trajectory.
        logfile: file for the ASE log, "-" for standard output.
        max_seconds: time limit [s] for the start geometry.
        device: device of the model; ignored for a loaded model.
        dtype: dtype of the model; ignored for a loaded model.

    Raises:
        PhysConError: invalid input; see `errors` for the subclasses. Failed convergence is not an error, see
            `Result.status`.
    """
    make_optimizer = _optimizer_class(optimizer)
    check_fragments(fragments)
    seed, settings = checked_seed(seed), settings_of(checkpoint, level, fmax, max_steps, max_seconds, device, dtype)
    settings = replace(settings, fragments=fragments)
    began = perf_counter()
    (row,) = as_rows([molecule])
    job = unless_error(jobs_of([row.molecule], start, [seed], settings)[0])
    atoms = job.atoms.copy()
    if atoms.constraints:
        if make_optimizer is ModelLBFGS and unsupported_constraint(atoms):
            make_optimizer = BFGS
        satisfy_constraints(atoms)
    atoms.calc = calculator = PhysConCalculator(settings.loaded, level=job.level)
    calculator.warns = False  # the result has the doubts
    options: dict[str, Any] = {"logfile": logfile, "trajectory": None if trajectory is None else str(trajectory)}
    if issubclass(make_optimizer, ModelLBFGS):
        options |= {"bonds": bonds_of(job), "dtype": next(settings.loaded.model.parameters()).dtype}
    run = _made(make_optimizer, atoms, **options)
    _use_model_hessian(run, job)
    status, energies, largest_forces = _run(run, atoms, fmax, max_steps)
    forces = atoms.get_forces(apply_constraint=False)
    return result_of(
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


def _optimizer_class(optimizer: str | type[Optimizer]) -> type[Optimizer]:
    if isinstance(optimizer, str) and optimizer.lower() in OPTIMIZERS:
        return OPTIMIZERS[optimizer.lower()]
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return optimizer
    raise PhysConError(
        f"unknown optimizer {optimizer!r}; choose one of {', '.join(OPTIMIZERS)}, or pass an ASE optimiser class"
    )


def _made(optimizer: type[Optimizer], atoms: Atoms, **options: Any) -> Optimizer:
    try:
        return optimizer(atoms, **options)
    except (AttributeError, TypeError, NotImplementedError) as error:
        raise _unusable(optimizer, repr(error)) from error


def _unusable(optimizer: Optimizer | type[Optimizer], reason: str) -> PhysConError:
    name = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
    return PhysConError(f"optimizer {name} cannot be used here: {reason}; choose one of {', '.join(OPTIMIZERS)}")


def _use_model_hessian(run: Optimizer, job: RelaxationJob) -> None:
    """Replaces the initial Hessian of BFGS and related ASE optimisers, a multiple of the unit matrix."""
    stiffness = _RIGID_STIFFNESS if job.atoms.constraints else 0.0
    first_guess, n_coordinates = getattr(run, "H0", 0.0), 3 * len(job.atoms)
    if np.shape(first_guess) == (n_coordinates, n_coordinates):
        hessian = model_hessian(job.atoms.numbers, job.atoms.positions, bonds_of(job), rigid_stiffness=stiffness)
        run.H0 = hessian  # pyright: ignore[reportAttributeAccessIssue]  # not every optimiser has it


class _NotFiniteError(RuntimeError):
    """Energy or forces are not finite; the relaxation ends with `RelaxStatus.NOT_FINITE`."""


class _Course:
    """Energies and largest forces of the geometries of a relaxation, recorded by an observer of its optimiser.

    The relaxation lowers `energies`, with those of restraints such as `ase.constraints.Hookean`; `own` has those of the
    molecule alone.
    """

    def __init__(self, atoms: Atoms):
        self.atoms = atoms
        self.energies: list[float] = []
        self.own: list[float] = []
        self.largest_forces: list[float] = []
        self.lowest, self.lowest_positions = 0, atoms.positions.copy()

    def __call__(self) -> None:
        self.energies.append(float(self.atoms.get_potential_energy()))
        self.own.append(float(self.atoms.get_potential_energy(apply_constraint=False)))
        self.largest_forces.append(float(np.linalg.norm(self.atoms.get_forces(), axis=1).max()))
        if not np.isfinite([self.energies[-1], self.largest_forces[-1]]).all():
            raise _NotFiniteError
        if self.energies[-1] <= self.energies[self.lowest]:
            self.lowest, self.lowest_positions = len(self.energies) - 1, self.atoms.positions.copy()

    def return_to_lowest(self) -> None:
        """Puts the atoms at the lowest geometry, which becomes the last."""
        self.atoms.positions = self.lowest_positions
        for values in (self.energies, self.own, self.largest_forces):
            values[-1] = values[self.lowest]


def _run(run: Optimizer, atoms: Atoms, fmax: float, max_steps: int) -> tuple[RelaxStatus, np.ndarray, np.ndarray]:
    """Runs the optimiser; returns the status, and energy and largest force of each geometry.

    A run that ends above its lowest geometry without having converged returns to that geometry.
    """
    course, status = _Course(atoms), RelaxStatus.STEP_LIMIT
    run.attach(course)
    try:
        is_converged = run.run(fmax=fmax, steps=max_steps)
        if not course.energies:
            raise _unusable(run, "it does not call its observers")
        if is_converged:
            is_above = course.energies[-1] > course.energies[0] + ENERGY_NOISE
            status = RelaxStatus.ABOVE_START if is_above else RelaxStatus.CONVERGED
    except _NotFiniteError:
        status = RelaxStatus.NOT_FINITE
    except (NonFinitePositionsError, OverlappingAtomsError):
        if not course.energies:  # invalid start geometry
            raise
        status = RelaxStatus.NOT_FINITE
    except PhysConError:
        raise
    except Exception as error:
        # ASE's line searches fail at noisy minima
        if not isinstance(error, StalledError) and "LineSearch failed" not in str(error):
            if type(run) in OPTIMIZERS.values():
                raise
            raise _unusable(run, repr(error)) from error
        status = RelaxStatus.STALLED
    finally:
        run.close()
    if status is not RelaxStatus.CONVERGED:
        course.return_to_lowest()
    return status, np.array(course.own), np.array(course.largest_forces)
