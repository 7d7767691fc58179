"""Energies of atoms with their derivative written out: the hot path once the weights are settled.

Autograd needs about 500 small operations for the forces of a molecule, and for a molecule the time of an operation is
that of starting it. By hand it is a third of them. Training differentiates forces by weights and leaves all of it to
autograd.
"""

import functools
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, with_positions
from physcon_ase.model.charges import Charges
from physcon_ase.model.energy import EnergyNetwork, Levels, all_pairs
from physcon_ase.model.layers import Pairs, Trace, bessel_and_slope, make_pairs, monomials, pair_products
from physcon_ase.model.long_range import LongRangeTrace


def energies_of_atoms(
    network: EnergyNetwork, batch: Batch, levels: Levels, pairs: Pairs
) -> tuple[Float[Tensor, "molecules slots"], Float[Tensor, "molecules slots hidden"], tuple[Tensor, ...]]:
    """Energies of atoms [eV] without references, differentiable with respect to the positions only.

    Also the hidden layer of the energy head and the partial charges [e] before and after the last layer, through which
    no gradient goes.

    Args:
        network: with weights that need no gradient.
        batch: the molecules.
        levels: level of theory of each.
        pairs: their pairs of atoms within the cutoff, made without gradient.
    """
    energies, hidden, *charges = cast(
        tuple[Tensor, ...], _Energies.apply(batch.positions, network, batch, levels, pairs)
    )
    return energies, hidden, tuple(charges)


@dataclass(frozen=True)
class _Kept:
    """Intermediate values of the forward pass."""

    traces: list[Trace]
    charges: list[Charges]
    effect: Tensor | None
    hidden: Tensor
    long_range: LongRangeTrace | None
    everywhere: Pairs


class _Energies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, network: EnergyNetwork, batch: Batch, levels: Levels, pairs: Pairs
    ) -> tuple[Tensor, ...]:
        # Padding is put to the cutoff, where radial functions and their slopes vanish.
        distances = torch.where(pairs.mask, pairs.distances, network.config.cutoff)
        radial, slope = bessel_and_slope(distances, network.config.cutoff, network.config.n_radial)
        angular = monomials(pairs.unit_vectors)
        basis = pair_products(radial, angular)
        scalars, vectors, effect = network.embedded(batch, levels), None, None
        traces, charges = [], []
        for layer, interaction in enumerate(network.layers):
            if network.is_charged_before(layer):
                charges.append(network.charges(0, scalars, batch))
                assert network.charge_effect is not None
                scalars, effect = network.charge_effect(scalars, charges[0].partial)
            scalars, vectors, trace = interaction.traced(basis, scalars, vectors, pairs.neighbours)
            traces.append(trace)
        energies, hidden = network.read(scalars, levels)
        if network.charge_effect is not None:
            charges.append(network.charges(1, scalars, batch))
        everywhere, of_pairs = pairs, None
        if network.long_range is not None:
            everywhere = all_pairs(batch, pairs)
            far, of_pairs = network.long_range(batch, everywhere, charges[-1].partial if charges else None)
            energies = energies + far
        ctx.save_for_backward(positions)
        ctx.inputs, ctx.functions = (network, batch, levels, pairs), (radial, slope, angular)
        ctx.kept = _Kept(traces, charges, effect, hidden, of_pairs, everywhere)
        partial = [own.partial for own in charges]
        ctx.mark_non_differentiable(hidden, *partial)
        return energies, hidden, *partial

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        network, batch, levels, pairs = ctx.inputs
        grad = grads[0]  # nothing comes back through hidden layer and charges
        (positions,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the derivative itself is to be differentiated
            batch = with_positions(batch, positions)
            found = network(batch, levels, make_pairs(batch, network.config.cutoff))
            return *torch.autograd.grad(found.energies, positions, grad, create_graph=True), *4 * [None]
        kept: _Kept = ctx.kept
        grad_scalars = network.read_back(kept.hidden, grad, levels)
        of_far = None
        if kept.long_range is not None:
            of_charges, of_far = network.long_range.pull_back(kept.long_range, grad)
            if of_charges is not None:
                grad_scalars = grad_scalars + network.charge_heads[1].pull_back(
                    kept.charges[1], of_charges, batch.atom_mask
                )
        grad_vectors, of_basis = None, []
        for layer in reversed(range(len(network.layers))):
            part, grad_scalars, grad_vectors = network.layers[layer].pull_back(
                kept.traces[layer], grad_scalars, grad_vectors, to_features=layer > 0
            )
            of_basis.append(part)
            if grad_scalars is not None and network.is_charged_before(layer):
                grad_scalars, of_charges = network.charge_effect.pull_back(kept.effect, grad_scalars)
                grad_scalars = grad_scalars + network.charge_heads[0].pull_back(
                    kept.charges[0], of_charges, batch.atom_mask
                )
        grad_basis = functools.reduce(torch.add, of_basis)
        dense = pairs.neighbours is None
        grad_positions = _pull_back_pairs(grad_basis, *ctx.functions, pairs, of_far if dense else None)
        if of_far is not None and not dense:
            of_vectors = of_far[:, :, None] * kept.everywhere.unit_vectors
            grad_positions = grad_positions + of_vectors.sum(dim=1).transpose(1, 2) - of_vectors.sum(dim=3)
        return grad_positions, *4 * [None]


def _pull_back_pairs(
    grad: Float[Tensor, "molecules slots basis neighbours"],
    radial: Float[Tensor, "molecules slots radial neighbours"],
    slope: Float[Tensor, "molecules slots radial neighbours"],
    angular: Float[Tensor, "molecules slots 9 neighbours"],
    pairs: Pairs,
    of_far: Float[Tensor, "molecules slots neighbours"] | None,
) -> Float[Tensor, "molecules slots 3"]:
    """Derivative with respect to the positions from that with respect to `pair_products`, and to the distances."""
    unit, distances = pairs.unit_vectors, pairs.distances
    grad = grad.unflatten(2, (-1, radial.shape[2]))
    of_monomials = (grad * radial[:, :, None]).sum(dim=3)
    of_radial = (grad * angular[:, :, :, None]).sum(dim=2)
    of_distances = (of_radial * slope).sum(dim=2)
    if of_far is not None:
        of_distances = of_distances + of_far
    _, linear, differences, products = of_monomials.split((1, 3, 2, 3), dim=2)
    squares = torch.cat([differences, -differences.sum(dim=2, keepdim=True)], dim=2)
    of_units = torch.addcmul(linear, unit, squares, value=2).addcmul_(products, unit.roll(-1, dims=2))
    of_units += (products * unit).roll(1, dims=2)
    along = torch.addcdiv(of_distances, (unit * of_units).sum(dim=2), distances, value=-1)
    of_vectors = torch.addcmul(of_units / distances[:, :, None], unit, along[:, :, None])  # of r_j - r_i
    from_i = of_vectors.sum(dim=3)
    if pairs.neighbours is None:
        return of_vectors.sum(dim=1).transpose(1, 2) - from_i
    index = pairs.neighbours.flatten(1)[:, :, None].expand(-1, -1, 3)
    return (-from_i).scatter_add(1, index, of_vectors.transpose(2, 3).flatten(1, 2))
