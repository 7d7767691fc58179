import pytest

from physcon_ase.chem.flexibility import n_conformers, torsional_freedom
from physcon_ase.chem.smiles import graph_from_smiles


@pytest.mark.parametrize(
    ("smiles", "freedom"),
    [
        ("O", 0),
        ("CC", 0),  # symmetric tops
        ("CC(F)(F)F", 0),
        ("CCO", 1),
        ("CCCC", 1),
        ("c1ccccc1-c1ccccc1", 1),
        ("CC#CC", 0),
        ("C1CCCCC1", 3),
        ("C1CC1", 0),
        ("CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O", 5),
        ("C1CCCCCCCCCCCCCCCCC1", 15),
    ],
)
def test_torsional_freedom_counts_rotors_and_puckering_coordinates(smiles: str, freedom: int) -> None:
    assert torsional_freedom(graph_from_smiles(smiles)) == freedom


def test_flexible_molecules_get_more_start_geometries() -> None:
    counts = [n_conformers(graph_from_smiles(smiles)) for smiles in ("O", "CCCCCCCCCCCCC", "OCCCCCCCCCCCCCCCCO")]
    assert counts == [50, 200, 300]
