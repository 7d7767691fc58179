import numpy as np
import pytest
from ase.build import molecule
from scipy.spatial.transform import Rotation

from physcon_ase.valence.rigid import is_linear, rigid_motions


@pytest.mark.parametrize(("name", "number"), [("H", 3), ("H2", 5), ("CO2", 5), ("H2O", 6), ("CH3CH2OH", 6)])
def test_motions_are_orthonormal_and_as_many_as_the_shape_allows(name: str, number: int) -> None:
    atoms = molecule(name)
    for masses in (None, atoms.get_masses()):
        motions = rigid_motions(atoms.positions + 100, masses)
        assert motions.shape == (3 * len(atoms), number)
        np.testing.assert_allclose(motions.T @ motions, np.eye(number), atol=1e-9)
    assert is_linear(atoms.positions) == (number < 6)


def test_a_small_rotation_and_a_translation_are_in_their_span() -> None:
    atoms = molecule("CH3CH2OH")
    roots = np.repeat(np.sqrt(atoms.get_masses()), 3)
    angle = 1e-7
    turned = Rotation.from_rotvec(np.array([1, -1, 2]) * angle).apply(atoms.positions) + np.array([angle, 0, 0])
    step = roots * (turned - atoms.positions).ravel()
    motions = rigid_motions(atoms.positions, atoms.get_masses())
    np.testing.assert_allclose(motions @ (motions.T @ step), step, atol=1e-12)


def test_a_molecule_bent_by_rounding_is_linear() -> None:
    atoms = molecule("C2H2")
    atoms.rattle(1e-3, seed=0)
    assert is_linear(atoms.positions)
    assert rigid_motions(atoms.positions).shape[1] == 5
