import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from physcon_ase.batch import make_batch
from physcon_ase.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from physcon_ase.valence.internals import bend_vectors, make_internals, stretch_vectors, torsion_vectors
from physcon_ase.valence.model_hessian import UNIT_TERM, model_hessian, model_hessians
from tests.relax.potentials import rattled_ethanol
from tests.tiny import ETHANOL, ETHANOL_BONDS, ETHANOL_NUMBERS

ROUNDING = 1e-9
"""[eV/Å²]; entries are up to 100 eV/Å² in float64."""


def length(ends: Tensor) -> Tensor:
    return (ends[0] - ends[1]).norm()


def angle(ends: Tensor) -> Tensor:
    first, second = ends[0] - ends[1], ends[2] - ends[1]
    return torch.atan2(torch.linalg.cross(first, second).norm(), first @ second)


def torsion(ends: Tensor) -> Tensor:
    before, axis, after = ends.diff(dim=0)
    left, right = torch.linalg.cross(before, axis), torch.linalg.cross(axis, after)
    return torch.atan2(torch.linalg.cross(left, right) @ axis / axis.norm(), left @ right)


@pytest.mark.parametrize("kind", ["stretches", "bends", "torsions"])
def test_derivatives_are_those_of_automatic_differentiation(kind: str) -> None:
    batch = make_batch([ETHANOL_NUMBERS], [rattled_ethanol(0)], dtype=torch.float64)
    atoms = getattr(make_internals(batch, [ETHANOL_BONDS]), kind)
    vectors = {
        "stretches": stretch_vectors,
        "bends": lambda *arguments: bend_vectors(*arguments)[0],
        "torsions": torsion_vectors,
    }[kind](batch.positions, atoms)
    coordinate = {"stretches": length, "bends": angle, "torsions": torsion}[kind]
    for members, vector in zip(atoms[0], vectors[0], strict=True):
        expected = torch.func.jacrev(coordinate)(batch.positions[0, members])
        np.testing.assert_allclose(vector, expected, atol=1e-12)


def test_ethanol_has_its_bonds_angles_and_torsions() -> None:
    batch = make_batch([ETHANOL_NUMBERS], [ETHANOL])
    internals = make_internals(batch, [ETHANOL_BONDS])
    # two sp3 carbons with 6 angles each, one oxygen with 1; 3 * 3 torsions around C-C, 3 * 1 around C-O
    assert [len(kind[0]) for kind in (internals.stretches, internals.bends, internals.torsions)] == [8, 13, 12]


def test_hessian_is_symmetric_and_positive_definite() -> None:
    hessian = model_hessian(ETHANOL_NUMBERS, ETHANOL, ETHANOL_BONDS)
    np.testing.assert_allclose(hessian, hessian.T, atol=ROUNDING)
    assert np.linalg.eigvalsh(hessian).min() >= UNIT_TERM - ROUNDING


def test_rigid_motions_feel_the_unit_term_only() -> None:
    hessian = model_hessian(ETHANOL_NUMBERS, ETHANOL, ETHANOL_BONDS)
    for axis in np.eye(3):
        shift, turn = np.tile(axis, (9, 1)).ravel(), np.cross(axis, ETHANOL).ravel()
        np.testing.assert_allclose(hessian @ shift, UNIT_TERM * shift, atol=ROUNDING)
        np.testing.assert_allclose(hessian @ turn, UNIT_TERM * turn, atol=ROUNDING)
    assert (np.linalg.eigvalsh(hessian) < 1.01 * UNIT_TERM).sum() == 6  # and nothing else is that soft


def test_hessian_turns_with_the_molecule() -> None:
    rotation = Rotation.random(random_state=0).as_matrix()
    turned = model_hessian(ETHANOL_NUMBERS, ETHANOL @ rotation.T + 1000, ETHANOL_BONDS)
    blocks = np.kron(np.eye(9), rotation)
    expected = blocks @ model_hessian(ETHANOL_NUMBERS, ETHANOL, ETHANOL_BONDS) @ blocks.T
    np.testing.assert_allclose(turned, expected, atol=1e-8)  # positions of 1000 Å lose three digits


def test_hydrogen_molecule_follows_the_published_formula() -> None:
    hessian = model_hessian(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.74]]))
    rho = np.exp(1.35**2 - (0.74 / ANGSTROM_PER_BOHR) ** 2)
    spring = 0.45 * rho * EV_PER_HARTREE / ANGSTROM_PER_BOHR**2
    expected = np.diag([UNIT_TERM] * 6)
    expected[np.ix_([2, 5], [2, 5])] += spring * np.array([[1, -1], [-1, 1]])
    np.testing.assert_allclose(hessian, expected, atol=ROUNDING)


def test_linear_molecule_is_stiff_across_both_directions() -> None:
    positions = np.array([[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
    hessian = model_hessian(np.array([8, 6, 8]), positions)
    assert np.isfinite(hessian).all()
    for axis in (0, 1):
        bend = np.zeros((3, 3))
        bend[:, axis] = (1, -2, 1)
        assert bend.ravel() @ hessian @ bend.ravel() / 6 > 10 * UNIT_TERM
    # two stretches and two bends; three shifts and two turns are soft
    assert (np.linalg.eigvalsh(hessian) < 1.01 * UNIT_TERM).sum() == 5


def test_bonds_from_radii_give_the_hessian_of_the_graph() -> None:
    guessed = model_hessian(ETHANOL_NUMBERS, ETHANOL)
    np.testing.assert_array_equal(guessed, model_hessian(ETHANOL_NUMBERS, ETHANOL, ETHANOL_BONDS))


def test_molecules_with_and_without_given_bonds_share_a_batch() -> None:
    hydrogen = np.array([[0, 0, 0], [0, 0, 0.74]])
    batch = make_batch([np.array([1, 1]), ETHANOL_NUMBERS, ETHANOL_NUMBERS], [hydrogen, *[ETHANOL] * 2])
    stretches = make_internals(batch, [None, ETHANOL_BONDS, ETHANOL_BONDS[:2]]).stretches
    expected = [[[0, 1]], sorted(ETHANOL_BONDS.tolist()), ETHANOL_BONDS[:2].tolist()]
    assert [row[row[:, 0] >= 0].tolist() for row in stretches] == expected


def test_padding_adds_the_unit_term_only() -> None:
    hydrogen = np.array([[0, 0, 0], [0, 0, 0.74]])
    numbers, positions = [np.array([1, 1]), ETHANOL_NUMBERS], [hydrogen, ETHANOL]
    batch = make_batch(numbers, positions, dtype=torch.float64)
    padded = model_hessians(batch, batch.positions, make_internals(batch)).numpy()
    np.testing.assert_allclose(padded[0, :6, :6], model_hessian(np.array([1, 1]), hydrogen))
    np.testing.assert_array_equal(padded[0, 6:, 6:], UNIT_TERM * np.eye(21))
    assert not padded[0, :6, 6:].any()
    np.testing.assert_allclose(padded[1], model_hessian(ETHANOL_NUMBERS, ETHANOL), atol=ROUNDING)


def test_atoms_on_top_of_each_other_give_numbers() -> None:
    positions = ETHANOL.copy()
    positions[3] = positions[0]
    assert np.isfinite(model_hessian(ETHANOL_NUMBERS, positions, ETHANOL_BONDS)).all()
