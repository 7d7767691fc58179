"""Energies of pairs of atoms at any distance: Coulomb between partial charges, and the tail of dispersion.

    E = Σ_{i<j} k q_i q_j s(r)/r - a_i a_j / (r⁶ + R⁶),    s(r) = 1 - exp(-(r/d)³)

Both fade out at short range, where the network knows better: s/r vanishes as r² and exceeds 0.99/r beyond 5 Å, and R
damps dispersion as Becke and Johnson do (doi 10.1063/1.2065267). Coefficients C6_ij = a_i a_j begin at those of free
atoms (Tkatchenko and Scheffler 2009, doi 10.1103/PhysRevLett.102.073005) times 0.6, about the value of bound ones, and
are trained.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physcon_ase.batch import Batch
from physcon_ase.model.config import MAX_ATOMIC_NUMBER
from physcon_ase.model.pairs import Pairs
from physcon_ase.units import ANGSTROM_PER_BOHR, COULOMB_EV_ANGSTROM, EV_PER_HARTREE

_ONSET: Final = 3.0
"""d [Å]."""

_DAMPING: Final = 4.0
"""R [Å]."""

_FREE_C6: Final = {
    1: 6.5, 5: 99.5, 6: 46.6, 7: 24.2, 8: 15.6, 9: 9.52, 14: 305.0, 15: 185.0, 16: 134.0, 17: 94.6, 33: 246.0,
    34: 210.0, 35: 162.0, 53: 385.0,
}  # fmt: skip
"""[hartree bohr⁶] of free atoms."""

_BOUND: Final = 0.6
_OTHER_C6: Final = 100.0


@dataclass(frozen=True)
class LongRangeTrace:
    """What `LongRange.pull_back` needs."""

    charges: Float[Tensor, "molecules slots"] | None
    """q [e]."""
    roots: Float[Tensor, "molecules slots"]
    """a [sqrt(eV Å⁶)]."""
    coulomb: Float[Tensor, "molecules slots slots"] | None
    """k s(r)/r [eV/e²]."""
    coulomb_slope: Float[Tensor, "molecules slots slots"] | None
    """Its derivative by r."""
    dispersion_slope: Float[Tensor, "molecules slots slots"]
    """Derivative of 1 / (r⁶ + R⁶) by r [1/Å⁷]."""


class LongRange(nn.Module):
    """Coulomb energy of given partial charges, and dispersion with a coefficient for each element."""

    def __init__(self) -> None:
        super().__init__()
        c6 = torch.full((MAX_ATOMIC_NUMBER + 1,), _OTHER_C6)
        c6[list(_FREE_C6)] = torch.tensor(list(_FREE_C6.values()))
        self.root_c6 = nn.Parameter((_BOUND * c6 * EV_PER_HARTREE * ANGSTROM_PER_BOHR**6).sqrt())

    def forward(
        self, batch: Batch, pairs: Pairs, charges: Float[Tensor, "molecules slots"] | None
    ) -> tuple[Float[Tensor, "molecules slots"], LongRangeTrace]:
        """Half of the energy [eV] of each atom with all others, and what `pull_back` needs.

        Args:
            batch: the molecules.
            pairs: all their pairs (`make_pairs` without cutoff).
            charges: partial charges [e], 0 in empty slots; None for dispersion alone.
        """
        r, mask = pairs.distances, pairs.mask
        roots = self.root_c6[batch.atomic_numbers] * batch.atom_mask
        r2 = r * r
        r6 = r2 * r2 * r2
        inverse = mask / (r6 + _DAMPING**6)
        energies = -roots * (inverse @ roots[..., None]).squeeze(-1)
        dispersion_slope = -6 * (r6 / r) * inverse * inverse
        coulomb = coulomb_slope = None
        if charges is not None:
            cube = r2 * r * _ONSET**-3
            fall = torch.exp(-cube)
            scale = (COULOMB_EV_ANGSTROM / r) * mask
            coulomb = scale * (1 - fall)
            coulomb_slope = (3 * scale * cube * fall - coulomb) / r
            energies = energies + charges * (coulomb @ charges[..., None]).squeeze(-1)
        return 0.5 * energies, LongRangeTrace(charges, roots, coulomb, coulomb_slope, dispersion_slope)

    @staticmethod
    def pull_back(
        trace: LongRangeTrace, grad: Float[Tensor, "molecules slots"]
    ) -> tuple[Float[Tensor, "molecules slots"] | None, Float[Tensor, "molecules slots slots"]]:
        """Derivatives with respect to the charges and to the distances of ordered pairs, from that of the energies."""
        weighted = (0.5 * grad * trace.roots)[:, :, None] * trace.roots[:, None]
        of_distances = -weighted * trace.dispersion_slope
        if trace.charges is None or trace.coulomb is None or trace.coulomb_slope is None:
            return None, of_distances
        q = trace.charges
        both = trace.coulomb @ torch.stack([q, grad * q], dim=-1)
        of_charges = 0.5 * (grad * both[..., 0] + both[..., 1])
        of_distances = of_distances + (0.5 * grad * q)[:, :, None] * q[:, None] * trace.coulomb_slope
        return of_charges, of_distances
