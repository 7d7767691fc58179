import numpy as np

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.environments import (
    bonds_by_distance,
    environment_hashes,
    environment_names,
    small_molecule_hashes,
)
from physcon_ase.chem.smiles import graph_from_smiles


def hashes(smiles: str) -> np.ndarray:
    graph = graph_from_smiles(smiles)
    return environment_hashes(graph.atomic_numbers, graph.bonds)


def test_equal_environments_have_equal_hashes_in_all_molecules():
    methane, ethane, hexane = hashes("C"), hashes("CC"), hashes("CCCCCC")
    assert len(set(methane.tolist())) == 2
    assert set(hashes("CCCCC").tolist()) == set(hexane.tolist())
    assert methane[0] not in ethane
    assert methane[1] == ethane[-1]


def test_small_molecules_count_as_a_whole_also_beside_others():
    def whole(smiles: str, level: str = "dft") -> np.ndarray:
        graph = graph_from_smiles(smiles, allow_fragments=True)
        return small_molecule_hashes(graph.atomic_numbers, graph.bonds, level)

    assert len({tuple(set(whole(smiles).tolist())) for smiles in ("CCO", "COC", "CCN", "O", "[OH-]", "[H][H]")}) == 6
    assert not whole("CCCO").any()
    assert not set(whole("CCO")) & set(whole("CCO", "other"))
    both = whole("OCC.CCCO")
    assert set(both[:3].tolist()) == set(whole("CCO").tolist())
    assert not both[3:7].any()


def test_hashes_are_the_same_on_every_machine():
    assert hashes("[H][H]").tolist() == [-8612800613078006556] * 2


def test_number_of_neighbours_of_a_neighbour_counts():
    assert hashes("CC(=O)O")[0] != hashes("CC(O)O")[0]
    assert hashes("CN")[0] != hashes("C[NH3+]")[0]


def test_names_list_the_neighbours():
    graph = graph_from_smiles("CS(=O)(=O)F")
    names = environment_names(graph.atomic_numbers, graph.bonds)
    assert names[1] == "S bonded to C, F, 2 O"
    graph = graph_from_smiles("[Cl-]")
    assert environment_names(graph.atomic_numbers, graph.bonds) == ["Cl bonded to no atom"]


def test_bonds_by_distance_are_those_of_the_graph():
    graph = graph_from_smiles("CC(=O)Oc1ccccc1C(=O)O")
    found = bonds_by_distance(graph.atomic_numbers, embed(graph, seed=0)[0])
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, graph.bonds.tolist()))
