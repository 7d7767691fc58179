"""Groups that exchange no charge: partitions, their weights, integer charges, and energies that add up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule

from physcon_ase.batch import Batch, make_batch
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.model.charge_groups import ChargeGroups, find_charge_groups, group_charges
from physcon_ase.model.charges import ChargeHead
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
        ([0.45, 0.05], 1, [1, 0]),
        ([0.15, 0.45], 1, [0, 1]),
        ([-0.97, 1.1, 0.02], 0, [-1, 1, 0]),
        ([0.3, 0.4, -0.3], 2, [1, 1, 0]),
        ([-0.2, -1.3], -3, [-1, -2]),
        ([0.5, 0.5], 1, [0.5, 0.5]),
        ([-0.5, 0.5], 0, [-0.5, 0.5]),
    ],
)
def test_charges_of_groups_are_near_the_local_sums_and_add_up(
    sums: list[float], total: int, expected: list[float]
) -> None:
    exist = torch.ones(1, 1, len(sums) + 1, dtype=torch.bool)
    exist[..., -1] = False  # padding
    found = group_charges(torch.tensor([[[*sums, 0.0]]]), torch.tensor([total]), exist)
    assert found.charges[0, 0].tolist() == pytest.approx([*expected, 0])


def test_charges_of_groups_are_smooth_and_have_their_derivative() -> None:
    exist, total = torch.ones(1, 1, 3, dtype=torch.bool), torch.tensor([1])

    def charges(x: torch.Tensor) -> torch.Tensor:
        return group_charges(torch.stack([x, 0.9 - 1.1 * x, 0.05 * x])[None, None], total, exist).charges[0, 0]

    path = torch.stack([charges(x) for x in torch.linspace(-0.3, 1.5, 3601, dtype=torch.float64)])
    assert path[[0, -1]].tolist() == [[0, 1, 0], [2, -1, 0]]
    torch.testing.assert_close(path.sum(dim=1), torch.ones(3601, dtype=torch.float64))
    assert path.diff(dim=0).abs().max() < 0.02
    sums = torch.tensor([[[0.5, 0.48, -0.1]]], dtype=torch.float64, requires_grad=True)
    found = group_charges(sums, total, exist)
    grad = torch.tensor([[[0.3, -1.0, 2.0]]], dtype=torch.float64)
    (expected,) = torch.autograd.grad((found.charges * grad).sum(), sums)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found.pull_back(grad).detach(), expected)


def test_distant_groups_have_charges_of_their_own() -> None:
    head = ChargeHead(12).double()
    with torch.no_grad():  # local charges of 0.2 e, the affinities as they are
        head.network[2].weight[0].zero_()
        head.network[2].bias[0] = 0.2
    features, mask = torch.randn(1, 6, 12, dtype=torch.float64), torch.ones(1, 6, dtype=torch.bool)
    for gap, separate in ((3.0, False), (7.0, False), (30.0, True)):
        positions = np.concatenate([WATER, WATER + np.array([gap, 0, 0])])
        batch = make_batch([np.tile(WATER_NUMBERS, 2)], [positions], dtype=torch.float64)
        found = head(features, torch.tensor([2]), mask, groups_of(batch)).partial.detach()
        assert found.sum().item() == pytest.approx(2)
        assert (found.view(2, 3).sum(dim=1).tolist() == pytest.approx([1, 1], abs=1e-9)) == separate


def test_formal_charges_decide_the_charges_of_groups_in_training() -> None:
    """Hydronium and hydroxide: the local charges of an untrained head favour two neutral molecules."""
    head, features = ChargeHead(12).double(), torch.randn(1, 6, 12, dtype=torch.float64)
    numbers, positions = np.tile(WATER_NUMBERS, 2), np.concatenate([WATER, WATER + np.array([30.0, 0, 0])])
    batch = make_batch([numbers], [positions], dtype=torch.float64)
    charged = replace(batch, formal_charges=torch.tensor([[1, 0, 0, -1, 0, 0]]))
    for own, expected in ((batch, [0, 0]), (charged, [1, -1])):
        groups = groups_of(own)
        found = head(features, own.charge, own.atom_mask, groups)
        assert found.partial.view(2, 3).sum(dim=1).tolist() == pytest.approx(expected, abs=1e-9)
        grad = torch.randn(1, 6, dtype=torch.float64)
        (by_autograd,) = torch.autograd.grad(found.partial, found.local, grad, retain_graph=True)
        of_local, _ = found.remainder.pull_back(grad)
        torch.testing.assert_close(of_local, by_autograd)


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
