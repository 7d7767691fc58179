"""Denoising: the structure head learns to undo noise on equilibrium structures."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physcon_ase.batch import with_positions
from physcon_ase.data.sample import LabelledBatch, select
from physcon_ase.model.config import StructureConfig
from physcon_ase.model.noise import align, centred, gaussian_noise, log_uniform
from physcon_ase.model.structure import DATA_SCALE, Denoiser

_WIDTH = 0.05
"""Noise [Å] below which errors are not weighted up any further: bond lengths are resolved well enough there."""


def denoising_loss(
    denoiser: Denoiser, labelled: LabelledBatch, config: StructureConfig, *, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Mean of |D(R_0 + σ ε, σ) - R_0|² w(σ) over atoms, with R_0 moved rigidly onto the noisy structure first.

    Without that alignment the best answer at large σ is a shrunken copy of R_0 averaged over rotations. The weight
    w = (σ² + s²)/(σ² s²), s the size of a molecule, makes every noise level count alike. Only geometries marked as
    minima take part; without any the loss is 0.
    """
    if not labelled.is_minimum.any():
        return labelled.batch.positions.new_zeros(())
    labelled = select(labelled, labelled.is_minimum)
    batch, mask = labelled.batch, labelled.batch.atom_mask
    clean = centred(batch.positions, mask)
    sigma = log_uniform(config.sigma_min, config.sigma_max, len(batch), generator=generator, like=clean)
    noise = gaussian_noise(mask, generator=generator, dtype=clean.dtype)
    noisy = clean + sigma[:, None, None] * noise
    predicted = denoiser(with_positions(batch, noisy), sigma)
    with torch.no_grad():
        target = align(clean, noisy, mask)
    return weighted_errors(predicted, target, sigma, mask, labelled.weight)


def weighted_errors(
    predicted: Float[Tensor, "molecules slots 3"],
    target: Float[Tensor, "molecules slots 3"],
    sigma: Float[Tensor, " molecules"],
    mask: Bool[Tensor, "molecules slots"],
    weight: Float[Tensor, " molecules"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of |D - D*|² w(σ) over atoms and molecules, w as in `denoising_loss`."""
    of_noise = 1 / (sigma.square() + _WIDTH**2) + 1 / DATA_SCALE**2
    errors = (predicted - target).square().sum(dim=2) * mask
    per_molecule = errors.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    weight = torch.ones_like(sigma) if weight is None else weight
    return (per_molecule * of_noise * weight).sum() / weight.sum().clamp(min=1e-12)
