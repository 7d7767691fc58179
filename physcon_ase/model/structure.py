"""The structure network: a denoiser conditioned on the molecular graph, and sampling of structures with it."""

import itertools
import math
from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physcon_ase.batch import Batch, with_positions
from physcon_ase.chem.graph import N_PAIR_TYPES
from physcon_ase.model.config import MAX_ATOMIC_NUMBER, StructureConfig
from physcon_ase.model.couplings import Couplings
from physcon_ase.model.interaction import InteractionLayer
from physcon_ase.model.noise import centred
from physcon_ase.model.pairs import Pairs, make_pairs, monomials, pair_products
from physcon_ase.model.springs import spring_hessian
from physcon_ase.valence.model_hessian import newton_steps

DATA_SCALE: Final = 1.5
"""Standard deviation [Å] per coordinate of the atoms of a small molecule about its centre."""

_CENTRES: Final = (0.0, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.1, 2.4, 2.7, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0)
"""Centres [Å] of the Gaussians that a distance is expanded in: dense where bonds and angles are."""

_N_PHASES: Final = 8
_VOLUME_SCALE: Final = 3.0
"""Signed volume [Å³] of a relaxed stereocentre, about."""

_FORCE_SCALES: Final = (0.1, 1.0, 10.0)
"""Forces [eV/Å] beyond which guides saturate: soft torsions, bonds, and atoms that clash."""
_STEP_SCALE: Final = 3.0
"""The same for Newton steps, in units of σ."""
_N_GUIDES: Final = len(_FORCE_SCALES) + 1

CHURN_ABOVE: Final = 0.05
"""Noise level [Å] above which `ddim` adds noise; below it, the conformer no longer changes."""

CHURN_NOISE: Final = 0.9
"""Standard deviation of the noise that `ddim` adds, in units of that required by σ; a value below 1 favours the
structures of highest probability (Karras et al. 2022, parameter S_noise)."""

Denoiser: TypeAlias = Callable[[Batch, Tensor], Tensor]
"""(noisy batch, σ [molecules]) -> clean positions; `PhysCon.denoiser` makes one."""


class StructureNetwork(nn.Module):
    """D(G, R_σ, σ): estimate of the equilibrium structure from the graph and a noisy structure.

    Preconditioned so that the network learns a quantity of order one at every σ: D = c_skip R + c_out F(R, σ),
    Karras, Aittala, Aila and Laine, NeurIPS 2022, doi 10.48550/arXiv.2206.00364, table 1.

    A network that is equivariant under reflection cannot distinguish enantiomers. Here the graph breaks the symmetry:
    the derivative of the signed volume of `Batch.tetrahedra`, whose sign the graph determines, is an input vector of
    their atoms.

    A guided network also receives the forces of an energy at the noisy structure. They determine which
    level's minimum is predicted, and the soft torsions, which the graph does not determine.
    """

    def __init__(self, config: StructureConfig, couplings: Couplings):
        super().__init__()
        self.config = config
        channels, n_vectors = config.channels, config.source_vectors
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels, padding_idx=0)
        self.of_noise = nn.Linear(2 * _N_PHASES, channels)
        self.of_chirality = nn.Linear(2, channels, bias=False)
        self.chiral_gate = nn.Linear(channels, n_vectors)
        width = 2 * config.n_radial
        self.pair_distance = nn.Linear(len(_CENTRES) + 1, width)
        self.pair_type = nn.Embedding(N_PAIR_TYPES, width, padding_idx=0)
        self.pair_noise = nn.Linear(2 * _N_PHASES, width, bias=False)
        self.pair_functions = nn.Linear(width, config.n_radial)
        self.interactions = nn.ModuleList(
            InteractionLayer(
                n_radial=config.n_radial,
                channels=channels,
                mixed_channels=config.mixed_channels,
                source_scalars=config.source_scalars,
                received_vectors=n_vectors,
                sent_vectors=n_vectors,
                hidden=config.hidden,
                neighbour_scale=0.25,
                couplings=couplings,
                normalised=True,
            )
            for _ in range(config.n_layers)
        )
        self.readout = nn.Linear(n_vectors * config.n_layers, 1, bias=False)
        if config.guided:
            self.of_guides = nn.Linear(_N_GUIDES, channels)
            self.guide_gate = nn.Linear(channels, _N_GUIDES * n_vectors)
            self.guide_readout = nn.Linear(channels, _N_GUIDES)

    def forward(
        self,
        batch: Batch,
        sigma: Float[Tensor, " molecules"],
        forces: Float[Tensor, "molecules slots 3"] | None = None,
    ) -> Float[Tensor, "molecules slots 3"]:
        """Clean positions [Å] with zero mean.

        Args:
            batch: molecules with graphs (`pair_types`, `tetrahedra`) at noisy positions.
            sigma: noise standard deviation [Å] of each molecule.
            forces: input of a guided network [eV/Å], at the noisy positions.
        """
        mask = batch.atom_mask
        noisy = centred(batch.positions, mask)
        pairs = make_pairs(with_positions(batch, noisy), cutoff=None)
        noise_features = _phases(sigma)
        basis = self._pair_basis(batch, pairs, sigma, noise_features)
        push, orientation = chirality_features(batch, noisy)
        scalars = self.embedding(batch.atomic_numbers) + self.of_noise(noise_features)[:, None]
        scalars = scalars + self.of_chirality(orientation)
        vectors = push[..., None] * self.chiral_gate(scalars)[:, :, None]  # (molecules, slots, 3, vectors)
        guides = None
        if self.config.guided:
            assert forces is not None
            guides = _guides(batch, forces, sigma)  # (molecules, slots, 3, guides)
            scalars = scalars + self.of_guides(guides.norm(dim=2))
            vectors = vectors + guides @ self.guide_gate(scalars).unflatten(2, (_N_GUIDES, -1))
        collected = []
        for interaction in self.interactions:
            scalars, vectors = interaction(basis, scalars, vectors, None)
            collected.append(vectors)
        moved = self.readout(torch.cat(collected, dim=-1)).squeeze(-1)
        if guides is not None:
            moved = moved + (guides * self.guide_readout(scalars)[:, :, None]).sum(dim=3)
        variance = sigma.square() + DATA_SCALE**2
        keep = (DATA_SCALE**2 / variance)[:, None, None]
        scale = (sigma * DATA_SCALE / variance.sqrt())[:, None, None]
        return centred(keep * noisy + scale * moved, mask)

    def _pair_basis(self, batch: Batch, pairs: Pairs, sigma: Tensor, noise_features: Tensor) -> Tensor:
        distances = pairs.distances[..., None]
        centres = torch.tensor(_CENTRES, dtype=distances.dtype, device=distances.device)
        widths = torch.tensor(_widths(), dtype=distances.dtype, device=distances.device)
        bumps = torch.exp(-((distances - centres) * widths).square())
        relative = distances / (sigma.square() + DATA_SCALE**2).sqrt()[:, None, None, None]
        hidden = self.pair_distance(torch.cat([bumps, relative], dim=-1)) + self.pair_type(batch.pair_types)
        hidden = nn.functional.silu(hidden + self.pair_noise(noise_features)[:, None, None])
        functions = self.pair_functions(hidden) * pairs.mask[..., None]  # (molecules, slots, slots, radial)
        return pair_products(functions.transpose(2, 3), monomials(pairs.unit_vectors))


def chirality_features(
    batch: Batch, positions: Float[Tensor, "molecules slots 3"]
) -> tuple[Float[Tensor, "molecules slots 3"], Float[Tensor, "molecules slots 2"]]:
    """Direction in which each atom increases the signed volumes of its tetrahedra, and the signs of the volumes.

    Returns:
        The derivative of the signed volume V of the tetrahedra of `Batch.tetrahedra` with respect to each atom,
        divided by the squared size of the tetrahedron; and, per atom, the sums of 1 and of tanh(V/V₀) over its
        tetrahedra.
    """
    molecules, slots = batch.atomic_numbers.shape
    push, orientation = positions.new_zeros(molecules, slots, 3), positions.new_zeros(molecules, slots, 2)
    tetrahedra = batch.tetrahedra
    if tetrahedra is None or tetrahedra.shape[1] == 0:
        return push, orientation
    known = (tetrahedra[..., :1] >= 0).to(positions.dtype)  # (molecules, centres, 1)
    index = tetrahedra.clamp(min=0).flatten(1)
    corners = positions.gather(1, index[..., None].expand(-1, -1, 3)).unflatten(1, tetrahedra.shape[1:])
    a, b, c, d = corners.unbind(dim=2)  # (molecules, centres, 3) each
    gradients = [
        torch.linalg.cross(b - d, c - d, dim=-1),
        torch.linalg.cross(c - d, a - d, dim=-1),
        torch.linalg.cross(a - d, b - d, dim=-1),
    ]
    volume = (gradients[0] * (a - d)).sum(dim=-1, keepdim=True)
    gradients.append(-(gradients[0] + gradients[1] + gradients[2]))
    size = 1 + ((a - d).square() + (b - d).square() + (c - d).square()).sum(dim=-1, keepdim=True) / 3
    pushes = torch.stack(gradients, dim=2) * (known / size)[:, :, None]  # (molecules, centres, 4, 3)
    flags = torch.cat([known, known * torch.tanh(volume / _VOLUME_SCALE)], dim=-1)
    flags = flags[:, :, None].expand(-1, -1, 4, -1)
    push = push.scatter_add(1, index[..., None].expand(-1, -1, 3), pushes.flatten(1, 2))
    orientation = orientation.scatter_add(1, index[..., None].expand(-1, -1, 2), flags.flatten(1, 2))
    return push, orientation


def _guides(
    batch: Batch, forces: Float[Tensor, "molecules slots 3"], sigma: Float[Tensor, " molecules"]
) -> Float[Tensor, "molecules slots 3 guides"]:
    """Forces, and the Newton steps of a crude Hessian in units of σ, each of a length below one."""
    forces = forces.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) * batch.atom_mask[..., None]
    sizes = forces.norm(dim=2, keepdim=True)
    guides = [forces / (scale + sizes) for scale in _FORCE_SCALES]
    steps = newton_steps(_FORCE_SCALES[-1] * guides[-1], spring_hessian(batch)) / sigma[:, None, None]
    steps = steps / (_STEP_SCALE + steps.norm(dim=2, keepdim=True))
    return torch.stack([*guides, steps], dim=3)


def ddim(
    denoiser: Denoiser,
    batch: Batch,
    sigmas: list[float],
    *,
    churn: float = 0.0,
    noise: Callable[[], Float[Tensor, "molecules slots 3"]] | None = None,
) -> Float[Tensor, "molecules slots 3"]:
    """Reverse process from `batch.positions`, taken as noisy with σ = sigmas[0], to σ = 0.

    R ← D + (σ_next/σ) (R - D). Song, Meng and Ermon, ICLR 2021, doi 10.48550/arXiv.2010.02502, in the
    variance-exploding form. With churn the process is stochastic: before each step but the first, noise raises σ to
    (1 + churn) σ, as in algorithm 2 of Karras, Aittala, Aila and Laine, NeurIPS 2022, doi 10.48550/arXiv.2206.00364, so
    that errors of earlier steps are corrected by later ones.

    Args:
        denoiser: the structure network.
        batch: molecules with graphs.
        sigmas: falling noise levels [Å]; one evaluation each, none if there are none.
        churn: relative increase of σ before each step at a noise level above `CHURN_ABOVE`.
        noise: new standard normal noise with zero mean for every molecule, at each call; only used with churn.
    """
    positions = batch.positions
    for sigma, following in itertools.pairwise([*sigmas, 0.0]):
        level = sigma
        if churn and noise is not None and CHURN_ABOVE < sigma < sigmas[0]:
            level = (1 + churn) * sigma
            positions = positions + CHURN_NOISE * math.sqrt(level**2 - sigma**2) * noise()
        clean = denoiser(with_positions(batch, positions), _all(batch, level))
        positions = clean + following / level * (centred(positions, batch.atom_mask) - clean)
    return positions


def refined(denoiser: Denoiser, batch: Batch, sigma: float, n_steps: int) -> Float[Tensor, "molecules slots 3"]:
    """`batch.positions`, without noise and close to a minimum, after `n_steps` times R ← D(R, σ).

    For a network trained on its own predictions (`losses.structure.refinement_loss`); σ [Å] limits the displacement.
    """
    positions = batch.positions
    for _ in range(n_steps):
        positions = denoiser(with_positions(batch, positions), _all(batch, sigma))
    return positions


def _all(batch: Batch, sigma: float) -> Float[Tensor, " molecules"]:
    return torch.full((len(batch),), sigma, dtype=batch.positions.dtype, device=batch.positions.device)


def _phases(sigma: Float[Tensor, " molecules"]) -> Float[Tensor, "molecules phases"]:
    """Sines and cosines of log σ."""
    angles = sigma.log()[:, None] * (0.3 * 1.5 ** torch.arange(_N_PHASES, dtype=sigma.dtype, device=sigma.device))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _widths() -> list[float]:
    """Inverse widths [1/Å]: each Gaussian falls to about a half at its farther neighbour."""
    gaps = [max(b - a, c - b) for a, b, c in zip(_CENTRES, _CENTRES[1:], _CENTRES[2:], strict=False)]
    gaps = [_CENTRES[1] - _CENTRES[0], *gaps, _CENTRES[-1] - _CENTRES[-2]]
    return [math.sqrt(math.log(2)) / gap for gap in gaps]
