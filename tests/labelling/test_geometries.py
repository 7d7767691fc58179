import numpy as np
from ase import Atoms

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.labelling.engines import Molecule, tblite_engine
from physcon_ase.labelling.geometries import NewtonStep
from physcon_ase.labelling.samplings import parse_samplings, sample


def torsion_angle(positions: np.ndarray) -> float:
    """Torsion angle [degrees] of the first four atoms."""
    return Atoms("H4", positions[:4]).get_dihedral(0, 1, 2, 3)


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
