"""Partial charges of atoms, which sum to the total charge of the molecule, and their effect on features."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from physcon_ase.model.charge_groups import ChargeGroups, GroupCharges, given_charges, group_charges
from physcon_ase.model.interaction import silu_back


@dataclass(frozen=True)
class Charges:
    """Partial charges of a batch, and intermediate values for `ChargeHead.pull_back`."""

    partial: Float[Tensor, "molecules slots"]
    """q [e]; they sum to the total charge. 0 in empty slots."""
    local: Float[Tensor, "molecules slots"]
    """q̃ [e], predicted locally from the features of the atom. 0 in empty slots."""
    hidden: Float[Tensor, "molecules slots hidden"]
    """Hidden layer of the head, before its activation."""
    remainder: "_Remainder | _GroupRemainder"
    """The part of the total charge that is distributed."""

    def of_partitions(self, grad: Float[Tensor, "molecules slots"]) -> Float[Tensor, "partitions molecules"]:
        """Derivative with respect to `ChargeGroups.weights` from that with respect to `partial`; only with groups."""
        assert isinstance(self.remainder, _GroupRemainder)
        return self.remainder.of_weights(grad)


@dataclass(frozen=True)
class _Remainder:
    """The remainder of the total charge of molecules that are single groups."""

    shares: Float[Tensor, "molecules slots"]
    """Weights w, which sum to 1."""
    missing: Float[Tensor, "molecules 1"]
    """Remainder Q - Σ q̃ [e]."""

    def partial(self, local: Float[Tensor, "molecules slots"]) -> Float[Tensor, "molecules slots"]:
        """Partial charges q [e] from the local ones q̃."""
        return local + self.shares * self.missing

    def pull_back(self, grad: Float[Tensor, "molecules slots"]) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to q̃ and the affinities from that with respect to q."""
        excess = grad - (grad * self.shares).sum(dim=1, keepdim=True)
        return excess, excess * self.shares * self.missing


@dataclass(frozen=True)
class _GroupRemainder:
    """The remainders of the total charges of groups, for each partition into groups."""

    groups: ChargeGroups
    """The partitions."""
    totals: GroupCharges
    """Total charges of the groups."""
    shares: Float[Tensor, "partitions molecules slots"]
    """Weights w, which sum to 1 over each group."""
    missing: Float[Tensor, "partitions molecules slots"]
    """Remainder [e] of the group of each atom."""

    def partial(self, local: Float[Tensor, "molecules slots"]) -> Float[Tensor, "molecules slots"]:
        """Partial charges q [e] from the local ones q̃."""
        return local + (self.groups.weights[..., None] * self.shares * self.missing).sum(dim=0)

    def pull_back(self, grad: Float[Tensor, "molecules slots"]) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to q̃ and the affinities from that with respect to q."""
        numbers, weights = self.groups.numbers, self.groups.weights[..., None]
        of_groups = self.groups.sums(grad * self.shares)
        excess = grad - of_groups.gather(2, numbers)
        of_local = excess + self.totals.pull_back(of_groups).gather(2, numbers)
        return (weights * of_local).sum(dim=0), (weights * excess * self.shares * self.missing).sum(dim=0)

    def of_weights(self, grad: Float[Tensor, "molecules slots"]) -> Float[Tensor, "partitions molecules"]:
        """Derivative with respect to the weights of the partitions from that with respect to q."""
        return (grad * self.shares * self.missing).sum(dim=2)


class ChargeHead(nn.Module):
    """q_i = q̃_i + w_i (Q - Σ_j q̃_j): local charges, and the remainder of the total charge Q distributed.

    q̃ and the affinities a, with w = softmax(a), are linear in a hidden layer of the features of each atom. If the local
    charges are correct the remainder is zero. Groups too far apart to exchange charge have total charges and
    remainders of their own (`model.charge_groups`). The scheme follows the neutral charge equilibration of Anstine,
    Zubatyuk and Isayev 2025, doi 10.1039/D4SC08572H.
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
        groups: ChargeGroups | None = None,
    ) -> Charges:
        """Partial charges of the atoms.

        Args:
            scalars: features of the atoms.
            total: total charge of each molecule [e].
            mask: which slots hold atoms.
            groups: groups of the molecules; None if each is a single one.
        """
        first, activation, last = self.network
        hidden = first(scalars)
        local, affinity = last(activation(hidden)).unbind(dim=-1)
        local, affinity = local * mask, affinity.masked_fill(~mask, -torch.inf)
        if groups is None:
            missing = total[:, None] - local.sum(dim=1, keepdim=True)
            remainder = _Remainder(affinity.softmax(dim=1), missing)
        else:
            sums = groups.sums(local)
            if groups.formal is None:
                totals = group_charges(sums, total, groups.exist)
            else:
                totals = given_charges(groups.formal)
            missing = (totals.charges - sums).gather(2, groups.numbers)
            remainder = _GroupRemainder(groups, totals, groups.softmax(affinity), missing)
        return Charges(remainder.partial(local), local, hidden, remainder)

    def pull_back(
        self, charges: Charges, grad: Float[Tensor, "molecules slots"], mask: Bool[Tensor, "molecules slots"]
    ) -> Float[Tensor, "molecules slots channels"]:
        """Derivative with respect to the features from that with respect to `Charges.partial`."""
        first, _, last = self.network
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        of_local, of_affinity = charges.remainder.pull_back(grad)
        pair = torch.stack([of_local * mask, of_affinity], dim=-1)
        return silu_back(pair @ last.weight, charges.hidden) @ first.weight


class ChargeEffect(nn.Module):
    """Update of the features of each atom by its partial charge; zero before training."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.last = nn.Linear(channels, channels // 2), nn.Linear(channels // 2, channels)
        self.of_charge = nn.Parameter(torch.randn(channels // 2))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, scalars: Float[Tensor, "molecules slots channels"], charges: Float[Tensor, "molecules slots"]
    ) -> tuple[Float[Tensor, "molecules slots channels"], Float[Tensor, "molecules slots hidden"]]:
        """Updated features, and the hidden layer for `pull_back`."""
        hidden = torch.addcmul(self.first(scalars), charges[..., None], self.of_charge)
        return scalars + self.last(nn.functional.silu(hidden)), hidden

    def pull_back(
        self, hidden: Tensor, grad: Float[Tensor, "molecules slots channels"]
    ) -> tuple[Float[Tensor, "molecules slots channels"], Float[Tensor, "molecules slots"]]:
        """Derivatives with respect to features and charges from that with respect to the updated features."""
        grad_hidden = silu_back(grad @ self.last.weight, hidden)
        return torch.addmm(grad.flatten(0, 1), grad_hidden.flatten(0, 1), self.first.weight).view_as(grad), (
            grad_hidden @ self.of_charge
        )
