import math

import numpy as np
import pytest
import torch

from physcon_ase.model.config import LevelConfig
from physcon_ase.model.energy import Levels
from physcon_ase.model.heads import CoreRepulsion, References, fade_in
from physcon_ase.model.pairs import make_pairs
from physcon_ase.units import COVALENT_RADII
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, pack, tiny_model

ROUNDING = 1e-10
"""Energies [eV] up to some hundred eV in float64."""


def zbl(first: int, second: int, distance: float) -> float:
    """Seven times the Ziegler-Biersack-Littmark energy [eV] of two cores, written out, times our polynomial cutoff."""
    reach = sum(0.28 if number == 1 else 0.75 * COVALENT_RADII[number] for number in (first, second))
    if distance >= reach:
        return 0.0
    length = 0.8854 * 0.529177210544 / (first**0.23 + second**0.23)
    x, y = distance / length, distance / reach
    screening = (
        0.1818 * math.exp(-3.2 * x)
        + 0.5099 * math.exp(-0.9423 * x)
        + 0.2802 * math.exp(-0.4029 * x)
        + 0.02817 * math.exp(-0.2016 * x)
    )
    coulomb = 27.211386245981 * 0.529177210544 * first * second / distance
    return 7 * coulomb * screening * (1 - 28 * y**6 + 48 * y**7 - 21 * y**8)


def repulsion(numbers: list[int], positions: np.ndarray) -> torch.Tensor | None:
    batch = pack(tiny_model(), [(np.array(numbers), positions)])
    core, pairs = CoreRepulsion(), make_pairs(batch, 5.0)
    overlap = core.overlap(batch, pairs)
    return None if overlap is None else core(batch, pairs, overlap)


def test_the_network_sees_nothing_of_overlapping_cores_and_all_of_others() -> None:
    x = torch.tensor([0.0, 0.5, 0.7, 0.85, 1.0], dtype=torch.float64)
    torch.testing.assert_close(fade_in(x), torch.tensor([0.0, 0, 0, 0.5, 1.0], dtype=torch.float64), atol=1e-12, rtol=0)
    assert 7 < (1 - fade_in(torch.tensor(0.98))) / (1 - fade_in(torch.tensor(0.99))) < 9  # two continuous derivatives


def test_the_energy_of_a_pair_does_not_depend_on_what_the_network_would_make_of_overlapping_cores() -> None:
    model, distances = tiny_model(4), [0.3, 0.35]
    near = pack(model, [(np.array([6, 1]), np.array([[0.0, 0, 0], [0, 0, d]])) for d in distances])
    apart = pack(model, [(np.array([6, 1]), np.array([[0.0, 0, 0], [0, 0, 50.0]]))])
    expected = [model.energies(apart, "cheap").item() + zbl(6, 1, d) for d in distances]
    assert model.energies(near, "cheap").tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("pair", [(1, 1), (6, 1), (8, 17), (35, 53)])
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.74])
def test_core_repulsion_is_zbl_with_a_cutoff(pair: tuple[int, int], fraction: float) -> None:
    distance = fraction * (COVALENT_RADII[pair[0]] + COVALENT_RADII[pair[1]])
    found = repulsion(list(pair), np.array([[0.0, 0, 0], [0, distance, 0]]))
    assert found is not None
    assert found.sum().item() == pytest.approx(zbl(*pair, distance), rel=1e-9)
    assert found[0, 0] == pytest.approx(found[0, 1].item())


def test_three_cores_repel_pairwise() -> None:
    positions = np.array([[0.0, 0, 0], [0.5, 0, 0], [0, 0.4, 0]])
    found = repulsion([6, 1, 8], positions)
    expected = zbl(6, 1, 0.5) + zbl(6, 8, 0.4) + zbl(1, 8, math.hypot(0.5, 0.4))
    assert found is not None
    assert found.sum().item() == pytest.approx(expected, rel=1e-9)


def test_a_stable_molecule_has_no_core_repulsion() -> None:
    assert repulsion(ETHANOL_NUMBERS.tolist(), ETHANOL) is None


def test_core_repulsion_fades_out_smoothly() -> None:
    reach = 0.75 * 2 * COVALENT_RADII[6]

    def at(gap: float) -> float:
        found = repulsion([6, 6], np.array([[0.0, 0, 0], [0, 0, reach - gap]]))
        return 0.0 if found is None else found.sum().item()

    assert at(-1e-6) == 0
    assert 7 < at(0.02) / at(0.01) < 9  # third power of the gap: two continuous derivatives


def test_neighbour_lists_and_all_pairs_repel_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = np.random.default_rng(0).normal(size=(12, 3)) * 0.6
    numbers = [6, 1, 8, 7] * 3
    dense = repulsion(numbers, positions)
    monkeypatch.setattr("physcon_ase.model.pairs.DENSE_SLOTS", 0)
    listed = repulsion(numbers, positions)
    assert dense is not None
    assert listed is not None
    torch.testing.assert_close(listed, dense, rtol=1e-12, atol=ROUNDING)


def test_references_stay_float64_when_the_model_becomes_float32() -> None:
    model = tiny_model(dtype=torch.float32)
    batch = pack(model, [(np.array([6, 8]), np.array([[0.0, 0, 0], [1.1, 0, 0]]))], n_slots=3)
    energies = model.half().references["dft"](batch)
    assert energies.dtype == torch.float64
    assert energies.tolist() == [[-1030.2, -2040.4, 0.0]]


def test_total_energies_keep_their_digits_in_float32() -> None:
    model = tiny_model(dtype=torch.float32)
    batch = pack(model, [(np.full(30, 8), np.random.default_rng(0).normal(size=(30, 3)) * 9)])
    total = model.energies(batch, "dft")
    pairs = make_pairs(batch, model.config.encoder.cutoff)
    interaction = model.energy(batch, Levels(("dft",)), pairs).energies.double().sum()
    assert total.item() - 30 * -2040.4 == pytest.approx(interaction.item(), abs=1e-8)


def test_references_of_absent_elements_are_zero() -> None:
    level = LevelConfig("one", "", (6,), (-3.0,))
    assert References(level).table.nonzero().tolist() == [[6]]
