"""How the total charge of a molecule enters the features of its atoms."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physcon_ase.batch import Batch


class ChargeShares(nn.Module):
    """Gives each atom a share of the total charge, as its features say, and changes the features by it.

    Share: |Q| softmax over the atoms of a learned affinity, one for Q > 0 and one for Q < 0, after the attention of
    Unke et al. 2021, doi 10.1038/s41467-021-27504-0. Nothing changes in a neutral molecule, nor before training.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.affinity = nn.Linear(channels, 2)
        self.effect = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 2 * channels))
        last = self.effect[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self, scalars: Float[Tensor, "molecules slots channels"], batch: Batch
    ) -> Float[Tensor, "molecules slots channels"]:
        """The features with the effect of the charge added."""
        of_cation, of_anion = self.effect(scalars).chunk(2, dim=-1)
        is_anion = (batch.charge < 0)[:, None, None]
        return scalars + self.shares(scalars, batch)[..., None] * torch.where(is_anion, of_anion, of_cation)

    def shares(
        self, scalars: Float[Tensor, "molecules slots channels"], batch: Batch
    ) -> Float[Tensor, "molecules slots"]:
        """|charge| [e] of each atom; they add up to that of the molecule. 0 in empty slots."""
        of_cation, of_anion = self.affinity(scalars).unbind(dim=-1)
        affinity = torch.where((batch.charge < 0)[:, None], of_anion, of_cation)
        affinity = affinity.masked_fill(~batch.atom_mask, -torch.inf)
        return batch.charge.abs()[:, None] * affinity.softmax(dim=1)
