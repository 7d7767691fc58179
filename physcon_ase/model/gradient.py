"""Atomic energies and their hand-written derivative with respect to the positions, for inference and training.

Automatic differentiation needs about 500 small operations for the forces of a molecule, whose time is dominated by the
overhead of launching them; the hand-written derivative needs a third. In training, energies and forces computed in this
way are differentiated once with respect to the weights, instead of differentiating the energy twice.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, with_positions
from physcon_ase.model.charge_groups import ChargeGroups
from physcon_ase.model.charges import Charges
from physcon_ase.model.energy import EnergyNetwork, Evaluation, Levels
from physcon_ase.model.interaction import Trace
from physcon_ase.model.long_range import LongRangeGradient, LongRangeTrace
from physcon_ase.model.pairs import Pairs, bessel_and_slope, make_pairs, monomials, pair_products, sum_to_neighbours


def energies_of_atoms(
    network: EnergyNetwork, batch: Batch, levels: Levels, pairs: Pairs
) -> tuple[Float[Tensor, "molecules slots"], Float[Tensor, "molecules slots hidden"], tuple[Tensor, ...]]:
    """Energies of atoms [eV] without references, differentiable with respect to the positions only.

    Also returned are the hidden layer of the energy head and the partial charges [e] before and after the last layer,
    which are not differentiable.

    Args:
        network: the energy network, whose weights do not require a gradient.
        batch: the molecules.
        levels: level of theory of each.
        pairs: their pairs of atoms within the cutoff, made without gradient.
    """
    energies, hidden, *charges = cast(
        tuple[Tensor, ...], _Energies.apply(batch.positions, network, batch, levels, pairs)
    )
    return energies, hidden, tuple(charges)


def energies_and_gradient(
    network: EnergyNetwork, batch: Batch, levels: Levels, pairs: Pairs, groups: ChargeGroups | None
) -> tuple[Evaluation, Float[Tensor, "molecules slots 3"]]:
    """Energies of atoms and the derivative of their sum with respect to the positions [eV/Å].

    Both are differentiable with respect to the weights, and neither with respect to the positions.

    Args:
        network: the energy network.
        batch: the molecules.
        levels: level of theory of each.
        pairs: their pairs of atoms within the cutoff, made without gradient.
        groups: their groups, see `EnergyNetwork.charge_groups`.
    """
    energies, trace = _traced(network, batch, levels, pairs, groups)
    gradient = _pull_back(network, trace, torch.ones_like(energies))
    return Evaluation(energies, trace.hidden, None, tuple(trace.charges), groups), gradient


@dataclass(frozen=True)
class _NetworkTrace:
    """Intermediate values of the energies of a batch."""

    batch: Batch
    levels: Levels
    pairs: Pairs
    groups: ChargeGroups | None
    radial: Tensor
    slope: Tensor
    """Derivative of the radial functions with respect to the distance."""
    angular: Tensor
    layers: list[Trace]
    charges: list[Charges]
    effect: Tensor | None
    hidden: Tensor
    long_range: LongRangeTrace | None


def _traced(
    network: EnergyNetwork, batch: Batch, levels: Levels, pairs: Pairs, groups: ChargeGroups | None
) -> tuple[Tensor, _NetworkTrace]:
    """Energies of atoms, and intermediate values for `_pull_back`."""
    # Padded pairs get the cutoff as distance, where radial functions and their slopes vanish.
    distances = torch.where(pairs.mask, pairs.distances, network.config.cutoff)
    radial, slope = bessel_and_slope(distances, network.config.cutoff, network.config.n_radial)
    angular = monomials(pairs.unit_vectors)
    basis = pair_products(radial, angular)
    scalars, vectors, effect = network.embedded(batch, levels), None, None
    layers, charges = [], []
    for layer, interaction in enumerate(network.layers):
        if network.is_charged_before(layer):
            charges.append(network.charges(0, scalars, batch, groups))
            assert network.charge_effect is not None
            scalars, effect = network.charge_effect(scalars, charges[0].partial)
        scalars, vectors, trace = interaction.traced(basis, scalars, vectors, pairs.neighbours)
        layers.append(trace)
    energies, hidden = network.read(scalars, levels)
    if network.charge_effect is not None:
        charges.append(network.charges(1, scalars, batch, groups))
    far_trace = None
    if network.long_range is not None:
        far, far_trace = network.long_range.traced(batch, pairs, charges[-1].partial if charges else None)
        energies = energies + far
    return energies, _NetworkTrace(
        batch, levels, pairs, groups, radial, slope, angular, layers, charges, effect, hidden, far_trace
    )


def _pull_back(
    network: EnergyNetwork, trace: _NetworkTrace, grad: Float[Tensor, "molecules slots"]
) -> Float[Tensor, "molecules slots 3"]:
    """Derivative with respect to the positions from that with respect to the energies of atoms."""
    batch = trace.batch
    grad_scalars = network.read_back(trace.hidden, grad, trace.levels)
    far, of_charges = None, []
    if trace.long_range is not None:
        assert network.long_range is not None
        far = network.long_range.pull_back(batch, trace.long_range, grad)
        if trace.charges:
            of_charges.append((trace.charges[1], far.charges))
            grad_scalars = grad_scalars + network.charge_back(1, trace.charges[1], far.charges, batch)
    grad_vectors, grad_basis = None, None
    for layer in reversed(range(len(network.layers))):
        assert grad_scalars is not None
        # features before the first layer depend on the positions through the charges of separate groups alone
        to_features = layer > 0 or (trace.groups is not None and network.is_charged_before(layer))
        grad_basis, grad_scalars, grad_vectors = network.layers[layer].pull_back(
            trace.layers[layer], grad_scalars, grad_vectors, grad_basis=grad_basis, to_features=to_features
        )
        if grad_scalars is not None and network.is_charged_before(layer):
            assert network.charge_effect is not None
            assert trace.effect is not None
            grad_scalars, of_early = network.charge_effect.pull_back(trace.effect, grad_scalars)
            of_charges.append((trace.charges[0], of_early))
            grad_scalars = grad_scalars + network.charge_back(0, trace.charges[0], of_early, batch)
    assert grad_basis is not None
    positions = _pull_back_distances(grad_basis, trace, far)
    if trace.groups is None:
        return positions
    of_weights = torch.stack([charges.of_partitions(own) for charges, own in of_charges]).sum(dim=0)
    return positions + trace.groups.pull_back(of_weights, positions.shape[1])


def _pull_back_distances(
    grad_basis: Float[Tensor, "molecules slots basis neighbours"],
    trace: _NetworkTrace,
    far: LongRangeGradient | None,
) -> Float[Tensor, "molecules slots 3"]:
    """Derivative with respect to the positions from those with respect to `pair_products` and of the long range."""
    if far is None:
        return _pull_back_pairs(grad_basis, trace, None)
    if far.positions is not None:
        return _pull_back_pairs(grad_basis, trace, None) + far.positions
    if trace.pairs.neighbours is None:
        return _pull_back_pairs(grad_basis, trace, far.distances)
    assert trace.long_range is not None
    assert trace.long_range.pairs is not None
    assert far.distances is not None
    of_vectors = far.distances[:, :, None] * trace.long_range.pairs.unit_vectors
    of_far = of_vectors.sum(dim=1).transpose(1, 2) - of_vectors.sum(dim=3)
    return _pull_back_pairs(grad_basis, trace, None) + of_far


class _Energies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, network: EnergyNetwork, batch: Batch, levels: Levels, pairs: Pairs
    ) -> tuple[Tensor, ...]:
        energies, trace = _traced(network, batch, levels, pairs, network.charge_groups(batch, pairs))
        ctx.save_for_backward(positions)
        ctx.network, ctx.trace = network, trace
        partial = [own.partial for own in trace.charges]
        ctx.mark_non_differentiable(trace.hidden, *partial)
        return energies, trace.hidden, *partial

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        network, trace = ctx.network, ctx.trace
        grad = grads[0]  # hidden layer and charges are not differentiable
        (positions,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the derivative itself is to be differentiated
            batch = with_positions(trace.batch, positions)
            found = network(batch, trace.levels, make_pairs(batch, network.config.cutoff))
            return *torch.autograd.grad(found.energies, positions, grad, create_graph=True), *4 * [None]
        return _pull_back(network, trace, grad), *4 * [None]


def _pull_back_pairs(
    grad: Float[Tensor, "molecules slots basis neighbours"],
    trace: _NetworkTrace,
    of_far: Float[Tensor, "molecules slots neighbours"] | None,
) -> Float[Tensor, "molecules slots 3"]:
    """Derivative with respect to the positions from that with respect to `pair_products`, and to the distances."""
    pairs, unit, distances = trace.pairs, trace.pairs.unit_vectors, trace.pairs.distances
    grad = grad.unflatten(2, (-1, trace.radial.shape[2]))
    of_monomials = (grad * trace.radial[:, :, None]).sum(dim=3)
    of_radial = (grad * trace.angular[:, :, :, None]).sum(dim=2)
    of_distances = (of_radial * trace.slope).sum(dim=2)
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
    return sum_to_neighbours(of_vectors.transpose(2, 3), pairs.neighbours) - from_i
