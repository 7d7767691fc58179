from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import molecule

from physcon_ase.inference.files import write_structures
from physcon_ase.inference.predictions import predict_structures
from physcon_ase.model.physcon import LoadedModel
from tests.tiny import calibrated_model


def test_predictions_can_be_written_and_refusals_stay_in_their_place(double: LoadedModel, tmp_path: Path) -> None:
    water, salt = molecule("H2O"), Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]])
    first, second = predict_structures([water, salt], checkpoint=double)
    assert type(second).__name__ == "UnsupportedElementError"
    assert isinstance(first, Atoms)
    assert water.calc is None
    write_structures([first], tmp_path / "out.xyz")
    frame = ase.io.read(tmp_path / "out.xyz")
    assert isinstance(frame, Atoms)
    assert frame.get_potential_energy() == pytest.approx(first.get_potential_energy())
    assert frame.info["level"] == "b3lyp-d3"


def test_structures_may_come_from_a_generator(double: LoadedModel) -> None:
    (found,) = predict_structures((atoms for atoms in [molecule("H2O")]), checkpoint=double)
    assert isinstance(found, Atoms)


def test_predictions_carry_the_uncertainty_of_a_calibrated_model(tmp_path: Path) -> None:
    calibrated = LoadedModel(calibrated_model(), "tiny", "0" * 64)
    (found,) = predict_structures([molecule("H2O")], checkpoint=calibrated)
    assert isinstance(found, Atoms)
    write_structures([found], tmp_path / "water.xyz")
    back = ase.io.read(tmp_path / "water.xyz")
    assert isinstance(back, Atoms)
    assert found.info["energy_uncertainty"] > 0
    assert back.info["energy_uncertainty"] == pytest.approx(found.info["energy_uncertainty"])
