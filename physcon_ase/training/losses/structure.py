"""Losses of the structure network: denoising of equilibrium structures, and refinement of its own predictions."""

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physcon_ase.batch import with_positions
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.model.config import StructureConfig
from physcon_ase.model.noise import align, centred, gaussian_noise, log_uniform
from physcon_ase.model.structure import DATA_SCALE, Denoiser

_PREDICTED_FROM: Final = (0.05, 0.3)
"""Noise [Å] that the structures of `refinement_loss` are predicted from."""

_REFINED_AT: Final = (0.02, 0.1)
"""Noise levels [Å] at which predicted structures, which have no noise, are refined."""

_WIDTH: Final = 0.05
"""Noise [Å] below which the weight of errors no longer increases, since bond lengths are sufficiently resolved."""


def denoising_loss(
    denoiser: Denoiser, minima: LabelledBatch, config: StructureConfig, *, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Mean of |D(R_0 + σ ε, σ) - R_0|² w(σ) over atoms, with the minima R_0 moved rigidly onto the noisy structures.

    Without that alignment the optimum at large σ is R_0 averaged over rotations. The weight
    w = 1/(σ² + `_WIDTH`²) + 1/s², s = `DATA_SCALE`, makes the contributions of all noise levels similar.
    """
    batch, mask = minima.batch, minima.batch.atom_mask
    clean = centred(batch.positions, mask)
    sigma = log_uniform(config.sigma_min, config.sigma_max, len(batch), generator=generator, like=clean)
    noise = gaussian_noise(mask, generator=generator, dtype=clean.dtype)
    noisy = clean + sigma[:, None, None] * noise
    predicted = denoiser(with_positions(batch, noisy), sigma)
    with torch.no_grad():
        target = align(clean, noisy, mask)
    return weighted_errors(predicted, target, sigma, mask, minima.weight)


def refinement_loss(denoiser: Denoiser, minima: LabelledBatch, *, generator: torch.Generator) -> Float[Tensor, ""]:
    """Mean of |D(R', σ) - R_0| over atoms, in units of `_WIDTH`; R' is predicted by the network from a noisy minimum.

    In predicted structures the stiff modes are correct and the soft ones are not. Isotropic noise does not produce such
    structures, and a network trained on it alone leaves them unchanged. The error is not squared, because some
    predictions are in another basin.
    """
    batch, mask = minima.batch, minima.batch.atom_mask
    clean = centred(batch.positions, mask)
    first = log_uniform(*_PREDICTED_FROM, len(batch), generator=generator, like=clean)
    sigma = log_uniform(*_REFINED_AT, len(batch), generator=generator, like=clean)
    noise = gaussian_noise(mask, generator=generator, dtype=clean.dtype)
    with torch.no_grad():
        place = denoiser(with_positions(batch, clean + first[:, None, None] * noise), first)
        # a second time for half of the molecules: results of a refinement are inputs of the next
        again = (torch.rand(len(batch), generator=generator) < 0.5).to(clean.device)
        place = torch.where(again[:, None, None], denoiser(with_positions(batch, place), sigma), place)
        target = align(clean, place, mask)
    predicted = denoiser(with_positions(batch, place), sigma)
    errors = ((predicted - target).square().sum(dim=2) + _WIDTH**2).sqrt() / _WIDTH - 1
    return _mean(errors, mask, minima.weight)


def weighted_errors(
    predicted: Float[Tensor, "molecules slots 3"],
    target: Float[Tensor, "molecules slots 3"],
    sigma: Float[Tensor, " molecules"],
    mask: Bool[Tensor, "molecules slots"],
    weight: Float[Tensor, " molecules"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of |D - D*|² w(σ) over atoms and molecules, w as in `denoising_loss`."""
    of_noise = 1 / (sigma.square() + _WIDTH**2) + 1 / DATA_SCALE**2
    errors = (predicted - target).square().sum(dim=2) * of_noise[:, None]
    return _mean(errors, mask, torch.ones_like(sigma) if weight is None else weight)


def _mean(
    errors: Float[Tensor, "molecules slots"], mask: Bool[Tensor, "molecules slots"], weight: Float[Tensor, " molecules"]
) -> Float[Tensor, ""]:
    """Mean over the atoms of each molecule, then weighted over molecules."""
    per_molecule = (errors * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return (per_molecule * weight).sum() / weight.sum().clamp(min=1e-12)
