"""Each check passes a sound potential and catches the one that is broken in its way."""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from physcon_ase.batch import Batch, EnergyFn
from physcon_ase.checks import (
    Check,
    asymmetry,
    check_model,
    cutoff_check,
    drift_check,
    extensivity_error,
    forces_of,
    format_checks,
    gradient_error,
    loop_work,
    permutation_error,
    rotation_error,
    short_range_check,
    translation_error,
)
from physcon_ase.cli import main
from physcon_ase.errors import UnsupportedElementError
from physcon_ase.model.forces import energies_and_forces
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, pack, tiny_loaded, tiny_model


@pytest.fixture
def batch() -> Batch:
    return pack(tiny_model(), [(ETHANOL_NUMBERS, ETHANOL)])


def with_term(term: Callable[[Batch], Tensor]) -> EnergyFn:
    """A sound energy plus a term."""
    sound = tiny_model(4).energy_fn("cheap")
    return lambda batch: sound(batch) + term(batch)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


SOUND = with_term(lambda batch: torch.zeros(len(batch), dtype=torch.float64))


def test_a_sound_energy_passes(batch: Batch) -> None:
    assert gradient_error(SOUND, batch) < 1e-6
    assert rotation_error(SOUND, batch, generator()) < 1e-9
    assert translation_error(SOUND, batch) < 1e-8
    assert permutation_error(SOUND, batch, generator()) < 1e-9
    assert extensivity_error(SOUND, batch) < 1e-9
    assert asymmetry(forces_of(SOUND, batch), batch) < 1e-12
    assert loop_work(functools.partial(energies_and_forces, SOUND), batch, 0) < 1e-6


def test_a_permuted_ion_has_its_charge(batch: Batch) -> None:
    charged = with_term(lambda batch: batch.charge.double())
    assert permutation_error(charged, replace(batch, charge=torch.tensor([1])), generator()) < 1e-9


def test_a_level_that_covers_no_test_molecule_is_refused() -> None:
    with pytest.raises(UnsupportedElementError, match=r"level 'dft' only covers .* none of the test molecules Br, I"):
        check_model(tiny_loaded(), "dft", smiles=("Br", "I"))


def test_a_kink_is_no_gradient(batch: Batch) -> None:
    def kinked(batch: Batch) -> Tensor:
        value = batch.positions.square().sum(dim=(1, 2))
        return value.detach() * 1e-3  # changes the energy, not the force

    assert gradient_error(with_term(kinked), batch) > 1e-4


def test_an_axis_in_space_breaks_rotation_and_translation(batch: Batch) -> None:
    fixed = with_term(lambda batch: 1e-3 * batch.positions[:, :, 0].square().sum(dim=1))
    assert rotation_error(fixed, batch, generator()) > 1e-5
    assert translation_error(fixed, batch) > 1


def test_a_first_atom_breaks_permutation_and_size_consistency(batch: Batch) -> None:
    first = with_term(lambda batch: 1e-3 * (batch.positions[:, 0] - batch.positions[:, 2]).norm(dim=1))
    assert permutation_error(first, batch, generator()) > 1e-5
    assert extensivity_error(first, batch) > 1e-5


def test_a_field_with_curl_is_not_symmetric_and_does_work(batch: Batch) -> None:
    sound = forces_of(SOUND, batch)

    def swirl(positions: Tensor) -> Tensor:
        return torch.stack([-positions[..., 1], positions[..., 0], torch.zeros_like(positions[..., 0])], dim=-1)

    assert asymmetry(swirl, batch) == pytest.approx(1)
    assert asymmetry(lambda x: sound(x) + swirl(x), batch) > 1e-3
    # round a circle spanned by u and v the work is 2π times the antisymmetric part between them
    assert loop_work(lambda b: (SOUND(b), swirl(b.positions)), batch, 0) > 1e-3


def test_the_asymmetry_is_that_of_the_jacobian(batch: Batch) -> None:
    n = batch.positions.numel()
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix = matrix + matrix.T + 0.3 * (matrix - matrix.T)

    def linear(positions: Tensor) -> Tensor:
        return (matrix @ positions.flatten()).view_as(positions)

    exact = asymmetry(linear, batch)
    assert exact == pytest.approx(0.3 / (1 + 0.3**2) ** 0.5, rel=0.05)


def test_forces_that_are_no_gradient_heat_a_molecule_up(batch: Batch) -> None:
    def spring(batch: Batch) -> Tensor:
        """Harmonic, about ethanol: a motion that velocity Verlet keeps for ever."""
        return 10 * (batch.positions - torch.as_tensor(ETHANOL)).square().sum(dim=(1, 2))

    sound = functools.partial(energies_and_forces, spring)

    def pushed(batch: Batch) -> tuple[Tensor, Tensor]:
        energies, forces = sound(batch)
        away = batch.positions - torch.as_tensor(ETHANOL)
        swirl = torch.stack([-away[..., 1], away[..., 0], torch.zeros_like(away[..., 0])], dim=-1)
        return energies, forces + 3 * swirl

    assert drift_check(sound, [batch], 0, 300).value < 1
    assert drift_check(pushed, [batch, batch], 0, 300).value > 5


def test_smooth_and_repulsive_pairs_pass() -> None:
    model = tiny_model()
    assert cutoff_check(model, "cheap").passed
    assert short_range_check(model, "cheap").value == 0


def test_a_missing_core_is_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(model.core, "overlap", lambda batch, pairs: None)
    assert not short_range_check(model, "cheap").passed


def test_the_table_says_pass_fail_or_info() -> None:
    values = {"sound": (1.0, 2.0), "broken": (3.0, 2.0), "lost": (float("nan"), 1.0), "number": (1.0, None)}
    text = format_checks([Check(name, value, tolerance, "eV") for name, (value, tolerance) in values.items()])
    results = {line.split()[0]: line.split()[-1] for line in text.splitlines()[1:]}
    assert results == {"sound": "pass", "broken": "FAIL", "lost": "FAIL", "number": "info"}


@pytest.mark.slow
def test_the_shipped_checkpoint_passes_every_check(capsys: pytest.CaptureFixture) -> None:
    assert main(["check"]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_random_weights_pass_what_needs_no_training() -> None:
    checks = {check.name: check for check in check_model(tiny_loaded(), "dft", smiles=("O",), md_steps=5)}
    apart = "size consistency, two molecules far apart"
    for name in ("force = -dE/dx", "rotation", "permutation", apart, "holes at short range"):
        assert checks[name].passed, name
