"""Potentials whose minima are known, as force functions."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from physcon_ase.batch import Batch, make_batch
from tests.tiny import ETHANOL, ETHANOL_NUMBERS

SIGMA = 3.4
"""Lennard-Jones length [Å]; the well depth is 1 eV. Minimum of a pair: 2^(1/6) σ."""

METHODS = ("lbfgs", "fire")

PairEnergy = Callable[[Tensor], Tensor]


def lennard_jones(distance: Tensor) -> Tensor:
    return 4 * ((SIGMA / distance) ** 12 - (SIGMA / distance) ** 6)


def morse(distance: Tensor) -> Tensor:
    """As ase.calculators.morse with epsilon = 1, r0 = 3.0, rho0 = 6.0."""
    decay = torch.exp(-6.0 * (distance / 3.0 - 1))
    return decay * (decay - 2)


def pair_forces(pair_energy: PairEnergy) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Force function of a pair potential, in the number format of the batch."""

    def force_fn(batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            positions = batch.positions.detach().requires_grad_()
            both = batch.atom_mask[:, :, None] & batch.atom_mask[:, None]
            both = both & torch.ones(both.shape[1:], dtype=torch.bool).triu(diagonal=1)
            square = (positions[:, :, None] - positions[:, None]).square().sum(dim=-1)
            # 1 where there is no pair: its gradient must not be NaN
            energies = torch.where(both, pair_energy(torch.where(both, square, 1).sqrt()), 0).sum(dim=(1, 2))
            (gradient,) = torch.autograd.grad(energies.sum(), positions)
        return energies.detach(), -gradient

    return force_fn


def spring_forces(batch: Batch) -> tuple[Tensor, Tensor]:
    """Harmonic springs between all atoms of an ethanol, at rest at `ETHANOL`."""
    with torch.enable_grad():
        positions = batch.positions.detach().requires_grad_()
        first, second = np.triu_indices(len(ETHANOL_NUMBERS), k=1)
        at_rest = np.linalg.norm(ETHANOL[first] - ETHANOL[second], axis=1)
        at_rest = torch.as_tensor(at_rest, dtype=positions.dtype)
        stretched = (positions[:, first] - positions[:, second]).norm(dim=-1) - at_rest
        stiffness = torch.where(at_rest < 1.6, 30.0, torch.where(at_rest < 2.6, 5.0, 0.3)).to(positions.dtype)
        energies = 0.5 * (stiffness * stretched.square()).sum(dim=1)
        (gradient,) = torch.autograd.grad(energies.sum(), positions)
    return energies.detach(), -gradient


def cluster(n_atoms: int, seed: int, spacing: float = 3.6) -> np.ndarray:
    """Positions [Å] of a compact cluster, well off its minimum."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    nearest = grid[np.argsort(((grid - 1.1) ** 2).sum(axis=1), kind="stable")[:n_atoms]]
    return spacing * nearest + np.random.default_rng(seed).normal(scale=0.25, size=(n_atoms, 3))


def simplex(n_atoms: int, seed: int, distance: float) -> np.ndarray:
    """Positions [Å] of 2, 3 or 4 atoms, all about this distance apart."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])[:n_atoms] * distance / 8**0.5
    return corners + np.random.default_rng(seed).normal(scale=0.1, size=(n_atoms, 3))


def argon_batch(positions: list[np.ndarray], dtype: torch.dtype = torch.float64, n_slots: int | None = None) -> Batch:
    return make_batch([np.full(len(place), 18) for place in positions], positions, dtype=dtype, n_slots=n_slots)


def rattled_ethanol(seed: int, scale: float = 0.1) -> np.ndarray:
    return ETHANOL + np.random.default_rng(seed).normal(scale=scale, size=ETHANOL.shape)
