from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from physcon_ase.errors import PeriodicCellError, StoreError, UnknownElementError
from physcon_ase.inference.formats.rows import ReadOptions, Row
from physcon_ase.inference.formats.xyz import element_of, read, write_frames
from physcon_ase.inference.intake import check_atoms

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


@pytest.mark.parametrize(
    ("comment", "name", "info"),
    [
        ("CC(=O)O", "CC(=O)O", {}),
        ("C=C", "C=C", {}),
        ("c1ccccc1C=O", "c1ccccc1C=O", {}),
        ("F/C=C/F charge=0", "F/C=C/F", {"charge": 0}),
        ("O=C=O, energy=-5.1", "O=C=O", {"energy": -5.1}),
        ("InChI=1S/CH4/h1H4", "InChI=1S/CH4/h1H4", {}),
        ("InChI=1S/CH4/h1H4 charge=1", "InChI=1S/CH4/h1H4", {"charge": 1}),
        ("smiles=C=C", "", {"smiles": "C=C"}),
        ("mol1 charge=-2", "mol1", {"charge": -2}),
        ("charge = -2, mol 1, conformer 3", "mol 1, conformer 3", {"charge": -2}),
        ('"my mol" charge=-2', "my mol", {"charge": -2}),
        ("Bob's mol charge=-2", "Bob's mol", {"charge": -2}),
        ('x name="a b", charge=1', "a b", {"charge": 1}),
        ("name= charge=1", "", {"charge": 1}),
        ("-76.4 charge=1", "", {"charge": 1}),
        ("SCF: E(RB3LYP) = -76.4", "SCF: E(RB3LYP) = -76.4", {}),
        ("i = 0, time = 0.5, E = -11.2", "", {"i": 0, "time": 0.5, "E": -11.2}),
    ],
)
def test_pairs_of_a_comment_are_information_and_the_other_words_the_name(comment: str, name: str, info: dict) -> None:
    (row,) = rows(f"3\n{comment}\n{WATER_LINES}")
    assert row.name == name
    assert {key: value for key, value in row.molecule.info.items() if key != "name"} == info


@pytest.mark.parametrize(
    "comment",
    [
        "Charge=-2 Multiplicity=3",
        "CHARGE=-2, SPIN=3",
        "Properties=species:S:1:pos:R:3 Charge=-2 multiplicity=3",
        "total_charge=-2 spin_multiplicity=3",
        "q=-2 mult=3",
        "charge=-2 net_charge=-2 spin=3",
        "-2 3",
        "Charge: -2, multiplicity: 3",
    ],
)
def test_charge_and_multiplicity_have_several_keys_in_any_case(comment: str) -> None:
    (row,) = rows(f"3\n{comment}\n{WATER_LINES}")
    assert row.molecule.info == {"charge": -2, "spin": 3}


def test_two_charges_that_contradict_each_other_are_refused() -> None:
    (row,) = rows(f"3\ncharge=0 q=-2\n{WATER_LINES}")
    assert isinstance(row.molecule, StoreError)
    assert "q=-2 contradicts charge=0" in str(row.molecule)


@pytest.mark.parametrize("pbc", ["", ' pbc="T T T"', ' pbc="F F T"'])
def test_a_lattice_without_properties_is_a_periodic_cell(pbc: str) -> None:
    text = f'3\nice Lattice="5 0 0 1 6 0 0 0 7"{pbc}\nO1 0 0 1.0D-1\nH 0 0.76 -0.47\nH 0 -0.76 -0.47\n'
    (row,) = rows(text)
    theirs = ase.io.read(StringIO(text.replace("O1", "O").replace("D", "E")), format="extxyz")
    assert row.molecule.pbc.tolist() == theirs.pbc.tolist()
    np.testing.assert_array_equal(row.molecule.cell, theirs.cell)
    assert (row.name, row.molecule.info) == ("ice", {"name": "ice"})
    with pytest.raises(PeriodicCellError):
        check_atoms(row.molecule)


def test_a_cell_need_not_be_periodic_but_must_be_a_matrix() -> None:
    (row,) = rows(f'3\nLattice="5 0 0 0 5 0 0 0 5" pbc="F F F" charge=1\n{WATER_LINES}')
    assert not row.molecule.pbc.any()
    assert row.molecule.info == {"charge": 1}
    (row,) = rows(f'3\nLattice="5 5 5"\n{WATER_LINES}')
    assert isinstance(row.molecule, StoreError)
    (row,) = rows(f'3\npbc="T T T"\n{WATER_LINES}')
    assert row.molecule.pbc.all()


@pytest.mark.parametrize(
    ("element", "labels"),
    [
        ("H", "HG1 HE2 HG11 HE22 HB2"),
        ("C", "CD1 CE2 CA1 CB CG2"),
        ("N", "NE1 ND2 NH1 NB1"),
        ("S", "SG1 SD1"),
        ("Hg", "Hg Hg1 HG"),
        ("Ca", "Ca Ca1 CA"),
        ("Ne", "Ne NE"),
        ("Cl", "Cl1 CL1 CL"),
        ("Br", "BR1"),
        ("Si", "SI1"),
        ("Se", "SE1"),
        ("Na", "NA1"),
        ("Pb", "PB1"),
    ],
)
def test_numbered_names_of_atoms_in_capitals_are_those_of_pdb_files(element: str, labels: str) -> None:
    assert {label: element_of(label).symbol for label in labels.split()} == dict.fromkeys(labels.split(), element)


def test_a_superscript_is_no_number() -> None:
    (row,) = rows(f"²\n\n{WATER_LINES}")
    assert "line 1 should be the number of atoms of frame 1, but is '²'" in str(row.molecule)
    with pytest.raises(UnknownElementError, match="'²' is not an element"):
        element_of("²")


def test_extended_frames_keep_their_arrays_labels_and_isotopes() -> None:
    (row,) = rows("2\nProperties=species:S:1:pos:R:3:q:R:1 charge=1\nD1 0 0 0 0.5\nCl1 0 0 1.3D0 -0.5\n")
    assert row.molecule.get_chemical_symbols() == ["H", "Cl"]
    assert row.molecule.arrays["q"].tolist() == [0.5, -0.5]
    assert row.molecule.positions[1, 2] == 1.3
    (row,) = rows("1\nProperties=species:S:1:pos:R:3:q:R:1\nO 0 0 0\n")
    assert isinstance(row.molecule, StoreError)


@pytest.mark.parametrize(
    "text",
    [
        r"F/C=C\F",
        r"C\C=C\\x",
        "007",
        "T",
        "1.5 2.5",
        'say "O\'Neill"',
        "a=b",
        "[O-]C(=O){x}",
        "two\nlines",
        "",
        "Å",
        "methanol\t12.3",
        "a\xa0b",
        "a\u2028b",
        "a\x0bb\r",
        "aGVsbG8=",
        "trailing\r",
        " blanks ",
        "\t",
    ],
)
def test_texts_of_a_written_file_read_back_exactly(text: str, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info = {"smiles": text, "charge": 0, "row": 1}
    path = tmp_path / "out.xyz"
    write_frames([atoms, atoms], path)
    (ours, _) = rows(path.read_text(encoding="utf-8"))
    theirs = ase.io.read(path)
    for found in (ours.molecule, theirs):
        assert isinstance(found, Atoms)
        assert found.info["smiles"] == text
        assert found.info["charge"] == 0
    assert atoms.info["smiles"] == text  # the structures themselves are left alone


def test_blanks_in_texts_of_atoms_do_not_shift_the_columns(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.set_array("residue", np.array(["HOH A", "", "x "]))
    write_frames([atoms], tmp_path / "out.xyz")
    (row,) = rows((tmp_path / "out.xyz").read_text())
    assert row.molecule.arrays["residue"].tolist() == ["HOH_A", "_", "x"]
    np.testing.assert_allclose(row.molecule.positions, atoms.positions)


@pytest.mark.parametrize("label", ["H:", "C-Bq", "O-Bq1", "BQH", "BqO1"])
def test_ghost_atoms_are_no_atoms(label: str) -> None:
    with pytest.raises(UnknownElementError, match=f"'{label}' is not an element, but a ghost atom"):
        element_of(label)


def test_results_of_an_earlier_calculation_do_not_stop_or_spoil_the_output(tmp_path: Path) -> None:
    (row,) = rows(f"3\nenergy=-5.0 free_energy=-4.0 forces=7 note=kept\n{WATER_LINES}")
    atoms = row.molecule
    atoms.set_array("charges", np.ones(3))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.full((3, 3), 0.5))
    write_frames([atoms], tmp_path / "out.xyz")
    found = ase.io.read(tmp_path / "out.xyz")
    assert isinstance(found, Atoms)
    assert found.info == {"note": "kept"}
    assert set(found.calc.results) == {"energy", "forces"}
    assert found.get_potential_energy() == -1.0
    assert atoms.info["free_energy"] == -4.0  # not modified
    atoms.calc = None
    write_frames([atoms], tmp_path / "out.xyz")  # without new results the old ones are kept
    assert ase.io.read(tmp_path / "out.xyz").get_potential_energy() == -5.0
