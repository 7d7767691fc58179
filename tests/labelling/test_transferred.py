from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from physcon_ase.batch import make_batch
from physcon_ase.chem.graph import MolGraph
from physcon_ase.data.store import geometry_offsets
from physcon_ase.errors import LabelError, UnknownLevelError
from physcon_ase.labelling.derived import format_derived_report
from physcon_ase.labelling.inputs import KnownGeometry
from physcon_ase.labelling.samplings import parse_samplings
from physcon_ase.labelling.transferred import transfer
from physcon_ase.model.config import LevelConfig
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel
from tests.labelling.derived import SMILES, STEP, labelled, labels_of, mmff94_minima, moved_by
from tests.tiny import LEVELS, tiny_model

ELEMENTS = (1, 6, 7, 8)


@pytest.fixture(scope="module")
def minima() -> list[KnownGeometry]:
    return mmff94_minima()


def model_of(elements: tuple[int, ...] = ELEMENTS) -> LoadedModel:
    levels = tuple(LevelConfig(name, "", elements, tuple(-1.0 for _ in elements)) for name in ("accurate", "gfn2"))
    return LoadedModel(tiny_model(4, levels=levels), "tiny", "0" * 64)


def predicted(loaded: LoadedModel, graph: MolGraph, positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces of the model at the level of the teacher."""
    batch = make_batch([graph.atomic_numbers], [positions], dtype=torch.float64)
    energies, forces = energies_and_forces(loaded.model.energy_fn("gfn2"), batch)
    return float(energies[0]), forces[0].numpy()


@pytest.mark.parametrize("smiles", SMILES)
def test_forces_are_the_slopes_of_energies_and_vanish_at_the_minimum(
    smiles: str, minima: list[KnownGeometry], tmp_path: Path
) -> None:
    own = next(minimum for minimum in minima if minimum.smiles == smiles)
    generator = np.random.default_rng(0)
    away, along = (scale * generator.normal(size=own.positions.shape) for scale in (0.05, STEP))
    store = labelled([own], moved_by(away, away + along, away - along), tmp_path)
    found, report = transfer(store, "accurate", "gfn2", model_of())
    assert (report.n_minima, report.n_displaced) == (1, 3)
    energies, forces, places = labels_of(found)
    assert energies[0] == own.energy
    assert not forces[0].any()
    change = places[2].astype(float) - places[3]
    assert np.abs(forces[1]).max() > 0.5
    assert -(forces[1] * change).sum() == pytest.approx(energies[2] - energies[3], abs=1e-4)


def test_half_of_the_residual_counts(minima: list[KnownGeometry], tmp_path: Path) -> None:
    """Without the correction, which depends on the forces at the minimum only and is the same for two teachers."""
    ethanol, loaded = minima[0], model_of()
    store = labelled([ethanol], moved_by(0.05 * np.random.default_rng(0).normal(size=(9, 3))), tmp_path)
    offsets, teacher = geometry_offsets(store), store.labels["gfn2"]
    assert teacher.forces is not None
    cheap = [predicted(loaded, ethanol.graph, store.geometries.positions[offsets[i] : offsets[i + 1]]) for i in (0, 1)]
    own_forces = teacher.forces.copy()
    own_forces[offsets[1] :] = cheap[1][1]
    exact = replace(teacher, energy=np.array([teacher.energy[0], cheap[1][0]]), forces=own_forces)
    (energies, forces, _), (plain_energies, plain, _) = (
        labels_of(transfer(replace(store, labels={**store.labels, "gfn2": own}), "accurate", "gfn2", loaded)[0])
        for own in (teacher, exact)
    )
    np.testing.assert_allclose(forces[1] - plain[1], (teacher.forces[offsets[1] :] - cheap[1][1]) / 2, atol=1e-4)
    assert energies[1] - plain_energies[1] == pytest.approx((teacher.energy[1] - cheap[1][0]) / 2, abs=1e-5)


def test_a_geometry_at_the_minimum_has_its_labels(minima: list[KnownGeometry], tmp_path: Path) -> None:
    store = labelled(minima[:1], moved_by(np.zeros((9, 3))), tmp_path)
    energies, forces, _ = labels_of(transfer(store, "accurate", "gfn2", model_of())[0])
    assert energies[1] == pytest.approx(energies[0], abs=1e-6)
    np.testing.assert_allclose(forces[1], 0, atol=1e-5)


def test_residuals_of_energies_are_those_of_the_teacher(minima: list[KnownGeometry], tmp_path: Path) -> None:
    """A function that is stationary at the minimum, added to the teacher, changes no correction."""
    ethanol, stiffness = minima[0], 2.0
    store = labelled([ethanol], parse_samplings("start,thermal:3"), tmp_path)
    offsets, teacher = geometry_offsets(store), store.labels["gfn2"]
    assert teacher.forces is not None
    n_atoms = int(offsets[1])
    away = (store.geometries.positions.reshape(-1, n_atoms, 3) - store.geometries.positions[:n_atoms]).astype(float)
    added = stiffness * (away**2).sum(axis=(1, 2)) / 2
    other = replace(
        teacher, energy=teacher.energy + added, forces=(teacher.forces - stiffness * away.reshape(-1, 3)).astype("f")
    )
    (energies, forces, _), (changed, pulled, _) = (
        labels_of(transfer(replace(store, labels={**store.labels, "gfn2": own}), "accurate", "gfn2", model_of())[0])
        for own in (teacher, other)
    )
    assert added[1:].min() > 0.01
    np.testing.assert_allclose(changed - energies, added / 2, atol=1e-6)
    np.testing.assert_allclose(np.array(pulled) - np.array(forces), -stiffness * away / 2, atol=1e-4)


def test_other_geometries_and_molecules_are_left_out_and_counted(minima: list[KnownGeometry], tmp_path: Path) -> None:
    store = labelled(minima, parse_samplings("conformer:1,start,thermal:2"), tmp_path)
    found, report = transfer(store, "accurate", "gfn2", model_of((1, 6, 8)))
    assert (report.n_minima, report.n_displaced) == (2, 4)
    assert list(report.left_out.values()) == [4, 2, 0], "the amide with nitrogen; conformers"
    assert set(found.molecules.smiles[found.geometries.molecule].tolist()) == {"CCO", "O"}
    assert list(found.labels) == ["accurate"]
    assert np.isfinite(found.labels["accurate"].energy).all()
    assert "with tiny 0000" in found.provenance
    text = format_derived_report(report, "some.h5")
    assert text.startswith("some.h5: 2 minima, 4 displacements\n  left out: 4 not covered by the model")


def test_without_the_energy_of_the_minimum_there_are_forces_only(minima: list[KnownGeometry], tmp_path: Path) -> None:
    unknown = [replace(minima[0], energy=float("nan"))]
    found, _ = transfer(labelled(unknown, parse_samplings("start,thermal:1"), tmp_path), "accurate", "gfn2", model_of())
    energies, forces, _ = labels_of(found)
    assert np.isnan(energies).all()
    assert np.isfinite(forces).all()


def test_what_cannot_be_transferred_is_refused(minima: list[KnownGeometry], tmp_path: Path) -> None:
    store, loaded = labelled(minima[:1], parse_samplings("start,thermal:1"), tmp_path), model_of()
    with pytest.raises(LabelError, match=r"has no forces of 'accurate'; levels with labels: gfn2"):
        transfer(store, "gfn2", "accurate", loaded)
    with pytest.raises(
        LabelError, match=r"has no displaced minima of 'accurate' that the model covers.* accurate; cre"
    ):
        transfer(store, "accurate", "gfn2", model_of((1, 6)))
    with pytest.raises(UnknownLevelError, match="accurate"):
        transfer(store, "accurate", "gfn2", LoadedModel(tiny_model(4, levels=LEVELS), "tiny", "0" * 64))
