import pickle

import numpy as np
import pytest
from ase import Atoms

from physcon_ase.chem.compare import bonds_intact, rmsd
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph, topological_distances
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.chem.torsions import RotatableBond, rotatable_bonds, turned
from physcon_ase.errors import EngineError, PhysConError
from physcon_ase.labelling.engines import EngineLabel, Molecule, tblite_engine
from physcon_ase.labelling.geometries import (
    NewtonStep,
    Origin,
    Rejected,
    Sampling,
    describe_samplings,
    hessian_factor,
    md,
    parse_samplings,
    path,
    relaxing,
    sample,
    thermal,
    thermal_displacements,
    twist,
)
from tests.tiny import WATER

ROUNDING = 1e-12
"""Of rotations in float64 [Å]."""

EVERYTHING = "start,conformer:2,relaxing:1,thermal:2,torsion:2,twist:2,path:3,md:2"


def torsion_angle(positions: np.ndarray) -> float:
    """Torsion angle [degrees] of the first four atoms."""
    return Atoms("H4", positions[:4]).get_dihedral(0, 1, 2, 3)


def distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, None] - positions, axis=-1)


def test_every_sampler_keeps_the_bonds_or_says_so_and_the_seed_decides() -> None:
    graph, samplings = graph_from_smiles("C[C@H](O)C=O"), parse_samplings(EVERYTHING, engine=tblite_engine())
    found, again = (sample(graph, pickle.loads(pickle.dumps(samplings)), 4) for _ in range(2))
    kinds = [item.kind if isinstance(item, Rejected) else item[0] for item in found]
    expected = {"start": 1, "conformer": 2, "relaxing": 1, "thermal": 2, "torsion": 2, "twist": 2, "path": 3, "md": 2}
    assert {kind: kinds.count(kind) for kind in kinds} == expected
    geometries = [item for item in found if not isinstance(item, Rejected)]
    assert len(geometries) >= len(found) - 2
    for kind, positions in geometries:
        assert bonds_intact(graph, positions).intact, kind
        assert np.abs(positions.mean(axis=0)).max() < 1e-6
        np.testing.assert_array_equal(positions, positions.astype(np.float32))
    for item, twin in zip(found, again, strict=True):
        assert isinstance(item, Rejected) or np.array_equal(item[1], twin[1])
    for first, (_, one) in enumerate(geometries):
        assert all(rmsd(one, other) > 1e-3 for _, other in geometries[:first])
    other = sample(graph, samplings[:2], 5)
    assert not np.array_equal(other[1][1], found[1][1])


def test_a_newton_step_follows_the_forces_and_leaves_torsions() -> None:
    graph, engine = graph_from_smiles("OCCO"), tblite_engine()
    start, step = sample(graph, parse_samplings("start,newton"), 0)
    assert isinstance(start, tuple)
    assert isinstance(step, NewtonStep)
    before = engine(Molecule(graph.atomic_numbers, start[1])).forces
    kind, place = step.sampled(before)
    after = engine(Molecule(graph.atomic_numbers, place)).forces
    assert kind == "newton"
    assert np.linalg.norm(after) < 0.7 * np.linalg.norm(before)
    assert abs(torsion_angle(place) - torsion_angle(start[1])) < 1.0
    assert np.abs(step.sampled(1e3 * before)[1] - start[1]).max() < 0.11, "a long step is shortened"
    with pytest.raises(PhysConError, match="add the kind start"):
        parse_samplings("newton")


def test_a_lost_bond_is_a_record_that_names_the_atoms() -> None:
    def apart(origin: Origin, seed: int, n: int) -> list:
        return [("mine", WATER * [1, 1, 3]), ("mine", WATER)]

    water = graph_from_smiles("O")
    broken, intact = sample(water, [Sampling("mine", 2, apart)], 0)
    assert broken == Rejected("mine", "BondsChanged", "bonds broken: O0-H1, O0-H2")
    assert intact[0] == "mine"
    assert sample(water, parse_samplings("start"), 0, WATER * 3)[0][0] == "start"  # a geometry that is given is kept


def test_a_sampler_that_fails_stops_no_other() -> None:
    turned, twisted, water = sample(graph_from_smiles("O"), parse_samplings("torsion:2,twist:1,thermal:1"), 0)
    for nothing, kind in ((turned, "torsion"), (twisted, "twist")):
        assert isinstance(nothing, Rejected)
        assert (nothing.kind, nothing.error) == (kind, "PhysConError")
        assert "no rotatable bond" in nothing.reason
    assert water[0] == "thermal"


def test_a_sampler_with_an_unexpected_error_stops_no_other() -> None:
    def broken(origin: Origin, seed: int, n: int) -> list:
        raise np.linalg.LinAlgError("Matrix is not positive definite")

    start, nothing = sample(graph_from_smiles("O"), [*parse_samplings("start"), Sampling("mine", 1, broken)], 0)
    assert start[0] == "start"
    assert nothing == Rejected("mine", "LinAlgError", "Matrix is not positive definite")


def test_thermal_displacements_grow_with_temperature_and_do_not_turn_the_molecule() -> None:
    graph, generator = graph_from_smiles("O"), np.random.default_rng(0)
    start = embed(graph)[0]
    stretched = []
    for kelvin in (30.0, 700.0):
        places = thermal_displacements(start, hessian_factor(graph, start), generator, 40, max_kelvin=kelvin)
        stretched.append(
            np.mean([np.abs(distances(place)[0, 1:] - distances(start)[0, 1:]).mean() for place in places])
        )
        assert max(rmsd(place, start) for place in places) > 0.9 * max(
            np.sqrt(((place - start) ** 2).sum(axis=1).mean()) for place in places
        )  # nothing is gained by turning them back
    assert 2 < stretched[1] / stretched[0] < 10  # the root of 700 / 30 is 4.8
    assert stretched[1] < 0.05  # kT / k of an O-H bond: .037 Å at 700 K


@pytest.mark.parametrize("smiles", ["C=O", "O=C[O-]", "CC(C)=O", "[O-][N+](=O)[O-]", "FB(F)F"])
def test_flat_centres_stay_near_the_plane_of_their_neighbours(smiles: str) -> None:
    origin = Origin(graph_from_smiles(smiles), 0)
    bonds = origin.graph.bonds
    centre = int(np.bincount(bonds.ravel()).argmax() if smiles != "CC(C)=O" else 1)
    around = [int(sum(bond) - centre) for bond in bonds.tolist() if centre in bond]

    def height(place: np.ndarray) -> float:
        corners = place[around]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        return (place[centre] - corners[0]) @ normal / np.linalg.norm(normal)

    assert len(around) == 3
    moved = [height(place) - height(origin.start) for _, place in thermal(origin, 0, 100, max_kelvin=700.0)]
    assert np.sqrt(np.mean(np.square(moved))) < 0.06  # sqrt(kT / k) at the mean temperature of 350 K: 0.043 Å


def test_a_turn_moves_one_side_about_one_bond_and_nothing_else() -> None:
    graph = graph_from_smiles("CCO")
    rotors = rotatable_bonds(graph)
    assert sorted(tuple(sorted(rotor.bond)) for rotor in rotors) == [(0, 1), (1, 2)]
    start = embed(graph)[0]
    for rotor in rotors:
        first, second = rotor.bond
        place = turned(start, rotor, np.pi / 2)
        is_moving = np.isin(np.arange(graph.n_atoms), rotor.moving)
        np.testing.assert_array_equal(place[~is_moving], start[~is_moving])
        assert (np.abs(place[is_moving] - start[is_moving]).max(axis=1) > 0.1).all()
        rigid = np.isin(np.arange(graph.n_atoms), [first, second])
        for side in (is_moving | rigid, ~is_moving | rigid):
            np.testing.assert_allclose(distances(place[side]), distances(start[side]), atol=ROUNDING)
        np.testing.assert_allclose(turned(place, rotor, -np.pi / 2), start, atol=ROUNDING)


def test_a_twist_turns_one_to_three_bonds_by_5_to_40_degrees_and_keeps_bonds_and_angles() -> None:
    graph = graph_from_smiles("CCCCO")
    origin = Origin(graph, 0)
    near = topological_distances(graph) <= 2  # bonds and angles
    n_turned = []
    for kind, place in twist(origin, 1, 30):
        assert kind == "twist"
        np.testing.assert_allclose(distances(place)[near], distances(origin.start)[near], atol=ROUNDING)
        turns = [
            np.degrees(abs(wrapped(dihedral(place, r, graph) - dihedral(origin.start, r, graph))))
            for r in origin.rotors
        ]
        changed = [angle for angle in turns if angle > 1e-6]
        assert all(5 <= angle <= 40 for angle in changed)
        n_turned.append(len(changed))
    assert set(n_turned) == {1, 2, 3}


def dihedral(positions: np.ndarray, rotor: RotatableBond, graph: MolGraph) -> float:
    """Angle [radians] about the bond between one neighbour at each end."""
    first, second = rotor.bond
    bonds = graph.bonds.tolist()
    a = next(i + j - first for i, j in bonds if first in (i, j) and second not in (i, j))
    d = next(i + j - second for i, j in bonds if second in (i, j) and first not in (i, j))
    axis = positions[second] - positions[first]
    axis = axis / np.linalg.norm(axis)
    u, v = positions[a] - positions[first], positions[d] - positions[second]
    u, v = u - (u @ axis) * axis, v - (v @ axis) * axis
    return float(np.arctan2(np.cross(u, v) @ axis, u @ v))


def wrapped(angle: float) -> float:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def test_what_relaxes_lies_between_the_conformer_and_the_start() -> None:
    origin = Origin(graph_from_smiles("CCO"), 3)
    way = origin.start - origin.conformer
    for _, place in relaxing(origin, 0, 5):
        share = ((place - origin.conformer) * way).sum() / (way**2).sum()
        assert 0 <= share <= 1
        np.testing.assert_allclose(place, origin.conformer + share * way, atol=ROUNDING)
    with pytest.raises(PhysConError, match="a start geometry was given, so there is no conformer"):
        relaxing(Origin(origin.graph, 3, origin.start), 0, 1)


@pytest.mark.parametrize(
    ("smiles", "n_rotors"),
    [
        ("C", 0),  # nothing beyond the bond
        ("C1CCCCC1", 0),  # a ring
        ("CC#N", 0),  # four atoms in one line
        ("C=C", 0),
        ("CC=C=C", 1),  # the methyl group; cumulated bonds do not turn
        ("c1ccccc1C", 1),
        ("C[N+](=O)[O-]", 1),
        ("CS(C)(=O)=O", 2),
        ("CCCC", 3),
    ],
)
def test_rotatable_bonds_are_single_outside_of_rings_and_lines(smiles: str, n_rotors: int) -> None:
    assert len(rotatable_bonds(graph_from_smiles(smiles))) == n_rotors


def test_a_path_goes_downhill_and_dynamics_keep_their_distance_from_the_start() -> None:
    graph, engine = graph_from_smiles("O"), tblite_engine()
    start = embed(graph)[0] * 1.1
    origin = Origin(graph, 0, start)
    frames = path(origin, 0, 4, engine=engine)
    energies = [engine(Molecule(graph.atomic_numbers, place)).energy for _, place in frames]
    np.testing.assert_array_equal(frames[0][1], start)
    assert energies == sorted(energies, reverse=True)
    assert len(path(origin, 0, 1000, engine=engine)) < 30  # no frame twice
    hot = md(origin, 0, 2, engine=engine, kelvin=300.0, steps=20)
    assert [kind for kind, _ in hot] == ["md", "md"]
    assert 0.01 < rmsd(hot[0][1], hot[1][1]) < 0.5


def test_an_engine_that_fails_on_the_way_is_an_error() -> None:
    def failing(*_: object) -> EngineLabel:
        raise EngineError("no licence today")

    origin = Origin(graph_from_smiles("O"), 0, WATER)
    with pytest.raises(EngineError, match="no licence today"):
        md(origin, 0, 1, engine=failing)
    with pytest.raises(PhysConError, match="the relaxation failed"):
        path(origin, 0, 1, engine=failing)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "magic:1",
            "'magic:1': write KIND:NUMBER with a kind of start, conformer, relaxing, thermal, torsion, twist, newton",
        ),
        ("thermal:0", "'thermal:0': write KIND:NUMBER"),
        ("thermal:-1", "'thermal:-1': write"),
        ("", "'': write"),
        ("md:1", "of kind 'md' require an engine: give one"),
    ],
)
def test_texts_that_ask_for_nothing_known_are_refused(text: str, message: str) -> None:
    with pytest.raises(PhysConError, match=message):
        parse_samplings(text)


def test_samplings_describe_themselves() -> None:
    hot, dynamics = describe_samplings(parse_samplings("thermal:3,md", engine=tblite_engine(), max_kelvin=300.0))
    assert hot == {"kind": "thermal", "n": 3, "sampler": "thermal", "max_kelvin": 300.0}
    assert dynamics["engine"]["level"] == "gfn2"
