"""Errors of a model on labelled items."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import with_positions
from physcon_ase.data.labels import charges_at, elements_at
from physcon_ase.data.loader import Items, evaluation_batches
from physcon_ase.data.sample import LabelledBatch, select
from physcon_ase.model.coverage import check_covers_charge, check_elements
from physcon_ase.model.noise import align, centred, gaussian_noise
from physcon_ase.model.physcon import PhysCon
from physcon_ase.training.losses.multitask import predict

_ATOMS_PER_BATCH = 1024


@dataclass(frozen=True)
class LevelErrors:
    """Mean absolute errors at one level of theory; NaN where there are no labels."""

    level: str
    """Name of the level."""
    n_energies: int
    """Number of energy labels."""
    energy_mae: float
    """Mean |E - E_label| [eV per molecule]."""
    n_forces: int
    """Number of force components with a label."""
    force_mae: float
    """Mean |F - F_label| over Cartesian components [eV/Å]."""
    direct_force_mae: float
    """The same of the direct heads; NaN without them."""


def check_coverage(model: PhysCon, items: Items, level: str) -> None:
    """Refuses items that the level does not cover.

    Raises:
        UnsupportedElementError, UnsupportedChargeError: see `model.coverage`.
    """
    check_elements(np.array(sorted(elements_at(items, level)), dtype=int), model, level)
    for charge in charges_at(items, level):
        check_covers_charge(charge, model, level)


def evaluate_energies(model: PhysCon, items: Items) -> tuple[LevelErrors, ...]:
    """Errors at each level of the items, which must be on the device of the model."""
    sums = torch.zeros(len(items.levels), 5, dtype=torch.float64)
    for labelled in evaluation_batches(items, atoms_per_batch=_ATOMS_PER_BATCH):
        prediction = predict(model, labelled, create_graph=False)
        energy_errors = (prediction.energies - labelled.energy).abs()
        force_errors, direct_errors = _sums_of_errors(prediction.forces, labelled), math.nan * energy_errors
        if len(model.direct_heads):
            with torch.no_grad():
                _, direct_forces = model.energies_and_direct_forces(labelled.batch, labelled.level)
            direct_errors = _sums_of_errors(direct_forces, labelled)
        for index in labelled.level.unique().tolist():
            here = labelled.level == index
            with_energy, with_forces = here & labelled.has_energy, here & labelled.has_forces
            sums[index, 0] += with_energy.sum().item()
            sums[index, 1] += energy_errors[with_energy].sum().item()
            sums[index, 2] += 3 * labelled.batch.n_atoms[with_forces].sum().item()
            sums[index, 3] += force_errors[with_forces].sum().item()
            sums[index, 4] += direct_errors[with_forces].sum().item()
    return tuple(
        _level_errors(name, *row) for name, row in zip(items.levels, sums.tolist(), strict=True) if row[0] or row[2]
    )


def evaluate_denoising(
    model: PhysCon, items: Items, *, sigmas: tuple[float, ...] = (0.05, 0.3, 1.0, 5.0)
) -> dict[float, float]:
    """Mean RMSD [Å], after alignment, of minima denoised in one step from noise of each width σ [Å]."""
    generator = torch.Generator().manual_seed(0)
    totals = dict.fromkeys(sigmas, 0.0)
    count = 0
    for labelled in evaluation_batches(items, atoms_per_batch=_ATOMS_PER_BATCH):
        labelled = select(labelled, labelled.is_minimum)
        if len(labelled) == 0:
            continue
        count += len(labelled)
        mask, clean = labelled.batch.atom_mask, centred(labelled.batch.positions, labelled.batch.atom_mask)
        denoiser = model.denoiser_at(labelled.level)
        for sigma in sigmas:
            noisy = clean + sigma * gaussian_noise(mask, generator=generator)
            with torch.no_grad():
                predicted = denoiser(with_positions(labelled.batch, noisy), clean.new_full((len(labelled),), sigma))
            errors = (align(clean, predicted, mask) - predicted).square().sum(dim=(1, 2)) / mask.sum(dim=1)
            totals[sigma] += errors.sqrt().sum().item()
    return {sigma: total / max(count, 1) for sigma, total in totals.items()}


def _sums_of_errors(forces: Tensor | None, labelled: LabelledBatch) -> Float[Tensor, " molecules"]:
    assert forces is not None
    return (forces - labelled.forces).abs().sum(dim=(1, 2)).to(torch.float64)


def _level_errors(
    level: str, n_energies: float, energy_sum: float, n_forces: float, force_sum: float, direct_sum: float
) -> LevelErrors:
    energy_mae = energy_sum / n_energies if n_energies else math.nan
    force_mae, direct_force_mae = (total / n_forces if n_forces else math.nan for total in (force_sum, direct_sum))
    return LevelErrors(level, int(n_energies), energy_mae, int(n_forces), force_mae, direct_force_mae)
