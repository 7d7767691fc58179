"""The derivative written out by hand against autograd."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from physcon_ase.batch import Batch, make_batch, with_positions
from physcon_ase.model import gradient
from physcon_ase.model.config import EncoderConfig, LevelConfig, ModelConfig
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.pairs import DENSE_SLOTS, bessel, bessel_and_slope, envelope, envelope_slope
from physcon_ase.model.physcon import Outputs, PhysCon
from tests.tiny import (
    ETHANOL,
    ETHANOL_NUMBERS,
    LEVELS,
    WATER,
    WATER_NUMBERS,
    enliven,
    evaluate,
    pack,
    tiny_model,
)

ROUNDING = 1e-12
"""Relative, float64: sums of some hundred terms in another order."""

SMALLEST_FORCE = 1e-2
"""[eV/Å] Below it a comparison of forces would say nothing."""


def small_model(levels: tuple[LevelConfig, ...] = LEVELS, **encoder: int) -> PhysCon:
    """A tiny model with other sizes of the encoder, each of its parts with a say."""
    sizes = {"n_radial": 5, "channels": 12, "mixed_channels": 10, "source_scalars": 4, "hidden": 14, **encoder}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = PhysCon(ModelConfig(levels, EncoderConfig(**sizes)), dtype=torch.float64)
        enliven(model)
    return model.eval().requires_grad_(False)


def chain(n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Carbon and hydrogen on a helix longer than the cutoff."""
    turns = np.arange(n_atoms)
    positions = np.stack([1.6 * np.cos(turns), 1.6 * np.sin(turns), 0.4 * turns], axis=1)
    return np.where(turns % 2, 6, 1), positions + 0.1 * np.random.default_rng(0).normal(size=positions.shape)


def beside(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two molecules, the second shifted by the gap [Å] beyond the largest x of the first."""
    shifted = second[1] + [first[1][:, 0].max() - second[1][:, 0].min() + gap, 0.3, -0.2]
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], shifted])


def by_autograd(model: PhysCon, work: Callable[[], Tensor]) -> Tensor:
    model.requires_grad_(True)
    try:
        return work().detach()
    finally:
        model.requires_grad_(False)


def assert_same(found: Tensor, expected: Tensor) -> None:
    size = expected.abs().max().item()
    assert size > SMALLEST_FORCE
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING * size)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that go the way by hand."""
    seen: list[int] = []
    by_hand = gradient.energies_of_atoms

    def counted(network, batch: Batch, levels, pairs):
        seen.append(len(batch))
        return by_hand(network, batch, levels, pairs)

    monkeypatch.setattr("physcon_ase.model.physcon.energies_of_atoms", counted)
    return seen


CLOSE = WATER.copy()
CLOSE[1] = CLOSE[0] + [0.0, 0.35, -0.3]
"""Water with overlapping cores."""

MOLECULES = {
    "one molecule": [(ETHANOL_NUMBERS, ETHANOL)],
    "several sizes": [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER), (np.array([8]), np.zeros((1, 3)))],
    "neighbour lists": [chain(DENSE_SLOTS + 5), chain(DENSE_SLOTS + 3), (ETHANOL_NUMBERS, ETHANOL)],
    "groups": [
        beside((ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER), 5.3),
        beside(beside((WATER_NUMBERS, WATER), (WATER_NUMBERS, WATER), 4.6), (WATER_NUMBERS, 1.1 * WATER), 5.8),
        (ETHANOL_NUMBERS, ETHANOL),
    ],
}


@pytest.mark.parametrize("molecules", MOLECULES.values(), ids=MOLECULES.keys())
@pytest.mark.parametrize("level", ["cheap", "dft"])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"source_vectors": 4},
        {"n_layers": 1},
        {"n_layers": 3, "source_vectors": 3},
        {"source_vectors": 2, "output_vectors": 2},
        {"source_vectors": 4, "charged": True},
        {"source_vectors": 4, "long_range": True},
        {"n_layers": 3, "source_vectors": 3, "charged": True, "long_range": True},
        {"n_layers": 1, "charged": True, "long_range": True},
    ],
    ids=[
        "scalars",
        "vectors",
        "one layer",
        "three layers",
        "vectors for other heads",
        "charges",
        "dispersion",
        "charges and long range",
        "one layer, charges and long range",
    ],
)
def test_forces_by_hand_are_those_of_autograd(
    molecules: list[tuple[np.ndarray, np.ndarray]], level: str, sizes: dict[str, int], calls: list[int]
) -> None:
    model = small_model(**sizes)
    batch = pack(model, molecules)
    energies, forces = energies_and_forces(model.energy_fn(level), batch)
    assert calls == [len(molecules)]
    expected = by_autograd(model, lambda: energies_and_forces(model.energy_fn(level), batch)[1])
    assert calls == [len(molecules)]
    assert_same(forces, expected)
    assert not forces[~batch.atom_mask].any()
    with torch.no_grad():
        torch.testing.assert_close(energies, model.energies(batch, level), rtol=ROUNDING, atol=0)


def test_derivatives_of_several_levels_at_once_are_those_of_autograd(calls: list[int]) -> None:
    model = small_model(source_vectors=4)
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)])
    levels = torch.tensor([1, 0])

    def forces() -> Tensor:
        return energies_and_forces(lambda moved: model.energies(moved, levels), batch)[1]

    found = forces()
    assert calls == [2]
    assert_same(found, by_autograd(model, forces))


def test_a_lone_atom_feels_no_force() -> None:
    _, (force,) = evaluate(tiny_model(source_vectors=4), (np.array([6]), np.array([[0.3, -2.0, 5.0]])))
    assert force.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("molecule", [(ETHANOL_NUMBERS, ETHANOL), chain(DENSE_SLOTS + 2)], ids=["dense", "neighbours"])
def test_second_derivatives_are_those_of_autograd(molecule: tuple[np.ndarray, np.ndarray], calls: list[int]) -> None:
    model = small_model(source_vectors=4)
    batch = pack(model, [molecule])
    direction = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def curvature() -> Tensor:
        positions = batch.positions.clone().requires_grad_()
        energies, forces = energies_and_forces(
            model.energy_fn("dft"), with_positions(batch, positions), create_graph=True
        )
        return torch.autograd.grad((forces * direction).sum() + energies.sum(), positions)[0]

    found = curvature()
    assert calls == [1]
    assert_same(found, by_autograd(model, curvature))


def test_forces_by_hand_are_differences_of_energies() -> None:
    model, step = small_model(source_vectors=4), 1e-4
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    direction = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, forces = energies_and_forces(model.energy_fn("dft"), batch)
    ahead, behind = (
        model.energies(with_positions(batch, batch.positions + s * direction), "dft") for s in (step, -step)
    )
    work = (forces * direction).sum().item()
    # Energies of 5,000 eV are rounded at 1e-12 eV, divided by the step; the truncation is of order step².
    assert (behind - ahead).item() / (2 * step) == pytest.approx(work, abs=1e-5 * (1 + abs(work)))


def test_overlapping_cores_are_left_to_autograd(calls: list[int]) -> None:
    model = small_model(source_vectors=4)
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, CLOSE)])
    _, forces = energies_and_forces(model.energy_fn("dft"), batch)
    assert calls == []
    assert_same(forces, by_autograd(model, lambda: energies_and_forces(model.energy_fn("dft"), batch)[1]))


def test_energies_alone_keep_no_intermediate_values(calls: list[int]) -> None:
    model = small_model()
    batch = pack(model, [(WATER_NUMBERS, WATER)])
    assert not model.energies(batch, "dft").requires_grad
    assert calls == []


@pytest.mark.parametrize("part", ["energy.heads.dft.network.0.weight", "energy.interactions.1.mix_own"])
def test_a_part_alone_can_be_trained(part: str, calls: list[int]) -> None:
    model = (
        copy.deepcopy(small_model(source_vectors=4)).to(torch.float32).to(torch.float64)
    )  # either must not lose sight of the weights
    weight = model.get_parameter(part).requires_grad_(True)
    batch = pack(model, [(WATER_NUMBERS, WATER)])
    _, forces = energies_and_forces(model.energy_fn("dft"), batch, create_graph=True)
    forces.square().sum().backward()
    assert calls == []
    assert weight.grad is not None
    assert weight.grad.any()


def test_forces_in_float32_are_those_in_float64_but_for_rounding() -> None:
    model = tiny_model(source_vectors=4)
    _, (exact,) = evaluate(model, (ETHANOL_NUMBERS, ETHANOL))
    _, (rounded,) = evaluate(model.to(torch.float32), (ETHANOL_NUMBERS, ETHANOL))
    # 24 bits of numbers of order 10.
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=1e-5 * max(1.0, np.abs(exact).max()))


def test_slopes_are_the_derivatives_of_radial_functions_and_envelope() -> None:
    distances = torch.tensor([[0.4, 1.1, 2.7, 4.999, 5.0, 6.0]], dtype=torch.float64, requires_grad=True)
    values, slopes = bessel_and_slope(distances, 5.0, 4)
    torch.testing.assert_close(values, bessel(distances, 5.0, 4), rtol=0, atol=ROUNDING)
    for k in range(4):
        (expected,) = torch.autograd.grad(values[0, k].sum(), distances, retain_graph=True)
        torch.testing.assert_close(slopes[:, k], expected, rtol=0, atol=ROUNDING * math.pi * 4)
    assert not values[..., 4:].any()
    assert not slopes[..., 4:].any()
    x = torch.linspace(0, 1, 7, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(envelope(x).sum(), x)
    torch.testing.assert_close(envelope_slope(x), expected, rtol=0, atol=2e-14 * 168)


def test_a_batch_can_be_differentiated_twice_in_a_row() -> None:
    model = small_model(source_vectors=4)
    batch = make_batch([WATER_NUMBERS], [WATER], dtype=torch.float64)
    positions = batch.positions.clone().requires_grad_()
    energy = model.energies(replace(batch, positions=positions), "dft").sum()
    first, second = (torch.autograd.grad(energy, positions, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


# ---- in training


BATCHES = {
    "all pairs": [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER), (np.array([8]), np.zeros((1, 3)))],
    "neighbour lists": [chain(DENSE_SLOTS + 5), (ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)],
    "overlapping atoms": [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, CLOSE), (WATER_NUMBERS, WATER)],
    "groups": MOLECULES["groups"],
}
SIZES = {
    "local": {"source_vectors": 4},
    "charged": {"source_vectors": 4, "charged": True, "long_range": True},
    "dispersion": {"long_range": True},
    "three layers": {"n_layers": 3, "source_vectors": 3, "charged": True, "long_range": True},
    "direct forces": {"source_vectors": 4, "charged": True, "output_vectors": 2},
}


@pytest.fixture
def written_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches whose forces are written out."""
    seen: list[int] = []
    by_hand = gradient.energies_and_gradient

    def counted(network, batch: Batch, levels, pairs, groups):
        seen.append(len(batch))
        return by_hand(network, batch, levels, pairs, groups)

    monkeypatch.setattr("physcon_ase.model.physcon.energies_and_gradient", counted)
    return seen


def loss_of(outputs: Outputs, forces: Tensor) -> Tensor:
    """Uneven in all that a training may ask for."""
    charges = [own for own in (outputs.charges, outputs.early_charges, *outputs.local_charges) if own is not None]
    loss = (outputs.energies * torch.tensor([0.3, -1.0, 2.0])).sum() + outputs.energies.square().sum() * 1e-4
    for weight, values in enumerate([forces, *charges], start=1):
        pattern = torch.linspace(-1, 2, values.numel(), dtype=torch.float64).view_as(values)
        loss = loss + weight * ((values - pattern).square()).sum()
    return loss if outputs.direct_forces is None else loss + outputs.direct_forces.square().sum()


@pytest.mark.parametrize("molecules", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_a_training_gets_the_gradient_of_double_differentiation(
    molecules: list[tuple[np.ndarray, np.ndarray]],
    sizes: dict[str, int],
    written_out: list[int],
    request: pytest.FixtureRequest,
) -> None:
    model = small_model(**sizes).requires_grad_(True)
    batch = replace(pack(model, molecules), charge=torch.tensor([0, 1, -1]))
    levels, direct = torch.tensor([1, 0, 1]), model.config.encoder.output_vectors > 0

    found = model.evaluate(batch, levels, forces=True, direct_forces=direct)
    assert found.forces is not None
    assert written_out == ([] if direct or "overlapping" in request.node.name else [3])
    weights = dict(model.named_parameters())
    by_hand = torch.autograd.grad(loss_of(found, found.forces), list(weights.values()), allow_unused=True)

    energies, forces = energies_and_forces(model.energy_fn(levels), batch, create_graph=True)
    apart = model.evaluate(batch, levels, direct_forces=direct)
    torch.testing.assert_close(found.forces, forces, rtol=0, atol=ROUNDING * forces.abs().max().item())
    torch.testing.assert_close(found.energies, energies, rtol=ROUNDING, atol=0)
    expected = torch.autograd.grad(loss_of(apart, forces), list(weights.values()), allow_unused=True)

    reached = 0
    for name, own, other in zip(weights, by_hand, expected, strict=True):
        assert (own is None) == (other is None), name
        if own is None or other is None:
            continue
        reached += 1
        size = other.abs().max().item()
        assert own.isfinite().all(), name
        torch.testing.assert_close(own, other, rtol=0, atol=1e-9 * size, msg=lambda text, name=name: f"{name}: {text}")
    assert reached == len(weights)


def test_direct_heads_can_be_trained_alone_beside_derived_forces() -> None:
    model = small_model(source_vectors=4, output_vectors=2)
    weight = model.get_parameter("direct_heads.dft.readout.weight").requires_grad_(True)
    batch = pack(model, [(WATER_NUMBERS, WATER)])
    outputs = model.evaluate(batch, "dft", forces=True, direct_forces=True)
    assert outputs.direct_forces is not None
    assert outputs.forces is not None
    (outputs.direct_forces - outputs.forces).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.any()


@pytest.mark.parametrize("molecule", [WATER, CLOSE], ids=["apart", "overlapping atoms"])
@pytest.mark.parametrize("direct", [False, True], ids=["derived", "derived and direct"])
def test_outputs_with_forces_keep_no_graph_outside_training(molecule: np.ndarray, direct: bool) -> None:
    model = small_model(source_vectors=4, charged=True, long_range=True, output_vectors=2)
    batch = pack(model, [(WATER_NUMBERS, molecule)])
    expected = energies_and_forces(model.energy_fn("dft"), batch)

    def check(outputs: Outputs) -> None:
        tensors = [own for own in vars(outputs).values() if isinstance(own, Tensor)]
        assert len(tensors) == 5 + direct
        assert not any(own.requires_grad for own in (*tensors, *outputs.local_charges))
        torch.testing.assert_close(outputs.energies, expected[0], rtol=ROUNDING, atol=0)
        assert outputs.forces is not None
        assert_same(outputs.forces, expected[1])

    check(model.evaluate(batch, "dft", forces=True, direct_forces=direct))
    model.requires_grad_(True)
    with torch.no_grad():  # as in a validation
        check(model.evaluate(batch, "dft", forces=True, direct_forces=direct))
