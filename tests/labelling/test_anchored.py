from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from physcon_ase.errors import LabelError
from physcon_ase.labelling.anchored import anchor
from physcon_ase.labelling.derived import format_derived_report
from physcon_ase.labelling.inputs import KnownGeometry
from physcon_ase.labelling.samplings import parse_samplings
from tests.labelling.derived import SMILES, STEP, labelled, labels_of, mmff94_minima, moved_by

SLOPES = 2e-3
"""Of a finite difference of GFN2-xTB energies with forces stored in float32 [eV/Å]."""


@pytest.fixture(scope="module")
def minima() -> list[KnownGeometry]:
    return mmff94_minima()


@pytest.mark.parametrize("smiles", SMILES)
def test_anchored_forces_are_the_slopes_of_anchored_energies_and_vanish_at_the_minimum(
    smiles: str, minima: list[KnownGeometry], tmp_path: Path
) -> None:
    own = [minimum for minimum in minima if minimum.smiles == smiles]
    (tmp_path / "first").mkdir()
    n_atoms = len(own[0].positions)
    positions = labelled(own, parse_samplings("start,newton"), tmp_path / "first").geometries.positions
    to_teacher = positions[n_atoms:] - own[0].positions
    generator = np.random.default_rng(0)
    away, along = 0.05 * generator.normal(size=to_teacher.shape), generator.normal(size=to_teacher.shape)
    steps = [start + sign * STEP * along for start in (away, to_teacher) for sign in (1, -1)]
    store = labelled(own, moved_by(away, to_teacher, *steps, others="start,newton"), tmp_path)
    anchored, report = anchor(store, "accurate", "gfn2")
    assert (report.n_minima, report.n_displaced) == (1, 6)
    energies, forces, places = labels_of(anchored, smiles)
    assert energies[0] == own[0].energy
    assert not forces[0].any()
    assert np.abs(store.labels["gfn2"].forces[:n_atoms]).max() > 50 * SLOPES, "the teacher's own do not vanish"
    np.testing.assert_allclose(places[2], places[0], atol=3e-3)  # the bends of linear chains are not shifted
    assert energies[2] == pytest.approx(energies[0], abs=1e-6)
    np.testing.assert_allclose(forces[2], 0, atol=SLOPES)
    far, near = places[3] - places[4], places[5] - places[6]
    tolerance = SLOPES * n_atoms * 2 * STEP
    assert -(forces[1] * far).sum() == pytest.approx(energies[3] - energies[4], abs=tolerance)
    assert energies[5] - energies[6] == pytest.approx(0, abs=tolerance)
    curvature = energies[5] + energies[6] - 2 * energies[2]
    assert -((forces[5] - forces[6]) * near).sum() / 2 == pytest.approx(2 * curvature, rel=0.02)
    assert (forces[1] * (places[1] - places[0])).sum() < 0, "displaced uphill: the force points back"


def test_the_correction_turns_with_the_molecule(minima: list[KnownGeometry], tmp_path: Path) -> None:
    ethanol = minima[0]
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    away = 0.05 * np.random.default_rng(0).normal(size=ethanol.positions.shape)
    away -= away.mean(axis=0)
    turned = (ethanol.positions + away) @ rotation.T - ethanol.positions
    store, _ = anchor(labelled([ethanol], moved_by(away, turned, others="start,newton"), tmp_path), "accurate", "gfn2")
    energies, forces, _ = labels_of(store, "CCO")
    assert energies[2] == pytest.approx(energies[1], abs=5e-4)
    np.testing.assert_allclose(forces[2], forces[1] @ rotation.T, atol=SLOPES)


def test_the_correction_of_a_torsion_is_periodic(minima: list[KnownGeometry], tmp_path: Path) -> None:
    """A third of a turn of a methyl group exchanges equal atoms and changes no energy of the teacher."""
    ethanol, hydrogens = minima[0], [3, 4, 5]
    assert {(0, h) for h in hydrogens} <= {tuple(sorted(bond)) for bond in ethanol.graph.bonds.tolist()}
    twisted = ethanol.positions.copy()
    axis = twisted[1] - twisted[0]
    turn = Rotation.from_rotvec(np.radians(25) * axis / np.linalg.norm(axis))
    twisted[hydrogens] = turn.apply(twisted[hydrogens] - twisted[0]) + twisted[0]
    own = replace(ethanol, positions=twisted)
    (tmp_path / "first").mkdir()
    first = labelled([own], parse_samplings("start,newton"), tmp_path / "first")
    to_teacher = first.geometries.positions[len(twisted) :]
    exchanged = to_teacher.copy()
    exchanged[hydrogens] = to_teacher[np.roll(hydrogens, 1)]
    store, _ = anchor(
        labelled([own], moved_by(exchanged - twisted, others="start,newton"), tmp_path), "accurate", "gfn2"
    )
    energies, _, _ = labels_of(store, "CCO")
    assert energies[1] == pytest.approx(energies[0], abs=0.02)


def test_twisted_and_thermal_geometries_point_to_their_minimum(minima: list[KnownGeometry], tmp_path: Path) -> None:
    store = labelled(minima, parse_samplings("conformer:1,start,newton,thermal:2,twist:1"), tmp_path)
    anchored, report = anchor(store, "accurate", "gfn2")
    assert (report.n_minima, report.n_displaced) == (3, 8)  # water has nothing to twist
    assert list(report.left_out.values()) == [3, 0, 0]
    assert set(anchored.geometries.kind.tolist()) == {"start", "thermal", "twist"}
    starts = anchored.geometries.start
    assert starts is not None
    assert (anchored.geometries.minimum_of == np.where(starts < 0, "accurate", "")).all()
    assert np.array_equal(anchored.geometries.molecule[starts[starts >= 0]], anchored.geometries.molecule[starts >= 0])
    assert np.isfinite(anchored.labels["accurate"].energy).all()
    assert list(anchored.labels) == ["accurate"], "the geometries are not those of the teacher's labels"
    assert "3 minima, 8 displacements\n  left out: 3 not displaced" in format_derived_report(report, "some.h5")


def test_without_the_energy_of_the_minimum_there_are_forces_only(minima: list[KnownGeometry], tmp_path: Path) -> None:
    unknown = [KnownGeometry(m.graph, m.positions, m.key_hash, m.smiles, m.name, m.minimum_of) for m in minima]
    store, _ = anchor(labelled(unknown, parse_samplings("start,newton,thermal:1"), tmp_path), "accurate", "gfn2")
    assert np.isnan(store.labels["accurate"].energy).all()
    assert store.labels["accurate"].forces is not None
    assert np.isfinite(store.labels["accurate"].forces).all()


def test_what_cannot_be_anchored_is_refused(minima: list[KnownGeometry], tmp_path: Path) -> None:
    store = labelled(minima[:1], parse_samplings("start,newton,thermal:1"), tmp_path)
    with pytest.raises(LabelError, match=r"has no forces of 'wb97m'; levels with labels: gfn2"):
        anchor(store, "accurate", "wb97m")
    with pytest.raises(LabelError, match=r"has no minima of 'b3lyp' .* minima of: accurate; create them with"):
        anchor(store, "b3lyp", "gfn2")


def test_displacements_whose_shift_diverges_are_left_out(
    minima: list[KnownGeometry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for some allenes, whose anchored atoms would be 10⁶ Å apart."""
    store = labelled(minima[:1], parse_samplings("start,newton,thermal:2"), tmp_path)
    kept, _ = anchor(store, "accurate", "gfn2")
    monkeypatch.setattr("physcon_ase.labelling.anchored._LARGEST_SHIFT", 1e-6)
    fewer, report = anchor(store, "accurate", "gfn2")
    assert (len(kept.geometries), len(fewer.geometries), report.n_displaced) == (3, 1, 0)
    assert report.left_out["shifted by more than 1e-06 Å"] == 2
