import numpy as np
import pytest
from scipy.spatial.distance import cdist

from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.conformers import embed, lowest_conformer
from physcon_ase.chem.fragments import chosen_fragments, fragments_of, joined, n_fragments
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles, graph_from_smiles
from physcon_ase.errors import FragmentsError


def graph_of(smiles: str) -> MolGraph:
    return graph_from_smiles(smiles, allow_fragments=True)


def test_fragments_keep_charges_isotopes_and_stereo_and_know_their_atoms() -> None:
    smiles = ["F/C=C\\[C@H](N)C(=O)[O-]", "[2H]O", "C[NH3+]"]
    whole = graph_of(".".join(smiles))
    parts = fragments_of(whole)
    assert [canonical_smiles(part.graph) for part in parts] == [canonical_smiles(graph_of(own)) for own in smiles]
    assert [part.graph.charge for part in parts] == [-1, 0, 1]
    for part in parts:
        assert whole.atomic_numbers[part.atoms].tolist() == part.graph.atomic_numbers.tolist()
    assert sorted(np.concatenate([part.atoms for part in parts]).tolist()) == list(range(whole.n_atoms))


def test_joined_molecules_come_apart_again() -> None:
    smiles = ["C[C@H](N)C(=O)O", "c1ccccc1", "[Cl-]"]
    whole = joined([graph_of(own) for own in smiles])
    assert (n_fragments(whole), whole.charge) == (3, -1)
    assert [canonical_smiles(part.graph) for part in fragments_of(whole)] == smiles


def test_the_largest_fragment_is_the_one_with_most_heavy_atoms() -> None:
    salt = graph_of("Cl.CC(=O)Oc1ccccc1.O")
    assert canonical_smiles(chosen_fragments(salt, "largest")) == "CC(=O)Oc1ccccc1"
    assert chosen_fragments(salt, "all") is salt
    with pytest.raises(FragmentsError, match=r"has 3 disconnected fragments.*fragments='largest'"):
        chosen_fragments(salt, "one")
    assert canonical_smiles(chosen_fragments(graph_of("CC"), "one")) == "CC"


@pytest.mark.parametrize("smiles", ["O.O", "CC(=O)[O-].C[NH3+]", "[Cl-].C[C@H](N)C(=O)O.c1ccccc1"])
def test_fragments_are_embedded_beside_each_other(smiles: str) -> None:
    graph = graph_of(smiles)
    first, second = embed(graph, n=2, seed=3)
    for positions in (first, second, lowest_conformer(graph, n=2)):
        assert bonds_intact(graph, positions).intact
        assert stereo_intact(graph, positions).intact
    one, other = (first[part.atoms] for part in fragments_of(graph)[:2])
    assert 2.0 < cdist(one, other).min() < 4.0
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(embed(graph, seed=3)[0], first)


def test_the_largest_of_equal_fragments_does_not_depend_on_their_order() -> None:
    pairs = ("C1CC1.C=CC", "C=CC.C1CC1"), ("CCO.COC", "COC.CCO")
    for one, other in pairs:
        graphs = [graph_from_smiles(smiles, allow_fragments=True) for smiles in (one, other)]
        assert len({canonical_smiles(chosen_fragments(graph, "largest")) for graph in graphs}) == 1
