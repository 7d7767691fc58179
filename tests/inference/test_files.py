import csv
import gzip
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem import AllChem

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import InvalidSmilesError, MissingPackageError, PhysConError, StoreError
from physcon_ase.inference import figures, files
from physcon_ase.inference.files import (
    check_output,
    failures_path,
    files_named,
    geometries_of,
    read_molecules,
    read_rows,
    read_structures,
    rows_named,
    write_records,
)
from physcon_ase.inference.formats.summary import COLUMNS
from physcon_ase.inference.formats.table import FORMATS, READABLE, WRITABLE, format_recognised
from physcon_ase.inference.formats.text import decoded
from physcon_ase.inference.predictions import predict_structures
from physcon_ase.inference.report import format_energy
from physcon_ase.inference.results import Record, Result, record_of
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, tiny_loaded


def a_result(smiles: str = "CCO", **changes: object) -> Result:
    atoms = Atoms(ETHANOL_NUMBERS, ETHANOL, info={"smiles": smiles, "level": "dft"})
    atoms.set_array("labels", np.array(["C1", "C2", "O1", *[f"H{n}" for n in range(6)]]))
    atoms.calc = ase.calculators.singlepoint.SinglePointCalculator(atoms, energy=-1.25, forces=np.zeros((9, 3)))
    history = np.array([-1.0, -1.25])
    result = Result(
        atoms, graph_from_smiles("CCO"), smiles, -1.25, 0.004, True, 1, 0.5, history, history, True, True, (), "guess",
        "bfgs", "tiny", "ab" * 32, "dft", 3, "converged", 0.1,
    )  # fmt: skip
    return replace(result, **changes)


def some_records() -> list[Record]:
    failed = Record(
        2, "bad", "failed", "invalid SMILES\n'foo'", "InvalidSmilesError", 0.1, 0, 1, None, "foo", 9, "in.csv"
    )
    good = record_of(a_result(), 0, name="ethanol", smiles="OCC", row=7, source="in.csv")
    return [good, record_of(a_result(graph=None), 1, name="no bonds", row=8), failed]


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.doc", r"must end in .*\.sdf.*\.xyz"), ("in.xyz", "would overwrite the input"), ("no/out.xyz", "no folder")],
)
def test_an_output_that_cannot_or_must_not_be_written_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "in.xyz").write_text("data")
    with pytest.raises(PhysConError, match=message):
        check_output(tmp_path / name, [tmp_path / "." / "in.xyz"])
    assert (tmp_path / "in.xyz").read_text() == "data"


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken.sdf").mkdir()
    with pytest.raises(PhysConError, match=r"taken\.sdf is a folder; choose another name"):
        check_output(tmp_path / "taken.sdf")
    (tmp_path / "kept.sdf").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "kept.sdf")
    with pytest.raises(PhysConError, match=r"kept\.sdf is write-protected"):
        check_output(tmp_path / "kept.sdf")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PhysConError, match=r"out\.sdf cannot be written, since there is no permission"):
        check_output(tmp_path / "out.sdf")


def test_an_argument_that_is_neither_file_nor_smiles_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder; give a file of molecules"):
        rows_named(str(tmp_path))
    with pytest.raises(InvalidSmilesError, match=r"invalid SMILES 'no\.cif': .*, or the name of the file"):
        rows_named("no.cif")
    for smiles in ("F/C=C/F", "[Na+].[Cl-]", "foo", ""):
        assert [row.molecule for row in rows_named(smiles)] == [smiles]


def test_a_link_to_the_input_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "in.sdf").write_text("data")
    os.link(tmp_path / "in.sdf", tmp_path / "other.sdf")
    with pytest.raises(PhysConError, match="would overwrite the input"):
        check_output(tmp_path / "other.sdf", [tmp_path / "in.sdf"])


def test_molecules_are_read_from_smiles_lists_and_xyz_files(tmp_path: Path) -> None:
    (tmp_path / "list.smi").write_text("# comment\nCCO ethanol\n\nO\n")
    assert read_molecules(tmp_path / "list.smi") == ["CCO", "O"]
    ase.io.write(tmp_path / "two.xyz", [molecule("H2O"), molecule("CH4")], format="extxyz")
    assert [len(atoms) for atoms in read_structures(tmp_path / "two.xyz")] == [3, 5]
    with pytest.raises(StoreError, match="is a list of SMILES"):
        read_structures(tmp_path / "list.smi")
    with pytest.raises(StoreError, match="there is no file"):
        read_molecules(tmp_path / "none.smi")
    (tmp_path / "broken.xyz").write_text("3\n\nO 0 0\n")
    with pytest.raises(StoreError, match="frame 1 has 1 atom instead of 3"):
        read_molecules(tmp_path / "broken.xyz")
    (tmp_path / "strange.doc").write_text("")
    with pytest.raises(StoreError, match="unknown file format"):
        read_molecules(tmp_path / "strange.doc")


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_an_empty_file_of_any_format_is_refused(kind, tmp_path: Path) -> None:
    path = tmp_path / f"empty{kind.suffixes[0]}"
    path.write_text("\n")
    if kind.suffixes in ((".gjf", ".com"), (".inp",)):  # an input of a program that cannot be read is one row
        assert [isinstance(row.molecule, StoreError) for row in read_rows(path)] == [True]
        return
    with pytest.raises(StoreError, match="contains no molecules; give a file with at least one"):
        read_rows(path)


@pytest.mark.parametrize(
    "data",
    [
        "smiles,name\nO,wässer\n".encode(),
        "\ufeffsmiles;name\r\nO;wässer\r\n".encode(),
        "smiles,name\nO,wässer\n".encode("latin-1"),
        "smiles\tname\nO\twässer\n".encode("utf-16"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.csv.gz", "A.CSV.GZ"])
def test_encodings_capitals_and_compression_change_nothing(data: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    (row,) = read_rows(path)
    assert (row.smiles, row.name, row.number, row.source) == ("O", "wässer", 2, name)
    assert files_named(str(path)) == [path]


def test_damaged_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.smi.gz").write_bytes(gzip.compress(b"CCO\n" * 99)[:-9])
    with pytest.raises(StoreError, match="is a damaged gzip file"):
        read_rows(tmp_path / "a.smi.gz")
    (tmp_path / "a.smi").write_bytes(b"CC\0O")
    with pytest.raises(StoreError, match="is not a text file"):
        read_rows(tmp_path / "a.smi")
    (tmp_path / "b.smi").write_bytes(b"CCO\n")
    with pytest.raises(StoreError, match=r"b\.smi is a SMILES list and has no columns"):
        read_rows(tmp_path / "b.smi", smiles_column="x")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CCO ethanol\n", "SMILES list"),
        ("CCO\tmy ethanol\n", "SMILES list"),
        ("smiles name\nCCO ethanol\n", "SMILES list"),
        ("name,smiles\nx,CCO\n", "CSV table"),
        ("chembl_id,canonical_smiles\nx,CCO\n", "CSV table"),
        ("\nname\tsmiles\nmy ethanol\tCCO\n", "CSV table"),
        ("\tsmiles\n0\tCCO\n", "CSV table"),
        ('"id"|"Isomeric SMILES"\n1|CCO\n', "CSV table"),
        ("id;Structure\n1;CCO\n", "CSV table"),
        ("1\n\nO 0 0 0\n", "XYZ file"),
        (Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")), "SD file"),
        ("@<TRIPOS>MOLECULE\n", "MOL2 file"),
        (Chem.MolToPDBBlock(Chem.MolFromSmiles("CCO")), "PDB file"),
        ("%mem=1GB\n#p HF/3-21G\n\nt\n\n0 1\nO 0 0 0\n\n", "Gaussian input"),
        ("! HF\n* xyz 0 1\nO 0 0 0\n*\n", "ORCA input"),
    ],
)
def test_standard_input_is_recognised_by_its_content(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert format_recognised(text).name == name
    monkeypatch.setattr(files.sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    if name != "MOL2 file":
        assert [row.source for row in rows_named("-")] == ["standard input"]


@pytest.mark.parametrize(
    "text",
    ["chembl_id,canonical_smiles\nmy ethanol,CCO\n", "name\tsmiles\nmy ethanol\tCCO\n", "\tsmiles\nmy ethanol\tCCO\n"],
)
def test_tables_on_standard_input_are_read_by_their_columns(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert [row.smiles for row in rows_named("-")] == ["CCO"]


def test_a_table_on_standard_input_may_need_the_name_of_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"rdkit_smiles,code\nCCO,ethanol\n"
    monkeypatch.setattr(files.sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    (row,) = rows_named("-", smiles_column="rdkit_smiles", name_column="code")
    assert (row.smiles, row.name) == ("CCO", "ethanol")


def test_every_format_of_the_table_has_its_functions() -> None:
    from importlib import import_module

    assert all(hasattr(import_module(kind.reader), "read") for kind in READABLE)
    assert all(hasattr(import_module(kind.writer), kind.writes) for kind in WRITABLE)
    suffixes = [suffix for kind in FORMATS for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize("name", ["out.sdf", "out.sdf.gz", "out.pdb", "out.xyz"])
def test_structures_are_written_with_names_and_what_is_left_out_is_told(name: str, tmp_path: Path) -> None:
    records, path = some_records(), tmp_path / name
    left_out = write_records(records, path)
    n_written = 1 if ".sdf" in name else 2
    assert [record.index for record in left_out] == [0, 1, 2][n_written:]
    if ".sdf" in name:
        assert "no bonds were found, but SD files require them" in left_out[0].reason
    rows = read_rows(path)
    assert [row.name for row in rows] == ["ethanol", "no bonds"][:n_written]
    atoms = rows[0].molecule if isinstance(rows[0].molecule, Atoms) else rows[0].molecule.atoms
    assert atoms.numbers.tolist() == ETHANOL_NUMBERS.tolist()
    np.testing.assert_allclose(atoms.positions, ETHANOL, atol=6e-4)
    if ".sdf" not in name:  # SD files have no names of atoms
        assert atoms.arrays["labels"].tolist()[:3] == ["C1", "C2", "O1"]
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_data_fields_of_an_sd_file_say_where_a_structure_comes_from(tmp_path: Path) -> None:
    write_records(some_records(), tmp_path / "out.sdf")
    (mol,) = Chem.SDMolSupplier(str(tmp_path / "out.sdf"))
    told = mol.GetPropsAsDict()
    assert told["energy_eV"] == -1.25
    assert {name: told[name] for name in ("row", "source", "name", "status", "level", "input", "charge")} == {
        "row": 7, "source": "in.csv", "name": "ethanol", "status": "ok", "level": "dft", "input": "OCC", "charge": 0,
    }  # fmt: skip


def test_structures_are_written_with_their_doubts(tmp_path: Path) -> None:
    result = a_result(doubts=("few of these " * 6 + "in training",), undefined_stereo=("centre C1", "centre C2"))
    result = replace(result, status=f"uncertain: {result.doubts[0]}")
    told = {"status": "uncertain", "reason": result.status, "undefined_stereo": "centre C1; centre C2"}
    write_records([record_of(result)], tmp_path / "out.xyz")
    (frame,) = read_structures(tmp_path / "out.xyz")
    assert {name: frame.info[name] for name in told} == told
    write_records([record_of(result)], tmp_path / "out.pdb")
    lines = (tmp_path / "out.pdb").read_text().splitlines()
    remarks = [line.removeprefix("REMARK   1 ") for line in lines if line.startswith("REMARK   1")]
    assert max(map(len, lines)) <= 80
    assert " ".join(remarks).startswith(" ".join(f"{name} {text}" for name, text in told.items()))


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_tables_contain_failures_with_their_reason(name: str, tmp_path: Path) -> None:
    path, records = tmp_path / name, some_records()
    if name == "out.parquet":
        rows = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    assert write_records(records, path) == []
    if name == "out.parquet":
        lines = rows.read_table(path).to_pylist()
    elif name == "out.jsonl":
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert lines[0]["symbols"] == ["C", "C", "O"] + ["H"] * 6
        np.testing.assert_array_equal(lines[0]["positions_A"], ETHANOL)
        assert lines[0]["kind"] == "relaxation"
        assert len(lines[0]["energies_eV"]) == len(lines[0]["fmax_history_eV_per_A"]) > 0
    else:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, delimiter="\t" if name == "out.tsv" else ","))
        assert list(lines[0]) == list(COLUMNS)
        assert read_rows(path)[2].name == "bad"  # a summary is a table of molecules as well
    assert [line["name"] for line in lines] == ["ethanol", "no bonds", "bad"]
    assert [line["status"] for line in lines] == ["ok", "ok", "failed"]
    assert float(lines[0]["energy_eV"]) == -1.25
    assert lines[2]["reason"] == "invalid SMILES 'foo'"
    assert [int(line["row"]) for line in lines] == [7, 8, 9]


FIELDS = {"IC50 (nM)": "12.5", "note": "two lines", "status": "measured"}
"""The last one has the name of a column of the summary."""


def test_data_fields_of_sd_files_and_other_columns_of_tables_are_read(tmp_path: Path) -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    fields = "".join(f"> <{name}>\n{text.replace(' ', chr(10))}\n\n" for name, text in FIELDS.items())
    (tmp_path / "in.sdf").write_text(f"{block}{fields}$$$$\n")
    (row,) = read_rows(tmp_path / "in.sdf")
    assert {name: text.replace("\n", " ") for name, text in row.fields.items()} == FIELDS
    (tmp_path / "in.csv").write_text("name,IC50 (nM),smiles,note,status\nethanol,12.5,CCO,two lines,measured\n")
    (row,) = read_rows(tmp_path / "in.csv")
    assert (row.name, row.molecule, row.fields) == ("ethanol", "CCO", FIELDS)


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet", "out.sdf"])
def test_fields_of_the_input_are_kept_in_outputs_beside_columns_of_the_summary(name: str, tmp_path: Path) -> None:
    path, (good, _, failed) = tmp_path / name, some_records()
    if name == "out.parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    write_records([replace(good, fields=FIELDS), failed], path)
    if name == "out.sdf":
        (mol,) = Chem.SDMolSupplier(str(path))
        lines = [mol.GetPropsAsDict(), {}]
    elif name == "out.csv":
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        assert list(lines[0]) == [*COLUMNS, "IC50 (nM)", "note", "status (input)"]
    elif name == "out.jsonl":
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line | line["fields"] for line in lines]
    else:
        lines = parquet.read_table(path).to_pylist()
    kept = {"status (input)" if key == "status" else key: value for key, value in FIELDS.items()}
    assert {key: str(lines[0][key]) for key in [*kept, "status"]} == {**kept, "status": "ok"}
    assert not lines[1].get("note")


@pytest.mark.parametrize("name", ["out.sdf", "out.csv"])
def test_fields_of_an_earlier_output_are_replaced(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / f"first-{name}", tmp_path / f"second-{name}"
    (good, *_) = some_records()
    write_records([replace(good, fields=FIELDS)], first)
    (row,) = read_rows(first)
    write_records([replace(good, fields=row.fields)], second)
    (again,) = read_rows(second)
    assert again.fields == row.fields
    assert again.fields["status (input)"] == "measured"


def test_the_last_suffix_decides_on_the_delimiter(tmp_path: Path) -> None:
    for name, delimiter in (("my.tsv.csv", ","), ("my.csv.tsv.gz", "\t")):
        write_records(some_records(), tmp_path / name)
        header = decoded((tmp_path / name).read_bytes(), name).partition("\n")[0]
        assert header == delimiter.join(COLUMNS)


def test_a_missing_package_is_named_before_the_computation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physcon_ase.inference.formats.table.find_spec", lambda _: None)
    with pytest.raises(PhysConError, match=r"pyarrow is needed for Parquet tables .*'physcon-ase\[parquet\]'"):
        check_output(tmp_path / "out.parquet")


def test_a_table_of_failures_lies_beside_the_output() -> None:
    assert failures_path(Path("a/b.v2.sdf.gz")) == Path("a/b.v2.failed.csv")


def test_the_guide_lists_every_format() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "files.md").read_text(encoding="utf-8")
    assert [suffix for kind in FORMATS for suffix in kind.suffixes if f"`{suffix}`" not in guide] == []


def test_records_of_several_batches_are_all_written(tmp_path: Path) -> None:
    good, bad = some_records()[0], some_records()[2]
    records = [good, replace(bad, index=1), replace(bad, index=0), replace(good, index=1)]
    left_out = write_records(records, tmp_path / "a.sdf")
    assert [record.index for record in left_out] == [1, 0]
    assert len(read_rows(tmp_path / "a.sdf")) == 2


def test_molecules_of_a_drawing_keep_the_order_of_their_atoms(tmp_path: Path) -> None:
    mol = Chem.MolFromSmiles("OCCCCN")
    AllChem.Compute2DCoords(mol)
    (tmp_path / "flat.mol").write_text(Chem.MolToMolBlock(mol))
    (graph,) = read_molecules(tmp_path / "flat.mol")
    assert isinstance(graph, MolGraph)
    assert graph.atomic_numbers[:6].tolist() == [8, 6, 6, 6, 6, 7]


def test_energies_tell_that_hydrogens_were_added(tmp_path: Path) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("CO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    Chem.MolToMolFile(mol, str(tmp_path / "full.mol"))
    Chem.MolToMolFile(Chem.RemoveHs(mol), str(tmp_path / "heavy.mol"))
    full, heavy = (geometries_of(read_rows(tmp_path / name))[0] for name in ("full.mol", "heavy.mol"))
    assert "origin" not in full.atoms.info
    labelled = predict_structures([heavy], checkpoint=tiny_loaded())[0]
    assert labelled.info["origin"] == "geometry (4 hydrogens added)"
    assert "4 hydrogens added" in format_energy(0, labelled)


def test_pictures_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="plots require matplotlib"):
        check_output(tmp_path / "scan.png", kinds=(".png",))
