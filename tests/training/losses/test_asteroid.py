import math

import numpy as np
import pytest
import torch
from torch import Tensor

from physcon_ase.batch import Batch, make_batch
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.training.losses.asteroid import bias_weights, score_matching_loss
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, labelled_with

KT = 0.0431
STIFFNESS = 2.0
COPIES = 400


def labelled(forces: Tensor) -> LabelledBatch:
    batch = make_batch([ETHANOL_NUMBERS, WATER_NUMBERS], [ETHANOL, WATER], dtype=torch.float64)
    return labelled_with(batch, forces)


def test_a_label_counts_less_the_more_the_accurate_model_disagrees() -> None:
    forces = torch.zeros(2, 9, 3, dtype=torch.float64)
    judged = forces.clone()
    judged[0] = 0.1
    judged[1, :3, 0] = 0.3  # a third of the components; the empty slots do not count
    judged[1, 3:] = 9.0
    weights = bias_weights(judged, labelled(forces), gamma=0.2)
    assert weights.tolist() == pytest.approx([math.exp(-0.5), math.exp(-0.5)])


def test_what_has_no_label_has_no_bias() -> None:
    forces = torch.zeros(2, 9, 3, dtype=torch.float64)
    forces[0] = math.nan
    assert bias_weights(torch.ones_like(forces), labelled(forces), gamma=0.2)[0].item() == 1


class Springs:
    """k/2 |R|², every coordinate on its own."""

    def __init__(self, stiffness: float):
        self.stiffness = torch.tensor(stiffness, dtype=torch.float64, requires_grad=True)

    def __call__(self, batch: Batch) -> Tensor:
        return 0.5 * self.stiffness * batch.positions.square().sum(dim=(1, 2))


def ensemble() -> Batch:
    """Thermal displacements of `Springs(STIFFNESS)`."""
    places = np.random.default_rng(0).normal(size=(COPIES, 3, 3)) * math.sqrt(KT / STIFFNESS)
    return make_batch([WATER_NUMBERS] * COPIES, list(places), dtype=torch.float64)


def loss_and_slope(stiffness: float) -> tuple[float, float]:
    springs = Springs(stiffness)
    loss = score_matching_loss(springs, ensemble(), KT, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(loss, springs.stiffness)
    return loss.item(), slope.item()


def test_score_matching_finds_the_stiffness_of_the_ensemble() -> None:
    assert loss_and_slope(0.8 * STIFFNESS)[1] < 0 < loss_and_slope(1.2 * STIFFNESS)[1]


def test_score_matching_has_the_value_that_theory_gives() -> None:
    # per coordinate k^2 <x^2> / 2 - kT k = -kT k / 2 for the right stiffness; three coordinates per atom
    assert loss_and_slope(STIFFNESS)[0] == pytest.approx(-1.5 * KT * STIFFNESS, rel=0.1)
