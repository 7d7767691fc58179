"""The laws on energies that can be solved with pencil and paper."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from physcon_ase.batch import Batch, make_batch, with_positions
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.model.noise import align, centred
from physcon_ase.training.losses.consistency import (
    MAX_STEP,
    linearised_energies,
    optimality_loss,
    score_loss,
    teacher_steps,
)
from physcon_ase.training.recipe import OptimalityRecipe, ScoreRecipe
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, pack, tiny_model

COPIES = 4000
"""Molecules in a mean over random displacements: its standard error is below 2 %."""

STATISTICAL = 0.06
"""Three standard errors of such means, relative."""

STIFFNESS = 30.0
"""Of a C-C stretch [eV/Å²]."""


def labelled(n_copies: int = 2, n_slots: int = 9, is_minimum: bool = True) -> LabelledBatch:
    batch = make_batch([ETHANOL_NUMBERS] * n_copies, [ETHANOL] * n_copies, n_slots=n_slots, dtype=torch.float64)
    return LabelledBatch(
        batch=batch,
        level=torch.zeros(n_copies, dtype=torch.int64),
        energy=torch.full((n_copies,), math.nan, dtype=torch.float64),
        forces=torch.full_like(batch.positions, math.nan),
        is_minimum=torch.full((n_copies,), is_minimum),
        weight=torch.ones(n_copies, dtype=torch.float64),
        charges=torch.full(batch.atomic_numbers.shape, math.nan, dtype=torch.float64),
        identity=torch.zeros(n_copies, dtype=torch.int64),
    )


def rest(batch: Batch) -> Tensor:
    clean = torch.as_tensor(ETHANOL - ETHANOL.mean(axis=0))
    padded = batch.positions.new_zeros(batch.positions.shape[1:])
    padded[: len(clean)] = clean
    return padded


def well(batch: Batch) -> Tensor:
    """A spring of the same stiffness on every coordinate, at rest in ethanol."""
    return 0.5 * STIFFNESS * (batch.positions - rest(batch)).square().sum(dim=(1, 2))


def double_well(batch: Batch, stiffness: float = STIFFNESS) -> Tensor:
    """Minima where the first atom is .3 Å to either side of ethanol along x, a saddle in between; springs elsewhere."""
    away = batch.positions - rest(batch)
    x = away[:, 0, 0]
    return 40.0 * (x.square() - 0.09).square() + 0.5 * stiffness * (away.square().sum(dim=(1, 2)) - x.square())


def soft_double_well(batch: Batch) -> Tensor:
    return double_well(batch, stiffness=0.0)


class Shifted(torch.nn.Module):
    """A denoiser that knows the answer, apart from a displacement of the first atom along x, which can be trained."""

    def __init__(self, shift: float):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, batch: Batch, sigma: Tensor) -> Tensor:
        clean = rest(batch).expand(len(batch), -1, -1).clone()
        unit = torch.zeros_like(clean)
        unit[:, 0, 0] = 1.0
        return clean + self.shift * unit


def optimality(denoiser, energy_fn, recipe: OptimalityRecipe, n_copies: int = COPIES, n_slots: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return optimality_loss(denoiser, energy_fn, labelled(n_copies, n_slots), recipe, generator=generator)


def score(denoiser, energy_fn, recipe: ScoreRecipe, n_copies: int = COPIES) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return score_loss(denoiser, energy_fn, labelled(n_copies), recipe, generator=generator)


HINGE = OptimalityRecipe(level="well", variant="hinge", width=1e-4)
NEWTON = OptimalityRecipe(level="well", variant="newton")


@pytest.mark.parametrize("recipe", [HINGE, NEWTON])
@pytest.mark.parametrize(("energy_fn", "shift"), [(well, 0.0), (double_well, 0.3)])
def test_optimality_is_zero_in_a_minimum(recipe: OptimalityRecipe, energy_fn, shift: float) -> None:
    slack = 1e-9  # the hinge of a minimum is never below zero by more than rounding
    assert abs(optimality(Shifted(shift), energy_fn, recipe).item()) < slack


def test_the_hinge_is_positive_at_a_saddle_that_stiff_springs_do_not_hide() -> None:
    wide = replace(HINGE, width=0.05)
    assert optimality(Shifted(0.0), soft_double_well, wide).item() > 1e-2
    assert optimality(Shifted(0.3), soft_double_well, wide).item() == 0
    # a random displacement goes up 26 springs and down one saddle: among stiff modes the hinge is blind to it
    assert optimality(Shifted(0.0), double_well, wide).item() == 0


def test_the_hinge_is_the_slope_times_width_over_root_two_pi() -> None:
    # of E along a displacement: s |∇E| / sqrt(2π); displacements of nine atoms without motion of the centre keep 8/9
    slope = STIFFNESS * 0.2 * math.sqrt(8 / 9)
    expected = HINGE.width * slope / math.sqrt(2 * math.pi)
    assert optimality(Shifted(0.2), well, HINGE).item() == pytest.approx(expected, rel=STATISTICAL)


@pytest.mark.parametrize("recipe", [replace(HINGE, max_force=1e9), NEWTON])
@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_optimality_pushes_downhill(recipe: OptimalityRecipe, shift: float) -> None:
    denoiser = Shifted(shift)
    optimality(denoiser, well, recipe).backward()
    assert denoiser.shift.grad is not None
    assert denoiser.shift.grad.sign().item() == math.copysign(1, shift)


def test_optimality_of_padded_molecules_is_that_of_bare_ones() -> None:
    bare, padded = (optimality(Shifted(0.1), well, NEWTON, 2, n_slots).item() for n_slots in (9, 12))
    assert padded == pytest.approx(bare, rel=1e-9)


def exact(kt: float):
    """The denoiser of the thermal distribution of `well`: R_0 + kT/(kT + τ² k) (R - R_0)."""

    def denoise(batch: Batch, sigma: Tensor) -> Tensor:
        keep = kt / (kt + sigma.square() * STIFFNESS)
        return rest(batch) + keep[:, None, None] * (batch.positions - rest(batch))

    return denoise


def test_the_published_score_is_met_where_springs_are_soft_against_kt() -> None:
    recipe = ScoreRecipe("well", sigma_min=1e-3, sigma_max=1e-3, kt=1.0)
    follows = score(exact(1.0), well, recipe).item()
    ignores = score(lambda batch, sigma: batch.positions, well, recipe).item()
    assert follows < 1e-6 * ignores


def test_the_published_score_asks_for_too_much_of_a_stiff_spring() -> None:
    # D - R is -x τ² k / (kT + τ² k) exactly and -x τ² k / kT by the law at the noisy point: with k = 30, τ = .1 and
    # kT = .1 the exact one is a quarter of what the law asks for.
    sigma, kt = 0.1, 0.1
    recipe = ScoreRecipe("well", sigma_min=sigma, sigma_max=sigma, kt=kt)
    generator = torch.Generator().manual_seed(0)
    batch = labelled(1).batch
    noisy = with_positions(batch, centred(batch.positions, batch.atom_mask) + sigma)
    moved = exact(kt)(noisy, torch.tensor([sigma], dtype=torch.float64)) - noisy.positions
    asked = -STIFFNESS * (noisy.positions - rest(batch)) * sigma**2 / kt
    assert (moved / asked).mean().item() == pytest.approx(0.25, rel=1e-6)
    loss = score_loss(exact(kt), well, labelled(COPIES), recipe, generator=generator).item()
    weight = 1 / (sigma**2 + 0.05**2) + 1 / 1.5**2
    excess = (sigma**2 * STIFFNESS / kt) * (1 - 0.25)
    assert loss == pytest.approx(weight * 3 * (8 / 9) * (excess * sigma) ** 2, rel=STATISTICAL)


def test_a_temperature_that_grows_with_the_noise_bounds_what_is_asked_for() -> None:
    cold = ScoreRecipe("well", sigma_min=0.1, sigma_max=0.1, kt=0.01)
    grown = replace(cold, stiffness=2 * STIFFNESS)
    stays = lambda batch, sigma: batch.positions  # noqa: E731 - a denoiser in one line
    ratio = score(stays, well, cold).item() / score(stays, well, grown).item()
    assert ratio == pytest.approx((2 * STIFFNESS * 0.1**2 / 0.01) ** 2, rel=1e-6)


def test_the_clean_score_pulls_a_cheap_minimum_towards_that_of_the_teacher() -> None:
    recipe = ScoreRecipe("well", variant="clean", sigma_min=0.02, sigma_max=0.02, kt=1.0)
    away = torch.zeros(9, 3, dtype=torch.float64)
    away[0, 0], away[1, 0] = 0.1, -0.1

    def displaced_well(batch: Batch) -> Tensor:
        return 0.5 * STIFFNESS * (batch.positions - rest(batch) - away).square().sum(dim=(1, 2))

    def pulled(batch: Batch, sigma: Tensor) -> Tensor:
        return batch.positions + sigma.square()[:, None, None] * STIFFNESS * away

    assert score(pulled, displaced_well, recipe).item() < 1e-12
    assert score(lambda batch, sigma: batch.positions, displaced_well, recipe).item() > 1e-6


def test_the_newton_target_is_the_clean_structure_where_the_teacher_has_its_minimum() -> None:
    recipe = ScoreRecipe("well", variant="newton")

    def knows(batch: Batch, sigma: Tensor) -> Tensor:
        return align(rest(batch).expand(len(batch), -1, -1), batch.positions, batch.atom_mask)

    assert score(knows, well, recipe).item() < 1e-12
    assert score(lambda batch, sigma: batch.positions, well, recipe).item() > 1e-3


def test_linearised_energies_have_the_value_and_the_slope_of_the_energy_and_spare_its_weights() -> None:
    model = tiny_model().requires_grad_(True)
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    positions = batch.positions.clone().requires_grad_()
    energy_fn = model.energy_fn("cheap")
    energies = linearised_energies(energy_fn, batch, positions)
    energies.sum().backward()
    own = batch.positions.clone().requires_grad_()
    expected = energy_fn(with_positions(batch, own))
    (slope,) = torch.autograd.grad(expected.sum(), own)
    torch.testing.assert_close(energies, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(positions.grad, slope, rtol=1e-9, atol=1e-9)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_forces_of_clashing_atoms_are_cut_in_length_but_not_in_direction() -> None:
    batch = labelled(1).batch
    positions = (rest(batch) + 1.0)[None].requires_grad_()
    linearised_energies(well, batch, positions, max_force=2.0).sum().backward()
    assert positions.grad is not None
    np.testing.assert_allclose(positions.grad[0].norm(dim=1), 2.0, rtol=1e-9)
    np.testing.assert_allclose(positions.grad[0, :, 0], 2.0 / math.sqrt(3), rtol=1e-9)


def test_newton_steps_are_never_longer_than_what_is_believed() -> None:
    batch = labelled(1).batch
    far = with_positions(batch, (rest(batch) * 1.5)[None])
    steps = teacher_steps(well, far)
    assert steps.norm(dim=2).max().item() == pytest.approx(MAX_STEP, rel=1e-9)
