from dataclasses import replace

import numpy as np
import pytest
import torch

from physcon_ase.batch import Batch, make_batch
from physcon_ase.data.sample import LabelledBatch, select
from physcon_ase.model import physcon
from physcon_ase.model.charge_groups import ChargeGroups, find_charge_groups
from physcon_ase.model.energy import EnergyNetwork
from physcon_ase.model.pairs import make_pairs
from physcon_ase.training.losses.multitask import (
    BatchPrediction,
    charge_loss,
    energy_loss,
    force_loss,
    predict,
    relative_energy_loss,
    relative_force_loss,
    total_charge_loss,
)
from tests.tiny import (
    ETHANOL,
    ETHANOL_NUMBERS,
    WATER,
    WATER_NUMBERS,
    charged_tiny_model,
    labelled_with,
    pack,
    tiny_model,
)

SMOOTHING = 0.02
"""Half-width [eV, eV/Å] of the smoothed kink, by which a loss lies below the mean absolute error."""


@pytest.fixture
def labelled() -> LabelledBatch:
    """Water with all labels and hydrogen without."""
    batch = make_batch([np.array([8, 1, 1]), np.array([1, 1])], [np.zeros((3, 3)), np.zeros((2, 3))])
    forces = torch.zeros(2, 3, 3)
    forces[1, :2] = float("nan")
    charges = torch.tensor([[-0.6, 0.3, 0.3], [float("nan"), float("nan"), 0.0]])
    return LabelledBatch(
        batch=batch,
        level=torch.tensor([0, 0]),
        energy=torch.tensor([-10.0, float("nan")], dtype=torch.float64),
        forces=forces,
        is_minimum=torch.tensor([False, False]),
        weight=torch.ones(2),
        charges=charges,
        identity=torch.arange(2),
    )


def prediction(**changes: torch.Tensor) -> BatchPrediction:
    zero = BatchPrediction(
        torch.zeros(2, dtype=torch.float64, requires_grad=True),
        torch.zeros(2, 3, 3, requires_grad=True),
        charges=(torch.zeros(2, 3, requires_grad=True),),
    )
    return replace(zero, **changes)


def test_energy_loss_is_the_mean_error_of_the_labelled_molecules(labelled: LabelledBatch):
    assert energy_loss(prediction(), labelled).item() == pytest.approx(10.0, abs=SMOOTHING)


def conformers(labelled: LabelledBatch, identity: list[int], energy: list[float]) -> LabelledBatch:
    """Copies of water."""
    chosen = select(labelled, torch.zeros(len(identity), dtype=torch.int64))
    return replace(chosen, identity=torch.tensor(identity), energy=torch.tensor(energy, dtype=torch.float64))


def test_relative_energies_count_within_a_molecule_only(labelled: LabelledBatch):
    """Errors of 7 ± 1 of one molecule, 100 ± 0 of another; a single geometry and an absent label do not count."""
    own = conformers(labelled, [4, 9, 4, 9, 5, 4], [6.0, 100.0, 8.0, 100.0, -3.0, float("nan")])
    energies = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    loss = relative_energy_loss(BatchPrediction(energies, None), own)
    assert loss.item() == pytest.approx(2 * 2**0.5 / 4, abs=SMOOTHING)
    loss.backward()
    assert energies.grad is not None
    assert energies.grad[[1, 3, 4, 5]].tolist() == [0, 0, 0, 0]
    assert energies.grad[0] == -energies.grad[2] != 0


def test_relative_energies_of_different_levels_are_not_compared(labelled: LabelledBatch):
    own = replace(conformers(labelled, [4, 4], [6.0, 8.0]), level=torch.tensor([0, 1]))
    energies = torch.zeros(2, dtype=torch.float64)
    assert relative_energy_loss(BatchPrediction(energies, None), own).item() == 0


def test_relative_forces_count_within_a_molecule_whose_geometries_are_close(labelled: LabelledBatch):
    """Errors of 7 ± 1 eV/Å on one atom of one molecule; the same 0.6 Å apart, and single ones, do not count."""
    own = conformers(labelled, [4, 9, 4, 9, 5], [0.0] * 5)
    labels = torch.zeros(5, 3, 3)
    labels[:, 0, 2] = torch.tensor([6.0, 6.0, 8.0, 8.0, 3.0])
    places = own.batch.positions.clone()
    places[3, 1, 0] += 1.2
    own = replace(own, forces=labels, batch=replace(own.batch, positions=places))
    forces = torch.zeros(5, 3, 3, requires_grad=True)
    loss = relative_force_loss(forces, own)
    assert loss.item() == pytest.approx(2**0.5 / 3, abs=SMOOTHING)
    loss.backward()
    assert forces.grad is not None
    assert not forces.grad[[1, 3, 4]].any()
    assert forces.grad[0, 0, 2] == -forces.grad[2, 0, 2] != 0


def test_force_loss_is_the_mean_length_of_the_errors_of_labelled_atoms(labelled: LabelledBatch):
    forces = torch.zeros(2, 3, 3)
    forces[0, 0] = torch.tensor([0.0, 3.0, 4.0])
    forces[1] = 100.0
    loss = force_loss(forces, labelled)
    assert loss.item() == pytest.approx(5 / 3, abs=SMOOTHING)


def test_charge_loss_is_the_mean_error_of_labelled_atoms_in_all_forms_of_the_charges(labelled: LabelledBatch):
    late, early = torch.full((2, 3), 5.0), torch.full((2, 3), 5.0)
    late[0], early[0] = labelled.charges[0] + 1.0, labelled.charges[0] - torch.tensor([3.0, 0.0, 0.0])
    loss = charge_loss(prediction(charges=(late, early)), labelled)
    assert loss.item() == pytest.approx((1.0 + 1.0) / 2, abs=SMOOTHING)


def test_total_charge_loss_is_what_the_local_charges_miss(labelled: LabelledBatch):
    """0.2 e in water, in both forms, and nothing in hydrogen."""
    local = torch.tensor([[-0.5, 0.35, 0.35], [0.1, -0.1, 0.0]])
    loss = total_charge_loss(prediction(local_charges=(local, -local)), labelled)
    assert loss.item() == pytest.approx(0.2 / 2, abs=SMOOTHING)
    charged = replace(labelled, batch=replace(labelled.batch, charge=torch.tensor([1, 0])))
    assert total_charge_loss(prediction(local_charges=(local,)), charged).item() == pytest.approx(0.4, abs=SMOOTHING)


def test_total_charge_loss_counts_separate_groups():
    """Two waters 30 Å apart, with local charges that belong to the ions but on the wrong molecules."""
    numbers, positions = np.tile(WATER_NUMBERS, 2), np.concatenate([WATER, WATER + np.array([30.0, 0, 0])])
    batch = make_batch([numbers], [positions], dtype=torch.float64)
    batch = replace(batch, formal_charges=torch.tensor([[1, 0, 0, -1, 0, 0]]))
    pair = labelled_with(batch, torch.zeros_like(batch.positions))
    local = torch.tensor([[-0.8, 0.0, 0.0, 0.8, 0.0, 0.0]], dtype=torch.float64)
    groups = find_charge_groups(batch, make_pairs(batch, 5.0), 5.0)

    def loss(local: torch.Tensor, groups: ChargeGroups | None) -> float:
        predicted = BatchPrediction(torch.zeros(1, dtype=torch.float64), None, local_charges=(local,), groups=groups)
        return total_charge_loss(predicted, pair).item()

    assert loss(local, None) == pytest.approx(0, abs=SMOOTHING)
    assert loss(local, groups) == pytest.approx(1.8, abs=SMOOTHING)
    assert loss(-local, groups) == pytest.approx(0.2, abs=SMOOTHING)


def test_formal_charges_are_used_in_training_alone(monkeypatch: pytest.MonkeyPatch):
    model, used = charged_tiny_model().requires_grad_(True), []
    evaluate = model.evaluate

    def spy(batch: Batch, *arguments: object, **options: object) -> physcon.Outputs:
        used.append(batch.formal_charges)
        return evaluate(batch, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "evaluate", spy)
    batch = pack(model, [(WATER_NUMBERS, WATER)])
    formal = torch.zeros(1, 3, dtype=torch.int64)
    labelled = replace(labelled_with(batch, torch.zeros_like(batch.positions)), formal_charges=formal)
    predict(model, labelled, create_graph=True)
    predict(model, labelled, create_graph=False)
    assert used == [formal, None]


def test_an_absent_label_gives_no_gradient_and_no_nan(labelled: LabelledBatch):
    predicted = prediction()
    losses = (
        energy_loss(predicted, labelled),
        force_loss(predicted.forces, labelled),
        charge_loss(predicted, labelled),
    )
    torch.stack(losses).sum().backward()
    assert predicted.energies.grad is not None
    assert predicted.forces.grad is not None
    assert predicted.energies.grad[0] != 0
    assert predicted.energies.grad[1] == 0
    assert predicted.forces.grad.isfinite().all()
    assert (predicted.forces.grad[1] == 0).all()
    (charges,) = predicted.charges
    assert charges.grad is not None
    assert (charges.grad[0] != 0).all()
    assert (charges.grad[1] == 0).all()


def test_a_batch_without_labels_has_zero_loss(labelled: LabelledBatch):
    absent = {name: torch.full_like(getattr(labelled, name), float("nan")) for name in ("energy", "forces", "charges")}
    bare = replace(labelled, **absent)
    assert energy_loss(prediction(), bare).item() == 0
    assert force_loss(prediction().forces, bare).item() == 0
    assert charge_loss(prediction(), bare).item() == 0


def test_weights_of_data_sets_weigh(labelled: LabelledBatch):
    both = replace(labelled, energy=torch.tensor([-10.0, -1.0], dtype=torch.float64), weight=torch.tensor([1.0, 3.0]))
    assert energy_loss(prediction(), both).item() == pytest.approx((10 + 3 * 1) / 4, abs=SMOOTHING)


def test_what_is_not_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model(4, charged=True, output_vectors=3).requires_grad_(True)
    batch = pack(model, [(WATER_NUMBERS, WATER), (ETHANOL_NUMBERS, ETHANOL)])
    labelled = labelled_with(batch, torch.zeros_like(batch.positions))
    passes: list[str] = []
    differentiated, written_out = model.energy.forward, physcon.energies_and_gradient

    def forward(batch: Batch, *others: object) -> object:
        passes.append("to the positions" if batch.positions.requires_grad else "energies")
        return differentiated(batch, *others)

    def with_gradient(network: EnergyNetwork, batch: Batch, *others: object) -> object:
        assert not batch.positions.requires_grad
        passes.append("written out")
        return written_out(network, batch, *others)

    monkeypatch.setattr(model.energy, "forward", forward)
    monkeypatch.setattr(physcon, "energies_and_gradient", with_gradient)
    neither = predict(model, labelled, create_graph=True, forces=False)
    derived = predict(model, labelled, create_graph=True)
    direct = predict(model, labelled, create_graph=True, forces=False, direct_forces=True)
    both = predict(model, labelled, create_graph=True, direct_forces=True)
    assert passes == ["energies", "written out", "energies", "to the positions"], "one pass each"
    assert neither.forces is neither.direct_forces is direct.forces is derived.direct_forces is None
    assert both.forces is not None
    assert derived.forces is not None
    assert direct.direct_forces is not None
    torch.testing.assert_close(both.direct_forces, direct.direct_forces)
    torch.testing.assert_close(both.forces, derived.forces)
    torch.testing.assert_close(both.energies, neither.energies)
    for found in (neither, derived, direct, both):
        assert (len(found.charges), len(found.local_charges)) == (2, 2)
        torch.testing.assert_close(found.charges, neither.charges)
