from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from physcon_ase.errors import CorruptCheckpointError, MissingHeadError, PhysConError, UnknownLevelError
from physcon_ase.model.checkpoint import save_checkpoint
from physcon_ase.model.config import StructureConfig, config_from_dict, config_to_dict
from physcon_ase.model.physcon import PhysCon, load_model
from tests.tiny import (
    ETHANOL,
    ETHANOL_NUMBERS,
    STRUCTURE,
    WATER,
    WATER_NUMBERS,
    pack,
    tiny_model,
)

EQUIVARIANCE = 1e-8
"""Rounding of float64 forces [eV/Å]."""


def save(model: PhysCon, folder: Path) -> Path:
    save_checkpoint(folder, model.state_dict(), config_to_dict(model.config), recipe="seed = 1")
    return folder


@pytest.mark.parametrize("structure", [None, STRUCTURE, replace(STRUCTURE, guided=True)])
def test_a_saved_model_comes_back_with_the_same_energies(tmp_path: Path, structure: StructureConfig | None) -> None:
    model = tiny_model(4, torch.float32, structure=structure)
    loaded = load_model(save(model, tmp_path / "small"))
    assert loaded.name == "small"
    assert len(loaded.revision) == 64
    assert loaded.model.config == model.config
    assert (loaded.model.structure is not None) == (structure is not None)
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    assert torch.equal(loaded.model.energies(batch, "dft"), model.energies(batch, "dft"))


def test_a_loaded_model_is_ready_for_inference(tmp_path: Path) -> None:
    model = load_model(save(tiny_model(4, torch.float32), tmp_path / "small"), dtype=torch.float64).model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}


def test_constants_of_a_float64_model_are_not_rounded(tmp_path: Path) -> None:
    model = load_model(save(tiny_model(4, torch.float32), tmp_path / "small"), dtype=torch.float64).model
    fresh = tiny_model(4, torch.float64)
    for (name, loaded), (_, exact) in zip(model.named_buffers(), fresh.named_buffers(), strict=True):
        assert torch.equal(loaded, exact), name


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    folder = save(tiny_model(4, torch.float32), tmp_path / "small")
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    config = config_to_dict(tiny_model(4).config)
    save_checkpoint(tmp_path / "small", tiny_model(0).state_dict(), config)
    with pytest.raises(CorruptCheckpointError, match=r"do not fit .* missing energy"):
        load_model(tmp_path / "small")


def test_an_unknown_level_lists_the_levels() -> None:
    model = tiny_model()
    with pytest.raises(UnknownLevelError, match="unknown level 'pm6'; this model has cheap, dft"):
        model.energy_fn("pm6")
    with pytest.raises(UnknownLevelError, match="unknown level 'pm6'"):
        model.evaluate(pack(model, [(WATER_NUMBERS, WATER)]), "pm6")


def test_each_molecule_can_have_its_own_level() -> None:
    model = tiny_model()
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER), (WATER_NUMBERS, WATER)])
    found = model.energies(batch, torch.tensor([0, 1, 0]))
    cheap, dft = model.energies(batch, "cheap"), model.energies(batch, "dft")
    torch.testing.assert_close(found, torch.stack([cheap[0], dft[1], cheap[2]]), rtol=0, atol=1e-9)


def test_atomic_energies_add_up_to_the_total() -> None:
    model = tiny_model()
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)])
    atomic = model.evaluate(batch, "dft").atomic_energies
    torch.testing.assert_close(atomic.sum(dim=1), model.energies(batch, "dft"))
    np.testing.assert_array_equal(atomic[1, 3:], 0)


def test_the_configuration_survives_json_data() -> None:
    config = tiny_model(structure=STRUCTURE).config
    assert config_from_dict(config_to_dict(config)) == config
    with pytest.raises(CorruptCheckpointError, match="cannot be read"):
        config_from_dict({"levels": [], "encoder": {"colour": 1}, "structure": None})


def test_direct_forces_turn_with_the_molecule_and_sum_to_zero() -> None:
    model, rotation = tiny_model(4, output_vectors=3), Rotation.from_euler("xyz", [0.3, -1.1, 2.0]).as_matrix()
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL), (ETHANOL_NUMBERS, ETHANOL @ rotation.T), (WATER_NUMBERS, WATER)])
    energies, forces = model.energies_and_direct_forces(batch, "cheap")
    torch.testing.assert_close(energies, model.energies(batch, "cheap"))
    turned = forces[0] @ torch.from_numpy(rotation).T
    assert forces[0].abs().max() > 1e-3
    torch.testing.assert_close(forces[1], turned, atol=EQUIVARIANCE, rtol=0)
    torch.testing.assert_close(forces.sum(dim=1), torch.zeros(3, 3, dtype=torch.float64), atol=EQUIVARIANCE, rtol=0)
    assert (forces[2, 3:] == 0).all()


def test_a_model_without_direct_heads_says_so() -> None:
    model = tiny_model(4)
    with pytest.raises(MissingHeadError, match="has no direct-force heads"):
        model.energies_and_direct_forces(pack(model, [(WATER_NUMBERS, WATER)]), "cheap")


def test_direct_forces_at_levels_of_their_own_are_those_of_each_level() -> None:
    model = tiny_model(4, output_vectors=3)
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)])
    energies, forces = model.energies_and_direct_forces(batch, torch.tensor([1, 0]))
    for row, level in enumerate(("dft", "cheap")):
        own_energies, own_forces = model.energies_and_direct_forces(batch, level)
        torch.testing.assert_close(energies[row], own_energies[row])
        torch.testing.assert_close(forces[row], own_forces[row])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype 'float16' is not supported; use float32 or float64"),
        ({"dtype": torch.float16}, "dtype torch.float16 is not supported"),
        ({"device": "magic"}, "device 'magic' cannot be used: .*use 'cpu'"),
    ],
)
def test_a_number_format_or_device_that_cannot_be_used_is_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(PhysConError, match=message):
        load_model(save(tiny_model(0, torch.float32), tmp_path / "small"), **options)


def test_the_number_format_can_be_a_name(tmp_path: Path) -> None:
    model = load_model(save(tiny_model(0, torch.float32), tmp_path / "small"), dtype="float64").model
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}
