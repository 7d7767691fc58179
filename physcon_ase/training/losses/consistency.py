"""Losses of physical consistency between the structure network and the energy of a level of theory, the teacher.

Ren, Bai, Zhang, He, Xiao and Liu, NeurIPS 2024, doi 10.48550/arXiv.2410.10118. Structures come from a cheap method,
energies from a more accurate one. An equilibrium structure is a minimum of the energy (optimality consistency), and the
score of the thermal distribution is the force divided by kT (score consistency). Both laws move predicted structures
from the minima of the cheap method towards those of the accurate one. The teacher is frozen: its weights get no
gradient.

Each law has its published form, and forms without its disadvantages:

    optimality  hinge    max(0, E(D) - E(D + η)), published; stochastic, and insensitive to soft modes
                newton   |H⁻¹ F(D)|²: distance to the minimum, estimated with an approximate Hessian H
    score       noisy    (D - R)/τ² = -∇E(R)/kT at the noisy structure, published; exact for τ² k << kT only
                clean    the same with the derivative at the clean structure R_0
                newton   D = R_0 + H⁻¹ F(R_0): the cheap minimum, after a Newton step of the teacher
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, EnergyFn, with_positions
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.noise import align, centred, gaussian_noise, log_uniform
from physcon_ase.model.springs import spring_hessian
from physcon_ase.model.structure import Denoiser
from physcon_ase.training.losses.structure import weighted_errors
from physcon_ase.training.recipe import OptimalityRecipe, ScoreRecipe
from physcon_ase.valence.model_hessian import newton_steps

MAX_STEP: Final = 0.2
"""Maximum Newton step [Å] of an atom, since the approximate Hessian is not valid for larger ones."""


def optimality_loss(
    denoiser: Denoiser,
    energy_fn: EnergyFn,
    minima: LabelledBatch,
    recipe: OptimalityRecipe,
    *,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Deviation of the structures D(R_0 + τ ε, τ) from minima of the energy.

    Args:
        denoiser: the structure network, which alone is trained.
        energy_fn: the teacher.
        minima: the R_0.
        recipe: variant, noise and settings.
        generator: random numbers of noise and displacements.

    Returns:
        Mean of the hinge [eV per molecule] or of the squared Newton steps, weighted as in `structure.weighted_errors`.
    """
    batch, _, noisy, sigma = _noisy_minima(minima, recipe, generator)
    predicted = denoiser(with_positions(batch, noisy), sigma)
    if recipe.variant == "hinge":
        eta = recipe.width * gaussian_noise(batch.atom_mask, generator=generator, dtype=predicted.dtype)
        here = linearised_energies(energy_fn, batch, predicted, recipe.max_force)
        there = linearised_energies(energy_fn, batch, predicted + eta, recipe.max_force)
        return (here - there).clamp(min=0).mean().to(predicted.dtype)
    step = teacher_steps(energy_fn, with_positions(batch, predicted.detach()))
    return weighted_errors(predicted, predicted.detach() + step, sigma, batch.atom_mask)


def score_loss(
    denoiser: Denoiser,
    energy_fn: EnergyFn,
    minima: LabelledBatch,
    recipe: ScoreRecipe,
    *,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Deviation of D(R, τ) from the structure that the score of the energy determines for R = R_0 + τ ε.

    Args:
        denoiser: the structure network, which alone is trained.
        energy_fn: the teacher.
        minima: the R_0.
        recipe: variant, noise and settings.
        generator: random numbers of the noise.

    Returns:
        Mean over atoms of |D - D*|², weighted as in `structure.weighted_errors`, with D* the structure required
        by the law. For the published form this is τ⁴/(τ² + s²) |(D - R)/τ² + ∇E(R)/kT|².
    """
    batch, clean, noisy, sigma = _noisy_minima(minima, recipe, generator)
    predicted = denoiser(with_positions(batch, noisy), sigma)
    with torch.no_grad():
        target = _SCORE_TARGETS[recipe.variant](energy_fn, batch, clean, noisy, sigma, recipe)
    return weighted_errors(predicted, target, sigma, batch.atom_mask)


def linearised_energies(
    energy_fn: EnergyFn, batch: Batch, positions: Float[Tensor, "molecules slots 3"], max_force: float = float("inf")
) -> Float[Tensor, " molecules"]:
    """Energies [eV], once differentiable with respect to the positions, but not with respect to weights of `energy_fn`.

    Args:
        energy_fn: the teacher.
        batch: the molecules.
        positions: their positions [Å].
        max_force: maximum force [eV/Å] on an atom; larger ones are clipped, since clashing atoms outweigh all others.
    """
    energies, forces = energies_and_forces(energy_fn, with_positions(batch, positions.detach()))
    lengths = forces.norm(dim=2, keepdim=True)
    forces = forces * (max_force / lengths.clamp(min=max_force)) if max_force < float("inf") else forces
    return energies.detach() - (forces.detach() * (positions - positions.detach())).sum(dim=(1, 2))


def teacher_steps(energy_fn: EnergyFn, batch: Batch) -> Float[Tensor, "molecules slots 3"]:
    """Newton steps H⁻¹ F [Å] of the teacher with the Hessian of `springs.spring_hessian`, at most `MAX_STEP` per atom,
    without translation and, to first order, rotation of the molecule.
    """
    _, forces = energies_and_forces(energy_fn, batch)
    forces = forces.detach().to(batch.positions.dtype)
    steps = newton_steps(forces, spring_hessian(batch)) * batch.atom_mask[..., None]
    longest = steps.norm(dim=2).amax(dim=1)[:, None, None]
    return steps * (MAX_STEP / longest.clamp(min=MAX_STEP))


def _noisy_minima(
    minima: LabelledBatch, recipe: OptimalityRecipe | ScoreRecipe, generator: torch.Generator
) -> tuple[Batch, Tensor, Tensor, Tensor]:
    """The minima, their centred positions R_0, R_0 + τ ε, and τ."""
    batch = minima.batch
    clean = centred(batch.positions, batch.atom_mask)
    sigma = log_uniform(recipe.sigma_min, recipe.sigma_max, len(batch), generator=generator, like=clean)
    noise = gaussian_noise(batch.atom_mask, generator=generator, dtype=clean.dtype)
    return batch, clean, clean + sigma[:, None, None] * noise, sigma


ScoreTarget: TypeAlias = Callable[[EnergyFn, Batch, Tensor, Tensor, Tensor, ScoreRecipe], Tensor]
"""(teacher, batch, R_0, R, τ, recipe) -> target of D(R, τ)."""


def _noisy_target(
    energy_fn: EnergyFn, batch: Batch, clean: Tensor, noisy: Tensor, sigma: Tensor, recipe: ScoreRecipe
) -> Tensor:
    _, forces = energies_and_forces(energy_fn, with_positions(batch, noisy))
    return noisy + _mobility(sigma, recipe) * forces.to(noisy.dtype)


def _clean_target(
    energy_fn: EnergyFn, batch: Batch, clean: Tensor, noisy: Tensor, sigma: Tensor, recipe: ScoreRecipe
) -> Tensor:
    """E[∇ log p(R_0) | R] is the score at R: De Bortoli et al. 2024, doi 10.48550/arXiv.2402.08667."""
    _, forces = energies_and_forces(energy_fn, with_positions(batch, clean))
    return noisy + _mobility(sigma, recipe) * forces.to(noisy.dtype)


def _newton_target(
    energy_fn: EnergyFn, batch: Batch, clean: Tensor, noisy: Tensor, sigma: Tensor, recipe: ScoreRecipe
) -> Tensor:
    steps = teacher_steps(energy_fn, with_positions(batch, clean))
    return align(clean + steps, noisy, batch.atom_mask)


def _mobility(sigma: Tensor, recipe: ScoreRecipe) -> Tensor:
    """τ²/kT [Å²/eV], where kT grows with τ² so that springs up to `stiffness` keep τ² k < kT."""
    temperature = (recipe.stiffness * sigma.square()).clamp(min=recipe.kt)
    return (sigma.square() / temperature)[:, None, None]


_SCORE_TARGETS: Final[dict[str, ScoreTarget]] = {
    "noisy": _noisy_target,
    "clean": _clean_target,
    "newton": _newton_target,
}
