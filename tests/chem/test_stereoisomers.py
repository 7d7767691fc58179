import pytest

from physcon_ase.chem.smiles import canonical_smiles, graph_from_smiles, undefined_stereo
from physcon_ase.chem.stereoisomers import stereoisomers, stereoisomers_of
from physcon_ase.errors import TooManyStereoisomersError


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CCO", {"CCO"}),
        ("CC=CC", {"C/C=C/C", "C/C=C\\C"}),
        ("CC(F)Cl", {"C[C@H](F)Cl", "C[C@@H](F)Cl"}),
        ("OC(C(O)C(=O)O)C(=O)O", {  # tartaric acid, one form of which is meso
            "O=C(O)[C@@H](O)[C@@H](O)C(=O)O", "O=C(O)[C@@H](O)[C@H](O)C(=O)O", "O=C(O)[C@H](O)[C@@H](O)C(=O)O",
        }),
        ("C[C@H](F)C(O)Cl", {"C[C@H](F)[C@@H](O)Cl", "C[C@H](F)[C@H](O)Cl"}),
        ("CC(F)Cl.O", {"C[C@H](F)Cl.O", "C[C@@H](F)Cl.O"}),
    ],
)  # fmt: skip
def test_stereoisomers_are_those_of_the_undefined_elements(smiles: str, expected: set[str]) -> None:
    found = stereoisomers(smiles)
    assert len(found) == len(expected)
    assert {canonical_smiles(graph_from_smiles(one, allow_fragments=True)) for one in found} == {
        canonical_smiles(graph_from_smiles(one, allow_fragments=True)) for one in expected
    }


def test_configurations_that_a_ring_system_does_not_allow_are_left_out() -> None:
    borneol_like = stereoisomers("C1CC2CC1CC2O")
    assert len(borneol_like) == 4
    assert all(undefined_stereo(one) == [] for one in borneol_like)


def test_the_order_of_the_atoms_is_kept() -> None:
    graph = graph_from_smiles("FC(Cl)C=CO")
    isomers = stereoisomers_of(graph)
    assert len(isomers) == 4
    for isomer in isomers:
        assert isomer.atomic_numbers.tolist() == graph.atomic_numbers.tolist()
        assert isomer.bonds.tolist() == graph.bonds.tolist()


def test_too_many_combinations_are_an_error() -> None:
    with pytest.raises(TooManyStereoisomersError, match=r"3 undefined .*, 8 combinations, but only 4 are enumerated"):
        stereoisomers("CC(F)C(O)C(N)Cl", limit=4)
