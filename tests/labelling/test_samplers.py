import numpy as np
import pytest
from scipy.spatial.distance import cdist

from physcon_ase.chem.compare import rmsd
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph, topological_distances
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.chem.torsions import RotatableBond
from physcon_ase.errors import EngineError, PhysConError
from physcon_ase.labelling.engines import EngineLabel, Molecule, tblite_engine
from physcon_ase.labelling.samplers import Origin, md, path, relaxing, twist
from tests.tiny import WATER

ROUNDING = 1e-12
"""Of rotations in float64 [Å]."""


def test_a_twist_turns_one_to_three_bonds_by_5_to_40_degrees_and_keeps_bonds_and_angles() -> None:
    graph = graph_from_smiles("CCCCO")
    origin = Origin(graph, 0)
    near = topological_distances(graph) <= 2  # bonds and angles
    n_turned = []
    for kind, place in twist(origin, 1, 30):
        assert kind == "twist"
        np.testing.assert_allclose(cdist(place, place)[near], cdist(origin.start, origin.start)[near], atol=ROUNDING)
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
