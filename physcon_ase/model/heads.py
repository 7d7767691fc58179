"""Energy heads, one per level of theory; direct-force head, atomic references and short-range repulsion."""

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from physcon_ase.batch import Batch
from physcon_ase.model.config import MAX_ATOMIC_NUMBER, LevelConfig
from physcon_ase.model.interaction import silu_back
from physcon_ase.model.noise import centred
from physcon_ase.model.pairs import Pairs, envelope, of_neighbours, smooth_step
from physcon_ase.units import ANGSTROM_PER_BOHR, COULOMB_EV_ANGSTROM
from physcon_ase.valence.internals import covalent_radii

_SCREENING_COEFFICIENTS: Final = (0.1818, 0.5099, 0.2802, 0.02817)
_SCREENING_EXPONENTS: Final = (3.2, 0.9423, 0.4029, 0.2016)
_CORE_RADIUS_SCALE: Final = 0.75
"""Radius of a core in units of the covalent radius; bonds of stable molecules are longer than the sum of core radii."""

_HYDROGEN_CORE: Final = 0.28
"""Core radius [Å] of hydrogen, 0.9 of the covalent radius: with 0.75 the repulsion begins at distances too short to
exceed the contribution of the network, which has no data below 0.5 Å (H-H) and 0.85 Å (H-C)."""

_CORE_STRENGTH: Final = 7.0
"""Factor of the repulsion, which has to exceed the contribution of the network in the transition region of `fade_in`.
With smaller factors (4 to 6) some pairs of elements have a spurious minimum there."""


class EnergyHead(nn.Module):
    """Energy of each atom [eV] at one level, relative to the atomic references."""

    def __init__(self, channels: int):
        super().__init__()
        self.n_hidden = channels // 2
        first, last = nn.Linear(channels, self.n_hidden), nn.Linear(self.n_hidden, 1)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(first, nn.SiLU(), last)

    def forward(self, scalars: Float[Tensor, "molecules slots channels"]) -> Float[Tensor, "molecules slots"]:
        """Energy of each atom [eV] from its invariant features."""
        energies, _ = self.traced(scalars)
        return energies

    def traced(self, scalars: Float[Tensor, "molecules slots channels"]) -> tuple[Tensor, Tensor]:
        """`forward`, and the hidden layer for `pull_back`."""
        first, activation, last = self.network
        hidden = first(scalars)
        return last(activation(hidden)).squeeze(-1), hidden

    def pull_back(
        self, hidden: Tensor, grad: Float[Tensor, "molecules slots"]
    ) -> Float[Tensor, "molecules slots channels"]:
        """Derivative with respect to the features from that with respect to the energies."""
        first, _, last = self.network
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        return silu_back(grad[..., None] * last.weight, hidden) @ first.weight


class DirectForceHead(nn.Module):
    """Forces [eV/Å] as a linear function of the vector features: faster than the derivative, but not conservative.

    Their limitations: Bigi, Langer and Ceriotti, ICML 2025, doi 10.48550/arXiv.2412.11569.
    """

    def __init__(self, vectors: int):
        super().__init__()
        self.readout = nn.Linear(vectors, 1, bias=False)

    def forward(
        self, vectors: Float[Tensor, "molecules slots 3 vectors"], mask: Bool[Tensor, "molecules slots"]
    ) -> Float[Tensor, "molecules slots 3"]:
        """Forces without net force on the molecule; 0 in empty slots."""
        return centred(self.readout(vectors).squeeze(-1), mask)


class References(nn.Module):
    """Atomic reference energies [eV] of one level, float64: total energies do not fit into float32."""

    table: Tensor

    def __init__(self, level: LevelConfig):
        super().__init__()
        table = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
        table[list(level.elements)] = torch.tensor(level.references, dtype=torch.float64)
        self.register_buffer("table", table, persistent=False)

    def forward(self, batch: Batch) -> Float[Tensor, "molecules slots"]:
        """Reference energy of each atom [eV]; 0 in empty slots."""
        return self.table[batch.atomic_numbers]

    def _apply(self, fn, recurse=True):  # keeps float64 when the model is converted
        device = fn(self.table.new_empty(0)).device
        self.table = self.table.to(device)
        return self


class CoreRepulsion(nn.Module):
    """Screened nuclear repulsion at distances shorter than those of the training data.

    E_ij = s Z_i Z_j e²/(4πε₀ r) φ(r/a) f(r/c), s = 7, a = 0.8854 a₀ / (Z_i^0.23 + Z_j^0.23), and c is the sum of the
    radii of the cores: 0.28 Å for hydrogen, 0.75 of the covalent radius for others.
    Ziegler, Biersack and Littmark 1985, doi 10.1007/978-1-4615-8103-1_3; f is `pairs.envelope`.
    """

    radii: Tensor

    def __init__(self) -> None:
        super().__init__()
        radii = _CORE_RADIUS_SCALE * covalent_radii()
        radii[1] = _HYDROGEN_CORE
        self.register_buffer("radii", radii, persistent=False)

    def overlap(self, batch: Batch, pairs: Pairs) -> Float[Tensor, "molecules slots neighbours"] | None:
        """r/c of pairs closer than c and 1 for all others; None if no two atoms are that close."""
        close = self.are_close(batch, pairs)
        if not close.any():
            return None
        return torch.where(close, pairs.distances / self._reach(batch, pairs), 1.0)

    def are_close(self, batch: Batch, pairs: Pairs) -> Bool[Tensor, "molecules slots neighbours"]:
        """Which pairs are closer than c."""
        return pairs.mask & (pairs.distances < self._reach(batch, pairs))

    def forward(
        self, batch: Batch, pairs: Pairs, overlap: Float[Tensor, "molecules slots neighbours"]
    ) -> Float[Tensor, "molecules slots"]:
        """Half of the repulsion [eV] of each atom with its neighbours; `overlap` as from the method of this name."""
        charges = batch.atomic_numbers.to(pairs.distances.dtype)
        powers = charges**0.23
        r = overlap * self._reach(batch, pairs)
        x = r * (powers[:, :, None] + _of_neighbours(powers, pairs)) / (0.8854 * ANGSTROM_PER_BOHR)
        screening = sum(
            c * torch.exp(-d * x) for c, d in zip(_SCREENING_COEFFICIENTS, _SCREENING_EXPONENTS, strict=True)
        )
        product = charges[:, :, None] * _of_neighbours(charges, pairs)
        energies = _CORE_STRENGTH * COULOMB_EV_ANGSTROM * product / r * screening * envelope(overlap)
        return 0.5 * torch.where(overlap < 1, energies, 0.0).sum(dim=2)

    def _reach(self, batch: Batch, pairs: Pairs) -> Tensor:
        radii = self.radii[batch.atomic_numbers]
        return (radii[:, :, None] + _of_neighbours(radii, pairs)).expand_as(pairs.distances)


def fade_in(overlap: Tensor) -> Tensor:
    """Factor of a pair in the density: 0 for x < 0.7, 1 for x ≥ 1, with two continuous derivatives.

    It prevents artificial minima by extrapolation of the network where cores overlap and there are no data.
    """
    return smooth_step((overlap - 0.7) / 0.3)[0]


def _of_neighbours(values: Float[Tensor, "molecules slots"], pairs: Pairs) -> Tensor:
    if pairs.neighbours is None:
        return values[:, None, :]
    return of_neighbours(values, pairs.neighbours)
