import csv
import gzip
import json
from pathlib import Path

import ase.io
import pytest

from physcon_ase.cli import main


def test_ensemble_prints_and_writes_the_conformers(capsys: pytest.CaptureFixture) -> None:
    assert main(["ensemble", "CO", "-n", "3", "-o", "methanol.sdf", "--temperature", "500"]) == 0
    out = capsys.readouterr().out
    assert "CO  (CH4O, 6 atoms)" in out
    assert "1 conformer within 6 kcal/mol" in out
    assert "weight (500 K)" in out
    assert "<relative_energy_kcal_per_mol>" in Path("methanol.sdf").read_text()


def test_every_output_that_is_given_is_written(capsys: pytest.CaptureFixture) -> None:
    Path("list.smi").write_text("O\nfoo\n")
    assert main(["ensemble", "list.smi", "-n", "1", "-o", "a.xyz", "-o", "b.jsonl", "-o", "c.sdf"]) == 1
    assert capsys.readouterr().out.count(" written to ") == 3
    written = ["a.failed.csv", "a.xyz", "b.jsonl", "c.failed.csv", "c.sdf", "list.smi"]
    assert sorted(path.name for path in Path().iterdir()) == written
    assert main(["ensemble", "O", "-n", "1", "-o", "d.json", "-o", "e.sdf"]) == 0
    options = ["--dihedral", "3", "0", "1", "5", "--step", "120", "-n", "1"]
    assert main(["scan", "CO", *options, "-o", "f.csv", "g.xyz", "-o", "h.json"]) == 0
    for name in ("d.json", "e.sdf", "f.csv", "g.xyz", "h.json"):
        assert Path(name).is_file()
    assert main(["ensemble", "O", "-o", "a.xyz", "-o", "./a.xyz"]) == 2
    assert "a.xyz is given twice as output: choose different names" in capsys.readouterr().err


def test_ensembles_of_a_file_are_written_one_after_the_other(capsys: pytest.CaptureFixture) -> None:
    Path("list.smi").write_text("O\nfoo\nN\n")
    assert main(["ensemble", "list.smi", "-n", "2", "-o", "list.xyz", "--summary", "list.csv"]) == 1
    with open("list.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["input"], row["status"], row["n_conformers"]) for row in rows] == [
        ("O", "ok", "1"),
        ("foo", "failed", ""),
        ("N", "ok", "1"),
    ]
    out = capsys.readouterr().out
    assert "    1  failed         foo  InvalidSmilesError:" in out
    assert "2 conformers written to list.xyz" in out
    assert "1 without a structure, with the reasons in list.failed.csv" in out
    assert "3 molecules: 2 ok, 1 failed" in out
    assert [len(atoms) for atoms in ase.io.read("list.xyz", index=":")] == [3, 4]
    with open("list.failed.csv", encoding="utf-8") as file:
        (failure,) = csv.DictReader(file)
    assert (failure["row"], failure["input"], failure["error"]) == ("2", "foo", "InvalidSmilesError")


def test_the_ensemble_of_a_file_with_one_molecule_has_its_name(capsys: pytest.CaptureFixture) -> None:
    Path("one.smi").write_text("\nO water_lot7\n")
    Path("one.failed.csv").write_text("of an earlier run")
    assert main(["ensemble", "one.smi", "-n", "2", "-o", "one.SDF.gz"]) == 0
    out = capsys.readouterr().out
    assert "    0  ok             water_lot7  1 conformer" in out
    assert "1 conformer within 6 kcal/mol" in out
    assert "1 molecule: 1 ok" in out
    assert not Path("one.failed.csv").exists()
    text = gzip.decompress(Path("one.SDF.gz").read_bytes()).decode()
    assert text.startswith("water_lot7\n")
    assert ">  <row>\n2\n\n>  <source>\none.smi\n" in text
    assert main(["ensemble", "one.smi", "-n", "2", "-o", "one.json.gz"]) == 0
    found = json.loads(gzip.decompress(Path("one.json.gz").read_bytes()))
    assert (found["name"], found["row"], found["source"]) == ("water_lot7", 2, "one.smi")


def test_a_list_of_which_everything_fails_leaves_only_the_reasons(capsys: pytest.CaptureFixture) -> None:
    Path("list.smi").write_text("foo first\nbar second\n")
    Path("out.sdf").write_text("of an earlier run")
    assert main(["ensemble", "list.smi", "-n", "2", "-o", "out.sdf"]) == 1
    assert "2 molecules: 2 failed" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["list.smi", "out.failed.csv"]
    with open("out.failed.csv", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["first", "second"]


def test_doubtful_conformers_and_scans_do_not_count_as_ok(capsys: pytest.CaptureFixture) -> None:
    assert main(["ensemble", "N#N", "-n", "1"]) == 1
    assert "  uncertain  " in capsys.readouterr().out
    Path("list.smi").write_text("O\nN#N\n")
    assert main(["ensemble", "list.smi", "-n", "1"]) == 1
    assert "2 molecules: 1 ok, 1 uncertain" in capsys.readouterr().out
    assert main(["scan", "FOOF", "--dihedral", "0", "1", "2", "3", "--step", "120", "-n", "1"]) == 1
    out = capsys.readouterr().out
    assert "  uncertain  " in out
    assert "  failed  " not in out


def test_scan_prints_barriers_and_writes_what_was_asked_for(capsys: pytest.CaptureFixture) -> None:
    arguments = ["--dihedral", "3", "0", "1", "5", "--step", "60", "-n", "2", "-o", "scan.csv", "scan.png", "scan.xyz"]
    assert main(["scan", "CO", *arguments]) == 0
    out = capsys.readouterr().out
    assert "CO  about H3-C0-O1-H5" in out
    assert "barrier" in out
    assert len(ase.io.read("scan.xyz", index=":")) == 6
    with open("scan.csv", encoding="utf-8") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan", "C1CCCCC1", "--dihedral", "0", "1", "2", "3"], "is in a ring"),
        (
            ["scan", "two.smi", "--dihedral", "0", "1", "2", "3", "-o", "a.json"],
            "a.json can contain one molecule, but two",
        ),
        (["scan", "CCCC", "--smarts", "CCCC", "-o", "a.png", "--summary", "a.csv"], "a.png cannot be written together"),
        (["scan", "CCCC", "--smarts", "CCCC", "--summary", "a.json"], "the name must end in .csv, .tsv"),
        (["scan", "CCCC"], "which dihedral angle? give four atoms with --dihedral, or a pattern with --smarts"),
        (["scan", "CCCC", "--dihedral", "0", "1", "2", "3", "-o", "scan.pdf"], "cannot write scan.pdf"),
        (["ensemble", "foo"], "invalid SMILES 'foo'"),
        (["ensemble", "CCO", "-o", "ethanol.csv"], "cannot write ethanol.csv"),
    ],
)
def test_wrong_requests_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    Path("two.smi").write_text("O\nN\n")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_scans_of_a_file_are_lines_of_json_and_a_table(capsys: pytest.CaptureFixture) -> None:
    Path("list.csv").write_text("smiles,name,status\nCCCO,propanol,ordered\nCCO,ethanol,\n")
    options = [
        "--smarts",
        "[#6]-[#6]-[#6]-[#8]",
        "--step",
        "120",
        "-n",
        "2",
        "-o",
        "list.jsonl",
        "--summary",
        "out.tsv",
    ]
    assert main(["scan", "list.csv", *options, "--jobs", "2", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "    0  ok             propanol  " in out
    assert (
        "    1  failed         ethanol  ConstraintError: the pattern '[#6]-[#6]-[#6]-[#8]' matches no bond of 'CCO'"
        in out
    )
    assert "2 molecules written to out.tsv\n2 molecules: 1 ok, 1 failed" in out
    lines = [json.loads(line) for line in Path("list.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["name"], line["status"]) for line in lines] == [
        ("scan", "propanol", "ok"),
        ("scan", "ethanol", "failed"),
    ]
    with open("out.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["row"], row["dihedrals"], row["status (input)"]) for row in rows] == [
        ("2", "0-1-2-3", "ordered"),
        ("3", "", ""),
    ]
    assert float(rows[0]["energy_eV"]) == min(point["energy_eV"] for point in lines[0]["points"])
    assert not Path("list.jsonl.journal").exists()


def test_strains_of_a_file_are_lines_of_json_and_a_table(capsys: pytest.CaptureFixture) -> None:
    assert main(["ensemble", "CCCC", "-n", "10", "-o", "poses.sdf"]) == 0
    text = Path("poses.sdf").read_text()
    Path("poses.sdf").write_text(text + "no pose\n\n\n  0  0\nM  END\n$$$$\n")
    options = ["-n", "10", "-o", "strain.jsonl", "--summary", "strain.csv", "--quiet"]
    assert main(["strain", "poses.sdf", *options]) == 1
    assert "    0  ok             CCCC  strain 0.0" in capsys.readouterr().out
    lines = [json.loads(line) for line in Path("strain.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok"] * text.count("$$$$") + ["failed"]
    with open("strain.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:-1]:  # of conformers, whose energies are known
        above = float(row["relative_energy_kcal_per_mol"])
        assert float(row["strain_kcal_per_mol"]) == pytest.approx(above, abs=0.01)
        assert float(row["local_strain_kcal_per_mol"]) == pytest.approx(0.0, abs=0.01)
    Path("one.sdf").write_text(text.split("$$$$\n")[0] + "$$$$\n")
    capsys.readouterr()
    assert main(["strain", "one.sdf", "-n", "10"]) == 0
    assert "above the lowest conformer" in capsys.readouterr().out
    assert main(["strain", "one.sdf", "-o", "one.sdf"]) == 2
    assert "cannot write one.sdf; the name must end in .jsonl" in capsys.readouterr().err
    assert main(["strain", "CCCC"]) == 2
    assert "'CCCC' has no positions" in capsys.readouterr().err


def test_ensembles_of_a_file_are_lines_of_json_with_failures(capsys: pytest.CaptureFixture) -> None:
    Path("list.smi").write_text("foo\nO\n")
    assert main(["ensemble", "list.smi", "-n", "2", "-o", "list.json"]) == 2
    assert "list.json can contain one molecule, but list.smi has 2: write .jsonl" in capsys.readouterr().err
    assert main(["ensemble", "list.smi", "-n", "2", "-o", "list.jsonl"]) == 1
    assert [json.loads(line)["status"] for line in Path("list.jsonl").read_text().splitlines()] == ["failed", "ok"]
