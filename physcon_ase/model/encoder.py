"""The network behind the energies: atomic numbers and positions in, invariant features of each atom out."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from physcon_ase.batch import Batch
from physcon_ase.model.charge import ChargeShares
from physcon_ase.model.config import EncoderConfig
from physcon_ase.model.layers import Interaction, Pairs, bessel, monomials, pair_products

MAX_ATOMIC_NUMBER = 94
"""Size of the element embedding; which elements a level covers is stated in its `LevelConfig`."""

_NEIGHBOUR_SCALE = 0.25
"""About 1 / sqrt(number of neighbours within 5 Å): keeps the density of order 1."""


def _embedding(config: EncoderConfig) -> nn.Embedding:
    return nn.Embedding(MAX_ATOMIC_NUMBER + 1, config.channels, padding_idx=0)


def _layer(config: EncoderConfig, layer: int) -> Interaction:
    """The interaction at this place among those of an encoder."""
    return Interaction(
        n_radial=config.n_radial,
        channels=config.channels,
        mixed_channels=config.mixed_channels,
        source_scalars=config.source_scalars,
        received_vectors=config.source_vectors if layer > 0 else 0,
        sent_vectors=config.source_vectors if layer < config.n_layers - 1 else config.output_vectors,
        hidden=config.hidden,
        neighbour_scale=_NEIGHBOUR_SCALE,
    )


class OwnLayers(nn.Module):
    """The last layers of an encoder once more, with weights of their own: what a level need not share with others.

    Parameters are named as in `Encoder`. With as many layers as the encoder has, the embedding is there too. How atoms
    share the total charge stays what all levels have in common.
    """

    def __init__(self, config: EncoderConfig, n_layers: int):
        super().__init__()
        first = config.n_layers - n_layers
        self.embedding = _embedding(config) if first == 0 else None
        self.interactions = nn.ModuleDict(
            {str(layer): _layer(config, layer) for layer in range(first, config.n_layers)}
        )


class Encoder(nn.Module):
    """Features of each atom from its surroundings, smooth in the positions."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.embedding = _embedding(config)
        self.interactions = nn.ModuleList(_layer(config, layer) for layer in range(config.n_layers))
        self.charge_shares = ChargeShares(config.channels) if config.charged else None

    def forward(
        self,
        batch: Batch,
        pairs: Pairs,
        visibility: Float[Tensor, "molecules slots neighbours"] | None = None,
        own: OwnLayers | None = None,
    ) -> tuple[Float[Tensor, "molecules slots channels"], Float[Tensor, "molecules slots 3 output_vectors"] | None]:
        """Scalar and, if there are any, vector features of each atom; those of empty slots mean nothing.

        Args:
            batch: the molecules.
            pairs: their pairs of atoms.
            visibility: factor of each pair in the density; None for 1.
            own: what stands in for the last layers, if a level has its own.
        """
        basis = pair_products(*self.pair_functions(pairs, visibility))
        scalars, vectors = self.embedded(batch, own), None
        for layer, interaction in enumerate(self.layers(own)):
            if (shares := self.shares_before(layer, batch)) is not None:
                scalars = shares(scalars, batch)
            scalars, vectors = interaction(basis, scalars, vectors, pairs.neighbours)
        return scalars, vectors

    def embedded(self, batch: Batch, own: OwnLayers | None = None) -> Float[Tensor, "molecules slots channels"]:
        """What each atom is told of its element."""
        embedding = self.embedding if own is None or own.embedding is None else own.embedding
        return embedding(batch.atomic_numbers)

    def layers(self, own: OwnLayers | None = None) -> list[Interaction]:
        """The layers in their order, with those of `own` in place of the last ones."""
        shared = [cast(Interaction, layer) for layer in self.interactions]
        if own is None:
            return shared
        last = [cast(Interaction, layer) for layer in own.interactions.values()]
        return [*shared[: len(shared) - len(last)], *last]

    def shares_before(self, layer: int, batch: Batch) -> ChargeShares | None:
        """What tells the atoms of the total charge before a layer: the last one, and only if a molecule is charged."""
        is_last = layer == len(self.interactions) - 1
        return self.charge_shares if is_last and self.charge_shares is not None and batch.charge.any() else None

    def pair_functions(
        self, pairs: Pairs, visibility: Float[Tensor, "molecules slots neighbours"] | None = None
    ) -> tuple[Float[Tensor, "molecules slots radial neighbours"], Float[Tensor, "molecules slots 9 neighbours"]]:
        """Radial functions of each pair, 0 for padding and beyond the cutoff, and the monomials of its direction."""
        weights = pairs.mask if visibility is None else pairs.mask * visibility
        radial = bessel(pairs.distances, self.config.cutoff, self.config.n_radial) * weights[:, :, None]
        return radial, monomials(pairs.unit_vectors)
