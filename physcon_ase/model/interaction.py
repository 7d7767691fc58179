"""Interaction layer of the energy network and the structure network.

The layer is an atomic cluster expansion without generic tensor products. Most of the time is spent on

    A[i, p, k, s] = Σ_j φ_k(r_ij) P_p(u_ij) S_s[j]

with φ_k radial functions, P_p nine polynomials of degree ≤ 2 in the unit vector u_ij, and S_s the source
features of atom j. The factor φ_k P_p is computed once for all layers; the sum over j is one batched matrix product.
All other operations are per atom: the change from polynomials to spherical harmonics, the Clebsch-Gordan coupling with
vector sources, the mixing of radial functions with sources, and the products that raise the body order. No
intermediate array therefore grows with pairs x channels.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physcon_ase.model.couplings import COUPLED, Couplings
from physcon_ase.model.pairs import N_MONOMIALS, of_neighbours, sum_to_neighbours


class InteractionLayer(nn.Module):
    """One layer: density around each atom, products that raise its body order, and update of the features."""

    quadratic_forms: Tensor
    vector_coupling: Tensor

    def __init__(
        self,
        *,
        n_radial: int,
        channels: int,
        mixed_channels: int,
        source_scalars: int,
        received_vectors: int,
        sent_vectors: int,
        hidden: int,
        neighbour_scale: float,
        couplings: Couplings,
        normalised: bool = False,
    ):
        """Initialises the weights.

        Args:
            n_radial: radial functions in the basis.
            channels: scalar features per atom.
            mixed_channels: channels of the density after mixing.
            source_scalars: scalar features that an atom sends.
            received_vectors: vector features that an atom sends, made by the layer before; 0 for scalars only.
            sent_vectors: vector features made for the next layer or a head; 0 for none.
            hidden: width of the hidden layer of the update network.
            neighbour_scale: multiplies the sum over neighbours.
            couplings: constant matrices.
            normalised: whether the density is divided by its norm, for inputs of unbounded density (noise).
        """
        super().__init__()
        self.normalised = normalised
        self.received_vectors = received_vectors
        self.neighbour_scale = neighbour_scale
        self.source = nn.Linear(channels, source_scalars)
        inner = n_radial * source_scalars
        self.mix = nn.ParameterList([nn.Parameter(torch.randn(inner, mixed_channels) * inner**-0.5) for _ in range(3)])
        if received_vectors:
            inner = n_radial * received_vectors
            self.mix_vectors = nn.ParameterList(
                [nn.Parameter(torch.randn(inner, mixed_channels) * inner**-0.5) for _ in range(4)]
            )
            self.mix_own = nn.Parameter(torch.randn(received_vectors, mixed_channels) * received_vectors**-0.5)
            self.register_buffer("vector_coupling", couplings.vectors, persistent=False)
        self.update = nn.Sequential(
            nn.Linear(channels + 5 * mixed_channels, hidden), nn.SiLU(), nn.Linear(hidden, channels)
        )
        self.send_vectors = nn.Linear(2 * mixed_channels, sent_vectors, bias=False) if sent_vectors else None
        self.gate = nn.Linear(channels, sent_vectors) if sent_vectors else None
        # float64 until the whole model is converted: rounded constants would break the equivariance of a float64 model.
        self.register_buffer("quadratic_forms", couplings.forms, persistent=False)

    def forward(
        self,
        basis: Float[Tensor, "molecules slots basis neighbours"],
        scalars: Float[Tensor, "molecules slots channels"],
        vectors: Float[Tensor, "molecules slots 3 received_vectors"] | None,
        neighbours: Int[Tensor, "molecules slots neighbours"] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Updated scalars and the vectors to send next.

        Args:
            basis: φ_k P_p of each pair, flattened with the monomial p first.
            scalars: invariant features of each atom.
            vectors: vector features that each atom sends; None in a layer that receives none.
            neighbours: as in `Pairs`.
        """
        scalars, vectors, _ = self.traced(basis, scalars, vectors, neighbours)
        return scalars, vectors

    def traced(
        self, basis: Tensor, scalars: Tensor, vectors: Tensor | None, neighbours: Tensor | None
    ) -> tuple[Tensor, Tensor | None, "Trace"]:
        """`forward`, with intermediate values for `pull_back`."""
        source = self.source(scalars)
        if vectors is not None:  # one sum over neighbours for scalars and vectors
            source = torch.cat([source, vectors.flatten(2)], dim=2)
        source = source * self.neighbour_scale
        sent_by = source if neighbours is None else of_neighbours(source, neighbours)
        density = self._mixed_density(collect(basis, sent_by), vectors)
        updated, sent, update = self._update(scalars.flatten(0, 1), *density)
        if sent is not None:
            sent = sent.transpose(0, 1).unflatten(0, scalars.shape[:2])
        return updated.view_as(scalars), sent, Trace(basis, sent_by, neighbours, update)

    def _mixed_density(
        self, density: Float[Tensor, "molecules slots basis features"], vectors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The density in channels, one tensor [2 l + 1, atoms, channels] per l (l = 2: 9, of a symmetric matrix).

        From here on components come first: slices of them are contiguous, and sums over them are fast.
        """
        density = density.flatten(0, 1).unflatten(1, (N_MONOMIALS, -1)).transpose(0, 1)  # (9, atoms, K, S + 3 V)
        received = None
        if vectors is not None:
            density, received = density.split([self.source.out_features, 3 * self.received_vectors], dim=3)
        # split, not indexing: the derivative of a slice fills a whole tensor with zeros first.
        parts = density.flatten(2).split((1, 3, 5))
        f0, f1, f2 = (mix(part, weight) for part, weight in zip(parts, self.mix.parameters(), strict=True))
        if vectors is not None and received is not None:
            received = received.unflatten(3, (3, -1)).permute(0, 3, 1, 2, 4)
            coupled = self.vector_coupling @ received.reshape(3 * N_MONOMIALS, -1)
            dot, straight, quadrupole, turned = coupled.view(len(coupled), f0.shape[1], -1).split(COUPLED)
            of_dot, of_straight, of_turned, of_quadrupole = self.mix_vectors.parameters()
            f0 = mix(dot, of_dot, f0)
            f1 = mix(vectors.flatten(0, 1).transpose(0, 1), self.mix_own, f1)
            f1 = mix(turned, of_turned, mix(straight, of_straight, f1))
            f2 = mix(quadrupole, of_quadrupole, f2)
        return f0.squeeze(0), f1, (self.quadratic_forms @ f2.flatten(1)).view(9, *f1.shape[1:])

    def _update(
        self, scalars: Tensor, f0: Tensor, f1: Tensor, f2: Tensor
    ) -> tuple[Tensor, Tensor | None, "UpdateTrace"]:
        """New scalars [atoms, channels] and vectors to send [3, atoms, sent_vectors]."""
        if self.normalised:
            size = (f0.square() + f1.square().sum(dim=0) + f2.square().sum(dim=0)).mean(dim=-1, keepdim=True)
            shrink = (1 + size).rsqrt()
            f0, f1, f2 = f0 * shrink, f1 * shrink, f2 * shrink
        matrix_f1 = (f2.unflatten(0, (3, 3)) * f1).sum(dim=1)  # (3, atoms, C)
        invariants = [
            scalars,
            f0,
            f1.square().sum(dim=0),
            f2.square().sum(dim=0),
            (f1 * matrix_f1).sum(dim=0),
            matrix_f1.square().sum(dim=0),
        ]
        hidden = self.update[0](torch.cat(invariants, dim=-1))
        scalars = scalars + self.update[2](nn.functional.silu(hidden))
        if self.send_vectors is None or self.gate is None:
            return scalars, None, UpdateTrace(f1, f2, matrix_f1, hidden, None, None)
        sent, gate = self.send_vectors(torch.cat([f1, matrix_f1], dim=-1)), self.gate(scalars)
        return scalars, sent * gate, UpdateTrace(f1, f2, matrix_f1, hidden, sent, gate)

    def pull_back(
        self,
        trace: "Trace",
        grad_scalars: Tensor,
        grad_vectors: Tensor | None,
        *,
        grad_basis: Tensor | None,
        to_features: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Derivatives with respect to `basis`, `scalars` and `vectors` of `forward` from those with respect to its
        results; without `to_features` (first layer) only that with respect to `basis`.

        The first is added to `grad_basis`, that of the layers after this one, in place. Weights get no derivative. Not
        for normalised layers.
        """
        assert not self.normalised
        shape, n_sent = grad_scalars.shape, self.source.out_features
        grad_scalars = grad_scalars.flatten(0, 1)
        if grad_vectors is not None:
            grad_vectors = grad_vectors.flatten(0, 1).transpose(0, 1)
        grad_scalars, *grads = self._pull_back_update(trace.update, grad_scalars, grad_vectors)
        grad_density = self._pull_back_density(*grads).unflatten(0, shape[:2])
        grad_basis = collect_back_to_basis(grad_density, trace, onto=grad_basis)
        if not to_features:
            return grad_basis, None, None
        grad_source = collect_back_to_source(grad_density, trace) * self.neighbour_scale
        grad_received = None
        if self.received_vectors:
            grad_received = mix(grads[1], self.mix_own.T).transpose(0, 1).unflatten(0, shape[:2])
            grad_received = grad_received + grad_source[..., n_sent:].unflatten(2, (3, -1))
        return grad_basis, grad_scalars.view(shape) + grad_source[..., :n_sent] @ self.source.weight, grad_received

    def _pull_back_update(
        self, trace: "UpdateTrace", grad_scalars: Tensor, grad_vectors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Derivatives with respect to the arguments of `_update`."""
        first, _, last = self.update
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        f1, f2, matrix_f1 = trace.f1, trace.f2.unflatten(0, (3, 3)), trace.matrix_f1
        if grad_vectors is not None:
            assert self.gate is not None
            assert trace.sent is not None
            grad_scalars = torch.addmm(grad_scalars, (grad_vectors * trace.sent).sum(dim=0), self.gate.weight)
        grad_hidden = silu_back(grad_scalars @ last.weight, trace.hidden)
        widths = [grad_scalars.shape[-1], *5 * [f1.shape[-1]]]
        own, grad_f0, d1, d2, d11, d22 = (grad_hidden @ first.weight).split(widths, dim=-1)
        grad_f1 = torch.addcmul(matrix_f1 * d11, f1, d1, value=2)
        grad_matrix_f1 = torch.addcmul(f1 * d11, matrix_f1, d22, value=2)
        if grad_vectors is not None:
            assert self.send_vectors is not None
            assert trace.gate is not None
            of_f1, of_matrix_f1 = ((grad_vectors * trace.gate) @ self.send_vectors.weight).chunk(2, dim=-1)
            grad_f1 += of_f1
            grad_matrix_f1 += of_matrix_f1
        grad_f1 += (f2 * grad_matrix_f1[:, None]).sum(dim=0)
        grad_f2 = torch.addcmul(grad_matrix_f1[:, None] * f1, f2, d2, value=2)
        return grad_scalars + own, grad_f0, grad_f1, grad_f2.flatten(0, 1)

    def _pull_back_density(
        self, grad_f0: Tensor, grad_f1: Tensor, grad_f2: Tensor
    ) -> Float[Tensor, "atoms basis features"]:
        """Derivative with respect to the density from those with respect to the results of `_mixed_density`."""
        atoms, n_sent = len(grad_f0), self.source.out_features
        grad_f0, grad_f2 = grad_f0[None], (self.quadratic_forms.T @ grad_f2.flatten(1)).view(5, atoms, -1)
        pairs = zip((grad_f0, grad_f1, grad_f2), self.mix.parameters(), strict=True)
        grad = torch.cat([mix(grad, weight.T) for grad, weight in pairs])
        grad = grad.unflatten(2, (-1, n_sent)).transpose(0, 1)  # (atoms, 9, K, S)
        if not self.received_vectors:
            return grad.reshape(atoms, -1, n_sent)
        of_dot, of_straight, of_turned, of_quadrupole = self.mix_vectors.parameters()
        pairs = (grad_f0, of_dot), (grad_f1, of_straight), (grad_f2, of_quadrupole), (grad_f1, of_turned)
        coupled = [mix(grad, weight.T) for grad, weight in pairs]
        received = self.vector_coupling.T @ torch.cat(coupled).flatten(1)
        received = received.view(N_MONOMIALS, 3, atoms, -1, self.received_vectors).permute(2, 0, 3, 1, 4)
        return torch.cat([grad, received.reshape(*grad.shape[:3], -1)], dim=3).flatten(1, 2)


@dataclass(frozen=True)
class UpdateTrace:
    """Intermediate values of `InteractionLayer.forward`, after the sum over neighbours."""

    f1: Float[Tensor, "3 atoms channels"]
    """Density, l = 1."""
    f2: Float[Tensor, "9 atoms channels"]
    """Density, l = 2, as matrices."""
    matrix_f1: Float[Tensor, "3 atoms channels"]
    """Matrix times vector of the two."""
    hidden: Float[Tensor, "atoms hidden"]
    """Hidden layer of the update, before its activation."""
    sent: Float[Tensor, "3 atoms sent_vectors"] | None
    """Vectors sent, before they are gated."""
    gate: Float[Tensor, "atoms sent_vectors"] | None
    """Their gate."""


@dataclass(frozen=True)
class Trace:
    """Intermediate values of `InteractionLayer.forward`."""

    basis: Float[Tensor, "molecules slots basis neighbours"]
    """As given."""
    source: Float[Tensor, "molecules *slots neighbours features"]
    """Scaled source features of the neighbours."""
    neighbours: Int[Tensor, "molecules slots neighbours"] | None
    """As given."""
    update: UpdateTrace
    """Intermediate values after the sum over neighbours."""


def mix(
    components: Float[Tensor, "components atoms features"],
    weight: Float[Tensor, "features channels"],
    onto: Float[Tensor, "components atoms channels"] | None = None,
) -> Float[Tensor, "components atoms channels"]:
    """Components @ weight, added to `onto`, as one matrix product; PyTorch would otherwise compute many small ones."""
    rows = components.flatten(0, 1)
    mixed = rows @ weight if onto is None else torch.addmm(onto.flatten(0, 1), rows, weight)
    return mixed.view(*components.shape[:2], -1)


def collect(basis: Tensor, source: Tensor) -> Float[Tensor, "molecules slots basis features"]:
    """Σ_j basis[i, :, j] source[(i,) j, :] as a batched matrix product.

    Args:
        basis: functions of each pair [molecules, slots, basis, neighbours].
        source: features of the neighbours [molecules, slots, neighbours, features]; without the second dimension where
            they are the same for all atoms of a molecule.
    """
    molecules, slots, width, n_neighbours = basis.shape
    if source.ndim == 3:
        return torch.bmm(basis.view(molecules, slots * width, n_neighbours), source).view(molecules, slots, width, -1)
    return basis @ source


def collect_back_to_basis(
    grad: Float[Tensor, "molecules slots basis features"], trace: Trace, onto: Tensor | None
) -> Float[Tensor, "molecules slots basis neighbours"]:
    """Derivative with respect to the basis of `collect` from that with respect to its result, added to `onto`."""
    if trace.neighbours is None:
        rows, source = grad.flatten(1, 2), trace.source
    else:
        rows, source = grad.flatten(0, 1), trace.source.flatten(0, 1)
    if onto is None:
        return torch.bmm(rows, source.transpose(1, 2)).view_as(trace.basis)
    onto.view(*rows.shape[:2], -1).baddbmm_(rows, source.transpose(1, 2))
    return onto


def collect_back_to_source(
    grad: Float[Tensor, "molecules slots basis features"], trace: Trace
) -> Float[Tensor, "molecules slots features"]:
    """Derivative with respect to the source features from that with respect to the result of `collect`."""
    if trace.neighbours is None:
        return torch.bmm(trace.basis.flatten(1, 2).transpose(1, 2), grad.flatten(1, 2))
    return sum_to_neighbours(trace.basis.transpose(2, 3) @ grad, trace.neighbours)


def silu_back(grad: Tensor, hidden: Tensor) -> Tensor:
    """Derivative with respect to x = `hidden` from that with respect to silu(x); differentiable itself."""
    if grad.requires_grad or hidden.requires_grad:
        return cast(Tensor, _SiluBack.apply(grad, hidden))
    return torch.ops.aten.silu_backward(grad, hidden)


class _SiluBack(torch.autograd.Function):
    """`silu_backward` with a derivative, which PyTorch lacks."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(grad, hidden)
        return torch.ops.aten.silu_backward(grad, hidden)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor]:
        grad, hidden = ctx.saved_tensors
        sigmoid = hidden.sigmoid()
        curvature = sigmoid * (1 - sigmoid) * (2 + hidden * (1 - 2 * sigmoid))
        return torch.ops.aten.silu_backward(outer[0], hidden), outer[0] * grad * curvature
