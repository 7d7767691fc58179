from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physcon_ase.errors import StoreError, UnknownElementError
from physcon_ase.inference.formats.rows import ReadOptions, Row
from physcon_ase.inference.formats.xyz import element_of, read, write_frames

WATER_LINES = "O 0 0 0.1\nH 0 0.76 -0.47\nH 0 -0.76 -0.47\n"


def rows(text: str) -> list[Row]:
    return list(read(text, ReadOptions(".xyz")))


def test_no_frame_is_lost_behind_blank_lines() -> None:
    frame = f"3\nwater\n{WATER_LINES}"
    found = rows(f"\n{frame}\n\n{frame}{frame}\n  \n")
    assert [(row.number, row.name, len(row.molecule)) for row in found] == [(n, "water", 3) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("lines", "symbols"),
    [
        ("O1 0 0 .1\nH2 0 .76 -.47\nH_b 0 -.76 -.47", "OHH"),
        ("8 0 0 .1\n1 0 .76 -.47\n1 0 -.76 -.47", "OHH"),
        ("o 0 0 .1\nh 0 .76 -.47\nH 0 -.76 -.47", "OHH"),
        ("O 0 0 1.0D-01\nH 0 7.6d-01 -4.7D-1\nH 0 -.76 -.47 extra 3", "OHH"),
        ("CL 0 0 0.1\nCB 0 1.8 0\nHB1 0 2.4 .9", "ClCH"),
    ],
)
def test_dialects_of_atoms_are_read(lines: str, symbols: str) -> None:
    (row,) = rows(f"3\n\n{lines}\n")
    assert row.molecule.get_chemical_symbols() == Atoms(symbols).get_chemical_symbols()
    assert row.molecule.positions[0].tolist() == [0, 0, 0.1]


def test_deuterium_and_tritium_are_heavy_hydrogen_and_labels_are_kept() -> None:
    (row,) = rows("3\n\nO1 0 0 0\nD 0 0.76 -0.47\nT 0 -0.76 -0.47\n")
    assert row.molecule.get_chemical_formula() == "H2O"
    np.testing.assert_allclose(row.molecule.get_masses()[1:], [2.0141, 3.0160], atol=1e-4)
    assert row.molecule.arrays["labels"].tolist() == ["O1", "D", "T"]


@pytest.mark.parametrize("label", ["X", "Bq", "Du", "Tv", "0", "119", "Q1", "1HB", "Me"])
def test_what_is_no_element_is_refused(label: str) -> None:
    with pytest.raises(UnknownElementError, match=f"'{label}' is not an element"):
        element_of(label)


def test_a_bad_frame_is_a_row_with_its_reason_and_stops_no_other() -> None:
    good = f"3\n\n{WATER_LINES}"
    found = rows(f"{good}3\nbad\nO 0 0 0\nH 0 0 abc\nH 0 0 1\n{good}2\n\nXx 0 0 0\nO 0 0 1\n5\n\n{WATER_LINES}\n{good}")
    assert [isinstance(row.molecule, Atoms) for row in found] == [True, False, True, False, False, True]
    assert "frame 2 cannot be read (could not convert string to float: 'abc')" in str(found[1].molecule)
    assert "frame 4: 'Xx' is not an element" in str(found[3].molecule)
    assert "frame 5 has 3 atoms instead of 5" in str(found[4].molecule)
    (first, rest) = rows(f"2\n\n{WATER_LINES}")
    assert len(first.molecule) == 2
    assert "line 5 should be the number of atoms of frame 2" in str(rest.molecule)


def test_comments_give_charge_or_name() -> None:
    (row,) = rows(f"3\ncharge=-1 spin=2 name=ion\n{WATER_LINES}")
    assert (row.name, row.molecule.info["charge"], row.molecule.info["spin"]) == ("ion", -1, 2)
    (row,) = rows(f"3\nenergy = [torn\n{WATER_LINES}")
    assert len(row.molecule) == 3
    (row,) = rows(f"3\n -76.4\n{WATER_LINES}")
    assert row.name == ""


def test_extended_frames_keep_their_arrays_labels_and_isotopes() -> None:
    (row,) = rows("2\nProperties=species:S:1:pos:R:3:q:R:1 charge=1\nD1 0 0 0 0.5\nCl1 0 0 1.3D0 -0.5\n")
    assert row.molecule.get_chemical_symbols() == ["H", "Cl"]
    assert row.molecule.arrays["q"].tolist() == [0.5, -0.5]
    assert row.molecule.positions[1, 2] == 1.3
    (row,) = rows("1\nProperties=species:S:1:pos:R:3:q:R:1\nO 0 0 0\n")
    assert isinstance(row.molecule, StoreError)


@pytest.mark.parametrize(
    "text",
    [r"F/C=C\F", r"C\C=C\\x", "007", "T", "1.5 2.5", 'say "O\'Neill"', "a=b", "[O-]C(=O){x}", "two\nlines", "", "Å"],
)
def test_texts_of_a_written_file_read_back_exactly(text: str, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info = {"smiles": text, "charge": 0}
    path = tmp_path / "out.xyz"
    write_frames([atoms, atoms], path)
    (ours, _) = rows(path.read_text(encoding="utf-8"))
    theirs = ase.io.read(path)
    for found in (ours.molecule, theirs):
        assert isinstance(found, Atoms)
        assert found.info["smiles"] == text
        assert found.info["charge"] == 0
    assert atoms.info["smiles"] == text  # the structures themselves are left alone
