"""The fused layer against e3nn's generic operations."""

import math

import pytest
import torch
from e3nn import o3
from torch import Tensor

from physcon_ase.model.couplings import make_couplings
from physcon_ase.model.interaction import InteractionLayer, collect, silu_back
from physcon_ase.model.pairs import bessel, make_pairs, monomials, of_neighbours
from tests.model.harmonics import e3nn_harmonics, harmonics_from_monomials
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, pack, tiny_model

ROUNDING = 1e-12
"""float64 rounding of short sums of numbers of order 1; e3nn's constants are exact to 1e-15."""

SYMMETRIC = math.sqrt(5) * o3.wigner_3j(1, 1, 2, dtype=torch.float64).reshape(9, 5)
"""Turns the components of l = 2 into the elements of a symmetric matrix."""


def interaction(**changes: object) -> InteractionLayer:
    sizes = {
        "n_radial": 4, "channels": 6, "mixed_channels": 5, "source_scalars": 3, "received_vectors": 2,
        "sent_vectors": 2, "hidden": 7, "neighbour_scale": 0.3, "couplings": make_couplings(),
    }  # fmt: skip
    torch.manual_seed(5)
    return InteractionLayer(**{**sizes, **changes}).double()


def slow_density(
    layer: InteractionLayer, positions: Tensor, radial: Tensor, scalars: Tensor, vectors: Tensor
) -> list[Tensor]:
    """f_l[i] = Σ_j of (φ_k Y(u_ij)) ⊗ (features of j), pair by pair with e3nn's constants, then mixed."""
    n_atoms, n_radial = len(positions), radial.shape[-1]
    sent = layer.source(scalars)
    sums = [torch.zeros(n_atoms, 2 * degree + 1, n_radial, sent.shape[-1], dtype=torch.float64) for degree in range(3)]
    paths = [(1, 0), (0, 1), (2, 1), (1, 2)]
    coupled = [torch.zeros(n_atoms, 2 * b + 1, n_radial, vectors.shape[-1], dtype=torch.float64) for _, b in paths]
    for i in range(n_atoms):
        for j in range(n_atoms):
            if i == j:
                continue
            harmonics = [e3nn_harmonics(degree, positions[j] - positions[i]) for degree in range(3)]
            for total, y in zip(sums, harmonics, strict=True):
                total[i] += torch.einsum("m,k,s->mks", y, radial[i, j], sent[j])
            for total, (a, b) in zip(coupled, paths, strict=True):
                symbol = o3.wigner_3j(a, 1, b, dtype=torch.float64) * path_norm(a, b)
                total[i] += torch.einsum("abc,a,bv,k->ckv", symbol, harmonics[a], vectors[j], radial[i, j])
    f = [(layer.neighbour_scale * total).flatten(2) @ mix for total, mix in zip(sums, layer.mix, strict=True)]
    dot, straight, turned, quadrupole = [(layer.neighbour_scale * total).flatten(2) for total in coupled]
    f[0] = f[0] + dot @ layer.mix_vectors[0]
    f[1] = f[1] + straight @ layer.mix_vectors[1] + turned @ layer.mix_vectors[2] + vectors @ layer.mix_own
    f[2] = f[2] + quadrupole @ layer.mix_vectors[3]
    return f


def path_norm(l_in: int, l_out: int) -> float:
    """Inverse norm of each row of the coupling, written in all monomials."""
    xx, yy, *products = harmonics_from_monomials().T
    harmonics = torch.stack([xx, yy, -xx - yy, *products], dim=1)
    monomials_of = [torch.ones(1, 1), torch.eye(3), harmonics][l_in].double()
    rows = torch.einsum("abc,ap->cpb", o3.wigner_3j(l_in, 1, l_out, dtype=torch.float64), monomials_of)
    return 1 / rows.flatten(1).norm(dim=1)[0].item()


def test_the_fused_layer_is_a_sum_over_pairs_of_tensor_products(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = interaction()
    generator = torch.Generator().manual_seed(1)
    scalars = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    vectors = torch.randn(9, 3, 2, generator=generator, dtype=torch.float64)
    pairs = make_pairs(pack(tiny_model(), [(ETHANOL_NUMBERS, ETHANOL)]), None)
    radial = bessel(pairs.distances, 5.0, 4) * pairs.mask[:, :, None]
    basis = (monomials(pairs.unit_vectors)[:, :, :, None] * radial[:, :, None]).flatten(2, 3)
    seen: list[Tensor] = []
    update = layer._update
    monkeypatch.setattr(layer, "_update", lambda s, *f: seen.extend(f) or update(s, *f))
    layer(basis, scalars[None], vectors[None], None)
    expected = slow_density(layer, torch.as_tensor(ETHANOL), radial[0].transpose(1, 2), scalars, vectors)
    expected[2] = SYMMETRIC @ expected[2]
    for found, slow in zip(seen, expected, strict=True):
        torch.testing.assert_close(found.view(-1, 9, 5), slow.transpose(0, 1), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("normalised", [False, True])
def test_scalars_are_invariant_and_vectors_turn(normalised: bool) -> None:
    layer = interaction(normalised=normalised)
    generator = torch.Generator().manual_seed(2)
    f0, f1, f2 = (torch.randn(n, 4, 5, generator=generator, dtype=torch.float64) for n in (1, 3, 5))
    scalars = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    turn = o3.rand_matrix().double()
    turn1, turn2 = (o3.Irrep(degree, 1).D_from_matrix(turn).double() for degree in (1, 2))
    plain = layer._update(scalars, f0[0], f1, components(SYMMETRIC, f2))
    turned = layer._update(scalars, f0[0], components(turn1, f1), components(SYMMETRIC @ turn2, f2))
    # 1e-5: e3nn makes D from Euler angles in float32.
    torch.testing.assert_close(turned[0], plain[0], rtol=0, atol=1e-5)
    assert plain[1] is not None
    torch.testing.assert_close(turned[1], components(turn1, plain[1]), rtol=0, atol=1e-5)


def components(matrix: Tensor, features: Tensor) -> Tensor:
    """The matrix on the first axis, that of the components."""
    return torch.einsum("mn,nac->mac", matrix, features)


def test_invariants_hold_products_of_three_and_four_neighbours() -> None:
    layer = interaction()
    seen: list[Tensor] = []
    layer.update[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    f1 = torch.randn(3, 2, 5, dtype=torch.float64)
    f2 = torch.randn(5, 2, 5, dtype=torch.float64)
    zeros = torch.zeros(2, 6, dtype=torch.float64)
    layer._update(zeros, zeros[:, :5], f1, components(SYMMETRIC, f2))
    symbol = math.sqrt(5) * o3.wigner_3j(1, 1, 2, dtype=torch.float64)
    expected = torch.einsum("abc,asx,bsx,csx->sx", symbol, f1, f1, f2)
    torch.testing.assert_close(seen[0][..., 21:26], expected, rtol=0, atol=ROUNDING)


def test_collect_sums_over_neighbours() -> None:
    generator = torch.Generator().manual_seed(3)
    basis = torch.randn(2, 4, 7, 4, generator=generator)
    source = torch.randn(2, 4, 3, generator=generator)
    torch.testing.assert_close(collect(basis, source), torch.einsum("nikj,njs->niks", basis, source))
    slots = [[1, 3], [0, 2], [1, 1], [0, 0]]
    neighbours = torch.tensor([slots, [[4 + own for own in row] for row in slots]])  # rows of both molecules
    found = collect(basis[..., :2], of_neighbours(source, neighbours))
    expected = torch.stack([basis[:, i, :, :2] @ source[:, row] for i, row in enumerate(slots)], dim=1)
    torch.testing.assert_close(found, expected)


def test_the_derivative_of_silu_is_right_and_can_be_differentiated() -> None:
    generator = torch.Generator().manual_seed(4)
    grad, hidden = (3 * torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(2))
    plain = silu_back(grad, hidden)
    assert not plain.requires_grad
    hidden.requires_grad_()
    (expected,) = torch.autograd.grad(torch.nn.functional.silu(hidden), hidden, grad)
    torch.testing.assert_close(plain, expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(silu_back(grad, hidden).detach(), expected, rtol=0, atol=ROUNDING)
    assert torch.autograd.gradcheck(silu_back, (grad.requires_grad_(), hidden))
