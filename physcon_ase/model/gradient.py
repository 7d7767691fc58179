"""Energies of atoms with their derivative written out: the hot path once the weights are settled.

Autograd needs about 500 small operations for the forces of a molecule, and for a molecule the time of an operation is
that of starting it. By hand it is a third of them. Training differentiates forces by weights and leaves all of it to
autograd.
"""

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, with_positions
from physcon_ase.model.charge import ChargeShares
from physcon_ase.model.encoder import Encoder, OwnLayers
from physcon_ase.model.heads import EnergyHead
from physcon_ase.model.layers import Pairs, bessel_and_slope, make_pairs, monomials, pair_products


def energies_of_atoms(
    encoder: Encoder, heads: Sequence[EnergyHead], batch: Batch, pairs: Pairs, own: OwnLayers | None = None
) -> tuple[tuple[Float[Tensor, "molecules slots"], ...], tuple[Float[Tensor, "molecules slots hidden"], ...]]:
    """Each head on the features of the encoder, differentiable with respect to the positions only.

    The second part is the hidden layer of each head before its activation; no gradient goes through it.

    Args:
        encoder: with weights that need no gradient.
        heads: the same.
        batch: the molecules.
        pairs: their pairs of atoms, made without gradient.
        own: as in `Encoder.forward`.
    """
    found = cast(tuple[Tensor, ...], _Energies.apply(batch.positions, encoder, heads, batch, pairs, own))
    return found[: len(heads)], found[len(heads) :]


class _Energies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        positions: Tensor,
        encoder: Encoder,
        heads: Sequence[EnergyHead],
        batch: Batch,
        pairs: Pairs,
        own: OwnLayers | None,
    ) -> tuple[Tensor, ...]:
        # Padding is put to the cutoff, where radial functions and their slopes vanish.
        distances = torch.where(pairs.mask, pairs.distances, encoder.config.cutoff)
        radial, slope = bessel_and_slope(distances, encoder.config.cutoff, encoder.config.n_radial)
        angular = monomials(pairs.unit_vectors)
        basis = pair_products(radial, angular)
        scalars, vectors, traces, charged = encoder.embedded(batch, own), None, [], []
        for layer, interaction in enumerate(encoder.layers(own)):
            charged.append(_with_charge(encoder.shares_before(layer, batch), scalars, batch))
            if charged[-1] is not None:
                scalars = charged[-1][1].detach()
            scalars, vectors, trace = interaction.traced(basis, scalars, vectors, pairs.neighbours)
            traces.append(trace)
        energies, hidden = zip(*(head.traced(scalars) for head in heads), strict=True)
        ctx.save_for_backward(positions)
        ctx.inputs, ctx.traces = (encoder, heads, batch, pairs, own), (traces, charged, hidden)
        ctx.functions = radial, slope, angular
        ctx.mark_non_differentiable(*hidden)
        return *energies, *hidden

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        encoder, heads, batch, pairs, own = ctx.inputs
        grads = grads[: len(heads)]  # nothing comes back through the hidden layers
        (positions,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the derivative itself is to be differentiated
            batch = with_positions(batch, positions)
            scalars, _ = encoder(batch, make_pairs(batch, encoder.config.cutoff), own=own)
            energies = [head(scalars) for head in heads]
            return *torch.autograd.grad(energies, positions, grads, create_graph=True), *5 * [None]
        layers, (traces, charged, hidden), (radial, slope, angular) = encoder.layers(own), ctx.traces, ctx.functions
        of_heads = [head.pull_back(*rest) for head, *rest in zip(heads, hidden, grads, strict=True)]
        grad_scalars, grad_vectors, of_basis = functools.reduce(torch.add, of_heads), None, []
        for layer, trace, before in zip(reversed(layers), reversed(traces), reversed(charged), strict=True):
            assert grad_scalars is not None
            part, grad_scalars, grad_vectors = layer.pull_back(
                trace, grad_scalars, grad_vectors, to_features=layer is not layers[0]
            )
            if before is not None and grad_scalars is not None:
                (grad_scalars,) = torch.autograd.grad(before[1], before[0], grad_scalars, retain_graph=True)
            of_basis.append(part)
        grad_basis = functools.reduce(torch.add, of_basis)
        return _pull_back_pairs(grad_basis, radial, slope, angular, pairs), *5 * [None]


def _with_charge(shares: ChargeShares | None, scalars: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
    """Features before and after the charge is told, with autograd between them: few molecules are charged."""
    if shares is None:
        return None
    with torch.enable_grad():
        before = scalars.detach().requires_grad_()
        return before, shares(before, batch)


def _pull_back_pairs(
    grad: Float[Tensor, "molecules slots basis neighbours"],
    radial: Float[Tensor, "molecules slots radial neighbours"],
    slope: Float[Tensor, "molecules slots radial neighbours"],
    angular: Float[Tensor, "molecules slots 9 neighbours"],
    pairs: Pairs,
) -> Float[Tensor, "molecules slots 3"]:
    """Derivative with respect to the positions from that with respect to `pair_products`."""
    unit, distances = pairs.unit_vectors, pairs.distances
    grad = grad.unflatten(2, (-1, radial.shape[2]))
    of_monomials = (grad * radial[:, :, None]).sum(dim=3)
    of_radial = (grad * angular[:, :, :, None]).sum(dim=2)
    of_distances = (of_radial * slope).sum(dim=2)
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
