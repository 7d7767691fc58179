"""Batched geometry relaxation; convergence and status are tracked for each molecule."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.errors import PhysConError
from physcon_ase.plurals import counted
from physcon_ase.relax.constraints import Constraints
from physcon_ase.relax.fire import FireState, fire_init, fire_step
from physcon_ase.relax.lbfgs import lbfgs_init, lbfgs_step
from physcon_ase.relax.quasi_newton import QuasiNewtonState
from physcon_ase.relax.state import ForceFn, Point, is_finite, keep, largest_norm
from physcon_ase.valence.internals import distances, make_internals

EXPLODED_DISTANCE: Final = 6.0
"""Distance [Å] of an atom from its nearest neighbour above which it counts as dissociated from its molecule."""

MAX_IDLE: Final = 20
"""Number of steps without a lower energy after which a relaxation is aborted; the step length shrinks fourfold with
each rejected step."""

_Frame: TypeAlias = tuple[np.ndarray, float, float]
"""Positions [Å], energy [eV] and largest force [eV/Å] of one molecule after one step."""

METHODS: Final = {"lbfgs": (lbfgs_init, lbfgs_step), "fire": (fire_init, fire_step)}
"""Initialisation and step function of each method."""


class RelaxStatus(StrEnum):
    """Outcome of a relaxation; the text includes a remedy."""

    CONVERGED = "converged"
    STEP_LIMIT = "step limit reached: raise max_steps or fmax, or continue from the returned positions"
    NOT_FINITE = "energy or forces not finite: check the start geometry for overlapping atoms or try another one"
    EXPLODED = "exploded, an atom left the molecule: use a better start geometry or a model that covers the molecule"
    ABOVE_START = (
        "ended in a minimum above its start: use optimizer='lbfgs', or for optimize_many method='lbfgs', which take no "
        "step uphill"
    )
    STALLED = (
        "could not lower the energy: raise fmax, compute in float64 or try optimizer='fire', or for optimize_many "
        "method='fire'"
    )


@dataclass(frozen=True)
class Trajectory:
    """Trajectory of one molecule, including start and end; a rejected step repeats the previous geometry."""

    positions: Float[np.ndarray, "frames atoms 3"]
    """Positions [Å]."""
    energies: Float[np.ndarray, " frames"]
    """Energies [eV]."""
    fmax: Float[np.ndarray, " frames"]
    """Largest force [eV/Å] on any atom."""


@dataclass(frozen=True)
class RelaxResult:
    """Final geometries; energies, forces and fmax are evaluated at `positions`."""

    positions: Float[Tensor, "molecules slots 3"]
    """Positions [Å] in the dtype of the batch, 0 in empty slots."""
    energies: Float[Tensor, " molecules"]
    """Energies [eV]."""
    forces: Float[Tensor, "molecules slots 3"]
    """Forces [eV/Å] without the components along constrained coordinates."""
    fmax: Float[Tensor, " molecules"]
    """Largest force [eV/Å] on any atom; NaN if the energy of the start geometry is not finite."""
    steps: Int[Tensor, " molecules"]
    """Number of evaluations after the first."""
    statuses: tuple[RelaxStatus, ...]
    """Outcome of each relaxation."""
    trajectories: tuple[Trajectory, ...] | None
    """Trajectory of each molecule, if requested."""

    @property
    def converged(self) -> Bool[Tensor, " molecules"]:
        """Whether the status of each molecule is `RelaxStatus.CONVERGED`."""
        done = [status is RelaxStatus.CONVERGED for status in self.statuses]
        return torch.tensor(done, dtype=torch.bool, device=self.positions.device)


def relax(
    force_fn: ForceFn,
    batch: Batch,
    *,
    fmax: float = 0.01,
    max_steps: int = 500,
    method: str = "lbfgs",
    bonds: Sequence[np.ndarray | None] | None = None,
    constraints: Constraints | None = None,
    history: bool = False,
) -> RelaxResult:
    """Relaxes each molecule to a local minimum of its energy.

    Molecules that have converged or failed are removed from the working batch, so the cost decreases as molecules
    finish.

    Args:
        force_fn: energies and forces of a batch; called with a shrinking subset of the molecules.
        batch: start geometries. Positions may be float32; the optimisers work in float64.
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of evaluations per molecule after the first.
        method: "lbfgs", or "fire" if it fails.
        bonds: `MolGraph.bonds` of each molecule, for the model Hessian; where None, bonds are inferred from covalent
            radii at the start geometry.
        constraints: fixed atoms and dihedral angles; none by default.
        history: whether to keep the trajectory of each molecule.

    Raises:
        PhysConError: invalid settings. A failed relaxation is reported as a status, not as an error.
    """
    _check_settings(fmax, max_steps, method)
    _check_bonds(batch, bonds)
    init, step = METHODS[method]
    record = _Record(batch, history)
    if len(batch) == 0 or batch.positions.shape[1] == 0:
        return record.result()
    state = init(force_fn, batch, make_internals(batch, bonds), constraints)
    was_apart, first = _is_apart(batch, state.point.positions), state.point.energies
    working = torch.arange(len(batch), device=batch.positions.device)
    for n_steps in range(max_steps + 1):
        if n_steps > 0:
            state = step(state, force_fn)
        statuses = _statuses(state, was_apart[working], first[working], fmax, n_steps == max_steps)
        record.note(working, state.point, n_steps, statuses)
        going = torch.tensor([status is None for status in statuses], device=working.device)
        if not going.all():
            working, state = working[going], keep(state, going)
        if len(working) == 0:
            break
    return record.result()


class _Record:
    """Latest point and status of every molecule; mutable."""

    def __init__(self, batch: Batch, history: bool) -> None:
        energies = torch.full((len(batch),), torch.nan, dtype=torch.float64, device=batch.positions.device)
        self.batch = batch
        self.positions = batch.positions.double().clone()  # modified in place
        self.energies = energies
        self.forces = torch.full_like(self.positions, torch.nan)
        self.fmax = energies.clone()
        self.steps = torch.zeros_like(batch.charge)
        self.statuses: list[RelaxStatus | None] = [None] * len(batch)
        self.frames: list[list[_Frame]] | None = [[] for _ in self.statuses] if history else None

    def note(self, working: Tensor, point: Point, n_steps: int, statuses: Sequence[RelaxStatus | None]) -> None:
        """Stores the point and the status of the working molecules."""
        self.positions[working], self.energies[working] = point.positions, point.energies
        self.forces[working], self.fmax[working] = point.forces, largest_norm(point.forces)
        self.steps[working] = n_steps
        for molecule, status in zip(working.tolist(), statuses, strict=True):
            self.statuses[molecule] = status
            if self.frames is not None:
                place = self.positions[molecule][self.batch.atom_mask[molecule]].cpu().numpy()
                self.frames[molecule].append((place, self.energies[molecule].item(), self.fmax[molecule].item()))

    def result(self) -> RelaxResult:
        trajectories = None if self.frames is None else tuple(map(_trajectory, self.frames))
        return RelaxResult(
            positions=self.positions.to(self.batch.positions.dtype),
            energies=self.energies,
            forces=self.forces,
            fmax=self.fmax,
            steps=self.steps,
            statuses=tuple(RelaxStatus.STEP_LIMIT if status is None else status for status in self.statuses),
            trajectories=trajectories,
        )


def _trajectory(frames: Sequence[_Frame]) -> Trajectory:
    positions, energies, largest_forces = zip(*frames, strict=True)
    return Trajectory(np.stack(positions), np.array(energies), np.array(largest_forces))


def _statuses(
    state: QuasiNewtonState | FireState, was_apart: Tensor, first: Tensor, fmax: float, is_last: bool
) -> list[RelaxStatus | None]:
    """Status of each working molecule; None if its relaxation continues."""
    point = state.point
    has_exploded = (_is_apart(state.batch, point.positions) & ~was_apart).any(dim=1)
    given_up = state.idle >= MAX_IDLE
    is_still = largest_norm(point.forces) < fmax
    # Order matters: a dissociated atom feels no force and would count as converged.
    conditions = (
        (~is_finite(point), RelaxStatus.NOT_FINITE),
        (has_exploded, RelaxStatus.EXPLODED),
        (is_still & (point.energies > first + point.noise), RelaxStatus.ABOVE_START),
        (is_still, RelaxStatus.CONVERGED),
        (given_up & ~state.last_was_finite, RelaxStatus.NOT_FINITE),
        (given_up, RelaxStatus.STALLED),
        (torch.full_like(given_up, is_last), RelaxStatus.STEP_LIMIT),
    )
    flags = zip(*(condition.tolist() for condition, _ in conditions), strict=True)
    return [next((status for flag, (_, status) in zip(row, conditions, strict=True) if flag), None) for row in flags]


def _is_apart(batch: Batch, positions: Float[Tensor, "molecules slots 3"]) -> Bool[Tensor, "molecules slots"]:
    """Whether each atom is far from all other atoms of its molecule."""
    n_slots = positions.shape[1]
    not_a_pair = ~batch.atom_mask[:, None] | torch.eye(n_slots, dtype=torch.bool, device=positions.device)
    nearest = distances(positions).masked_fill(not_a_pair, torch.inf).amin(dim=2)
    # inf for a single atom, at the start as well, so that it does not count as exploded
    return (nearest > EXPLODED_DISTANCE) & batch.atom_mask


def _check_settings(fmax: float, max_steps: int, method: str) -> None:
    if method not in METHODS:
        raise PhysConError(f"unknown relaxation method {method!r}: choose one of {', '.join(METHODS)}")
    if not fmax > 0:
        raise PhysConError(f"fmax must be a force larger than 0 eV/Å, received {fmax}; 0.01 gives tight convergence")
    if max_steps < 0:
        raise PhysConError(f"max_steps must be 0 or more, received {max_steps}")


def _check_bonds(batch: Batch, bonds: Sequence[np.ndarray | None] | None) -> None:
    if bonds is None:
        return
    if len(bonds) != len(batch):
        raise PhysConError(
            f"bonds of {counted(len(bonds), 'molecule')} for a batch of {len(batch)}: pass MolGraph.bonds or None for "
            "each"
        )
    for row, (n_atoms, pairs) in enumerate(zip(batch.n_atoms.tolist(), bonds, strict=True)):
        if pairs is not None and pairs.max(initial=-1) >= n_atoms:
            raise PhysConError(
                f"molecule {row} has {counted(n_atoms, 'atom')}, but a bond to atom {pairs.max()}: pass the bonds of "
                "its graph"
            )
