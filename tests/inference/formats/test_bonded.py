from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from physcon_ase.chem.files import pdb_block
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles, graph_from_smiles
from physcon_ase.errors import BondPerceptionError, StoreError, UnsupportedStereoError
from physcon_ase.inference.formats import bonded, gaussian, mol2, orca, pdb
from physcon_ase.inference.formats.rows import Geometry, ReadOptions, Row, as_list, as_rows
from physcon_ase.units import ANGSTROM_PER_BOHR

STEREO = ["C[C@H](N)C(=O)[O-]", r"F/C=C\F", "OC(=O)[C@@H](O)[C@H](O)C(=O)O", "CS(C)=O", "O=[N+]([O-])c1ccccc1"]


def rows(read: Callable, text: str) -> list[Row]:
    return list(read(text, ReadOptions()))


def in_space(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    return mol


def drawn(smiles: str) -> Chem.Mol:
    mol = Chem.MolFromSmiles(smiles)
    rdDepictor.Compute2DCoords(mol)
    Chem.WedgeMolBonds(mol, mol.GetConformer())
    return mol


def same(smiles: str) -> str:
    return Chem.CanonSmiles(smiles)


@pytest.mark.parametrize("smiles", STEREO)
def test_bonds_positions_and_configuration_of_an_sd_file_are_kept(smiles: str) -> None:
    mol = in_space(smiles)
    mol.SetProp("_Name", "first")
    flat = Chem.MolToMolBlock(drawn(smiles))
    text = f"{Chem.MolToMolBlock(mol)}>  <x>\n1\n\n$$$$\n{flat}$$$$\n"
    geometry, graph = rows(bonded.read, text)
    assert (geometry.name, geometry.number, graph.number) == ("first", 1, 2)
    assert isinstance(geometry.molecule, Geometry)
    np.testing.assert_allclose(geometry.molecule.atoms.positions, mol.GetConformer().GetPositions(), atol=1e-4)
    assert geometry.molecule.origin == "geometry"
    assert geometry.molecule.atoms.info.get("charge", 0) == Chem.GetFormalCharge(mol)
    assert canonical_smiles(geometry.molecule.graph) == same(smiles)
    assert isinstance(graph.molecule, MolGraph)  # a drawing has no geometry
    assert canonical_smiles(graph.molecule) == same(smiles)


def test_a_record_without_title_has_the_name_of_a_data_field() -> None:
    block = Chem.MolToMolBlock(in_space("CO"))
    fields = ">  <IC50> (1)\n7 nM\n\n> 25 <Compound ID>\nAB-12\n\n>  <comment>\n\n\n"
    untitled, titled, bare = rows(bonded.read, f"{block}{fields}$$$$\nmethanol{block}{fields}$$$$\n{block}$$$$\n")
    assert (untitled.name, titled.name, bare.name) == ("AB-12", "methanol", "")


def test_no_value_of_a_data_field_is_lost() -> None:
    fields = ">  <IC50>\n>100\n\n> <IC50>\n7\n> <IC50>\n\n> <note>\na\n> b\n\n"
    (row,) = rows(bonded.read, f"{Chem.MolToMolBlock(in_space('CO'))}{fields}$$$$\n")
    assert row.fields == {"IC50": ">100", "IC50 (2)": "7", "IC50 (3)": "", "note": "a\n> b"}


def test_hydrogens_that_a_file_lacks_are_added_behind_its_atoms_and_told() -> None:
    mol = Chem.RemoveHs(in_space("C[C@H](N)C(=O)O"))
    (row,) = rows(bonded.read, Chem.MolToMolBlock(mol))
    assert row.molecule.origin == "geometry (7 hydrogens added)"
    assert row.molecule.atoms.numbers.tolist() == [6, 6, 7, 6, 8, 8] + [1] * 7
    assert canonical_smiles(row.molecule.graph) == "C[C@H](N)C(=O)O"


def test_isotopes_become_masses_and_bad_records_rows_with_a_reason() -> None:
    bad = "impossible\n\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n" + "".join(
        f"    {x}.0000    0.0000    0.1000 F   0  0\n" for x in (0, 1)) + "  1  2  2  0\nM  END\n"  # fmt: skip
    text = "$$$$\n".join([Chem.MolToMolBlock(in_space("[2H]C")), bad, "nonsense\n"])
    heavy, valence, nonsense = rows(bonded.read, text)
    assert heavy.molecule.atoms.get_masses().max() == pytest.approx(12.011, abs=0.01)
    assert sorted(heavy.molecule.atoms.get_masses())[3] == pytest.approx(2.0141, abs=1e-4)
    assert isinstance(valence.molecule, BondPerceptionError)
    assert valence.name == "impossible"
    assert isinstance(nonsense.molecule, StoreError)


def test_a_record_without_atoms_is_a_row_with_a_reason() -> None:
    empty = Chem.Mol()
    empty.AddConformer(Chem.Conformer(0))
    empty.GetConformer().Set3D(True)
    for block in (Chem.MolToMolBlock(empty), Chem.MolToV3KMolBlock(empty)):
        (row,) = rows(bonded.read, f"{block}$$$$\n")
        assert "the molecule has no atoms" in str(row.molecule)


POLYMER = """
  x

  3  2  0  0  0  0            999 V2000
   -1.5000    0.0000    0.0000 C   0  0
    0.0000    0.0000    0.0000 C   0  0
    1.5000    0.0000    0.0000 O   0  0
  1  2  1  0
  2  3  1  0
M  STY  1   1 SRU
M  SAL   1  2   2   3
M  SMT   1 n
M  END
"""


def test_polymers_and_queries_are_no_molecules() -> None:
    (row,) = rows(bonded.read, POLYMER)
    assert "has a repeated group (SRU)" in str(row.molecule)
    query = POLYMER.replace("M  STY  1   1 SRU\nM  SAL   1  2   2   3\nM  SMT   1 n\n", "M  UNS  1   3   1\n")
    (row,) = rows(bonded.read, query)
    assert "atom 2 " in str(row.molecule)
    assert "is a query" in str(row.molecule)
    for smarts in ("[#6]-[#8]", "CCO", "[CH3][OH]"):
        (row,) = as_rows(Chem.MolFromSmarts(smarts))
        assert isinstance(row.molecule, StoreError)
    for allowed in ("*CO", "[2H]OC"):
        assert not isinstance(as_rows(Chem.MolFromSmiles(allowed))[0].molecule, StoreError)


def test_mol2_records_keep_the_names_of_their_atoms() -> None:
    (row, bad) = rows(mol2.read, f"# made by hand\n{MOL2}\n@<TRIPOS>MOLECULE\nbroken\n")
    assert row.name == "methanol"
    assert canonical_smiles(row.molecule.graph) == "CO"
    assert row.molecule.atoms.arrays["labels"].tolist() == ["C1", "O1", "H1", "H2", "H3", "HO"]
    assert isinstance(bad.molecule, StoreError)


def test_placeholders_of_other_programs_are_no_names() -> None:
    (row,) = rows(mol2.read, MOL2.replace("methanol", "*****"))
    assert row.name == ""
    text = Chem.MolToPDBBlock(in_space("CO"))
    assert [row.name for row in rows(pdb.read, f"COMPND    UNNAMED\n{text}COMPND    MOL_ID: 1;\n{text}")] == ["UNL"] * 2


MOL2 = """@<TRIPOS>MOLECULE
methanol
 6 5 0 0 0
SMALL
NO_CHARGES

@<TRIPOS>ATOM
 1 C1 -0.70  0.00  0.00 C.3
 2 O1  0.72  0.00  0.00 O.3
 3 H1 -1.05  1.03  0.00 H
 4 H2 -1.05 -0.51  0.89 H
 5 H3 -1.05 -0.51 -0.89 H
 6 HO  1.03 -0.91  0.00 H
@<TRIPOS>BOND
 1 1 2 1
 2 1 3 1
 3 1 4 1
 4 1 5 1
 5 2 6 1
"""


def test_a_ligand_of_a_pdb_file_keeps_names_and_charges() -> None:
    mol = in_space("CC(=O)[O-]")
    text = Chem.MolToPDBBlock(mol)
    assert "O1-" in text
    first, second = rows(pdb.read, f"COMPND    acetate\n{text}{text}")
    assert (first.name, second.name, second.number) == ("acetate", "UNL", 2)
    assert first.molecule.info["charge"] == -1
    assert first.molecule.arrays["labels"].tolist()[:3] == ["C1", "C2", "O1"]
    np.testing.assert_allclose(first.molecule.positions, mol.GetConformer().GetPositions(), atol=1e-3)


@pytest.mark.parametrize("letters", ["AB", "BC", "BA", "21"])
def test_the_first_alternative_location_of_a_pdb_file_is_taken_whatever_its_letter(letters: str) -> None:
    lines = [("O", " ", 0.0, 0.0), ("H1", letters[0], 0.96, 0.0), ("H1", letters[1], 0.9, 0.3),
             ("H2", letters[0], -0.24, 0.93), ("H2", letters[1], -0.3, 0.9)]  # fmt: skip
    text = "".join(
        f"HETATM{number:5d}  {name:3s}{letter}HOH A   1    {x:8.3f}{y:8.3f}{0:8.3f}  1.00  0.00           {name[0]}\n"
        for number, (name, letter, x, y) in enumerate(lines, start=1))  # fmt: skip
    (row,) = rows(pdb.read, text)
    assert row.molecule.get_chemical_formula() == "H2O"
    np.testing.assert_allclose(row.molecule.positions[:, :2], [[0, 0], [0.96, 0], [-0.24, 0.93]])


@pytest.mark.parametrize(
    ("name", "element"),
    [
        (" CA ", "C"), (" OXT", "O"), (" HO4", "H"), ("1HG1", "H"), ("HG11", "H"), ("HO5'", "H"), (" D1 ", "H"),
        ("CL1 ", "Cl"), (" CL1", "Cl"), ("BR12", "Br"), ("SE  ", "Se"), ("FE  ", "Fe"),
        ("CA  ", "Ca"), ("O   ", "O"), ("CB  ", "C"), ("C10A", "C"),
    ],
)  # fmt: skip
def test_the_name_of_an_atom_gives_its_element_where_a_pdb_file_has_none(name: str, element: str) -> None:
    atom = f"HETATM    1 {name} LIG A   1       0.000   0.000   0.000  1.00  0.00"
    hydrogen = "HETATM    2  H99 LIG A   1       1.000   0.000   0.000  1.00  0.00"
    (row,) = rows(pdb.read, f"{atom}\n{hydrogen}\n")
    assert row.molecule.get_chemical_symbols() == [element, "H"]
    (row,) = rows(pdb.read, f"{atom:76} N\n{hydrogen}\n")
    assert row.molecule.get_chemical_symbols() == ["N", "H"], "the column of the element decides"


def test_deuterium_of_a_pdb_file_is_heavy() -> None:
    lines = [("O", 0.0, 0.0), ("D1", 0.96, 0.0), ("H2", -0.24, 0.93)]
    (row,) = rows(pdb.read, "".join(
        f"HETATM{number:5d}  {name:3s} HOH A   1    {x:8.3f}{y:8.3f}{0:8.3f}  1.00  0.00           {name[0]}\n"
        for number, (name, x, y) in enumerate(lines, start=1)))  # fmt: skip
    assert row.molecule.get_chemical_formula() == "H2O"
    np.testing.assert_allclose(row.molecule.get_masses(), [15.999, 2.0141, 1.008], atol=1e-3)


def test_molecules_that_no_line_separates_are_not_lost() -> None:
    blocks = [Chem.MolToMolBlock(in_space(smiles)) for smiles in ("CCO", "CO", "O")]
    joined, last = rows(bonded.read, f"{blocks[0]}{blocks[1]}$$$$\n{blocks[2]}")
    assert isinstance(joined.molecule, StoreError)
    assert "record 1 has 2 molecules: separate them with lines of $$$$" in str(joined.molecule)
    assert isinstance(last.molecule, Geometry)


def test_deuterium_is_written_to_pdb_files() -> None:
    graph = graph_from_smiles("[2H]OC")
    mol = in_space("[2H]OC")
    block = pdb_block(graph, graph.atomic_numbers.astype(int), mol.GetConformer().GetPositions())
    (row,) = rows(pdb.read, block)
    np.testing.assert_allclose(row.molecule.get_masses()[:3], [2.0141, 15.999, 12.011], atol=1e-3)


def test_a_ligand_without_hydrogens_is_refused() -> None:
    (row,) = rows(pdb.read, Chem.MolToPDBBlock(Chem.RemoveHs(in_space("c1ccccc1"))))
    assert "the PDB model has no hydrogens" in str(row.molecule)


@pytest.mark.parametrize(
    ("smiles", "named"),
    [
        ("Nc1ccc(O)cc1", "4 carbon atoms of the PDB model without hydrogens (C2, C3, C5, C6)"),
        ("OCC(C)(C)O", "3 carbon atoms of the PDB model without hydrogens (C1, C3, C4)"),
        ("OC1CC1", "3 carbon atoms of the PDB model without hydrogens (C1, C2, C3)"),
        ("OC#C", "1 carbon atom of the PDB model without hydrogens (C2)"),
    ],
)
def test_a_ligand_with_polar_hydrogens_only_is_refused(smiles: str, named: str) -> None:
    mol = Chem.RWMol(in_space(smiles))
    Chem.Kekulize(mol, clearAromaticFlags=True)
    bonded = [(a.GetIdx(), a.GetNeighbors()[0].GetAtomicNum()) for a in mol.GetAtoms() if a.GetAtomicNum() == 1]
    for index, _ in sorted((pair for pair in bonded if pair[1] == 6), reverse=True):
        mol.RemoveAtom(index)
    (row,) = rows(pdb.read, Chem.MolToPDBBlock(mol))
    assert named in str(row.molecule)


@pytest.mark.parametrize(
    "smiles", ["NC(=O)N", "N#CC#CN", "OC(F)(F)F", "C=C=C", "[O-][N+](=O)c1ccccc1", "C1C2=CC12", "OC(=O)C(Cl)=C(Cl)Cl"]
)
def test_carbon_without_hydrogens_is_no_error_where_the_bonds_leave_no_room(smiles: str) -> None:
    (row,) = rows(pdb.read, Chem.MolToPDBBlock(in_space(smiles)))
    assert len(row.molecule) == in_space(smiles).GetNumAtoms()


def test_inputs_of_programs_give_charge_and_multiplicity() -> None:
    text = "%mem=1GB\n# B3LYP/6-31G(d) opt\n\ntitle\n\n-1 1\nO 0.0 0.0 0.0\nH 0.0 0.0 0.97\n\n"
    (row, second) = rows(gaussian.read, f"{text}--Link1--\n{text}")
    assert row.molecule.get_chemical_formula() == "HO"
    assert (row.molecule.info["charge"], row.molecule.info["spin"], second.number) == (-1, 1, 2)
    assert row.molecule.calc is None
    (bad,) = rows(gaussian.read, "# hf geom=check\n\n")
    assert "ASE cannot read the Gaussian input" in str(bad.molecule)
    (row,) = rows(orca.read, "! r2SCAN-3c Opt\n* xyz 1 2\n O 0 0 0.1 # oxygen\n H 0 .76 -.47\n H 0 -.76 -.47\n*\n")
    assert (row.molecule.get_chemical_formula(), row.molecule.info["charge"], row.molecule.info["spin"]) == (
        "H2O", 1, 2)  # fmt: skip
    (bad,) = rows(orca.read, "! HF\n* xyzfile 0 1 a.xyz\n")
    assert "has no block '* xyz CHARGE MULTIPLICITY'" in str(bad.molecule)


@pytest.mark.parametrize("keyword", ["units=au", "Units(Bohr)", "units=(deg,au)"])
def test_lengths_of_a_gaussian_input_may_be_in_bohr(keyword: str) -> None:
    text = "# HF {}\n\ntitle\n\n0 1\nH 0.0 0.0 0.0\nH 0.0 0.0 1.4\n\n"
    (row,) = rows(gaussian.read, text.format(keyword))
    assert row.molecule.get_distance(0, 1) == pytest.approx(1.4 * ANGSTROM_PER_BOHR)
    (row,) = rows(gaussian.read, text.format("units=angstrom"))
    assert row.molecule.get_distance(0, 1) == 1.4
    (bad,) = rows(gaussian.read, text.format("units=(au,radian)"))
    assert "angles in radians are not supported" in str(bad.molecule)


def test_isotopes_of_inputs_of_programs_become_masses() -> None:
    text = "# HF\n\ntitle\n\n0 1\nO(Iso=18) 0.0 0.0 0.1\nH(Iso=2.0141) 0.0 0.8 -0.5\nH 0.0 -0.8 -0.5\n\n"
    (row,) = rows(gaussian.read, text)
    np.testing.assert_allclose(row.molecule.get_masses(), [17.99916, 2.0141, 1.008], atol=1e-4)
    (bad,) = rows(gaussian.read, text.replace("Iso=18", "Iso=40"))
    assert "O has no isotope of mass 40" in str(bad.molecule)
    (row,) = rows(orca.read, "! HF\n* xyz 0 1\nO 0 0 .1 M = 18\nH 0 .8 -.5 M=2.0141\nH 0 -.8 -.5\n*\n")
    np.testing.assert_allclose(row.molecule.get_masses(), [17.99916, 2.0141, 1.008], atol=1e-4)


def test_an_orca_input_may_have_bohrs_ghost_atoms_and_several_jobs() -> None:
    hydrogen = "* xyz 0 1\nH 0 0 0\nH 0 0 1.4\n*\n"
    text = (
        f"! HF Bohrs\n{hydrogen}$new_job\n! HF\n* xyzfile 0 1 a.xyz\n$new_job\n! HF\n{hydrogen.replace('1.4', '.74')}"
    )
    first, second = rows(orca.read, text)
    assert first.molecule.get_distance(0, 1) == pytest.approx(1.4 * ANGSTROM_PER_BOHR)
    assert (second.molecule.get_distance(0, 1), second.number) == (0.74, 2)
    (bad,) = rows(orca.read, f"! HF\n{hydrogen.replace('H 0 0 1', 'H: 0 0 1')}")
    assert "'H:' is not an element, but a ghost atom" in str(bad.molecule)


def test_constraints_of_an_orca_input_are_not_ignored() -> None:
    text = "! HF Opt\n%geom\n Constraints\n {B 0 1 C}\n end\nend\n* xyz 0 1\nH 0 0 0\nH 0 0 .74\n*\n"
    (bad,) = rows(orca.read, text)
    assert "has constraints, which are not read" in str(bad.molecule)
    (good,) = rows(orca.read, text.replace(" Constraints", "# Constraints"))
    assert good.molecule.get_chemical_formula() == "H2"


def test_labels_of_other_than_tetrahedral_centres_need_positions() -> None:
    mol = Chem.MolFromSmiles("F[P@TB1](Cl)(F)(F)Cl")
    (bad,) = as_rows(mol)
    assert isinstance(bad.molecule, UnsupportedStereoError)
    assert "trigonal bipyramidal centre P1" in str(bad.molecule)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    (good,) = as_rows(mol)
    assert isinstance(good.molecule, Geometry)


def test_rdkit_molecules_keep_names_and_properties() -> None:
    mol = Chem.MolFromSmiles("CO")
    mol.SetProp("_Name", "methanol")
    mol.SetProp("IC50", ">100")
    mol.SetProp("code", "007")
    mol.SetDoubleProp("logP", -0.5)
    (row,) = as_rows(mol)
    assert (row.name, row.fields) == ("methanol", {"IC50": ">100", "code": "007", "logP": "-0.5"})
    (bare,) = as_rows(Chem.MolFromSmiles("CO"))
    assert (bare.name, bare.fields) == ("", {})


def test_one_molecule_is_never_taken_for_a_sequence() -> None:
    assert as_list("CCO") == ["CCO"]
    atoms = Atoms("O")
    assert as_list(atoms) == [atoms]
    assert as_list(iter(["C", None])) == ["C", None]
    mol = in_space("CCO")
    (row,) = as_rows(mol)
    assert isinstance(row.molecule, Geometry)
    (row,) = as_rows([Chem.MolFromSmiles(r"F/C=C\F")])
    assert canonical_smiles(row.molecule) == r"F/C=C\F"


ZWITTERION = "C[N+](C)(C)CC(=O)[O-]"


@pytest.mark.parametrize(("smiles", "has_charges", "charge"), [
    (ZWITTERION, False, 0), (ZWITTERION, True, 0), ("C[N+](C)(C)CC[N+](C)(C)C", True, 2),
    ("[O-]C(=O)CC(=O)[O-]", True, -2), ("[O-]C(=O)CC(=O)[O-]", False, 0),
])  # fmt: skip
def test_the_charge_of_a_pdb_file_is_that_of_its_columns(smiles: str, has_charges: bool, charge: int) -> None:
    text = Chem.MolToPDBBlock(in_space(smiles), flavor=2)  # bonds without orders, as in files of the PDB
    lines = [line if has_charges or not line.startswith("HETATM") else line[:78] for line in text.split("\n")]
    (row,) = rows(pdb.read, "\n".join(lines))
    assert row.molecule.info.get("charge", 0) == charge


def test_mol2_records_without_hydrogens_are_refused() -> None:
    bare = """@<TRIPOS>MOLECULE
ethanol
3 2
SMALL
NO_CHARGES
@<TRIPOS>ATOM
1 C1 0.0 0.0 0.0 C.3
2 C2 1.5 0.0 0.0 C.3
3 O1 2.0 1.3 0.0 O.3
@<TRIPOS>BOND
1 1 2 1
2 2 3 1
"""
    (row,) = rows(mol2.read, bare)
    assert isinstance(row.molecule, StoreError)
    assert "2 carbon atoms of the MOL2 record without hydrogens" in str(row.molecule)


def test_enhanced_stereochemistry_of_a_drawing_is_refused() -> None:
    mol = Chem.MolFromSmiles("C[C@H](O)CC[C@@H](C)N |&1:1,o2:5|")
    rdDepictor.Compute2DCoords(mol)
    (row,) = rows(bonded.read, Chem.MolToV3KMolBlock(mol))
    assert isinstance(row.molecule, UnsupportedStereoError)
    assert "known up to the mirror image only" in str(row.molecule)


def test_atoms_of_a_gaussian_input_that_are_held_are_refused() -> None:
    (bad,) = rows(gaussian.read, "# HF opt\n\ntitle\n\n0 1\nO -1 0.0 0.0 0.1\nH 0 0.0 0.8 -0.5\nH 0 0.0 -0.8 -0.5\n\n")
    assert "the freeze code -1 of O is not supported: delete it" in str(bad.molecule)
