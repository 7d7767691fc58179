"""Constant matrices of the spherical harmonics and their couplings, from e3nn.

They are computed when a model is created and stored in its checkpoint, so that inference does not import e3nn.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physcon_ase.errors import CorruptCheckpointError
from physcon_ase.model.pairs import N_MONOMIALS, monomials

COUPLED: Final = (1, 3, 5, 3)
"""Number of components of each of the four couplings of `Couplings.vectors`."""

_PREFIX: Final = "couplings."


@dataclass(frozen=True)
class Couplings:
    """Constant matrices of an `interaction.InteractionLayer`, float64."""

    forms: Float[Tensor, "9 5"]
    """Matrix that maps xx - zz, yy - zz, xy, yz, zx to the nine elements of a symmetric traceless 3x3 matrix by way of
    the harmonics of l = 2; the quadratic form of each harmonic has unit Frobenius norm."""
    vectors: Float[Tensor, "12 27"]
    """Rows: couplings of (monomials ⊗ vector) to 1⊗1→0 (1), 0⊗1→1 (3), 1⊗1→2 (5), 2⊗1→1 (3).

    Natural parity only: a cross product would be a pseudovector. l = 2 is given as coefficients of the monomials of
    degree 2, so that it can be added to them. The rows in spherical components have unit norm, if
    those of 2⊗1→1 are written in xx, yy, zz, xy, yz, zx."""


@functools.cache
def make_couplings() -> Couplings:
    """The matrices from e3nn's harmonics ("norm") and Wigner 3j symbols."""
    from e3nn import o3

    directions = torch.nn.functional.normalize(_DIRECTIONS, dim=1)
    harmonics = o3.spherical_harmonics(2, directions, normalize=True, normalization="norm")
    of_monomials = torch.linalg.solve(monomials(directions.T)[4:].T, harmonics).T  # harmonics from monomials
    symbols = {degrees: o3.wigner_3j(*degrees, dtype=torch.float64) for degrees in ((1, 1, 0), (0, 1, 1), (1, 1, 2))}
    forms = math.sqrt(5) * symbols[1, 1, 2]  # (3, 3, 5)
    dot, straight, quadrupole, turned = (torch.zeros(n, N_MONOMIALS, 3, dtype=torch.float64) for n in COUPLED)
    dot[0, 1:4] = symbols[1, 1, 0][:, :, 0]
    straight[:, 0] = math.sqrt(3) * symbols[0, 1, 1][0].T
    quadrupole[:, 1:4] = torch.einsum("pm,oim->poi", torch.linalg.inv(of_monomials), forms)
    turned[:, 4:] = torch.einsum("oim,mp->opi", forms, of_monomials) / 2
    vectors = torch.cat([dot, straight, quadrupole, turned]).flatten(1)
    return Couplings((forms @ of_monomials).flatten(0, 1), vectors)


_DIRECTIONS: Final = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=torch.float64)
"""Five directions at which the five harmonics of l = 2 are linearly independent."""


class CouplingTable(nn.Module):
    """The matrices as buffers of a model; they stay float64 when the model is converted."""

    def __init__(self, couplings: Couplings):
        super().__init__()
        self.register_buffer("forms", couplings.forms)
        self.register_buffer("vectors", couplings.vectors)

    def _apply(self, fn, recurse=True):
        return self


def stored_couplings(tensors: Mapping[str, Tensor]) -> Couplings:
    """The matrices of a checkpoint.

    Raises:
        CorruptCheckpointError: one is missing or has another shape.
    """
    shapes = {"forms": (9, 5), "vectors": (sum(COUPLED), 3 * N_MONOMIALS)}
    for name, shape in shapes.items():
        found = tensors.get(_PREFIX + name)
        if found is None or tuple(found.shape) != shape:
            raise CorruptCheckpointError(
                f"these weights have {'no' if found is None else 'a misshapen'} {_PREFIX}{name}, a matrix of {shape}; "
                "fetch the checkpoint again"
            )
    return Couplings(*(tensors[_PREFIX + name] for name in shapes))
