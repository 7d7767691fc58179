"""Pairs of atoms and the one interaction layer that encoder and structure head share.

The layer is an atomic cluster expansion without a single generic tensor product. Its hot path is

    A[i, p, k, s] = Σ_j φ_k(r_ij) P_p(u_ij) S_s[j]

with φ_k radial functions, P_p the ten monomials of degree ≤ 2 in the unit vector u_ij, and S_s the few features that
atom j sends. The factor φ_k P_p is built once for all layers; the sum over j is one batched matrix product. Everything
else, that is the change from monomials to spherical harmonics, the Clebsch-Gordan coupling with vector sources, the
mixing of radial functions with sources, and the products that raise the body order, happens per atom, so that no
intermediate grows as pairs x channels.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from physcon_ase.batch import Batch

N_MONOMIALS: Final = 10
"""1, x, y, z, xx, yy, zz, xy, yz, zx."""

DENSE_SLOTS: Final = 40
"""Batches up to this size use all pairs; larger ones look for neighbours within the cutoff first."""


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs (i, j) of atoms of the same molecule, padded to the same number per atom i."""

    unit_vectors: Float[Tensor, "molecules slots 3 neighbours"]
    """(r_j - r_i) / |r_j - r_i|; arbitrary but finite where `mask` is False."""
    distances: Float[Tensor, "molecules slots neighbours"]
    """|r_j - r_i| [Å]; 1 where `mask` is False."""
    mask: Bool[Tensor, "molecules slots neighbours"]
    """False for padding and for i = j."""
    neighbours: Int[Tensor, "molecules slots neighbours"] | None
    """Slot of atom j; None if neighbour k simply is slot k."""


def make_pairs(batch: Batch, cutoff: float | None) -> Pairs:
    """All pairs of a batch of small molecules, or the pairs within the cutoff [Å] of one with larger ones."""
    positions = batch.positions
    n_slots = positions.shape[1]
    atoms = batch.atom_mask
    mask = atoms[:, :, None] & atoms[:, None, :] & ~torch.eye(n_slots, dtype=torch.bool, device=atoms.device)
    neighbours = None
    others = positions[:, None].transpose(2, 3)  # (molecules, 1, 3, slots)
    if cutoff is not None and n_slots > DENSE_SLOTS:
        neighbours, mask = _neighbours_within(positions.detach(), mask, cutoff)
        others = gather_neighbours(positions, neighbours).transpose(2, 3)
    vectors = others - positions[..., None]
    squared = vectors.square().sum(dim=2)
    # Padding must not reach sqrt and the division: their derivatives at 0 are NaN even where the result is masked.
    distances = torch.where(mask, squared, 1.0).sqrt()
    return Pairs(vectors / distances[:, :, None], distances, mask, neighbours)


def gather_neighbours(
    features: Float[Tensor, "molecules slots features"], neighbours: Int[Tensor, "molecules slots neighbours"]
) -> Float[Tensor, "molecules slots neighbours features"]:
    """The features of each neighbour."""
    molecules, slots, width = neighbours.shape
    index = neighbours.reshape(molecules, slots * width, 1).expand(-1, -1, features.shape[-1])
    return features.gather(1, index).reshape(molecules, slots, width, features.shape[-1])


def _neighbours_within(positions: Tensor, mask: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    near = mask & (torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist") < cutoff)
    width = max(int(near.sum(dim=2).max()), 1)
    order = near.to(torch.int8).argsort(dim=2, descending=True, stable=True)[:, :, :width]
    return order, near.gather(2, order)


def monomials(unit_vectors: Float[Tensor, "... 3 neighbours"]) -> Float[Tensor, "... 10 neighbours"]:
    """The `N_MONOMIALS` monomials of degree ≤ 2 in the components of each vector."""
    u = unit_vectors
    return torch.cat([torch.ones_like(u[..., :1, :]), u, u * u, u * u.roll(-1, dims=-2)], dim=-2)


def harmonics_from_monomials() -> Float[Tensor, "5 6"]:
    """Matrix that turns the monomials xx, yy, zz, xy, yz, zx into the real spherical harmonics of l = 2.

    Order, signs and normalisation ("norm") are those of e3nn; written out so that nothing but the tests imports e3nn.
    """
    root = math.sqrt(3)
    rows = [
        [0, 0, 0, 0, 0, root],
        [0, 0, 0, root, 0, 0],
        [-0.5, 1, -0.5, 0, 0, 0],
        [0, 0, 0, 0, root, 0],
        [-root / 2, 0, root / 2, 0, 0, 0],
    ]
    return torch.tensor(rows, dtype=torch.float64)


def bessel(distances: Tensor, cutoff: float, n_radial: int) -> Float[Tensor, "... radial neighbours"]:
    """Radial functions sqrt(2/c) sin(kπr/c)/r that vanish with two derivatives at the cutoff c [Å].

    Gasteiger, Groß and Günnemann, ICLR 2020, doi 10.48550/arXiv.2003.03123, eqs. 7 and 8 (p = 6).
    """
    r = distances[..., None, :]
    order = torch.arange(1, n_radial + 1, dtype=r.dtype, device=r.device)[:, None]
    return torch.sin(order * (math.pi / cutoff * r)) * (math.sqrt(2 / cutoff) * envelope(r / cutoff) / r)


def envelope(x: Tensor) -> Tensor:
    """Polynomial 1 - 28 x⁶ + 48 x⁷ - 21 x⁸ for x < 1, else 0: two continuous derivatives at 1."""
    x = x.clamp(max=1.0)
    x3 = x * x * x
    return 1 + x3 * x3 * (x * (48 - 21 * x) - 28)


class Interaction(nn.Module):
    """One layer: collects the density around each atom, raises its body order and updates the atom's features."""

    quadratic_forms: Tensor
    vector_coupling: Tensor

    def __init__(
        self,
        *,
        n_radial: int,
        channels: int,
        mixed_channels: int,
        source_scalars: int,
        received_vectors: int,
        sent_vectors: int,
        hidden: int,
        neighbour_scale: float,
        normalised: bool = False,
    ):
        """Makes the weights.

        Args:
            n_radial: radial functions in the basis.
            channels: scalar features per atom.
            mixed_channels: channels of the density after mixing.
            source_scalars: scalar features that an atom sends.
            received_vectors: vector features that an atom sends, made by the layer before; 0 for scalars only.
            sent_vectors: vector features made for the next layer or a head; 0 for none.
            hidden: width of the hidden layer of the update network.
            neighbour_scale: multiplies the sum over neighbours.
            normalised: divides the density by its own size, for inputs whose density has no bound (noise).
        """
        super().__init__()
        self.normalised = normalised
        self.received_vectors = received_vectors
        self.neighbour_scale = neighbour_scale
        self.source = nn.Linear(channels, source_scalars)
        inner = n_radial * source_scalars
        self.mix = nn.ParameterList([nn.Parameter(torch.randn(inner, mixed_channels) * inner**-0.5) for _ in range(3)])
        if received_vectors:
            inner = n_radial * received_vectors
            self.mix_vectors = nn.ParameterList(
                [nn.Parameter(torch.randn(inner, mixed_channels) * inner**-0.5) for _ in range(4)]
            )
            self.mix_own = nn.Parameter(torch.randn(received_vectors, mixed_channels) * received_vectors**-0.5)
            self.register_buffer("vector_coupling", vector_coupling(), persistent=False)
        self.update = nn.Sequential(
            nn.Linear(channels + 5 * mixed_channels, hidden), nn.SiLU(), nn.Linear(hidden, channels)
        )
        self.send_vectors = nn.Linear(2 * mixed_channels, sent_vectors, bias=False) if sent_vectors else None
        self.gate = nn.Linear(channels, sent_vectors) if sent_vectors else None
        # float64 until the whole model is converted: rounded constants would break the equivariance of a float64 model.
        self.register_buffer("quadratic_forms", symmetric_matrices() @ harmonics_from_monomials(), persistent=False)

    def forward(
        self,
        basis: Float[Tensor, "molecules slots basis neighbours"],
        scalars: Float[Tensor, "molecules slots channels"],
        vectors: Float[Tensor, "molecules slots 3 received_vectors"] | None,
        neighbours: Int[Tensor, "molecules slots neighbours"] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Updated scalars and the vectors to send next.

        Args:
            basis: φ_k P_p of each pair, flattened with the monomial p first.
            scalars: invariant features of each atom.
            vectors: vector features that each atom sends; None in a layer that receives none.
            neighbours: as in `Pairs`.
        """
        density = self._density(basis, self.source(scalars), neighbours).flatten(3)  # (molecules, slots, 10, K S)
        # split, not indexing: the derivative of a slice fills a whole tensor with zeros first.
        zeroth, first, second = density.split([1, 3, 6], dim=2)
        f0, f1, f2 = mix(zeroth, self.mix[0]), mix(first, self.mix[1]), mix(second, self.mix[2])
        if self.received_vectors:
            assert vectors is not None
            g0, g1, g2 = self._couple_vectors(self._density(basis, vectors.flatten(2), neighbours))
            f0, f1, f2 = f0 + g0, f1 + g1 + mix(vectors, self.mix_own), f2 + g2
        f0 = f0.squeeze(2)  # (molecules, slots, C)
        f2 = self.quadratic_forms @ f2  # (molecules, slots, 9, C), symmetric traceless matrices
        if self.normalised:
            size = (f0.square() + f1.square().sum(dim=2) + f2.square().sum(dim=2)).mean(dim=-1, keepdim=True)
            shrink = (1 + size).rsqrt()
            f0, f1, f2 = f0 * shrink, f1 * shrink[:, :, None], f2 * shrink[:, :, None]
        return self._update(scalars, f0, f1, f2)

    def _density(self, basis: Tensor, source: Tensor, neighbours: Tensor | None) -> Tensor:
        return collect(basis, source * self.neighbour_scale, neighbours).unflatten(2, (N_MONOMIALS, -1))

    def _couple_vectors(self, density: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Clebsch-Gordan products of the vectors received with the harmonics of the directions they come from."""
        molecules, slots, n_monomials, n_radial, _ = density.shape
        density = density.view(molecules, slots, n_monomials, n_radial, 3, self.received_vectors)
        density = density.transpose(3, 4).reshape(molecules, slots, n_monomials * 3, n_radial * self.received_vectors)
        coupled = self.vector_coupling @ density  # (molecules, slots, 1 + 3 + 6 + 3, K V)
        dot, straight, quadrupole, turned = coupled.split([1, 3, 6, 3], dim=2)
        g1 = mix(straight, self.mix_vectors[1]) + mix(turned, self.mix_vectors[2])
        return mix(dot, self.mix_vectors[0]), g1, mix(quadrupole, self.mix_vectors[3])

    def _update(self, scalars: Tensor, f0: Tensor, f1: Tensor, f2: Tensor) -> tuple[Tensor, Tensor | None]:
        matrix_f1 = (f2.unflatten(2, (3, 3)) * f1[:, :, None]).sum(dim=3)  # (molecules, slots, 3, C)
        invariants = [
            scalars,
            f0,
            f1.square().sum(dim=2),
            f2.square().sum(dim=2),
            (f1 * matrix_f1).sum(dim=2),
            matrix_f1.square().sum(dim=2),
        ]
        scalars = scalars + self.update(torch.cat(invariants, dim=-1))
        if self.send_vectors is None or self.gate is None:
            return scalars, None
        vectors = self.send_vectors(torch.cat([f1, matrix_f1], dim=-1)) * self.gate(scalars)[:, :, None]
        return scalars, vectors


def mix(components: Tensor, weight: Float[Tensor, "features channels"]) -> Tensor:
    """Components @ weight as one matrix product; left to itself torch makes many small ones of a split tensor."""
    return (components.reshape(-1, weight.shape[0]) @ weight).view(*components.shape[:-1], weight.shape[1])


def collect(
    basis: Tensor, source: Tensor, neighbours: Tensor | None
) -> Float[Tensor, "molecules slots basis features"]:
    """Σ_j basis[i, :, j] source[j, :] as a batched matrix product."""
    molecules, slots, width, n_neighbours = basis.shape
    if neighbours is None:
        return torch.bmm(basis.view(molecules, slots * width, n_neighbours), source).view(molecules, slots, width, -1)
    return basis @ gather_neighbours(source, neighbours)


def symmetric_matrices() -> Float[Tensor, "9 5"]:
    """Matrix that turns the five l = 2 components into the nine elements of a symmetric traceless 3x3 matrix.

    Column m is the quadratic form of harmonic m with unit Frobenius norm: sqrt(5) times the Wigner 3j symbol (1 1 2).
    """
    xx, yy, zz, xy, yz, zx = harmonics_from_monomials().T
    elements = [xx, xy / 2, zx / 2, xy / 2, yy, yz / 2, zx / 2, yz / 2, zz]
    return torch.stack(elements) / math.sqrt(1.5)


def vector_coupling() -> Float[Tensor, "13 30"]:
    """Rows: couplings of (monomials ⊗ vector) to 1⊗1→0 (1), 0⊗1→1 (3), 1⊗1→2 (6), 2⊗1→1 (3).

    Only natural parity: a cross product would make a pseudovector. l = 2 comes as coefficients of the monomials of
    degree 2, so that it adds to them. The rows in spherical components have unit norm.
    """
    unit = torch.eye(3, dtype=torch.float64)
    forms, harmonics = symmetric_matrices().T.reshape(5, 3, 3), harmonics_from_monomials()
    dot, straight, turned = (torch.zeros(n, N_MONOMIALS, 3, dtype=torch.float64) for n in (1, 3, 3))
    quadrupole = torch.zeros(5, N_MONOMIALS, 3, dtype=torch.float64)
    dot[0, 1:4] = unit
    straight[:, 0] = unit
    quadrupole[:, 1:4] = forms
    turned[:, 4:] = torch.einsum("moi,mp->opi", forms, harmonics)
    dot, straight, quadrupole, turned = (
        rows.flatten(1) / rows.flatten(1).norm(dim=1, keepdim=True) for rows in (dot, straight, quadrupole, turned)
    )
    return torch.cat([dot, straight, torch.linalg.pinv(harmonics) @ quadrupole, turned])
