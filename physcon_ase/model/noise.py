"""Gaussian noise on structures, noise levels, and superposition of structures by rigid motions.

Variance-exploding convention: R_σ = R_0 + σ ε with ε standard normal without motion of the centre of mass. The
variance-preserving form of Ren et al. (NeurIPS 2024) is the same process with σ² = (1 - ᾱ)/ᾱ and R_t = sqrt(ᾱ) R_σ.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def centred(
    positions: Float[Tensor, "molecules slots 3"], mask: Bool[Tensor, "molecules slots"]
) -> Float[Tensor, "molecules slots 3"]:
    """Positions relative to the mean of the atoms; 0 in empty slots."""
    weights = mask.to(positions.dtype)[..., None]
    centre = (positions * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return (positions - centre) * weights


def gaussian_noise(
    mask: Bool[Tensor, "molecules slots"], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "molecules slots 3"]:
    """Standard normal displacements with zero mean over the atoms of each molecule.

    They are drawn on the device of the generator: one on the CPU gives the same noise for all devices.
    """
    noise = torch.randn(*mask.shape, 3, generator=generator, dtype=dtype, device=generator.device)
    return centred(noise.to(mask.device), mask)


def log_uniform(
    lowest: float, highest: float, n_molecules: int, *, generator: torch.Generator, like: Tensor
) -> Float[Tensor, " molecules"]:
    """Noise levels [Å], uniform in log σ, on the device and in the number format of a tensor."""
    uniform = torch.rand(n_molecules, generator=generator, device=generator.device)
    return (lowest * (highest / lowest) ** uniform).to(like)


def sigma_schedule(first: float, last: float, n_steps: int) -> list[float]:
    """Falling noise levels [Å] from `first` to `last`, evenly spaced in σ^(1/7).

    Karras, Aittala, Aila and Laine, NeurIPS 2022, doi 10.48550/arXiv.2206.00364, eq. 5 (ρ = 7).
    """
    if n_steps == 1:
        return [first]
    ends = first ** (1 / 7), last ** (1 / 7)
    return [(ends[0] + i / (n_steps - 1) * (ends[1] - ends[0])) ** 7 for i in range(n_steps)]


def align(
    mobile: Float[Tensor, "molecules slots 3"],
    target: Float[Tensor, "molecules slots 3"],
    mask: Bool[Tensor, "molecules slots"],
) -> Float[Tensor, "molecules slots 3"]:
    """`mobile` moved rigidly onto `target` (least squares, proper rotations only).

    Kabsch 1976, doi 10.1107/S0567739476001873.
    """
    mobile, goal = centred(mobile, mask), centred(target, mask)
    weights = mask.to(goal.dtype)[..., None]
    centre = (target * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1)
    left, _, right = torch.linalg.svd(mobile.transpose(1, 2) @ goal)
    handedness = torch.linalg.det(left @ right).sign()
    signs = torch.stack([torch.ones_like(handedness), torch.ones_like(handedness), handedness], dim=1)
    return (mobile @ ((left * signs[:, None]) @ right) + centre) * weights
