"""Errors of energies and forces at several levels of theory; absent labels are masked per sample."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.data.sample import LabelledBatch
from physcon_ase.model.charge_groups import ChargeGroups
from physcon_ase.model.physcon import PhysCon

_HUBER_WIDTH = 0.02
"""Errors [eV, eV/Å] below this count quadratically, larger ones linearly: the mean absolute error, made smooth."""

_NEAR = 0.5
"""Largest distance [Å] of an atom from its mean position in geometries close to each other."""

_CHARGE_WIDTH = 0.02
"""Errors [e] below this count quadratically."""


@dataclass(frozen=True)
class BatchPrediction:
    """Energies, forces and charges of a labelled batch, each molecule at the level of its labels."""

    energies: Float[Tensor, " molecules"]
    """[eV, float64]."""
    forces: Float[Tensor, "molecules slots 3"] | None
    """Derivatives of the energies [eV/Å]; None if not requested."""
    direct_forces: Float[Tensor, "molecules slots 3"] | None = None
    """Those of the direct heads [eV/Å]; None if not requested."""
    charges: tuple[Float[Tensor, "molecules slots"], ...] = ()
    """Partial charges [e] that sum to the total charge, early and late; empty for a network without."""
    local_charges: tuple[Float[Tensor, "molecules slots"], ...] = ()
    """Local charges, before the total charge is imposed, early and late [e]."""
    groups: ChargeGroups | None = None
    """Groups of atoms with total charges of their own; None if each molecule is one."""


def predict(
    model: PhysCon, labelled: LabelledBatch, *, create_graph: bool, forces: bool = True, direct_forces: bool = False
) -> BatchPrediction:
    """Energies and forces at the level of each label, from one pass through the energy network.

    In training, separate groups of atoms get the total formal charges of their atoms.

    Args:
        model: the model.
        labelled: the molecules.
        create_graph: keeps the graph of the derived forces, for training.
        forces: whether to derive forces from the energies; without them nothing is differentiated by positions.
        direct_forces: whether to evaluate the direct heads, too.

    Raises:
        MissingHeadError: the model has no direct heads.
    """
    batch = replace(labelled.batch, formal_charges=labelled.formal_charges) if create_graph else labelled.batch
    with torch.set_grad_enabled(create_graph):
        found = model.evaluate(batch, labelled.level, forces=forces, direct_forces=direct_forces)
    charges = tuple(own for own in (found.charges, found.early_charges) if own is not None)
    return BatchPrediction(
        found.energies, found.forces, found.direct_forces, charges, found.local_charges, found.groups
    )


def energy_loss(prediction: BatchPrediction, labelled: LabelledBatch) -> Float[Tensor, ""]:
    """Mean error of the total energies [eV], smoothed at zero; 0 if no molecule has a label."""
    known = labelled.has_energy
    # where() before the arithmetic: the gradient of a NaN label is NaN even if multiplied by zero.
    target = torch.where(known, labelled.energy, prediction.energies.detach())
    errors = _smooth((prediction.energies - target).abs())
    return _weighted_mean(errors.to(labelled.weight.dtype), labelled.weight * known)


def relative_energy_loss(prediction: BatchPrediction, labelled: LabelledBatch) -> Float[Tensor, ""]:
    """Mean error of energies relative to the mean of the molecule's geometries in the batch [eV], smoothed at zero.

    Geometries without label or without another one of the same molecule and level do not count; 0 without any.
    """
    rows = torch.nonzero(labelled.has_energy)[:, 0]
    errors = prediction.energies[rows] - labelled.energy[rows]
    group, sizes = _of_one_molecule(labelled, rows)
    deviations = _deviations(errors, group, sizes).abs() * _unbiased(sizes)[group]
    return _weighted_mean(_smooth(deviations).to(labelled.weight.dtype), labelled.weight[rows] * (sizes > 1)[group])


def charge_loss(prediction: BatchPrediction, labelled: LabelledBatch) -> Float[Tensor, ""]:
    """Mean error of the partial charges [e], also of the local ones; 0 if no molecule has labels."""
    known = labelled.has_charges
    weights = (labelled.weight * known)[:, None] * labelled.batch.atom_mask
    target = torch.where(known[:, None], labelled.charges, 0.0)
    errors = [
        _weighted_mean(_smooth(found - target, _CHARGE_WIDTH), weights)
        for found in (*prediction.charges, *prediction.local_charges)
    ]
    return torch.stack(errors).mean()


def total_charge_loss(prediction: BatchPrediction, labelled: LabelledBatch) -> Float[Tensor, ""]:
    """Mean deviation of the sum of the local charges from the total charge [e], smoothed at zero; needs no labels.

    If there are separate groups of atoms (`model.charge_groups`), it is the mean over the groups of each partition,
    from the total formal charge of each group, weighted by the partitions.
    """
    groups = prediction.groups
    errors = []
    for own in prediction.local_charges:
        if groups is None:
            deviations = _smooth(own.sum(dim=1) - labelled.batch.charge, _CHARGE_WIDTH)
        else:
            assert groups.formal is not None
            of_groups = _smooth(groups.sums(own) - groups.formal, _CHARGE_WIDTH) * groups.exist
            deviations = (groups.weights.detach() * of_groups.sum(dim=2) / groups.exist.sum(dim=2)).sum(dim=0)
        errors.append(_weighted_mean(deviations, labelled.weight))
    return torch.stack(errors).mean()


def force_loss(forces: Float[Tensor, "molecules slots 3"], labelled: LabelledBatch) -> Float[Tensor, ""]:
    """Mean length of the force errors [eV/Å], smoothed at zero; 0 if no molecule has a label."""
    return mean_length(force_errors(forces, labelled), labelled, _HUBER_WIDTH)


def relative_force_loss(forces: Float[Tensor, "molecules slots 3"], labelled: LabelledBatch) -> Float[Tensor, ""]:
    """Mean length of the force errors relative to their mean over the molecule's geometries in the batch [eV/Å].

    A wrong position of a minimum is an error that geometries around it share; what remains is that of the curvature.
    Geometries far from each other (conformers) do not count, nor those without a label; 0 without any.
    """
    rows = torch.nonzero(labelled.has_forces)[:, 0]
    errors, places = force_errors(forces, labelled)[rows], labelled.batch.positions[rows]
    group, sizes = _of_one_molecule(labelled, rows)
    moved = _deviations(places, group, sizes).norm(dim=2).amax(dim=1)
    furthest = moved.new_zeros(len(sizes)).scatter_reduce(0, group, moved, "amax")
    counts = ((sizes > 1) & (furthest < _NEAR))[group]
    lengths = _smooth_length(_deviations(errors, group, sizes) * _unbiased(sizes)[group][:, None, None], _HUBER_WIDTH)
    return _weighted_mean(lengths, (labelled.weight[rows] * counts)[:, None] * labelled.batch.atom_mask[rows])


def force_errors(
    forces: Float[Tensor, "molecules slots 3"], labelled: LabelledBatch
) -> Float[Tensor, "molecules slots 3"]:
    """Errors of the forces [eV/Å]; 0 where there is no label."""
    return forces - torch.where(labelled.has_forces[:, None, None], labelled.forces, forces.detach())


def mean_length(errors: Float[Tensor, "molecules slots 3"], labelled: LabelledBatch, width: float) -> Float[Tensor, ""]:
    """Weighted mean length over atoms with force labels, quadratic below `width`; 0 without any."""
    weights = (labelled.weight * labelled.has_forces)[:, None] * labelled.batch.atom_mask
    return _weighted_mean(_smooth_length(errors, width), weights)


def _of_one_molecule(labelled: LabelledBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Group of each of these rows, those of the same molecule and level; size of each group."""
    keys = torch.stack([labelled.identity[rows], labelled.level[rows]], dim=1)
    _, group, sizes = keys.unique(dim=0, return_inverse=True, return_counts=True)
    return group, sizes


def _deviations(values: Tensor, group: Tensor, sizes: Tensor) -> Tensor:
    """Values relative to the mean of their group."""
    means = values.new_zeros(len(sizes), *values.shape[1:]).index_add(0, group, values)
    means = means / sizes.view(-1, *[1] * (values.ndim - 1))
    return values - means[group]


def _unbiased(sizes: Tensor) -> Tensor:
    """Factors that make deviations from the mean of a sample as large as those from the true mean."""
    return (sizes / (sizes - 1).clamp(min=1)).sqrt()


def _smooth_length(errors: Tensor, width: float) -> Tensor:
    return (errors.square().sum(dim=2) + width**2).sqrt() - width  # the root of 0 has no derivative


def _smooth(errors: Tensor, width: float = _HUBER_WIDTH) -> Tensor:
    return (errors.square() + width**2).sqrt() - width


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1e-12)
