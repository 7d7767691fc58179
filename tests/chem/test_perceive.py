import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from physcon_ase.chem.compare import stereo_intact
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.perceive import graph_from_bonds, graph_from_geometry
from physcon_ase.chem.rdkit_molecules import known_from_rdkit
from physcon_ase.chem.smiles import canonical_smiles, graph_from_smiles
from physcon_ase.errors import (
    BondPerceptionError,
    EmptyStructureError,
    NonFinitePositionsError,
    UnknownElementError,
)

SMILES = [
    "C[C@H](N)C(=O)O",
    "CC[S@](C)=O",
    "C/C=C\\C",
    "C/C=C/c1ccccc1",
    "C[C@H]1C[C@@H]2O[C@@H]2C1",
    "[O-][N+](=O)c1ccco1",
]


def bonds_of(graph):
    return graph.atomic_numbers, graph.bonds, graph.bond_orders, graph.formal_charges


@pytest.mark.parametrize("smiles", SMILES)
def test_stereo_is_read_from_the_geometry(smiles: str) -> None:
    original = graph_from_smiles(smiles)
    positions = embed(original)[0]
    graph = graph_from_bonds(*bonds_of(original), positions=positions)
    assert canonical_smiles(graph) == canonical_smiles(original)
    assert stereo_intact(graph, positions).intact
    np.testing.assert_array_equal(graph.bond_orders, original.bond_orders)


def test_the_mirror_image_is_the_other_enantiomer() -> None:
    original = graph_from_smiles("C[C@H](N)C(=O)O")
    mirrored = graph_from_bonds(*bonds_of(original), positions=embed(original)[0] * [-1, 1, 1])
    assert canonical_smiles(mirrored) == canonical_smiles(graph_from_smiles("C[C@@H](N)C(=O)O"))


def test_a_centre_outside_its_neighbours_follows_the_sign_of_the_volume() -> None:
    original = graph_from_smiles("F[C@](Cl)(Br)I")
    umbrella = np.array([[1, 0, 0.3], [0, 0, 0], [-0.5, 0.87, 0.3], [-0.5, -0.87, 0.3], [0, 0, 1]]) * 1.9
    for positions in (umbrella, umbrella * np.array([1, 1, -1])):
        graph = graph_from_bonds(*bonds_of(original), positions=positions)
        assert len(graph.tetrahedra) == 1
        assert stereo_intact(graph, positions).intact


def test_without_positions_stereo_is_left_open() -> None:
    graph = graph_from_bonds(*bonds_of(graph_from_smiles("C/C=C/[C@H](N)O")))
    assert (len(graph.tetrahedra), len(graph.double_bonds)) == (0, 0)


def test_single_precision_and_small_integers_are_accepted() -> None:
    original = graph_from_smiles("C[C@H](N)C(=O)O")
    graph = graph_from_bonds(
        original.atomic_numbers,
        original.bonds.astype(np.uint8),
        original.bond_orders,
        original.formal_charges.astype(np.int8),
        positions=embed(original)[0].astype(np.float32),
    )
    assert canonical_smiles(graph) == canonical_smiles(original)


def test_unpaired_electrons_are_counted() -> None:
    graph = graph_from_bonds(np.array([8, 1]), np.array([[0, 1]]), np.array([1]))
    assert graph.multiplicity == 2


def test_impossible_bonds_are_refused() -> None:
    with pytest.raises(BondPerceptionError, match="valence"):
        graph_from_bonds(np.array([9, 9, 9]), np.array([[0, 1], [0, 2]]), np.array([1, 1]))


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", *SMILES[2:], "[H][H]", "C", "[He]", "CC#N"])
def test_bonds_and_stereo_are_found_from_the_geometry_alone(smiles: str) -> None:
    original = graph_from_smiles(smiles)
    graph = graph_from_geometry(original.atomic_numbers, embed(original)[0])
    assert canonical_smiles(graph) == canonical_smiles(original)
    assert graph.atomic_numbers.tolist() == original.atomic_numbers.tolist()


@pytest.mark.parametrize("smiles", ["[NH4+]", "CC(=O)[O-]", "[Na+]", "[Cl-]"])
def test_the_total_charge_decides_the_formal_charges(smiles: str) -> None:
    original = graph_from_smiles(smiles)
    graph = graph_from_geometry(original.atomic_numbers, embed(original)[0], original.charge)
    assert canonical_smiles(graph) == smiles


def test_a_lone_atom_has_its_unpaired_electrons() -> None:
    assert graph_from_geometry(np.array([1]), np.zeros((1, 3))).multiplicity == 2


def test_fragments_are_found() -> None:
    water = embed(graph_from_smiles("O"))[0]
    dimer = graph_from_geometry(np.array([8, 1, 1, 8, 1, 1]), np.concatenate([water, water + np.array([0, 0, 5.0])]))
    assert canonical_smiles(dimer) == "O.O"


@pytest.mark.parametrize(
    ("numbers", "positions", "charge", "error", "message"),
    [
        ([], np.zeros((0, 3)), 0, EmptyStructureError, "0 atoms"),
        ([0, 1], np.eye(3)[:2], 0, UnknownElementError, r"\[0\]"),
        ([6, 1], [[0, 0, 0], [0, np.nan, 0]], 0, NonFinitePositionsError, "position of atom 1"),
        (
            [8, 1, 1],
            [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]],
            1,
            BondPerceptionError,
            r"3 atoms with total charge \+1",
        ),
    ],
)
def test_geometries_without_a_graph_are_refused(numbers, positions, charge, error, message) -> None:
    with pytest.raises(error, match=message):
        graph_from_geometry(np.array(numbers, dtype=int), np.array(positions, dtype=float), charge)


def test_isotopes_of_known_bonds_make_a_stereocentre() -> None:
    fields = (np.array([6, 1, 9, 17, 1]), np.array([[0, 1], [0, 2], [0, 3], [0, 4]]), np.ones(4, dtype=int))
    corners = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.7
    graph = graph_from_bonds(*fields, isotopes=np.array([0, 2, 0, 0, 0]), positions=corners)
    assert graph.isotopes.tolist() == [0, 2, 0, 0, 0]
    assert len(graph.tetrahedra) == 1
    assert len(graph_from_bonds(*fields, positions=corners).tetrahedra) == 0


def test_a_three_dimensional_molecule_keeps_its_isotopes() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("[2H]O[13CH3]"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    known = known_from_rdkit(mol)
    assert known.positions is not None
    assert sorted(known.graph.isotopes.tolist()) == [0, 0, 0, 0, 2, 13]


@pytest.mark.parametrize("smiles", ["C[P@](c1ccccc1)CC", "C[P@@](c1ccccc1)CC", "C[As@](CC)CCC", "CP(C)CC"])
def test_trivalent_phosphorus_and_arsenic_have_the_configuration_of_the_geometry(smiles: str) -> None:
    graph = graph_from_smiles(smiles)
    (positions,) = embed(graph, seed=1)
    fields = (graph.atomic_numbers, graph.bonds, graph.bond_orders, graph.formal_charges)
    for found in (
        graph_from_bonds(*fields, positions=positions),
        graph_from_geometry(graph.atomic_numbers, positions),
    ):
        assert canonical_smiles(found) == canonical_smiles(graph)
        assert stereo_intact(found, positions).intact


@pytest.mark.parametrize(
    "smiles",
    [
        "O=[N+]([O-])c1cccc([N+](=O)[O-])c1",
        "O=[N+]([O-])OCC(O[N+](=O)[O-])CO[N+](=O)[O-]",
        "O=[N+]([O-])N1CN([N+](=O)[O-])CN([N+](=O)[O-])C1",
        "O=[N+]([O-])c1cc([N+](=O)[O-])c([O-])c([N+](=O)[O-])c1",
        "C[NH2+]Cc1c([C@H](C)F)cc([N+](=O)[O-])cc1[N+](=O)[O-]",
    ],
)
def test_several_nitro_groups_are_found(smiles: str) -> None:
    graph = graph_from_smiles(smiles)
    found = graph_from_geometry(graph.atomic_numbers, embed(graph, seed=1)[0], graph.charge)
    assert canonical_smiles(found) == canonical_smiles(graph)
    assert sorted(found.bond_orders.tolist()) == sorted(graph.bond_orders.tolist())
