"""Relaxation of a single molecule with an ASE optimiser."""

from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import NonFinitePositionsError, OverlappingAtomsError, PhysConError
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.formats.rows import as_rows
from physcon_ase.inference.intake import unless_error
from physcon_ase.inference.outcome import result_of
from physcon_ase.inference.results import Result
from physcon_ase.inference.starts import Job, bonds_of, jobs_of, settings_of
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel
from physcon_ase.relax.driver import RelaxStatus
from physcon_ase.valence.model_hessian import model_hessian

_CURVATURES: Final = (-50.0, 2000.0)
"""Physical range of Hessian eigenvalues [eV/Å²]; the force constant of a triple bond is below 200."""


class SafeBFGS(BFGS):
    """ASE's BFGS that is reset to its initial Hessian if an update gives unphysical curvatures.

    In regions of negative curvature the denominators of the BFGS update can vanish. The resulting eigenvalues of up to
    10⁸ eV/Å² would stop all further motion.
    """

    def update(self, pos: np.ndarray, forces: np.ndarray, pos0: np.ndarray | None, forces0: np.ndarray | None) -> None:
        """Called by ASE with the current and the previous geometry and forces; the latter are None at first."""
        if self.state is None:
            self._first = np.array(self.H0)  # copy, since ASE updates it in place
        super().update(pos, forces, pos0, forces0)
        assert self.state is not None
        curvatures = np.linalg.eigvalsh(self.state.hessian)
        if curvatures[0] < _CURVATURES[0] or curvatures[-1] > _CURVATURES[1]:
            self.state, self.H0 = None, self._first.copy()
            super().update(pos, forces, pos0, forces0)


OPTIMIZERS: Final[dict[str, type[Optimizer]]] = {"bfgs": SafeBFGS, "lbfgs": LBFGS, "fire": FIRE}
"""ASE optimisers by short name; others can be passed as a class."""


def optimize(
    molecule: str | MolGraph | Atoms | Any,
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

    BFGS and related optimisers of ASE start with a model Hessian, which halves the number of steps.

    Args:
        molecule: SMILES, graph, geometry, RDKit molecule or row of a file; not modified.
        level: level of theory; by default the first of the checkpoint.
        checkpoint: shipped name, folder or loaded model.
        optimizer: "bfgs", "lbfgs", "fire", or any ASE optimiser class.
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of steps.
        start: "guess", "etkdg", "mmff94" or a geometry in the atom order of the graph. By default a SMILES or graph
            starts from the guess of the model, or from ETKDG if the model has no structure head, and a geometry from
            its own positions; see `Result.start`.
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
    settings = settings_of(checkpoint, level, fmax, max_steps, seed, max_seconds, device, dtype)
    began = perf_counter()
    (row,) = as_rows([molecule])
    job = unless_error(jobs_of([row.molecule], start, [seed], settings)[0])
    atoms = job.atoms.copy()
    atoms.calc = calculator = PhysConCalculator(settings.loaded, level=settings.level)
    run = make_optimizer(atoms, logfile=logfile, trajectory=None if trajectory is None else str(trajectory))
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


def _use_model_hessian(run: Optimizer, job: Job) -> None:
    """Replaces the initial Hessian of BFGS and related ASE optimisers, a multiple of the unit matrix."""
    first_guess, n_coordinates = getattr(run, "H0", 0.0), 3 * len(job.atoms)
    if np.shape(first_guess) == (n_coordinates, n_coordinates):
        hessian = model_hessian(job.atoms.numbers, job.atoms.positions, bonds_of(job))
        run.H0 = hessian  # pyright: ignore[reportAttributeAccessIssue]  # not every optimiser has it


def _run(run: Optimizer, atoms: Atoms, fmax: float, max_steps: int) -> tuple[RelaxStatus, np.ndarray, np.ndarray]:
    """Runs the optimiser; returns the status, and energy and largest force of each geometry."""
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
        if "LineSearch failed" not in str(error):  # raised by ASE's line searches at noisy minima
            raise
        status = RelaxStatus.STALLED
    except (NonFinitePositionsError, OverlappingAtomsError):
        if not energies:  # invalid start geometry
            raise
        status = RelaxStatus.NOT_FINITE
        atoms.positions = last_good
    finally:
        run.close()
    return status, np.array(energies), np.array(largest_forces)
