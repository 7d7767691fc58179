import csv
import io
import json
import sys
from pathlib import Path

import ase.io
import pytest
from ase.build import molecule

from physcon_ase.cli import main
from physcon_ase.errors import PhysConError
from physcon_ase.inference.interactions import energies


def test_vibrations_prints_and_writes_what_was_asked_for(capsys: pytest.CaptureFixture) -> None:
    options = ["--level", "b3lyp", "--temperature", "350", "--symmetry-number", "1", "--scale", "0.97"]
    assert main(["vibrations", "O", "-o", "water.json", "--spectrum", "ir.csv", *options]) == 0
    out = capsys.readouterr().out
    for part in ("O  (H2O, 3 atoms)", "level b3lyp", "0 imaginary", "G(350 K)", "quasi-RRHO", "status       minimum"):
        assert part in out
    assert json.loads(Path("water.json").read_text())["thermochemistry"]["symmetry_number"] == 1
    assert Path("ir.csv").read_text().startswith("wavenumber_per_cm,")


def test_every_output_that_is_given_is_written(capsys: pytest.CaptureFixture) -> None:
    assert main(["vibrations", "O", "-o", "modes.csv", "-o", "water.json"]) == 0
    assert main(["interaction", "O.O", "--distances", "3", "-o", "curve.csv", "-o", "pair.json"]) in (0, 1)
    assert capsys.readouterr().out.count("  written      ") == 4
    for name in ("modes.csv", "water.json", "curve.csv", "pair.json"):
        assert Path(name).is_file()
    assert main(["vibrations", "O", "-o", "x.csv", "--spectrum", "x.csv"]) == 2
    assert "x.csv is given twice as output: choose different names" in capsys.readouterr().err


def test_a_geometry_that_is_not_relaxed_is_no_success(capsys: pytest.CaptureFixture) -> None:
    atoms = molecule("H2O")
    atoms.positions[1] *= 1.2
    ase.io.write("water.xyz", atoms)
    assert main(["vibrations", "water.xyz", "--no-relax"]) == 1
    assert "not a stationary point" in capsys.readouterr().out


def test_interaction_prints_and_writes_the_curve(capsys: pytest.CaptureFixture) -> None:
    pair = molecule("H2O")
    other = molecule("CH4")
    other.translate([0, 0, 4.0])
    ase.io.write("pair.xyz", pair + other)
    assert main(["interaction", "pair.xyz", "-o", "curve.csv", "--along", "centres"]) == 0
    out = capsys.readouterr().out
    assert "O + C" in out
    assert "distance of the centres" in out
    assert Path("curve.csv").read_text().startswith("centres_distance_A,")


@pytest.mark.parametrize(
    ("arguments", "relax"),
    [
        ("O.O", None),
        ("pair.smi", None),
        ("pair.xyz", None),
        ("pair.xyz --relax", True),
        ("-", None),
        ("- --relax", True),
    ],
)
def test_a_complex_is_relaxed_if_it_has_no_geometry_or_on_request(
    arguments: str, relax: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pair.smi").write_text("O.O\n")
    pair = "6\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\nO 0 0 3\nH 0 0 4\nH 0 1 3\n"
    Path("pair.xyz").write_text(pair)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pair.encode())))
    asked = []

    def stop(molecule: object, **options: object) -> None:
        asked.append(options["relax"])
        raise PhysConError("the question is what was asked")

    monkeypatch.setattr(energies, "interaction", stop)
    assert main(["interaction", *arguments.split()]) == 2
    assert asked == [relax]


def test_vibrations_of_a_file_are_lines_of_json_and_a_table(capsys: pytest.CaptureFixture) -> None:
    Path("list.smi").write_text("O water\nfoo\n")
    assert main(["vibrations", "list.smi", "-o", "out.jsonl", "--summary", "out.csv", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "    0  ok             water  ZPE " in out
    assert "    1  failed         foo  InvalidSmilesError: " in out
    assert "2 molecules: 1 ok, 1 failed" in out
    first, second = (json.loads(line) for line in Path("out.jsonl").read_text().splitlines())
    assert (first["name"], first["status"], len(first["frequencies_per_cm"])) == ("water", "ok", 3)
    assert (second["name"], second["status"], second["error"]) == ("foo", "failed", "InvalidSmilesError")
    with open("out.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["gibbs_energy_eV"]) == first["thermochemistry"]["gibbs_energy"]
    assert rows[1]["gibbs_energy_eV"] == ""
    assert main(["report", "out.jsonl", "-o", "page.html"]) == 0
    assert "2 molecules written" in capsys.readouterr().out


def test_files_with_several_molecules_and_wrong_outputs_are_refused(
    two_structures: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["vibrations", str(two_structures), "-o", "modes.csv"]) == 2
    assert "two.xyz has 2: write .jsonl, and a table with --summary" in capsys.readouterr().err
    assert main(["vibrations", str(two_structures), "--spectrum", "ir.png"]) == 2
    assert "--spectrum ir.png is for one molecule" in capsys.readouterr().err
    assert main(["vibrations", "O", "-o", "water.txt"]) == 2
    assert main(["interaction", "O"]) == 2
    assert "two or more" in capsys.readouterr().err


def test_a_curve_of_three_molecules_is_refused_before_the_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(energies, "interaction", None)
    assert main(["interaction", "O.O.O", "-o", str(tmp_path / "curve.csv")]) == 2
    assert "curve.csv is for the distance curve of two molecules, but there are 3" in capsys.readouterr().err
