"""Uncertainty of energies and forces from the last layer of the energy heads.

Last-layer prediction rigidity (Bigi, Chong, Ceriotti and Grasselli 2024, doi 10.1088/2632-2153/ad805f) treats the last,
linear layer of a trained network as a Bayesian linear regression on its input, the activated hidden layer. The variance
is small for a molecule whose features f lie in directions well represented by the training molecules.

    σ² = α² fᵀ (FᵀF / n + s² 1)⁻¹ f

F are the features of n training molecules; α is fitted to the errors of held-out molecules, so that σ is a standard
deviation of the error; s² keeps the inverse finite in float32. The features of a molecule are the sum over its atoms;
their mean ranks the errors of molecules of different sizes less well.

The uncertainty of forces has the same form with the features of each atom in place of those of the molecule, and with
one α for each element, because hydrogen has half the error of carbon at equal rigidity. This is not a propagation of
the uncertainty of the energy, which would require the derivative of every feature, but it ranks the errors of atoms.
"""

from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from physcon_ase.model.config import MAX_ATOMIC_NUMBER

REGULARISER: Final = 1e-6
"""s² relative to the mean eigenvalue of FᵀF / n. Values up to 0.1 fit the held-out errors equally well, but rank
them less well; smaller values have no effect."""

POOLED_ATOMS: Final = 200
"""Weight, as a number of atoms, of the common factor of all elements in that of each element (shrinkage)."""


LIMIT_QUANTILE: Final = 0.995
"""Fraction of the validation molecules whose σ / sqrt(number of atoms) is below the limit of status "uncertain"."""


class EnergyRigidity(nn.Module):
    """Standard deviation [eV] of the energies of one level; a table that is not trained."""

    factor: Tensor
    limit: Tensor
    """`LIMIT_QUANTILE` of σ / sqrt(number of atoms) [eV] of the validation molecules."""

    def __init__(self, n_features: int):
        super().__init__()
        self.register_buffer("factor", torch.zeros(n_features, n_features))
        self.register_buffer("limit", torch.zeros(()))

    def forward(self, features: Float[Tensor, "molecules slots features"]) -> Float[Tensor, " molecules"]:
        """σ = |f A| with A Aᵀ = α² (FᵀF / n + s² 1)⁻¹."""
        return rigidity(features.sum(dim=1), self.factor)


class ForceRigidity(nn.Module):
    """Standard deviation [eV/Å] of each Cartesian component of the forces of one level."""

    factor: Tensor
    scale: Tensor

    def __init__(self, n_features: int):
        super().__init__()
        self.register_buffer("factor", torch.zeros(n_features, n_features))
        self.register_buffer("scale", torch.zeros(MAX_ATOMIC_NUMBER + 1))

    def forward(
        self, features: Float[Tensor, "molecules slots features"], atomic_numbers: Int[Tensor, "molecules slots"]
    ) -> Float[Tensor, "molecules slots"]:
        """σ = α |h A| with α of the element and A Aᵀ = (HᵀH / n + s² 1)⁻¹; 0 in empty slots."""
        return self.scale[atomic_numbers] * rigidity(features, self.factor)


def features_of_atoms(
    hidden: Float[Tensor, "molecules slots hidden"], mask: Bool[Tensor, "molecules slots"]
) -> Float[Tensor, "molecules slots hidden"]:
    """Input of the last layer of the energy head for each atom; 0 in empty slots."""
    return nn.functional.silu(hidden) * mask[..., None]


def inverse_factor(second_moment: Float[Tensor, "features features"]) -> Float[Tensor, "features features"]:
    """A with A Aᵀ = (FᵀF / n + s² 1)⁻¹, float64, from FᵀF / n."""
    values, vectors = torch.linalg.eigh(second_moment.double())
    return vectors * (values.clamp(min=0.0) + REGULARISER * values.mean()).rsqrt()


def energy_table(
    second_moment: Float[Tensor, "features features"],
    features: Float[Tensor, "molecules features"],
    errors: Float[Tensor, " molecules"],
    n_atoms: Int[Tensor, " molecules"],
) -> dict[str, Tensor]:
    """The buffers of an `EnergyRigidity`; α² = mean(errors² / q) is the maximum-likelihood value.

    Args:
        second_moment: FᵀF / n of training molecules.
        features: of molecules that the model was not trained on.
        errors: errors of their energies [eV].
        n_atoms: numbers of atoms of the same molecules.
    """
    factor = inverse_factor(second_moment)
    raw = rigidity(features.double(), factor)
    scale = (errors.double() / raw).square().mean().sqrt()
    return {"factor": factor * scale, "limit": (scale * raw / n_atoms.sqrt()).quantile(LIMIT_QUANTILE)}


def force_table(
    second_moment: Float[Tensor, "features features"],
    features: Float[Tensor, "atoms features"],
    errors: Float[Tensor, "atoms 3"],
    atomic_numbers: Int[Tensor, " atoms"],
) -> dict[str, Tensor]:
    """The buffers of a `ForceRigidity`.

    Args:
        second_moment: HᵀH / n of atoms of training molecules.
        features: of atoms of molecules that the model was not trained on.
        errors: errors of their forces [eV/Å].
        atomic_numbers: atomic numbers of the same atoms.
    """
    factor = inverse_factor(second_moment)
    ratios = errors.double().square().mean(dim=1) / rigidity(features.double(), factor).square()
    pooled = torch.full((MAX_ATOMIC_NUMBER + 1,), POOLED_ATOMS, dtype=torch.float64)
    sums = (pooled * ratios.mean()).index_add(0, atomic_numbers, ratios)
    counts = pooled.index_add(0, atomic_numbers, torch.ones_like(ratios))
    return {"factor": factor, "scale": (sums / counts).sqrt()}


def rigidity(
    features: Float[Tensor, "*rows features"], factor: Float[Tensor, "features features"]
) -> Float[Tensor, "*rows"]:
    """|f A|, the square root of fᵀ A Aᵀ f; unlike this product it cannot become negative by rounding."""
    return torch.linalg.vector_norm(features @ factor, dim=-1)
