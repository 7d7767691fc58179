import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from physcon_ase.batch import Batch, make_batch, with_positions
from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.errors import MissingHeadError, UnknownLevelError
from physcon_ase.model.noise import centred, gaussian_noise, sigma_schedule
from physcon_ase.model.structure import (
    CHURN_ABOVE,
    CHURN_NOISE,
    Denoiser,
    chirality_features,
    ddim,
    refined,
)
from tests.tiny import ETHANOL, ETHANOL_BONDS, ETHANOL_NUMBERS, STRUCTURE, tiny_model

POSITION_TOLERANCE = 1e-8
"""Structures [Å] that symmetry says are equal, float64."""

CHFCLO = np.array(
    [[0.0, 0, 0], [0.6, 0.6, 0.7], [-0.8, -0.8, 0.8], [1.0, -1.0, -1.0], [-0.8, 0.8, -0.8], [-1.4, 1.4, -0.3]]
)
"""C with H, F, Cl and OH, a stereocentre; positions [Å] off any minimum."""


def chiral_graph(tetrahedron: tuple[int, int, int, int] = (1, 2, 3, 4)) -> MolGraph:
    return make_graph(
        np.array([6, 1, 9, 17, 8, 1]),
        np.array([[0, 1], [0, 2], [0, 3], [0, 4], [4, 5]]),
        np.ones(5),
        tetrahedra=np.array([tetrahedron]),
    )


def ethanol_graph() -> MolGraph:
    return make_graph(ETHANOL_NUMBERS, ETHANOL_BONDS, np.ones(8))


def batch_of(*molecules: tuple[MolGraph, np.ndarray], n_slots: int | None = None) -> Batch:
    graphs, positions = zip(*molecules, strict=True)
    numbers = [graph.atomic_numbers for graph in graphs]
    return make_batch(numbers, positions, graphs=graphs, n_slots=n_slots, dtype=torch.float64)


@pytest.fixture(params=["blind", "guided"])
def head(request: pytest.FixtureRequest) -> Denoiser:
    return tiny_model(structure=replace(STRUCTURE, guided=request.param == "guided")).denoiser("cheap")


def denoise(head: Denoiser, *molecules: tuple[MolGraph, np.ndarray], sigma: float = 0.7) -> list[np.ndarray]:
    batch = batch_of(*molecules)
    found = head(batch, torch.full((len(molecules),), sigma, dtype=torch.float64))
    return [row[: graph.n_atoms].numpy() for row, (graph, _) in zip(found, molecules, strict=True)]


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=POSITION_TOLERANCE)


# ---- symmetry


def test_the_tiny_head_moves_atoms(head: Denoiser) -> None:
    (found,) = denoise(head, (ethanol_graph(), ETHANOL), sigma=0.7)
    kept = 1.5**2 / (1.5**2 + 0.7**2) * (ETHANOL - ETHANOL.mean(axis=0))
    assert np.abs(found - kept).max() > 0.01


def test_structures_turn_with_their_input(head: Denoiser) -> None:
    turn = Rotation.from_euler("xyz", [0.4, 1.1, -2.0]).as_matrix()
    (plain,) = denoise(head, (chiral_graph(), CHFCLO))
    (turned,) = denoise(head, (chiral_graph(), CHFCLO @ turn.T))
    assert_same(turned, plain @ turn.T)


def test_structures_are_centred_wherever_the_input_is(head: Denoiser) -> None:
    (plain,) = denoise(head, (chiral_graph(), CHFCLO))
    (moved,) = denoise(head, (chiral_graph(), CHFCLO + 50.0))
    assert_same(moved, plain)
    assert_same(plain.mean(axis=0), np.zeros(3))


def test_the_order_of_the_atoms_does_not_matter(head: Denoiser) -> None:
    order = np.array([3, 0, 5, 1, 4, 2])
    place = np.argsort(order)
    graph = chiral_graph()
    permuted = make_graph(
        graph.atomic_numbers[order], place[graph.bonds], graph.bond_orders, tetrahedra=place[graph.tetrahedra]
    )
    (plain,) = denoise(head, (graph, CHFCLO))
    (found,) = denoise(head, (permuted, CHFCLO[order]))
    assert_same(found, plain[order])


def test_the_mirror_image_of_graph_and_input_is_the_mirror_image(head: Denoiser) -> None:
    mirror = np.array([-1.0, 1, 1])
    (plain,) = denoise(head, (chiral_graph(), CHFCLO))
    (mirrored,) = denoise(head, (chiral_graph((2, 1, 3, 4)), CHFCLO * mirror))
    assert_same(mirrored, plain * mirror)


def test_the_hand_of_a_stereocentre_is_known(head: Denoiser) -> None:
    mirror = np.array([-1.0, 1, 1])
    (plain,) = denoise(head, (chiral_graph(), CHFCLO))
    (wrong_hand,) = denoise(head, (chiral_graph(), CHFCLO * mirror))
    assert np.abs(wrong_hand - plain * mirror).max() > 1e-3


def test_without_a_stereocentre_mirror_images_are_alike(head: Denoiser) -> None:
    mirror = np.array([-1.0, 1, 1])
    (plain,) = denoise(head, (ethanol_graph(), ETHANOL))
    exchanged = [0, 1, 2, 4, 3, 5, 7, 6, 8]  # hydrogens of both carbons, which the convention tells apart
    (mirrored,) = denoise(head, (ethanol_graph(), ETHANOL[exchanged] * mirror))
    assert_same(mirrored, plain[exchanged] * mirror)
    (other,) = denoise(head, (ethanol_graph(), ETHANOL * mirror))
    assert np.abs(other - plain * mirror).max() > 1e-3


def test_even_permutations_of_a_tetrahedron_are_the_same_stereocentre(head: Denoiser) -> None:
    (plain,) = denoise(head, (chiral_graph(), CHFCLO))
    (same,) = denoise(head, (chiral_graph((2, 3, 1, 4)), CHFCLO))
    (even,) = denoise(head, (chiral_graph((2, 1, 4, 3)), CHFCLO))
    assert_same(same, plain)
    # Whichever corner is taken as d, the volume is the same; only the size that divides the push is not.
    assert np.abs(even - plain).max() < 0.1


# ---- batches


def test_a_batch_gives_what_its_molecules_give_alone(head: Denoiser) -> None:
    molecules = (chiral_graph(), CHFCLO), (ethanol_graph(), ETHANOL)
    together = denoise(head, *molecules)
    for molecule, found in zip(molecules, together, strict=True):
        assert_same(found, denoise(head, molecule)[0])


def test_empty_slots_stay_empty(head: Denoiser) -> None:
    found = head(batch_of((ethanol_graph(), ETHANOL), n_slots=12), torch.tensor([0.5], dtype=torch.float64))
    assert (found[0, 9:] == 0).all()


def test_the_bonds_and_the_noise_level_matter(head: Denoiser) -> None:
    other = make_graph(ETHANOL_NUMBERS, ETHANOL_BONDS, np.array([2, 1, 1, 1, 1, 1, 1, 1]))
    (plain,) = denoise(head, (ethanol_graph(), ETHANOL))
    assert np.abs(denoise(head, (other, ETHANOL))[0] - plain).max() > 1e-4
    noisy = STRUCTURE.sigma_max
    assert np.abs(denoise(head, (ethanol_graph(), ETHANOL), sigma=noisy)[0] - plain).max() > 0.1


def test_with_next_to_no_noise_the_input_is_the_answer(head: Denoiser) -> None:
    (found,) = denoise(head, (ethanol_graph(), ETHANOL), sigma=1e-6)
    np.testing.assert_allclose(found, ETHANOL - ETHANOL.mean(axis=0), atol=1e-4)


# ---- chirality features


def test_the_push_is_the_derivative_of_the_signed_volume() -> None:
    batch = batch_of((chiral_graph(), CHFCLO))
    positions = batch.positions.clone().requires_grad_()
    push, orientation = chirality_features(batch, positions)
    a, b, c, d = (positions[0, atom] for atom in (1, 2, 3, 4))
    volume = torch.dot(a - d, torch.linalg.cross(b - d, c - d))
    (slope,) = torch.autograd.grad(volume, positions)
    size = 1 + ((a - d).square().sum() + (b - d).square().sum() + (c - d).square().sum()) / 3
    torch.testing.assert_close(push.detach(), slope / size.detach(), rtol=0, atol=1e-10)
    assert orientation[0, 0].tolist() == [0, 0]
    assert orientation[0, 1, 0] == 1
    assert orientation[0, 1, 1].item() == pytest.approx(torch.tanh(volume / 3).item())


def test_no_tetrahedra_no_push() -> None:
    batch = batch_of((make_graph([8, 1, 1], [[0, 1], [0, 2]], [1, 1]), ETHANOL[:3]), (chiral_graph(), CHFCLO))
    push, orientation = chirality_features(batch, batch.positions)
    assert (push[0] == 0).all()
    assert (orientation[0] == 0).all()
    assert (push[1] != 0).any()


# ---- drawing structures


def perfect(noisy: Batch, sigma: Tensor, *, truth: Tensor) -> Tensor:
    return truth


@pytest.mark.parametrize("n_steps", [1, 5])
def test_a_perfect_denoiser_leads_to_the_true_structure(n_steps: int) -> None:
    batch = batch_of((ethanol_graph(), ETHANOL))
    truth = centred(batch.positions, batch.atom_mask)
    denoiser = functools.partial(perfect, truth=truth)
    noise = 5.0 * gaussian_noise(batch.atom_mask, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = ddim(denoiser, with_positions(batch, noise), sigma_schedule(5.0, 0.01, n_steps))
    torch.testing.assert_close(found, truth, rtol=0, atol=POSITION_TOLERANCE)


def test_ddim_keeps_the_share_of_noise_that_the_next_level_has() -> None:
    batch = batch_of((ethanol_graph(), ETHANOL))
    truth = centred(batch.positions, batch.atom_mask)
    noise = gaussian_noise(batch.atom_mask, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen: list[tuple[float, Tensor]] = []

    def watch(noisy: Batch, sigma: Tensor) -> Tensor:
        seen.append((sigma.item(), (noisy.positions - truth) / sigma))
        return truth

    ddim(watch, with_positions(batch, truth + 2.0 * noise), [2.0, 0.5, 0.1])
    assert [sigma for sigma, _ in seen] == pytest.approx([2.0, 0.5, 0.1])
    for _, remaining in seen:
        torch.testing.assert_close(remaining, noise, rtol=0, atol=POSITION_TOLERANCE)


def test_churn_raises_the_noise_before_each_step_but_the_first() -> None:
    batch = batch_of((ethanol_graph(), ETHANOL))
    truth = centred(batch.positions, batch.atom_mask)
    generator = torch.Generator().manual_seed(1)
    seen: list[tuple[float, Tensor]] = []

    def noise() -> Tensor:
        return gaussian_noise(batch.atom_mask, generator=generator, dtype=torch.float64)

    def watch(noisy: Batch, sigma: Tensor) -> Tensor:
        seen.append((sigma.item(), (noisy.positions - truth) / sigma))
        return truth

    first, sigmas = noise(), [2.0, 0.5, CHURN_ABOVE]
    found = ddim(watch, with_positions(batch, truth + 2.0 * first), sigmas, churn=0.6, noise=noise)
    torch.testing.assert_close(found, truth, rtol=0, atol=POSITION_TOLERANCE)
    assert [sigma for sigma, _ in seen] == pytest.approx([2.0, 0.8, CHURN_ABOVE])
    second = noise_of(generator_seed=1, batch=batch, index=1)
    expected = (0.5 * first + CHURN_NOISE * (0.8**2 - 0.5**2) ** 0.5 * second) / 0.8
    torch.testing.assert_close(seen[1][1], expected, rtol=0, atol=POSITION_TOLERANCE)
    torch.testing.assert_close(seen[2][1], expected, rtol=0, atol=POSITION_TOLERANCE)


def noise_of(generator_seed: int, batch: Batch, index: int) -> Tensor:
    """Noise number `index` of a generator."""
    generator = torch.Generator().manual_seed(generator_seed)
    drawn = [gaussian_noise(batch.atom_mask, generator=generator, dtype=torch.float64) for _ in range(index + 1)]
    return drawn[index]


def test_refined_structures_are_predicted_from_themselves() -> None:
    batch = batch_of((ethanol_graph(), ETHANOL))
    shrunk = refined(lambda noisy, sigma: (1 - sigma) * noisy.positions, batch, 0.5, 3)
    torch.testing.assert_close(shrunk, batch.positions / 8, rtol=0, atol=POSITION_TOLERANCE)
    assert torch.equal(refined(lambda noisy, sigma: noisy.positions * 0, batch, 0.5, 0), batch.positions)


# ---- guidance


def test_a_guided_head_follows_the_forces_of_the_level_that_is_asked_for() -> None:
    model = tiny_model(structure=replace(STRUCTURE, guided=True))
    batch, sigma = batch_of((ethanol_graph(), ETHANOL), (chiral_graph(), CHFCLO)), torch.full((2,), 0.1).double()
    cheap, dft = (model.denoiser(level)(batch, sigma) for level in ("cheap", "dft"))
    assert (cheap - dft).abs().max() > 1e-3
    mixed = model.denoiser_at(torch.tensor([0, 1]))(batch, sigma)
    torch.testing.assert_close(mixed, torch.stack([cheap[0], dft[1]]), rtol=0, atol=POSITION_TOLERANCE)


def test_forces_of_any_size_guide_without_harm() -> None:
    model = tiny_model(structure=replace(STRUCTURE, guided=True))
    assert model.structure is not None
    batch, sigma = batch_of((ethanol_graph(), ETHANOL)), torch.tensor([0.1]).double()
    for size in (0.0, 1e12, math.inf, math.nan):
        assert model.structure(batch, sigma, torch.full_like(batch.positions, size)).isfinite().all()


def test_a_model_without_a_structure_head_says_so() -> None:
    with pytest.raises(MissingHeadError, match="no structure network"):
        tiny_model().denoiser("cheap")
    with pytest.raises(UnknownLevelError, match="pm6"):
        tiny_model(structure=STRUCTURE).denoiser("pm6")
