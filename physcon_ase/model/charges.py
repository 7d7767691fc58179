"""Partial charges of atoms, which sum to the total charge of the molecule, and their effect on features."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from physcon_ase.model.interaction import silu_back


@dataclass(frozen=True)
class Charges:
    """Partial charges of a batch, with what `ChargeHead.pull_back` needs."""

    partial: Float[Tensor, "molecules slots"]
    """q [e]; they sum to the total charge. 0 in empty slots."""
    local: Float[Tensor, "molecules slots"]
    """q̃ [e], predicted from the surroundings alone. 0 in empty slots."""
    shares: Float[Tensor, "molecules slots"]
    """w, which sum to 1."""
    missing: Float[Tensor, "molecules 1"]
    """Q - Σ q̃ [e]."""
    hidden: Float[Tensor, "molecules slots hidden"]
    """Hidden layer of the head, before its activation."""


class ChargeHead(nn.Module):
    """q_i = q̃_i + w_i (Q - Σ_j q̃_j): charges predicted locally, and the rest of the total charge Q distributed.

    q̃ and the affinities a, w = softmax(a), are read from the features of each atom. Where q̃ is right nothing is left to
    distribute, so that an ion and a molecule far from it keep their own charges. After the neutral charge equilibration
    of Anstine, Zubatyuk and Isayev 2025, doi 10.1039/D4SC08572H.
    """

    def __init__(self, channels: int):
        super().__init__()
        first, last = nn.Linear(channels, channels // 2), nn.Linear(channels // 2, 2)
        nn.init.zeros_(last.bias)
        with torch.no_grad():
            last.weight *= 0.1
        self.network = nn.Sequential(first, nn.SiLU(), last)

    def forward(
        self,
        scalars: Float[Tensor, "molecules slots channels"],
        total: Int[Tensor, " molecules"],
        mask: Bool[Tensor, "molecules slots"],
    ) -> Charges:
        """Partial charges from the features of the atoms and the total charge [e] of each molecule."""
        first, activation, last = self.network
        hidden = first(scalars)
        local, affinity = last(activation(hidden)).unbind(dim=-1)
        local = local * mask
        shares = affinity.masked_fill(~mask, -torch.inf).softmax(dim=1)
        missing = total[:, None] - local.sum(dim=1, keepdim=True)
        return Charges(local + shares * missing, local, shares, missing, hidden)

    def pull_back(
        self, charges: Charges, grad: Float[Tensor, "molecules slots"], mask: Bool[Tensor, "molecules slots"]
    ) -> Float[Tensor, "molecules slots channels"]:
        """Derivative with respect to the features from that with respect to `Charges.partial`."""
        first, _, last = self.network
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        excess = (grad - (grad * charges.shares).sum(dim=1, keepdim=True)) * mask
        pair = torch.stack([excess, excess * charges.shares * charges.missing], dim=-1)
        return silu_back(pair @ last.weight, charges.hidden) @ first.weight


class ChargeEffect(nn.Module):
    """Changes the features of each atom by what its partial charge adds to them; no change before training."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.last = nn.Linear(channels, channels // 2), nn.Linear(channels // 2, channels)
        self.of_charge = nn.Parameter(torch.randn(channels // 2))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, scalars: Float[Tensor, "molecules slots channels"], charges: Float[Tensor, "molecules slots"]
    ) -> tuple[Float[Tensor, "molecules slots channels"], Float[Tensor, "molecules slots hidden"]]:
        """New features, and the hidden layer that `pull_back` needs."""
        hidden = torch.addcmul(self.first(scalars), charges[..., None], self.of_charge)
        return scalars + self.last(nn.functional.silu(hidden)), hidden

    def pull_back(
        self, hidden: Tensor, grad: Float[Tensor, "molecules slots channels"]
    ) -> tuple[Float[Tensor, "molecules slots channels"], Float[Tensor, "molecules slots"]]:
        """Derivatives with respect to features and charges from that with respect to the new features."""
        grad_hidden = silu_back(grad @ self.last.weight, hidden)
        return torch.addmm(grad.flatten(0, 1), grad_hidden.flatten(0, 1), self.first.weight).view_as(grad), (
            grad_hidden @ self.of_charge
        )
