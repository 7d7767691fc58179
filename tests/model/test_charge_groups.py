"""Groups that exchange no charge: partitions, their weights, integer charges, and energies that add up."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from physcon_ase.batch import Batch, make_batch
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.model.charge_groups import ChargeGroups, find_charge_groups, integer_charges
from physcon_ase.model.pairs import make_pairs
from physcon_ase.model.physcon import PhysCon, load_model
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, charged_tiny_model

CUTOFF = 5.0
LINE = np.array([0.0, 1.0, 6.0, 12.5, 22.5])
"""Atoms on a line: the first two bonded, then gaps of 5, 6.5 and 10 Å."""


def on_a_line(places: np.ndarray) -> Batch:
    positions = np.stack([places, 0 * places, 0 * places], axis=1)
    return make_batch([np.full(len(places), 6)], [positions], dtype=torch.float64)


def groups_of(batch: Batch) -> ChargeGroups | None:
    return find_charge_groups(batch, make_pairs(batch, CUTOFF), CUTOFF)


def test_atoms_are_clustered_by_their_smallest_distances() -> None:
    found = groups_of(on_a_line(LINE))
    assert found is not None
    assert found.numbers[:, 0].tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 1, 2], [0, 0, 0, 0, 1]]
    assert found.closest[:, 0].tolist() == [[1, 2], [2, 3]]
    steps = [0.103515625, 0.72479248046875]  # 10 x³ - 15 x⁴ + 6 x⁵ at x = 1/4 and 5/8
    assert found.weights[:, 0].tolist() == pytest.approx([steps[0], steps[1] - steps[0], 1 - steps[1]])
    assert found.exist[:, 0].sum(dim=1).tolist() == [4, 3, 2]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 2, 1], [4, 3, 2, 1, 0]])
def test_the_order_of_the_atoms_does_not_matter(order: list[int]) -> None:
    found, expected = groups_of(on_a_line(LINE[order])), groups_of(on_a_line(LINE))
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found.weights, expected.weights)
    for own, other in zip(found.numbers[:, 0], expected.numbers[:, 0, order], strict=True):
        assert torch.equal(own[:, None] == own, other[:, None] == other)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1), [0, 8, 1, 7, 2, 6, 3, 5, 4]])
def test_a_bonded_molecule_is_one_fragment_in_any_order(order: slice | list[int]) -> None:
    long = np.arange(9) * 3.9
    assert groups_of(on_a_line(long[order])) is None
    assert groups_of(make_batch([ETHANOL_NUMBERS[order]], [ETHANOL[order]], dtype=torch.float64)) is None


def test_empty_slots_and_molecules_of_one_fragment_have_one_partition() -> None:
    apart = np.concatenate([WATER, WATER + np.array([7.0, 0, 0])])
    numbers = [np.tile(WATER_NUMBERS, 2), WATER_NUMBERS, np.array([8])]
    found = groups_of(make_batch(numbers, [apart, WATER, np.zeros((1, 3))], dtype=torch.float64))
    assert found is not None
    assert found.weights.shape == (2, 3)
    assert found.weights[:, 1:].tolist() == [[1, 1], [0, 0]]
    assert 0 < found.weights[0, 0] < 1
    assert not found.numbers[:, 1:].any()
    assert found.exist[:, 1:].sum(dim=2).tolist() == [[1, 1], [1, 1]]


def test_the_weights_have_the_slopes_of_their_derivative() -> None:
    batch = on_a_line(LINE)
    positions = batch.positions.clone().requires_grad_()
    found = groups_of(Batch(batch.atomic_numbers, positions, batch.charge, batch.multiplicity))
    assert found is not None
    grad = torch.tensor([[0.3], [-1.0], [2.0]], dtype=torch.float64)
    (expected,) = torch.autograd.grad((found.weights * grad).sum(), positions)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found.pull_back(grad, 5).detach(), expected)


@pytest.mark.parametrize(
    ("sums", "total", "expected"),
    [
        ([0.9, -0.05], 1, [1, 0]),
        ([0.6, 0.4], 1, [1, 0]),
        ([0.4, 0.45], 1, [0, 1]),
        ([0.6, 0.55], 1, [1, 0]),
        ([-0.97, 1.1, 0.02], 0, [-1, 1, 0]),
        ([0.1, 0.2, -0.1], 2, [1, 1, 0]),
        ([-0.2, -0.3], -3, [-1, -2]),
    ],
)
def test_integer_charges_are_near_the_local_sums_and_add_up(sums: list[float], total: int, expected: list[int]) -> None:
    exist = torch.ones(1, 1, len(sums) + 1, dtype=torch.bool)
    exist[..., -1] = False  # padding
    found = integer_charges(torch.tensor([[[*sums, 0.0]]]), torch.tensor([total]), exist)
    assert found[0, 0].tolist() == [*expected, 0]


def test_charges_of_distant_fragments_are_integers_and_add_up_between() -> None:
    model = charged_tiny_model()
    numbers = np.concatenate([ETHANOL_NUMBERS, WATER_NUMBERS])
    for gap, separate in ((3.0, False), (6.0, False), (30.0, True)):
        positions = np.concatenate([ETHANOL, WATER + np.array([ETHANOL[:, 0].max() - WATER[:, 0].min() + gap, 0, 0])])
        batch = make_batch([numbers], [positions], charges=[-1], dtype=torch.float64)
        outputs = model.evaluate(batch, "cheap")
        for charges in (outputs.charges, outputs.early_charges):
            assert charges is not None
            assert charges.sum().item() == pytest.approx(-1)
            own = charges[0, : len(ETHANOL)].sum().item()
            assert (abs(own - round(own)) < 1e-9) == separate


def test_the_energy_has_no_jump_where_fragments_separate() -> None:
    model = charged_tiny_model()
    numbers = np.concatenate([ETHANOL_NUMBERS, WATER_NUMBERS])
    gap = ETHANOL[:, 0].max() - WATER[:, 0].min()
    closest = np.linalg.norm(WATER[:, None] + [gap, 0, 0] - ETHANOL, axis=2)
    assert closest.min() < 2.0

    def energy(shift: float) -> float:
        positions = np.concatenate([ETHANOL, WATER + np.array([gap + shift, 0, 0])])
        return model.energies(make_batch([numbers], [positions], charges=[-1], dtype=torch.float64), "cheap").item()

    shifts = np.linspace(2.0, 8.0, 601)
    energies = np.array([energy(shift) for shift in shifts])
    changes = np.abs(np.diff(energies, n=2))
    assert np.ptp(energies) > 1e-3
    assert changes.max() < 0.05 * np.ptp(energies)


@pytest.fixture(scope="module")
def shipped() -> PhysCon:
    return load_model("physcon-2", dtype="float64").model


@pytest.mark.parametrize("level", ["b3lyp-d3", "wb97m"])
@pytest.mark.parametrize("smiles", ["CC(=O)[O-]", "[NH4+]", "C[N+](C)(C)C", "[Cl-]", "O=[N+]([O-])[O-]"])
def test_an_ion_and_a_distant_molecule_have_the_sum_of_their_energies(
    shipped: PhysCon, smiles: str, level: str
) -> None:
    graph, water = graph_from_smiles(smiles), molecule("H2O")
    positions = embed(graph, seed=0)[0]
    numbers = [graph.atomic_numbers, water.numbers, np.concatenate([graph.atomic_numbers, water.numbers])]
    places = [positions, water.positions, np.concatenate([positions, water.positions + np.array([50.0, 0, 0])])]
    batch = make_batch(numbers, places, charges=[graph.charge, 0, graph.charge], dtype=torch.float64)
    ion, alone, both = shipped.energies(batch, level).tolist()
    assert both - ion - alone == pytest.approx(0, abs=0.005)
