"""Spherical harmonics from e3nn, and the monomials that they are made of."""

import torch
from e3nn import o3
from torch import Tensor

from physcon_ase.model.pairs import monomials


def random_directions(n: int = 20) -> Tensor:
    vectors = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True)


def e3nn_harmonics(degree: int, vectors: Tensor) -> Tensor:
    return o3.spherical_harmonics(degree, vectors, normalize=True, normalization="norm")


def harmonics_from_monomials() -> Tensor:
    """Matrix [5, 5] that turns the monomials of degree 2 into harmonics, fitted to random directions."""
    directions = random_directions()
    return torch.linalg.lstsq(monomials(directions.T)[4:].T, e3nn_harmonics(2, directions)).solution.T
