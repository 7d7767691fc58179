import numpy as np
import pytest
import torch
from torch import Tensor

from physcon_ase.batch import Batch, make_batch
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.model.config import StructureConfig
from physcon_ase.model.noise import align, centred
from physcon_ase.training.losses.structure import denoising_loss, refinement_loss

ROUNDING = 1e-9
"""Squared errors of float32 positions, weighted by up to 1/(.05 Å)²."""


@pytest.fixture
def labelled() -> LabelledBatch:
    places = np.random.default_rng(0).normal(size=(2, 5, 3))
    batch = make_batch([np.array([6, 1, 1, 1, 1]), np.array([7, 1, 1, 1])], [places[0], places[1, :4]])
    return LabelledBatch(
        batch=batch,
        level=torch.zeros(2, dtype=torch.int64),
        energy=torch.zeros(2, dtype=torch.float64),
        forces=torch.zeros(2, 5, 3),
        is_minimum=torch.tensor([True, True]),
        weight=torch.ones(2),
        charges=torch.full((2, 5), float("nan")),
        identity=torch.arange(2),
    )


def loss_of(denoiser, labelled: LabelledBatch) -> float:
    return denoising_loss(denoiser, labelled, StructureConfig(), generator=torch.Generator().manual_seed(0)).item()


def oracle(labelled: LabelledBatch):
    """The denoiser that knows the answer up to a rigid motion."""
    clean = centred(labelled.batch.positions, labelled.batch.atom_mask)

    def denoise(batch: Batch, sigma: Tensor) -> Tensor:
        return align(clean[: len(batch)], batch.positions, batch.atom_mask)

    return denoise


def test_the_true_structure_in_the_best_orientation_has_no_loss(labelled: LabelledBatch):
    assert loss_of(oracle(labelled), labelled) < ROUNDING


def test_a_shrunken_structure_has_a_loss(labelled: LabelledBatch):
    exact = oracle(labelled)
    assert loss_of(lambda batch, sigma: 0.9 * exact(batch, sigma), labelled) > 1e-3


def test_what_is_predicted_right_needs_no_refinement(labelled: LabelledBatch):
    generator = torch.Generator().manual_seed(0)
    assert refinement_loss(oracle(labelled), labelled, generator=generator).item() < 1e-6


def test_refinement_counts_lengths_not_squares(labelled: LabelledBatch):
    exact = oracle(labelled)

    def wrong_by(length: float):
        def denoise(batch: Batch, sigma: Tensor) -> Tensor:
            if sigma.max() > 0.1 or sigma.min() > 0.1:  # the prediction from noise, which is to be refined
                return exact(batch, sigma)
            wrong = exact(batch, sigma)
            wrong[:, 0, 0] += length
            return wrong

        return refinement_loss(denoise, labelled, generator=torch.Generator().manual_seed(0)).item()

    assert wrong_by(2.0) == pytest.approx(2 * wrong_by(1.0), rel=0.2)
