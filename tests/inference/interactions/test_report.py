import csv
import gzip
import json
from pathlib import Path

import ase.io
import pytest

from physcon_ase.errors import PhysConError
from physcon_ase.inference.interactions.interaction import Interaction
from physcon_ase.inference.interactions.report import format_interaction, write_interaction


def test_tables_pictures_and_structures_are_written(rigid: Interaction, tmp_path: Path) -> None:
    for suffix in ("json", "csv", "png", "xyz"):
        write_interaction(rigid, tmp_path / f"dimer.{suffix}")
    assert json.loads((tmp_path / "dimer.json").read_text())["interaction_energy_eV"] == rigid.energy
    rows = list(csv.DictReader((tmp_path / "dimer.csv").read_text().splitlines()))
    assert rigid.curve is not None
    assert [float(row["interaction_eV"]) for row in rows] == pytest.approx(rigid.curve.energies.tolist(), abs=1e-8)
    assert (tmp_path / "dimer.png").read_bytes().startswith(b"\x89PNG")
    frames = ase.io.read(tmp_path / "dimer.xyz", index=":")
    assert [(len(atoms), atoms.info["name"]) for atoms in frames] == [(6, "O + O"), (3, "O"), (3, "O")]
    assert {(atoms.info["status"], atoms.info["level"]) for atoms in frames} == {
        (rigid.status, rigid.provenance.level)}  # fmt: skip
    assert "molecules as they are in the complex" in format_interaction(rigid)


def test_capitals_and_compression_do_not_change_the_format(rigid: Interaction, tmp_path: Path) -> None:
    for name in ("d.json", "d.csv", "D.JSON", "D.CSV", "d.json.gz", "d.csv.gz", "d.XYZ", "d.PNG"):
        write_interaction(rigid, tmp_path / name)
    for name in ("d.json", "d.csv"):
        plain = (tmp_path / name).read_bytes()
        assert (tmp_path / name.upper()).read_bytes() == plain
        assert gzip.decompress((tmp_path / f"{name}.gz").read_bytes()) == plain
    assert len(ase.io.read(tmp_path / "d.XYZ", index=":", format="extxyz")) == 3
    assert (tmp_path / "d.PNG").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PhysConError, match="pictures are compressed already"):
        write_interaction(rigid, tmp_path / "d.png.gz")
