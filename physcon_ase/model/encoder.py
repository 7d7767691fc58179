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


def make_layer(config: EncoderConfig, layer: int) -> Interaction:
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


class Encoder(nn.Module):
    """Features of each atom from its surroundings, smooth in the positions."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, config.channels, padding_idx=0)
        self.interactions = nn.ModuleList(make_layer(config, layer) for layer in range(config.n_layers))
        self.charge_shares = ChargeShares(config.channels) if config.charged else None

    def forward(
        self,
        batch: Batch,
        pairs: Pairs,
        visibility: Float[Tensor, "molecules slots neighbours"] | None = None,
        last: Interaction | None = None,
    ) -> tuple[Float[Tensor, "molecules slots channels"], Float[Tensor, "molecules slots 3 output_vectors"] | None]:
        """Scalar and, if there are any, vector features of each atom; those of empty slots mean nothing.

        Args:
            batch: the molecules.
            pairs: their pairs of atoms.
            visibility: factor of each pair in the density; None for 1.
            last: what stands in for the last layer, if a level has one of its own.
        """
        basis = pair_products(*self.pair_functions(pairs, visibility))
        scalars, vectors = self.embedding(batch.atomic_numbers), None
        for layer, interaction in enumerate(self.layers(last)):
            if (shares := self.shares_before(layer, batch)) is not None:
                scalars = shares(scalars, batch)
            scalars, vectors = interaction(basis, scalars, vectors, pairs.neighbours)
        return scalars, vectors

    def layers(self, last: Interaction | None = None) -> list[Interaction]:
        """The layers in their order, with `last` in place of the last one if it is given."""
        layers = [cast(Interaction, layer) for layer in self.interactions]
        return layers if last is None else [*layers[:-1], last]

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
