"""Many inaccurate forces and few accurate ones: ASTEROID.

Bukharin, Liu, Wang, Zuo, Gao, Yan and Zhao, ICML 2023, doi 10.48550/arXiv.2306.03109. A model fitted to the few
accurate labels weights the inaccurate ones: the larger the deviation from this model, the smaller the weight. Without
labels, forces are trained on the distribution of a thermal ensemble of geometries (score matching). In both cases
fine-tuning on the accurate labels follows, with a recipe of its own.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, EnergyFn, with_positions
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.model.forces import energies_and_forces


def bias_weights(
    forces: Float[Tensor, "molecules slots 3"], labelled: LabelledBatch, gamma: float
) -> Float[Tensor, " molecules"]:
    """exp(-b/γ) for each molecule, b the mean absolute difference of the force components; 1 without force labels.

    Args:
        forces: forces [eV/Å] of the model that was fitted to accurate labels.
        labelled: the inaccurate labels.
        gamma: γ, the bias [eV/Å] at which the weight is 1/e.
    """
    known, mask = labelled.has_forces, labelled.batch.atom_mask
    differences = (forces - torch.where(known[:, None, None], labelled.forces, forces)).abs() * mask[..., None]
    bias = differences.sum(dim=(1, 2)) / (3 * mask.sum(dim=1).clamp(min=1))
    return torch.exp(-bias / gamma)


def score_matching_loss(
    energy_fn: EnergyFn, batch: Batch, kt: float, *, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Mean of (½|F|² + kT vᵀ ∇(F·v)) / n over molecules of n atoms, v ±1: up to a constant the distance between F/kT
    and the score of the ensemble that the geometries are drawn from.

    Hyvärinen 2005 (jmlr.org/papers/v6/hyvarinen05a.html) in the sliced form of Song, Garg, Shi and Ermon, UAI 2019, doi
    10.48550/arXiv.1905.07088. The random signs give an estimate of the Laplacian of low variance.

    Args:
        energy_fn: energies to be trained.
        batch: geometries of a thermal ensemble.
        kt: k_B T [eV] of the ensemble.
        generator: random numbers of the directions v.
    """
    positions = batch.positions.detach().requires_grad_()
    _, forces = energies_and_forces(energy_fn, with_positions(batch, positions), create_graph=True)
    signs = torch.randint(0, 2, positions.shape, generator=generator).to(positions) * 2 - 1
    signs = signs * batch.atom_mask[..., None]
    (slope,) = torch.autograd.grad((forces * signs).sum(), positions, create_graph=True)
    per_molecule = (0.5 * forces.square() + kt * slope * signs).sum(dim=(1, 2))
    return (per_molecule / batch.n_atoms).mean()
