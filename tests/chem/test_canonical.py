import numpy as np
import pytest
from rdkit import Chem

from physcon_ase.chem.canonical import canonical_order, mirror_order
from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import graph_bytes
from physcon_ase.chem.smiles import graph_from_smiles

MOLECULES = [
    "OCC",
    "[H][H]",
    "[OH-]",
    r"F/C=C\Cl",
    "[NH3+]CC(=O)[O-]",
    "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
    "C[S@](=O)CC",
    "O[C@H](F)[C@H](F)O",
]


@pytest.mark.parametrize("smiles", MOLECULES)
def test_positions_in_canonical_order_are_those_of_the_molecule(smiles: str) -> None:
    graph = graph_from_smiles(smiles)
    order = canonical_order(graph)
    assert (order.graph.atomic_numbers[order.places] == graph.atomic_numbers).all()
    positions = embed(order.graph)[0][order.places]
    assert bonds_intact(graph, positions).intact
    assert stereo_intact(graph, positions).intact


@pytest.mark.parametrize("smiles", MOLECULES)
def test_every_spelling_has_the_same_canonical_graph(smiles: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    spellings = {Chem.MolToSmiles(mol, doRandom=True) for _ in range(10)}
    graphs = {graph_bytes(canonical_order(graph_from_smiles(text)).graph) for text in spellings}
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("smiles", "is_achiral"),
    [
        ("CCO", True),
        ("C[C@H](N)C(=O)O", False),
        ("O[C@H](F)[C@H](F)O", True),  # meso
        ("O[C@H](F)[C@@H](F)O", False),
        ("O[C@H]1CC[C@@H](O)CC1", True),
    ],
)
def test_mirror_images_are_conformers_of_achiral_molecules_only(smiles: str, is_achiral: bool) -> None:
    graph = graph_from_smiles(smiles)
    exchange = mirror_order(graph)
    assert (exchange is not None) == is_achiral
    positions = embed(graph)[0]
    if exchange is None:
        assert not stereo_intact(graph, -positions).intact
    else:
        assert np.array_equal(np.sort(exchange), np.arange(graph.n_atoms))
        assert bonds_intact(graph, -positions[exchange]).intact
        assert stereo_intact(graph, -positions[exchange]).intact
