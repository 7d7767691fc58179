import pytest

from physcon_ase.errors import InvalidSmilesError, StoreError
from physcon_ase.inference.formats import columns, lists
from physcon_ase.inference.formats.rows import ReadOptions


def of_list(text: str) -> list[tuple[str, str, int]]:
    return [(row.smiles, row.name, row.number) for row in lists.read(text, ReadOptions(".smi"))]


def of_table(text: str, suffix: str = ".csv", **options: str) -> list[tuple[str, str, int]]:
    return [(row.smiles, row.name, row.number) for row in columns.read(text, ReadOptions(suffix, **options))]


def test_a_list_has_names_comments_and_perhaps_a_header() -> None:
    assert of_list("# drugs\nCCO ethanol\n\nCC(=O)O\tacetic acid\nO") == [
        ("CCO", "ethanol", 2), ("CC(=O)O", "acetic acid", 4), ("O", "", 5)]  # fmt: skip
    assert of_list("SMILES Name\nCCO ethanol\n") == [("CCO", "ethanol", 2)]
    assert of_list('"canonical_smiles"\nsmiles\n') == [("smiles", "", 2)]  # only the first line can be a header


def test_further_columns_of_a_list_are_fields() -> None:
    (row,) = lists.read("CCO\tethyl alcohol\t12.3\t\tx\n", ReadOptions(".smi"))
    assert (row.smiles, row.name, row.fields) == ("CCO", "ethyl alcohol", {"column 3": "12.3", "column 5": "x"})


def test_an_extension_that_would_be_lost_is_refused() -> None:
    (row,) = lists.read("[CH2]C |^1:0| ethyl\n", ReadOptions(".smi"))
    assert isinstance(row.molecule, InvalidSmilesError)
    assert "CXSMILES extension" in str(row.molecule)
    assert row.name == "ethyl"


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("Name,SMILES,mass\nethanol,CCO,46\n", ".csv"),
        ("\n name ; Canonical_Smiles \nethanol;CCO\n\n", ".csv"),
        ("id\tsmiles\nethanol\tCCO\n", ".tsv"),
        ('"drug name","isomeric SMILES"\n"ethanol","CCO"\n', ".csv"),
    ],
)
def test_columns_are_found_by_their_names(text: str, suffix: str) -> None:
    assert [found[:2] for found in of_table(text, suffix)] == [("CCO", "ethanol")]


def test_isomeric_smiles_precede_canonical_ones_without_stereochemistry() -> None:
    of_pubchem = "cid,canonicalsmiles,isosmiles\n5950,CC(N)C(=O)O,C[C@H](N)C(=O)O\n"
    assert of_table(of_pubchem) == [("C[C@H](N)C(=O)O", "5950", 2)]
    assert of_table("Canonical SMILES\tIsomeric SMILES\nFC=CF\tF/C=C/F\n", ".tsv") == [("F/C=C/F", "", 2)]


def test_columns_can_be_chosen_and_a_missing_one_is_named() -> None:
    table = "a,b,smiles\nCCO,ethanol,x\n"
    assert of_table(table, smiles_column="a", name_column="b") == [("CCO", "ethanol", 2)]
    with pytest.raises(StoreError, match="there is no column 'c'; the columns are 'a', 'b', 'smiles'"):
        of_table(table, smiles_column="c")
    with pytest.raises(StoreError, match=r"none of the columns 'a', 'b' is called SMILES: .*--smiles-column"):
        of_table("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("text", "suffix", "line"),
    [
        ('smiles,name\nO,water\nC,"meth\nN,ammonia\nCC,ethane', ".csv", 3),
        ('smiles,name\nO,water\nC,"meth\nN,"ammonia\nCC,ethane', ".csv", 3),
        ('smiles\tname\nO\twater\n\nC\t"meth\nCC\tethane\n', ".tsv", 4),
        ('smiles,"name\nO,water\n', ".csv", 1),
        ('smiles,name\nC,"' + "N,ammonia\n" * 14_000, ".csv", 2),
    ],
)
def test_a_quotation_mark_that_is_not_closed_is_refused_and_swallows_no_rows(text: str, suffix: str, line: int) -> None:
    with pytest.raises(StoreError, match=rf"the row that begins in line {line} cannot be read .*must end with one"):
        of_table(text, suffix)


def test_quoted_cells_and_bare_quotation_marks_are_read() -> None:
    table = 'smiles,name\nC,"a, b"\nN,"the ""x"" one"\nO,5" tubing\nCC,"two\nlines, one"\n'
    assert of_table(table) == [
        ("C", "a, b", 2), ("N", 'the "x" one', 3), ("O", '5" tubing', 4), ("CC", "two\nlines, one", 6)]  # fmt: skip
    assert of_table('smiles\tname\nC\t5" tubing\nN\tx\n', ".tsv") == [("C", '5" tubing', 2), ("N", "x", 3)]
    assert of_table('"name, full";"smiles"\nx;CCO\n') == [("CCO", "", 2)]


def test_an_empty_cell_is_a_row_with_a_reason_and_rows_are_numbered_by_lines() -> None:
    found = list(columns.read('smiles,name\nC,"two\nlines"\n,gap\nO\n', ReadOptions(".csv")))
    assert [(row.smiles, row.number) for row in found] == [("C", 3), ("", 4), ("O", 5)]
    assert isinstance(found[1].molecule, InvalidSmilesError)
    assert found[1].name == "gap"


def test_no_cell_is_lost_or_taken_for_that_of_another_column() -> None:
    table = "smiles,name,IC50,IC50,\nOCCO,1,2-ethanediol,5,\nCO,methanol,1,2,3\nO,water,1,2,,,\n"
    wrong, unnamed, right = columns.read(table, ReadOptions(".csv"))
    assert unnamed.fields == {"IC50": "1", "IC50 (2)": "2", "column 5": "3"}
    assert right.fields == {"IC50": "1", "IC50 (2)": "2"}
    assert wrong.name == "1"  # cells that fill the columns cannot be recognised as wrong
    (wrong,) = columns.read("smiles,name,IC50\nOCCO,1,2-ethanediol,5\n", ReadOptions(".csv"))
    assert "line 2 has 4 cells, but there are 3 columns" in str(wrong.molecule)


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;,,"])
def test_the_line_in_which_excel_names_the_delimiter_is_no_header(first: str) -> None:
    table = f"{first}\nname, or not;smiles\nwater;O\n"
    assert columns.has_smiles_header(table)
    assert of_table(table) == [("O", "", 3)]
    assert of_table(table, ".tsv") == [("O", "", 3)]
