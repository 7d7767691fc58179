"""Errors of a model on labelled items."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import with_positions
from physcon_ase.data.labels import elements_at
from physcon_ase.data.loader import Bucket, Items, evaluation_batches
from physcon_ase.data.sample import LabelledBatch, select
from physcon_ase.model.coverage import check_elements, format_charges, format_elements
from physcon_ase.model.noise import align, centred, gaussian_noise
from physcon_ase.model.physcon import PhysCon
from physcon_ase.plurals import counted
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


def covered_items(model: PhysCon, items: Items, level: str) -> tuple[Items, int]:
    """The items without those of elements or charges that a level does not cover, and the number of the latter.

    A level need not cover all that it was trained on, see `calibrate`.

    Raises:
        UnsupportedElementError: there are items at the level, and it covers the elements of none of them.
    """
    covered = model.level(level)
    elements, charges = torch.tensor([0, *covered.elements]), torch.tensor(covered.charges)  # 0 in empty slots
    n_at_level = n_known = n_foreign = 0
    buckets = []
    for bucket in items.buckets:
        at_level = bucket.level.cpu() == items.levels.index(level)
        is_known = torch.isin(bucket.atomic_numbers.cpu().long(), elements).all(dim=1)
        foreign = at_level & ~(is_known & torch.isin(bucket.charge.cpu().long(), charges))
        n_at_level, n_known = n_at_level + int(at_level.sum()), n_known + int((at_level & is_known).sum())
        n_foreign += int(foreign.sum())
        buckets.append(_rows(bucket, ~foreign) if foreign.any() else bucket)
    if n_at_level and not n_known:
        check_elements(np.array(sorted(elements_at(items, level)), dtype=int), model, level)
    return replace(items, buckets=tuple(bucket for bucket in buckets if len(bucket))), n_foreign


def left_out(number: int, model: PhysCon, level: str) -> str:
    """Number of items that `covered_items` left out, as a remark."""
    covered = model.level(level)
    elements, charges = format_elements(covered.elements), format_charges(covered.charges)
    n_left_out = counted(number, "geometry", "geometries")
    return f"{n_left_out} left out, level {level!r} only covers {elements} and charges {charges}"


def _rows(bucket: Bucket, chosen: Tensor) -> Bucket:
    """Some items of a bucket; the tensors of its molecules stay as they are."""
    of_items = [f.name for f in fields(bucket) if f.name not in ("pair_types", "tetrahedra")]
    rows = chosen.to(bucket.level.device)
    return replace(bucket, **{name: getattr(bucket, name)[rows] for name in of_items})


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
