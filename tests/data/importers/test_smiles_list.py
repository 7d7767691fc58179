import lzma
from pathlib import Path

import pytest

from physcon_ase.data.importers.smiles_list import is_smiles_list, read_smiles_list
from physcon_ase.errors import StoreError

TEXT = 'smiles\theavy\tcharge\tallowed\tsets\nC\t1\t0\t1\tqm8,sider\n[Hg+2]\t1\t2\t0\ttox21\n"C"\t1\t0\t1\tx\n'


@pytest.fixture(params=["list.tsv", "list.tsv.xz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    path.write_bytes(lzma.compress(TEXT.encode()) if path.suffix == ".xz" else TEXT.encode())
    return path


def test_rows_that_are_not_allowed_are_left_out_and_counted(path: Path):
    rows, report = read_smiles_list(path)
    assert [row.smiles for row in rows] == ["C", '"C"']
    assert (rows[0].n_heavy_atoms, rows[0].charge, rows[0].sets) == (1, 0, ("qm8", "sider"))
    assert (report.n_rows, report.n_molecules, list(report.left_out.values())) == (3, 2, [1])


def test_ions_are_never_allowed_and_zwitterions_are(tmp_path: Path):
    path = tmp_path / "list.tsv"
    path.write_text(f"{TEXT}O=C[O-]\t3\t-1\t1\ttox21\nC[N+](=O)[O-]\t4\t0\t1\ttox21\n")
    assert [row.smiles for row in read_smiles_list(path)[0]] == ["C", '"C"', "C[N+](=O)[O-]"]


def test_all_rows_on_request(path: Path):
    rows, report = read_smiles_list(path, allowed_only=False)
    assert [(row.smiles, row.charge, row.is_allowed) for row in rows][1] == ("[Hg+2]", 2, False)
    assert report.left_out == {}


def test_a_wrong_row_is_named(tmp_path: Path):
    path = tmp_path / "list.tsv"
    for wrong in ("C\tone\t0\t1\tx\n", "C\t1\t0\n", "C\t1\t0\tyes\tx\n"):
        path.write_text(TEXT + wrong)
        with pytest.raises(StoreError, match=r"row 4 is .* expected smiles, heavy, charge, allowed, sets"):
            read_smiles_list(path)


def test_other_files_are_refused(tmp_path: Path):
    path = tmp_path / "list.tsv"
    path.write_text("smiles,name\nC,methane\n")
    assert not is_smiles_list(path)
    with pytest.raises(StoreError, match=r"the first line is .* expected the columns"):
        read_smiles_list(path)
    path.write_bytes(b"\xff\xfe\x00")
    assert not is_smiles_list(path)
    with pytest.raises(StoreError, match="not a readable SMILES list"):
        read_smiles_list(path)


@pytest.mark.parametrize("part", [0.2, 0.8])
def test_truncated_list_is_refused(tmp_path: Path, part: float):
    path = tmp_path / "list.tsv.xz"
    content = lzma.compress(TEXT.encode())
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(StoreError, match="not a readable SMILES list"):
        read_smiles_list(path)
