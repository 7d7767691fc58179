from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from physcon_ase.errors import CorruptCheckpointError, UnknownLevelError
from physcon_ase.model.checkpoint import save_checkpoint
from physcon_ase.model.config import config_from_dict, config_to_dict
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import PhysCon, load_model
from physcon_ase.model.uncertainty import POOLED_ATOMS, REGULARISER, energy_table, force_table, inverse_factor, rigidity
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, calibrated_model, pack, tiny_model

ROUNDING = 1e-9
"""Relative, float64."""

FLOAT32 = 1e-3
"""Relative: what cancels in a table of condition 1e3."""


def regression(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of unequal size that depend on each other, and the error of a fit whose weights vary by the posterior.

    Errors of variance .04 fᵀ C⁻¹ f with C the second moment of the very features: the truth that σ is to find.
    """
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(n, 5)) @ np.diag([3.0, 1.0, 0.3, 0.1, 0.03]) + [5.0, 0, 0, 0, 0]
    variance = 0.04 * np.einsum("ni,ij,nj->n", features, np.linalg.inv(SECOND_MOMENT), features)
    return features, generator.normal(size=n) * np.sqrt(variance)


SECOND_MOMENT = np.diag([34.0, 1.0, 0.09, 0.01, 0.0009])


def test_the_factor_is_a_root_of_the_regularised_inverse() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(50, 6)) * [10.0, 1, 1, 1, 0.1, 0.1]
    moment = features.T @ features / 50
    factor = inverse_factor(torch.tensor(moment)).numpy()
    s2 = REGULARISER * np.trace(moment) / 6
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(moment + s2 * np.eye(6)), rtol=ROUNDING, atol=ROUNDING)


def test_directions_that_training_never_saw_are_uncertain_but_finite() -> None:
    moment = torch.zeros(3, 3, dtype=torch.float64)
    moment[0, 0] = 1.0
    known, unknown = rigidity(torch.eye(3, dtype=torch.float64)[:2], inverse_factor(moment)).tolist()
    assert known == pytest.approx(1, rel=1e-6)
    assert unknown == pytest.approx((REGULARISER / 3) ** -0.5)


def test_sigma_finds_the_spread_of_errors_where_the_truth_is_known() -> None:
    held_out, errors = regression(4000, seed=1)
    table = energy_table(
        torch.tensor(SECOND_MOMENT),
        torch.tensor(held_out),
        torch.tensor(errors),
        torch.ones(len(errors), dtype=torch.int64),
    )
    features, errors = regression(4000, seed=2)
    sigma = rigidity(torch.tensor(features), table["factor"]).numpy()
    ratio = errors / sigma
    assert ratio.std() == pytest.approx(1, abs=0.05)
    assert np.mean(np.abs(ratio) < 1) == pytest.approx(0.683, abs=0.03)
    for part in np.split(np.argsort(sigma), 4):  # large where errors are large, not only on average
        assert ratio[part].std() == pytest.approx(1, abs=0.1)


def test_elements_have_their_own_factor_of_forces_and_rare_ones_that_of_all() -> None:
    features, _ = regression(6000, seed=3)
    numbers = np.array([1] * 3000 + [6] * 2999 + [9])
    true = np.where(numbers == 1, 0.1, 0.4)
    lengths = rigidity(torch.tensor(features), inverse_factor(torch.tensor(SECOND_MOMENT))).numpy()
    errors = np.random.default_rng(4).normal(size=(6000, 3)) * (true * lengths)[:, None]
    tensors = [torch.tensor(own) for own in (SECOND_MOMENT, features, errors, numbers)]
    scale = force_table(*tensors)["scale"].numpy()
    pooled = np.mean(errors**2 / lengths[:, None] ** 2)
    for number, count in ((1, 3000), (6, 3000)):
        expected = ((count * {1: 0.01, 6: 0.16}[number] + POOLED_ATOMS * pooled) / (count + POOLED_ATOMS)) ** 0.5
        assert scale[number] == pytest.approx(expected, rel=0.03)
    assert scale[17] == pytest.approx(pooled**0.5)
    assert scale[9] == pytest.approx(pooled**0.5, rel=0.1)


# ---- in a model


def sigmas(
    model: PhysCon, *molecules: tuple[np.ndarray, np.ndarray], level: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    batch = pack(model, molecules)
    features = model.evaluate(batch, level).features
    energy, forces = model.energy_uncertainties(features, level), model.force_uncertainties(features, batch, level)
    assert energy is not None
    assert forces is not None
    assert (forces[~batch.atom_mask] == 0).all()
    return energy.numpy(), [row[: len(own[0])].numpy() for row, own in zip(forces, molecules, strict=True)]


@pytest.mark.parametrize("level", ["cheap", "dft"])
def test_the_model_follows_the_formula(level: str) -> None:
    model = calibrated_model()
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    first, seen = model.energy.heads[level].network[0], []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.energies(batch, level)
    before = seen[0][0].numpy() @ first.weight.numpy().T + first.bias.numpy()
    atoms = before / (1 + np.exp(-before))
    energy, (forces,) = sigmas(model, (ETHANOL_NUMBERS, ETHANOL), level=level)
    factor = model.energy_rigidity[level].factor.numpy()
    total = atoms.sum(axis=0)
    assert energy[0] == pytest.approx(np.sqrt(total @ factor @ factor.T @ total), rel=ROUNDING)
    table = model.force_rigidity[level]
    factor, scale = table.factor.numpy(), table.scale.numpy()[ETHANOL_NUMBERS]
    expected = scale * np.sqrt(np.einsum("ni,ij,nj->n", atoms, factor @ factor.T, atoms))
    np.testing.assert_allclose(forces, expected, rtol=ROUNDING)


@pytest.mark.parametrize("level", ["cheap", "dft"])
def test_a_molecule_in_a_batch_is_as_uncertain_as_alone(level: str) -> None:
    model = calibrated_model()
    both, forces = sigmas(model, (ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER), level=level)
    for index, own in enumerate([(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)]):
        energy, (force,) = sigmas(model, own, level=level)
        assert both[index] == pytest.approx(energy[0], rel=ROUNDING)
        np.testing.assert_allclose(forces[index], force, rtol=ROUNDING)


def test_the_evaluation_of_forces_gives_the_same_features_as_one_of_energies() -> None:
    model = calibrated_model()
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)])
    kept: list[torch.Tensor] = []

    def energy_fn(own) -> torch.Tensor:
        outputs = model.evaluate(own, "dft")
        kept.append(outputs.features)
        return outputs.energies

    _, forces = energies_and_forces(energy_fn, batch)
    expected = model.evaluate(batch, "dft").features
    at_once = model.evaluate(batch, "dft", forces=True)
    for found in (kept[0], at_once.features):
        torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)
        assert not found.requires_grad
    torch.testing.assert_close(forces, at_once.forces)
    torch.testing.assert_close(forces, energies_and_forces(model.energy_fn("dft"), batch)[1])


def test_uncertainty_does_not_depend_on_the_order_of_atoms_and_grows_away_from_the_training_data() -> None:
    model = calibrated_model()
    order = np.array([8, 2, 0, 3, 5, 1, 4, 7, 6])
    (own, turned), _ = sigmas(
        model, (ETHANOL_NUMBERS, ETHANOL), (ETHANOL_NUMBERS[order], ETHANOL[order]), level="cheap"
    )
    assert turned == pytest.approx(own, rel=ROUNDING)
    strange = [(ETHANOL_NUMBERS, 0.75 * ETHANOL), (np.full(9, 9), ETHANOL), (np.full(9, 17), 1.3 * ETHANOL)]
    far, of_forces = sigmas(model, *strange, level="cheap")
    _, (near_forces,) = sigmas(model, (ETHANOL_NUMBERS, ETHANOL), level="cheap")
    assert (far > 2 * own).all(), far / own
    assert all(forces.mean() > near_forces.mean() for forces in of_forces)


def test_features_carry_no_gradient_in_training() -> None:
    model = calibrated_model().requires_grad_(True)
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    for forces in (False, True):
        outputs = model.evaluate(batch, "dft", forces=forces)
        assert outputs.energies.requires_grad
        assert not outputs.features.requires_grad


# ---- in a checkpoint


def save(model: PhysCon, folder: Path) -> Path:
    save_checkpoint(folder, model.state_dict(), config_to_dict(model.config))
    return folder


def test_tables_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    model = calibrated_model()
    loaded = load_model(save(model, tmp_path / "calibrated")).model
    assert loaded.config == model.config
    found, _ = sigmas(loaded, (ETHANOL_NUMBERS, ETHANOL), level="dft")
    expected, _ = sigmas(model, (ETHANOL_NUMBERS, ETHANOL), level="dft")
    assert found == pytest.approx(expected, rel=FLOAT32)


def test_a_configuration_from_before_there_were_tables_is_read(tmp_path: Path) -> None:
    model = tiny_model()
    config = config_to_dict(model.config)
    del config["energy_uncertainty"], config["forces_uncertainty"]
    assert config_from_dict(config) == model.config
    save_checkpoint(tmp_path / "old", model.state_dict(), config)
    loaded = load_model(tmp_path / "old").model
    batch = pack(loaded, [(ETHANOL_NUMBERS, ETHANOL)])
    features = loaded.evaluate(batch, "cheap").features
    assert loaded.energy_uncertainties(features, "cheap") is None
    assert loaded.force_uncertainties(features, batch, "cheap") is None


def test_tables_and_configuration_must_agree(tmp_path: Path) -> None:
    calibrated, bare = calibrated_model(), tiny_model(4)
    save_checkpoint(tmp_path / "missing", bare.state_dict(), config_to_dict(calibrated.config))
    with pytest.raises(CorruptCheckpointError, match=r"missing energy_rigidity\.cheap\.factor"):
        load_model(tmp_path / "missing")
    save_checkpoint(tmp_path / "unexpected", calibrated.state_dict(), config_to_dict(bare.config))
    with pytest.raises(CorruptCheckpointError, match=r"unexpected energy_rigidity\.cheap\.factor"):
        load_model(tmp_path / "unexpected")
    with pytest.raises(UnknownLevelError, match="unknown level 'pm6'"):
        PhysCon(replace(bare.config, energy_uncertainty=("pm6",)))
