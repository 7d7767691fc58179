import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from physcon_ase.model.noise import align, centred, gaussian_noise, log_uniform, sigma_schedule
from tests.tiny import ETHANOL, WATER

ROUNDING = 1e-10
"""Positions [Å] in float64."""


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.arange(9) < torch.tensor([[9], [3]])


@pytest.fixture
def positions(mask: torch.Tensor) -> torch.Tensor:
    padded = torch.zeros(2, 9, 3, dtype=torch.float64)
    padded[0], padded[1, :3] = torch.as_tensor(ETHANOL), torch.as_tensor(WATER)
    return padded


def test_centred_positions_have_zero_mean_and_empty_slots_stay_zero(
    positions: torch.Tensor, mask: torch.Tensor
) -> None:
    found = centred((positions + 7) * mask[..., None], mask)
    assert found.sum(dim=1).abs().max() < ROUNDING
    assert (found[1, 3:] == 0).all()
    torch.testing.assert_close(found[1, 0] - found[1, 1], positions[1, 0] - positions[1, 1])


def test_noise_is_standard_normal_without_motion_of_the_centre() -> None:
    mask = torch.ones(4000, 5, dtype=torch.bool)
    noise = gaussian_noise(mask, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert noise.sum(dim=1).abs().max() < ROUNDING
    # Removing the mean of five atoms leaves 4/5 of the variance; 60,000 numbers scatter by .5 %.
    assert noise.var().item() == pytest.approx(0.8, rel=0.03)


def test_noise_follows_its_generator_and_leaves_the_global_one_alone(mask: torch.Tensor) -> None:
    before = torch.get_rng_state()
    first, again = (gaussian_noise(mask, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    other = gaussian_noise(mask, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_levels_are_uniform_in_their_logarithm() -> None:
    sigma = log_uniform(0.01, 1.0, 4000, generator=torch.Generator().manual_seed(0), like=torch.zeros(1))
    assert sigma.min() >= 0.01
    assert sigma.max() <= 1.0
    assert (sigma < 0.1).double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_the_schedule_falls_from_first_to_last() -> None:
    sigmas = sigma_schedule(5.0, 0.01, 12)
    assert len(sigmas) == 12
    assert (sigmas[0], sigmas[-1]) == pytest.approx((5.0, 0.01))
    assert (np.diff(sigmas) < 0).all()
    assert np.diff(np.power(sigmas, 1 / 7)) == pytest.approx(np.full(11, (0.01 ** (1 / 7) - 5.0 ** (1 / 7)) / 11))
    assert sigma_schedule(5.0, 0.01, 1) == [5.0]


def test_align_undoes_a_rigid_motion(positions: torch.Tensor, mask: torch.Tensor) -> None:
    turn = torch.as_tensor(Rotation.from_euler("xyz", [0.3, 2.0, -1.0]).as_matrix())
    moved = (positions @ turn.T + 3.0) * mask[..., None]
    torch.testing.assert_close(align(moved, positions, mask), positions, rtol=0, atol=1e-8)


def test_align_does_not_reflect(positions: torch.Tensor, mask: torch.Tensor) -> None:
    mirrored = positions * torch.tensor([-1.0, 1, 1])
    residual = (align(mirrored, positions, mask) - positions).norm(dim=-1)
    assert residual[0].max() > 0.3, "ethanol in this conformer is chiral"
    assert residual[1].max() < 1e-6, "water is flat: a rotation mirrors it"


def test_align_is_the_best_of_all_rotations(positions: torch.Tensor, mask: torch.Tensor) -> None:
    target = positions + 0.2 * gaussian_noise(mask, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    aligned = align(positions, target, mask)
    best = (aligned - target).square().sum()
    for seed in range(5):
        turn = torch.as_tensor(Rotation.from_rotvec(0.02 * np.random.default_rng(seed).normal(size=3)).as_matrix())
        shift = target[:1].mean(dim=1)
        other = (aligned[0] - shift) @ turn.T + shift
        assert (other - target[0]).square().sum() + (aligned[1] - target[1]).square().sum() >= best
