from ase import Atoms

from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.errors import PhysConError, TooManyStereoisomersError
from physcon_ase.inference.formats.rows import Row, stereoisomer_rows


def test_rows_of_stereoisomers_keep_what_is_known_of_the_molecule() -> None:
    row = Row("CC(F)Cl", name="a", number=3, source="list.smi", fields={"IC50": "5"})
    first, second = stereoisomer_rows(row)
    assert {canonical_smiles(one.molecule) for one in (first, second)} == {"C[C@H](F)Cl", "C[C@@H](F)Cl"}
    assert (first.name, second.name) == ("a (1 of 2)", "a (2 of 2)")
    assert (second.number, second.source, second.fields) == (3, "list.smi", {"IC50": "5"})


def test_rows_without_stereoisomers_stay_and_failures_are_kept_with_their_reason() -> None:
    unchanged = ("CCO", "C[C@H](F)Cl", "C1CC", Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), PhysConError("unreadable"))
    for molecule in unchanged:
        row = Row(molecule, name="b")
        assert stereoisomer_rows(row) == [row]
    (many,) = stereoisomer_rows(Row("CC(F)C(F)C(F)C(F)C(F)C(F)C(Cl)C"))
    assert isinstance(many.molecule, TooManyStereoisomersError)
    assert many.name == "CC(F)C(F)C(F)C(F)C(F)C(F)C(Cl)C"


def test_rows_of_stereoisomers_without_a_name_get_the_smiles_as_given() -> None:
    assert [row.name for row in stereoisomer_rows(Row("CC=CC"))] == ["CC=CC (1 of 2)", "CC=CC (2 of 2)"]
