import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdCIPLabeler

from physcon_ase.chem.compare import stereo_intact
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import make_graph
from physcon_ase.chem.perceive import graph_from_bonds
from physcon_ase.chem.smiles import (
    canonical_key,
    canonical_smiles,
    graph_from_rdkit,
    graph_from_smiles,
    stereocentres,
    to_rdkit,
    undefined_stereo,
)
from physcon_ase.errors import (
    BondPerceptionError,
    DummyAtomError,
    FragmentsError,
    InvalidSmilesError,
    UnknownElementError,
    UnsupportedChargeError,
    UnsupportedStereoError,
)

STEREO_SMILES = [
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "CC[S@](C)=O",
    "CC[S@@](C)=O",
    "C/C=C/C",
    "C/C=C\\C",
    "[H]/N=C/C",
    "C/C(F)=C(/Cl)Br",
    "C[C@H]1CC[C@@H](C)CC1",
    "C[C@H]1CC[C@H](C)CC1",
    "CC[P@@](C)c1ccccc1",
    "C/C=C\\[C@H](O)/C=C/C",
]


def clockwise_from_above(graph, centre: int, ranked: list[int], lowest: int | None) -> np.ndarray:
    """A geometry in which the first three of the ranked neighbours go round clockwise for somebody above the centre,
    the lowest (a lone pair if None) pointing down: the definition of R."""
    positions = np.zeros((graph.n_atoms, 3))
    for atom, angle in zip(ranked, np.radians([90.0, -30.0, -150.0]), strict=True):
        positions[atom] = [np.cos(angle), np.sin(angle), -0.3]
    positions[centre] = [0, 0, 0]
    if lowest is None:
        positions[ranked] += [0, 0, 0.6]
    else:
        positions[lowest] = [0, 0, -1]
    return positions


@pytest.mark.parametrize(
    ("r_smiles", "s_smiles", "centre", "ranked", "lowest"),
    [
        ("C[C@@H](N)C(=O)O", "C[C@H](N)C(=O)O", 1, [2, 3, 0], 9),  # alanine: N > COOH > CH3 > H
        ("C[S@@](=O)CC", "C[S@](=O)CC", 1, [2, 3, 0], None),  # sulfoxide: O > ethyl > methyl > lone pair
    ],
)
def test_tetrahedra_follow_the_rule_of_cahn_ingold_and_prelog(r_smiles, s_smiles, centre, ranked, lowest) -> None:
    r_graph, s_graph = graph_from_smiles(r_smiles), graph_from_smiles(s_smiles)
    positions = clockwise_from_above(r_graph, centre, ranked, lowest)
    assert stereocentres(r_graph) == [centre]
    assert stereo_intact(r_graph, positions).intact
    assert not stereo_intact(s_graph, positions).intact
    mirrored = positions * [1, 1, -1]
    assert not stereo_intact(r_graph, mirrored).intact
    assert stereo_intact(s_graph, mirrored).intact


def test_r_and_s_are_those_of_the_cip_labels_of_rdkit() -> None:
    # RDKit's older labels, which it gives by default, are wrong for sulfoxides.
    molecules = [to_rdkit(graph_from_smiles(s)) for s in ("C[C@@H](N)C(=O)O", "C[C@H](N)C(=O)O", "C[S@@](=O)CC")]
    for mol in molecules:
        rdCIPLabeler.AssignCIPLabels(mol)
    assert [mol.GetAtomWithIdx(1).GetProp("_CIPCode") for mol in molecules] == ["R", "S", "R"]


@pytest.mark.parametrize(("smiles", "last_carbon_y"), [("C/C=C/C", -1.0), ("C/C=C\\C", 1.0)])
def test_e_is_trans_and_z_is_cis(smiles: str, last_carbon_y: float) -> None:
    graph = graph_from_smiles(smiles)
    positions = np.zeros((graph.n_atoms, 3))
    positions[:4] = [[-0.5, 1, 0], [0, 0, 0], [1, 0, 0], [1.5, last_carbon_y, 0]]
    assert graph.double_bonds.tolist() == [[0, 1, 2, 3]]
    assert stereo_intact(graph, positions).intact
    positions[3, 1] *= -1
    assert stereo_intact(graph, positions).flipped == [(0, 1, 2, 3)]


@pytest.mark.parametrize("smiles", STEREO_SMILES)
def test_stereo_survives_the_way_to_rdkit_and_back(smiles: str) -> None:
    graph = graph_from_smiles(smiles)
    assert canonical_smiles(graph) == Chem.CanonSmiles(smiles)
    assert canonical_smiles(graph_from_rdkit(to_rdkit(graph))) == Chem.CanonSmiles(smiles)
    assert canonical_smiles(graph, stereo=False) == canonical_key(smiles)
    assert not set("@/\\") & set(canonical_key(smiles))


def test_renumbered_atoms_keep_their_configuration() -> None:
    mol = to_rdkit(graph_from_smiles("C/C=C\\[C@H](O)[S@](=O)CC"))
    order = np.random.default_rng(3).permutation(mol.GetNumAtoms()).tolist()
    graph = graph_from_rdkit(Chem.RenumberAtoms(mol, order))
    assert canonical_smiles(graph) == Chem.CanonSmiles("C/C=C\\[C@H](O)[S@](=O)CC")


def test_a_labelled_centre_that_is_none_is_not_kept() -> None:
    assert len(graph_from_smiles("C[C@H](C)O").tetrahedra) == 0


def test_hydrogens_follow_the_atoms_of_the_smiles() -> None:
    graph = graph_from_smiles("OC=C")
    assert graph.atomic_numbers.tolist() == [8, 6, 6, 1, 1, 1, 1]
    assert graph.bonds.tolist() == [[0, 1], [1, 2], [0, 3], [1, 4], [2, 5], [2, 6]]
    assert graph.bond_orders.tolist() == [1, 2, 1, 1, 1, 1]


def test_aromatic_bonds_carry_their_kekule_order() -> None:
    graph = graph_from_smiles("c1ccccc1")
    assert sorted(graph.bond_orders[:6].tolist()) == [11, 11, 11, 12, 12, 12]


@pytest.mark.parametrize(
    ("smiles", "centre"),
    [
        ("F[P@TB1](Cl)(F)(F)Cl", "trigonal bipyramidal centre P1"),
        ("F[S@OH1](F)(F)(F)(Cl)Br", "octahedral centre S1"),
        ("F[Xe@SP1](F)(Cl)Cl", "square planar centre Xe1"),
    ],
)
def test_configurations_that_are_not_tetrahedral_are_refused(smiles: str, centre: str) -> None:
    with pytest.raises(UnsupportedStereoError, match=centre):
        graph_from_smiles(smiles)


def test_charges_and_unpaired_electrons_are_counted() -> None:
    assert graph_from_smiles("C[NH3+]").charge == 1
    assert graph_from_smiles("[NH3+]CC([O-])=O", allow_charged=False).charge == 0
    multiplicities = [graph_from_smiles(s).multiplicity for s in ("C", "[H]", "[CH2]", "[O][O]", "[H+]")]
    assert multiplicities == [1, 2, 3, 3, 1]
    with pytest.raises(UnsupportedChargeError, match=r"total charge \+1; only neutral"):
        graph_from_smiles("C[NH3+]", allow_charged=False)


def test_a_radical_stays_one_on_the_way_back() -> None:
    graph = graph_from_rdkit(to_rdkit(graph_from_smiles("C[CH]C")))
    assert (graph.n_atoms, graph.multiplicity) == (10, 2)


def test_isotopes_are_kept_with_the_stereo_that_rests_on_them() -> None:
    graph = graph_from_smiles("C[C@H]([2H])O")
    assert graph.isotopes.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0]
    assert len(graph.tetrahedra) == 1
    assert canonical_smiles(graph) == canonical_smiles(graph_from_smiles("[2H][C@@H](C)O"))
    assert canonical_smiles(graph) != canonical_smiles(graph_from_smiles("[2H][C@H](C)O"))
    assert canonical_smiles(graph_from_rdkit(to_rdkit(graph))) == canonical_smiles(graph)
    assert canonical_key(graph) == "CCO"
    assert undefined_stereo("CC([2H])O") == ["tetrahedral centre C1 is neither @ nor @@"]


def test_isotopes_can_be_dropped_with_the_stereo_that_rests_on_them() -> None:
    graph = graph_from_smiles("C[C@H]([2H])O", keep_isotopes=False)
    assert canonical_smiles(graph) == "CCO"
    assert graph.atomic_numbers[3:].tolist() == [1] * 6
    assert not graph.isotopes.any()


@pytest.mark.parametrize(
    ("smiles", "error", "message"),
    [
        ("", InvalidSmilesError, "empty SMILES ''"),
        ("  ", InvalidSmilesError, "empty SMILES"),
        ("[99CH4]", InvalidSmilesError, r"\[99C\] is not a known isotope; give its mass number, such as \[2H\]"),
        ("CC(", InvalidSmilesError, r"invalid SMILES 'CC\(': syntax error around position 3"),
        ("C1CC", InvalidSmilesError, "unclosed ring"),
        ("c1cccc1", InvalidSmilesError, "kekulize"),
        ("CN(C)(C)(C)C", InvalidSmilesError, "valence for atom # 1 N, 5"),
        ("CC ethane", InvalidSmilesError, "contains blanks"),
        (
            "InChI=1S/C2H5NO/c1-2(3)4/h1H3,(H2,3,4)",
            InvalidSmilesError,
            "is an InChI, which does not define the tautomer",
        ),
        ("C$C", InvalidSmilesError, "QUADRUPLE between atoms 0 and 1"),
        ("C[Fo]", UnknownElementError, r"\[Fo\] in SMILES"),
        ("*CC", DummyAtomError, r"1 dummy atom '"),
        ("CC.O", FragmentsError, "2 disconnected fragments"),
    ],
)
def test_bad_smiles_are_refused_with_one_line_and_rdkit_is_silent(smiles, error, message, capfd) -> None:
    before = rdBase.LogStatus()
    with pytest.raises(error, match=message) as caught:
        graph_from_smiles(smiles)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert rdBase.LogStatus() == before


def test_lone_atoms_bring_no_warning_of_rdkit(capfd) -> None:
    assert canonical_smiles(graph_from_smiles("[H]")) == "[H]"
    assert capfd.readouterr() == ("", "")


def test_the_key_joins_stereoisomers_and_accepts_what_has_no_geometry() -> None:
    assert (
        canonical_key("C/C=C/[C@H](O)F") == canonical_key("FC(O)C=CC") == canonical_key(graph_from_smiles("CC=CC(O)F"))
    )
    assert canonical_key("[2H]C([2H])([2H])O") == "CO"
    assert canonical_key("[H]/N=C/C") == "CC=N"
    assert canonical_key("[Na+].[Cl-]") == "[Cl-].[Na+]"
    with pytest.raises(DummyAtomError, match="dummy"):
        canonical_key("*")


def test_open_stereo_is_reported() -> None:
    assert undefined_stereo("CC(N)C(=O)O") == ["tetrahedral centre C1 is neither @ nor @@"]
    assert undefined_stereo("CC=CC") == ["double bond C1=C2 is neither cis nor trans"]
    assert len(undefined_stereo("C[C@H](O)C(F)C=CC")) == 2
    assert undefined_stereo(graph_from_smiles("C[C@H](O)/C=C/C")) == []


@pytest.mark.parametrize("smiles", ["c1ccccc1", "CN=C=NC", "C=C=C", "CN1CC1", "CN(C)CC", "C1=CCCC1", "CS(C)(=O)=O"])
def test_molecules_without_stereo_report_none(smiles: str) -> None:
    assert undefined_stereo(smiles) == []


def test_bonds_that_describe_no_molecule_are_refused() -> None:
    with pytest.raises(BondPerceptionError, match="valence for atom # 0 F"):
        to_rdkit(make_graph(np.array([9, 1, 1]), np.array([[0, 1], [0, 2]]), np.array([1, 1])))
    with pytest.raises(BondPerceptionError, match="bond order code 4"):
        to_rdkit(make_graph(np.array([6, 6]), np.array([[0, 1]]), np.array([4])))
    with pytest.raises(UnknownElementError, match="atomic number 119"):
        to_rdkit(make_graph(np.array([119]), np.zeros((0, 2)), np.zeros(0)))


def test_an_rdkit_molecule_without_atoms_is_refused() -> None:
    with pytest.raises(InvalidSmilesError, match="no atoms"):
        graph_from_rdkit(Chem.Mol())


def test_positions_stay_in_double_precision() -> None:
    positions = np.random.default_rng(0).normal(size=(3, 3)) / 3
    mol = to_rdkit(graph_from_smiles("O"), positions)
    np.testing.assert_array_equal(mol.GetConformer().GetPositions(), positions)


@pytest.mark.parametrize(
    ("smiles", "n_centres"),
    [
        ("COP(=O)([O-])OCC", 0),
        ("CCCS(=O)[O-]", 0),
        ("CP(=O)([O-])OC", 0),
        ("COP(=O)(O)OCC", 1),
        ("COP(=S)([O-])OCC", 1),
        ("CCS(C)=O", 1),
    ],
)
def test_neighbours_that_differ_by_resonance_make_no_stereocentre(smiles: str, n_centres: int) -> None:
    assert len(undefined_stereo(smiles)) == n_centres
    (positions,) = embed(graph_from_smiles(smiles), seed=2)
    graph = graph_from_smiles(smiles)
    fields = (graph.atomic_numbers, graph.bonds, graph.bond_orders, graph.formal_charges)
    assert len(graph_from_bonds(*fields, positions=positions).tetrahedra) == n_centres


def test_a_label_of_such_a_centre_has_no_meaning() -> None:
    assert canonical_smiles(graph_from_smiles("CO[P@](=O)([O-])OCC")) == "CCOP(=O)([O-])OC"
