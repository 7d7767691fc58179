from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest

from physcon_ase.errors import BondPerceptionError, PhysConError
from physcon_ase.inference.one import optimize
from physcon_ase.inference.report import plot_result, write_results
from physcon_ase.inference.results import Result
from physcon_ase.model.physcon import LoadedModel


@pytest.fixture(scope="module")
def alanine(double: LoadedModel) -> Result:
    return optimize("C[C@H](N)C(=O)O", checkpoint=double, max_steps=2)


def test_extended_xyz_keeps_energy_forces_and_origin(water: Result, alanine: Result, tmp_path: Path) -> None:
    assert write_results([water, alanine], tmp_path / "both.xyz") == 2
    frames = ase.io.read(tmp_path / "both.xyz", index=":")
    for result, frame in zip((water, alanine), frames, strict=True):
        assert frame.get_potential_energy() == pytest.approx(result.energy)
        assert np.allclose(frame.get_forces(), result.atoms.get_forces(), atol=1e-7)  # eight decimals in the file
        assert frame.info["smiles"] == result.smiles
        assert (frame.info["level"], frame.info["model"]) == ("b3lyp-d3", "physcon-2")
        assert frame.info["bonds_intact"]


def test_an_sd_file_keeps_energy_level_and_model(water: Result, tmp_path: Path) -> None:
    write_results(water, tmp_path / "water.sdf")
    text = (tmp_path / "water.sdf").read_text()
    assert f">  <energy_eV>\n{water.energy!r}\n" in text
    assert ">  <level>\nb3lyp-d3\n" in text
    assert ">  <model>\nphyscon-2\n" in text
    assert text.endswith("$$$$\n")


def test_a_molecule_without_bonds_has_no_sd_record(water: Result, tmp_path: Path) -> None:
    with pytest.raises(BondPerceptionError, match=r"H2O: no bonds were found.*write \.xyz"):
        write_results(replace(water, graph=None), tmp_path / "water.sdf")


def test_the_plot_is_a_png_file(alanine: Result, tmp_path: Path) -> None:
    plot_result(alanine, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PhysConError, match=r"must end in \.png"):
        plot_result(alanine, tmp_path / "plot.gif")
    with pytest.raises(PhysConError, match="pictures are compressed already"):
        plot_result(alanine, tmp_path / "plot.png.gz")
