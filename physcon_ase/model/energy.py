"""The energy network: atomic numbers, positions, total charge and level of theory in, energies of atoms out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physcon_ase.batch import Batch
from physcon_ase.model.charge_groups import ChargeGroups, find_charge_groups
from physcon_ase.model.charges import ChargeEffect, ChargeHead, Charges
from physcon_ase.model.config import MAX_ATOMIC_NUMBER, EncoderConfig
from physcon_ase.model.couplings import Couplings
from physcon_ase.model.heads import EnergyHead
from physcon_ase.model.interaction import InteractionLayer
from physcon_ase.model.long_range import LongRange
from physcon_ase.model.pairs import Pairs, bessel, monomials, pair_products

_NEIGHBOUR_SCALE: Final = 0.25
"""About 1 / sqrt(number of neighbours within 5 Å): keeps the density of order 1."""


@dataclass(frozen=True)
class Levels:
    """The level of theory of each molecule of a batch."""

    names: tuple[str, ...]
    """Levels that occur; one for the whole batch, or all that `index` counts."""
    index: Int[Tensor, " molecules"] | None = None
    """Level of each molecule, an index into `names`; None if there is one name."""


@dataclass(frozen=True)
class Evaluation:
    """Results of the energy network; those of empty slots mean nothing."""

    energies: Float[Tensor, "molecules slots"]
    """Energy of each atom [eV] without its reference."""
    hidden: Float[Tensor, "molecules slots hidden"]
    """Hidden layer of the energy head, before its activation."""
    vectors: Float[Tensor, "molecules slots 3 output_vectors"] | None
    """Vector features for other heads."""
    charges: tuple[Charges, ...]
    """Partial charges before the last layer and after it; empty for a network without."""
    groups: ChargeGroups | None
    """`EnergyNetwork.charge_groups`."""


class EnergyNetwork(nn.Module):
    """One encoder for all levels of theory, with an element embedding and an energy head for each.

    The initial features of an atom are shared[Z] + rows[level][Z]. Interaction layers add those of its neighbourhood.
    Partial charges are predicted before the last layer, change the features, and are predicted again after it. The head
    of the level computes the energy of the atom, to which Coulomb and dispersion energies are added.
    """

    def __init__(self, config: EncoderConfig, levels: Sequence[str], couplings: Couplings):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, config.channels, padding_idx=0)
        self.rows = nn.ModuleDict({level: _zero_embedding(config.channels) for level in levels})
        self.interactions = nn.ModuleList(_layer(config, layer, couplings) for layer in range(config.n_layers))
        n_charges = 2 if config.charged else 0
        self.charge_heads = nn.ModuleList(ChargeHead(config.channels) for _ in range(n_charges))
        self.charge_effect = ChargeEffect(config.channels) if config.charged else None
        self.long_range = LongRange() if config.long_range else None
        self.heads = nn.ModuleDict({level: EnergyHead(config.channels) for level in levels})

    def forward(
        self,
        batch: Batch,
        levels: Levels,
        pairs: Pairs,
        visibility: Float[Tensor, "molecules slots neighbours"] | None = None,
    ) -> Evaluation:
        """Energies of atoms, differentiable with respect to everything.

        Args:
            batch: the molecules.
            levels: level of theory of each.
            pairs: pairs of atoms within the cutoff.
            visibility: factor of each pair in the density; None for 1.
        """
        basis = pair_products(*self.pair_functions(pairs, visibility))
        groups = self.charge_groups(batch, pairs)
        scalars, vectors, charges = self.embedded(batch, levels), None, []
        for layer, interaction in enumerate(self.layers):
            if self.is_charged_before(layer):
                charges.append(self.charges(0, scalars, batch, groups))
                assert self.charge_effect is not None
                scalars, _ = self.charge_effect(scalars, charges[0].partial)
            scalars, vectors = interaction(basis, scalars, vectors, pairs.neighbours)
        energies, hidden = self.read(scalars, levels)
        if self.charge_effect is not None:
            charges.append(self.charges(1, scalars, batch, groups))
        if self.long_range is not None:
            partial = charges[-1].partial if charges else None
            energies = energies + self.long_range(batch, pairs, partial)
        return Evaluation(energies, hidden, vectors, tuple(charges), groups)

    @property
    def layers(self) -> list[InteractionLayer]:
        """Interaction layers in their order."""
        return [cast(InteractionLayer, layer) for layer in self.interactions]

    def is_charged_before(self, layer: int) -> bool:
        """Whether partial charges change the features before a layer: the last one of a charged network."""
        return self.charge_effect is not None and layer == len(self.interactions) - 1

    def charge_groups(self, batch: Batch, pairs: Pairs) -> ChargeGroups | None:
        """Groups of atoms that exchange no charge; None if each molecule is one, or the network has no charges."""
        return find_charge_groups(batch, pairs, self.config.cutoff) if self.config.charged else None

    def charges(
        self,
        number: int,
        scalars: Float[Tensor, "molecules slots channels"],
        batch: Batch,
        groups: ChargeGroups | None,
    ) -> Charges:
        """Partial charges before the last layer (0) or after it (1)."""
        return self.charge_heads[number](scalars, batch.charge, batch.atom_mask, groups)

    def charge_back(
        self, number: int, charges: Charges, grad: Float[Tensor, "molecules slots"], batch: Batch
    ) -> Float[Tensor, "molecules slots channels"]:
        """Derivative with respect to the features from that with respect to the partial charges of `charges`."""
        return cast(ChargeHead, self.charge_heads[number]).pull_back(charges, grad, batch.atom_mask)

    def embedded(self, batch: Batch, levels: Levels) -> Float[Tensor, "molecules slots channels"]:
        """Element embedding of each atom at its level."""
        tables = [cast(nn.Embedding, self.rows[name]).weight for name in levels.names]
        if levels.index is None:
            rows = nn.functional.embedding(batch.atomic_numbers, tables[0])
        else:
            rows = torch.stack(tables)[levels.index[:, None], batch.atomic_numbers]
        return self.embedding(batch.atomic_numbers) + rows

    def read(
        self, scalars: Float[Tensor, "molecules slots channels"], levels: Levels
    ) -> tuple[Float[Tensor, "molecules slots"], Float[Tensor, "molecules slots hidden"]]:
        """Energy of each atom by the head of its level, and the hidden layer of that head."""
        read = [self.head(name).traced(scalars) for name in levels.names]
        energies, hidden = zip(*read, strict=True)
        return chosen(energies, levels), chosen(hidden, levels)

    def read_back(
        self, hidden: Float[Tensor, "molecules slots hidden"], grad: Float[Tensor, "molecules slots"], levels: Levels
    ) -> Float[Tensor, "molecules slots channels"]:
        """Derivative with respect to the features from that with respect to the energies of `read`."""
        return chosen([self.head(name).pull_back(hidden, grad) for name in levels.names], levels)

    def head(self, level: str) -> EnergyHead:
        """Energy head of a level."""
        return cast(EnergyHead, self.heads[level])

    def pair_functions(
        self, pairs: Pairs, visibility: Float[Tensor, "molecules slots neighbours"] | None = None
    ) -> tuple[Float[Tensor, "molecules slots radial neighbours"], Float[Tensor, "molecules slots 9 neighbours"]]:
        """Radial functions of each pair, 0 for padding and beyond the cutoff, and the monomials of its direction."""
        weights = pairs.mask if visibility is None else pairs.mask * visibility
        radial = bessel(pairs.distances, self.config.cutoff, self.config.n_radial) * weights[:, :, None]
        return radial, monomials(pairs.unit_vectors)


def chosen(values: Sequence[Tensor], levels: Levels) -> Tensor:
    """Of the values at each of the levels [molecules, ...] those at the level of the molecule."""
    if levels.index is None:
        return values[0]
    return torch.stack(list(values))[levels.index, torch.arange(len(levels.index), device=levels.index.device)]


def _zero_embedding(channels: int) -> nn.Embedding:
    embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
    nn.init.zeros_(embedding.weight)
    return embedding


def _layer(config: EncoderConfig, layer: int, couplings: Couplings) -> InteractionLayer:
    """The interaction at this place."""
    return InteractionLayer(
        n_radial=config.n_radial,
        channels=config.channels,
        mixed_channels=config.mixed_channels,
        source_scalars=config.source_scalars,
        received_vectors=config.source_vectors if layer > 0 else 0,
        sent_vectors=config.source_vectors if layer < config.n_layers - 1 else config.output_vectors,
        hidden=config.hidden,
        neighbour_scale=_NEIGHBOUR_SCALE,
        couplings=couplings,
    )
