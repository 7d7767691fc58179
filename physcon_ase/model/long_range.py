"""Pair energies at any distance: Coulomb energy of partial charges, and dispersion.

    E = Σ_{i<j} k q_i q_j s(r)/r - a_i a_j / (r⁶ + R⁶),    s(r) = 1 - exp(-(r/d)³)

Both are damped at short range, where the network describes the interaction: s/r vanishes as r² and exceeds 0.99/r
beyond 5 Å, and R damps dispersion in the form of Becke and Johnson (doi 10.1063/1.2065267). The coefficients
C6_ij = a_i a_j are initialised with 0.6 times those of free atoms (Tkatchenko and Scheffler 2009, doi
10.1103/PhysRevLett.102.073005), about the values of bound atoms, and trained.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from physcon_ase.batch import Batch
from physcon_ase.model.config import MAX_ATOMIC_NUMBER
from physcon_ase.model.pairs import Pairs, keeps_matrices, make_pairs
from physcon_ase.units import ANGSTROM_PER_BOHR, COULOMB_EV_ANGSTROM, EV_PER_HARTREE

_ONSET: Final = 3.0
"""Damping distance d [Å] of the Coulomb energy."""

_DAMPING: Final = 4.0
"""Damping distance R [Å] of the dispersion energy."""

_FREE_C6: Final = {
    1: 6.5, 5: 99.5, 6: 46.6, 7: 24.2, 8: 15.6, 9: 9.52, 14: 305.0, 15: 185.0, 16: 134.0, 17: 94.6, 33: 246.0,
    34: 210.0, 35: 162.0, 53: 385.0,
}  # fmt: skip
"""[hartree bohr⁶] of free atoms."""

_BOUND: Final = 0.6
_OTHER_C6: Final = 100.0


_BLOCK: Final = 256
"""Number of atoms per block of pairs, for molecules of more than `pairs.MATRIX_SLOTS` atoms."""


@dataclass(frozen=True)
class _Terms:
    """Functions of the distance of each pair; 0 for padding."""

    inverse: Float[Tensor, "molecules atoms slots"]
    """1 / (r⁶ + R⁶) [1/Å⁶]."""
    inverse_slope: Float[Tensor, "molecules atoms slots"]
    """Its derivative with respect to r."""
    coulomb: Float[Tensor, "molecules atoms slots"]
    """k s(r)/r [eV/e²]."""
    coulomb_slope: Float[Tensor, "molecules atoms slots"]
    """Its derivative with respect to r."""


@dataclass(frozen=True)
class LongRangeTrace:
    """Intermediate values of `LongRange.traced`."""

    charges: Float[Tensor, "molecules slots"]
    """q [e]; 0 for a network without charges."""
    roots: Float[Tensor, "molecules slots"]
    """a [sqrt(eV Å⁶)]."""
    pairs: Pairs | None
    """The pairs of all atoms; None if they are computed again block by block."""
    terms: _Terms | None
    """Their functions; None likewise."""


@dataclass(frozen=True)
class LongRangeGradient:
    """Derivatives of the long-range energy."""

    charges: Float[Tensor, "molecules slots"]
    """With respect to the charges."""
    distances: Float[Tensor, "molecules slots slots"] | None
    """With respect to the distances of ordered pairs; None where `positions` is given."""
    positions: Float[Tensor, "molecules slots 3"] | None
    """With respect to the positions, for the pairs made block by block."""


class LongRange(nn.Module):
    """Coulomb energy of given partial charges, and dispersion with a coefficient for each element.

    The sum is over all pairs of a molecule. Beyond `pairs.MATRIX_SLOTS` atoms, pairs are computed in blocks whenever
    they are needed, so that memory grows linearly; the time remains quadratic.
    """

    def __init__(self) -> None:
        super().__init__()
        c6 = torch.full((MAX_ATOMIC_NUMBER + 1,), _OTHER_C6)
        c6[list(_FREE_C6)] = torch.tensor(list(_FREE_C6.values()))
        self.root_c6 = nn.Parameter((_BOUND * c6 * EV_PER_HARTREE * ANGSTROM_PER_BOHR**6).sqrt())

    def forward(
        self, batch: Batch, pairs: Pairs, charges: Float[Tensor, "molecules slots"] | None
    ) -> Float[Tensor, "molecules slots"]:
        """Half of the energy [eV] of each atom with all others.

        Args:
            batch: the molecules.
            pairs: their pairs within the cutoff, or all of them (`Pairs.neighbours` is None).
            charges: partial charges [e], 0 in empty slots; None for dispersion alone.
        """
        return self.traced(batch, pairs, charges)[0]

    def traced(
        self, batch: Batch, pairs: Pairs, charges: Float[Tensor, "molecules slots"] | None
    ) -> tuple[Float[Tensor, "molecules slots"], LongRangeTrace]:
        """`forward`, and intermediate values for `pull_back`."""
        roots = self.root_c6[batch.atomic_numbers] * batch.atom_mask
        charges = torch.zeros_like(roots) if charges is None else charges
        if not keeps_matrices(batch):
            blocks = [
                checkpoint(_block_energies, batch.positions, batch.atom_mask, charges, roots, rows, use_reentrant=False)
                for rows in _blocks(batch)
            ]
            return torch.cat(blocks, dim=1), LongRangeTrace(charges, roots, None, None)
        everywhere = pairs if pairs.neighbours is None else make_pairs(batch, None)
        terms = _terms(everywhere.distances, everywhere.mask)
        return _energies(charges, roots, terms, slice(None)), LongRangeTrace(charges, roots, everywhere, terms)

    @staticmethod
    def pull_back(batch: Batch, trace: LongRangeTrace, grad: Float[Tensor, "molecules slots"]) -> LongRangeGradient:
        """Derivatives from that with respect to the energies."""
        if trace.terms is not None:
            of_charges, of_distances = _gradients(trace.charges, trace.roots, trace.terms, grad, slice(None))
            return LongRangeGradient(of_charges, of_distances, None)
        of_charges, of_positions = torch.zeros_like(trace.charges), torch.zeros_like(batch.positions)
        for rows in _blocks(batch):
            vectors, distances, mask = _block_pairs(batch.positions, batch.atom_mask, rows)
            terms = _terms(distances, mask)
            part, of_distances = _gradients(trace.charges, trace.roots, terms, grad, rows)
            of_charges = of_charges + part
            of_vectors = (of_distances / distances)[..., None] * vectors
            of_positions = of_positions + of_vectors.sum(dim=1)
            of_positions[:, rows] = of_positions[:, rows] - of_vectors.sum(dim=2)
        return LongRangeGradient(of_charges, None, of_positions)


def _terms(distances: Tensor, mask: Tensor) -> _Terms:
    r2 = distances * distances
    r6 = r2 * r2 * r2
    inverse = mask / (r6 + _DAMPING**6)
    cube = r2 * distances * _ONSET**-3
    fall = torch.exp(-cube)
    scale = (COULOMB_EV_ANGSTROM / distances) * mask
    coulomb = scale * (1 - fall)
    return _Terms(
        inverse,
        -6 * (r6 / distances) * inverse * inverse,
        coulomb,
        (3 * scale * cube * fall - coulomb) / distances,
    )


def _energies(charges: Tensor, roots: Tensor, terms: _Terms, rows: slice) -> Float[Tensor, "molecules atoms"]:
    """Energies of the atoms in some rows."""
    dispersion = roots[:, rows] * (terms.inverse @ roots[..., None]).squeeze(-1)
    coulomb = charges[:, rows] * (terms.coulomb @ charges[..., None]).squeeze(-1)
    return 0.5 * (coulomb - dispersion)


def _gradients(
    charges: Tensor, roots: Tensor, terms: _Terms, grad: Tensor, rows: slice
) -> tuple[Float[Tensor, "molecules slots"], Float[Tensor, "molecules atoms slots"]]:
    """Derivatives of the energies of the atoms in some rows with respect to all charges and their pair distances."""
    own = grad[:, rows]
    weighted = own * charges[:, rows]
    of_distances = (0.5 * weighted)[:, :, None] * charges[:, None] * terms.coulomb_slope
    of_distances = of_distances - (0.5 * own * roots[:, rows])[:, :, None] * roots[:, None] * terms.inverse_slope
    of_charges = 0.5 * (weighted[:, None] @ terms.coulomb).squeeze(1)
    of_own = 0.5 * own * (terms.coulomb @ charges[..., None]).squeeze(-1)
    if rows == slice(None):
        return of_charges + of_own, of_distances
    padding = (rows.start, charges.shape[1] - rows.stop)
    return of_charges + nn.functional.pad(of_own, padding), of_distances


def _blocks(batch: Batch) -> list[slice]:
    slots = batch.positions.shape[1]
    return [slice(begin, min(begin + _BLOCK, slots)) for begin in range(0, slots, _BLOCK)]


def _block_pairs(positions: Tensor, atoms: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors r_j - r_i from the atoms of some rows to all atoms, their lengths (1 for padding) and the mask."""
    vectors = positions[:, None] - positions[:, rows, None]
    numbers = torch.arange(positions.shape[1], device=positions.device)
    mask = atoms[:, rows, None] & atoms[:, None] & (numbers[rows, None] != numbers)
    return vectors, torch.where(mask, vectors.square().sum(dim=3), 1.0).sqrt(), mask


def _block_energies(positions: Tensor, atoms: Tensor, charges: Tensor, roots: Tensor, rows: slice) -> Tensor:
    _, distances, mask = _block_pairs(positions, atoms, rows)
    return _energies(charges, roots, _terms(distances, mask), rows)
