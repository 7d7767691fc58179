from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from physcon_ase.data.labels import check_energies, fit_references, format_label_report, label_report
from physcon_ase.data.loader import Items, load_items
from physcon_ase.data.selection import DataSet
from physcon_ase.data.store import LevelLabels, Store, write_store
from physcon_ase.errors import LabelError

PLANTED = {1: -13.6, 6: -1030.0, 8: -2043.0, 9: -2712.0, 17: -12519.0, 35: -70000.0}
"""Energies [eV] by element, of the size of real ones."""

LSTSQ = 1e-8
"""Relative error of a well-conditioned least-squares solution in float64, with a margin of 10^6."""


@pytest.fixture
def load(make_store: Callable[..., Store], tmp_path: Path) -> Callable[..., Items]:
    def load(store: Store | None = None, levels: tuple[str, ...] = ("cheap", "dft")) -> Items:
        path = tmp_path / "small.h5"
        write_store(path, store or make_store())
        return load_items([DataSet(str(path), levels, assign_to="train")], ("cheap", "dft", "best"), "train")

    return load


def with_planted_energies(store: Store) -> Store:
    atoms = np.split(store.molecules.atomic_numbers, store.molecules.offsets["n_atoms"][1:-1])
    of_molecule = np.array([sum(PLANTED[z] for z in numbers.tolist()) for numbers in atoms])
    labels = replace(store.labels["cheap"], energy=of_molecule[store.geometries.molecule])
    return replace(store, labels={**store.labels, "cheap": labels})


def test_references_recover_additive_energies(make_store: Callable[..., Store], load: Callable[..., Items]):
    store = with_planted_energies(make_store())
    fitted = fit_references(load(store), "cheap")
    atoms = np.split(store.molecules.atomic_numbers, store.molecules.offsets["n_atoms"][1:-1])
    for row, numbers in enumerate(atoms):
        energy = sum(fitted[z] for z in numbers.tolist())
        assert energy == pytest.approx(store.labels["cheap"].energy[row], rel=LSTSQ)
    # C, H and O are told apart by the molecules; F, Cl and Br always come together and share their energy
    assert [fitted[z] for z in (1, 6, 8)] == pytest.approx([PLANTED[z] for z in (1, 6, 8)], rel=LSTSQ)
    assert fitted[9] == pytest.approx(fitted[17], rel=LSTSQ) == fitted[35]


def test_energies_of_another_basis_set_are_an_error_that_names_the_worst(
    make_store: Callable[..., Store], load: Callable[..., Items]
):
    store = with_planted_energies(make_store())
    check_energies(load(store), "cheap")
    energies = store.labels["cheap"].energy.copy()
    energies[store.geometries.molecule == 0] += 1000.0
    wrong = replace(store, labels={**store.labels, "cheap": replace(store.labels["cheap"], energy=energies)})
    with pytest.raises(
        LabelError, match=r"at level 'cheap' is [\d.]+ eV per atom away .* basis sets, programs or units"
    ):
        check_energies(load(wrong), "cheap")


def test_element_that_never_occurs_with_an_energy_is_left_out(load: Callable[..., Items]):
    # at "dft" only water, methanol and ethanol have energies
    assert sorted(fit_references(load(), "dft")) == [1, 6, 8]


def test_level_without_energies_has_no_references(make_store: Callable[..., Store], load: Callable[..., Items]):
    store = make_store()
    bare = replace(store, labels={**store.labels, "dft": LevelLabels(np.full(len(store.geometries), np.nan))})
    with pytest.raises(LabelError, match="level 'dft' has no energies to fit references to"):
        fit_references(load(bare), "dft")
    with pytest.raises(LabelError, match="level 'best' has no energies"):
        fit_references(load(bare), "best")


def test_unknown_level_lists_the_known_ones(load: Callable[..., Items]):
    with pytest.raises(LabelError, match="unknown level 'mp2'; choose one of cheap, dft, best"):
        fit_references(load(), "mp2")


def test_report_counts_labels_of_each_level(make_store: Callable[..., Store], load: Callable[..., Items]):
    store = make_store()
    cheap, dft = label_report(load(store))
    assert (cheap.source, cheap.level, cheap.n_molecules, cheap.n_items) == ("small", "cheap", 6, 12)
    assert (cheap.n_energies, cheap.n_missing_energies, cheap.n_forces, cheap.n_missing_forces) == (12, 0, 11, 1)
    assert (cheap.n_zero_forces, cheap.n_minima) == (0, 0)
    assert (dft.n_molecules, dft.n_items, dft.n_energies, dft.n_missing_energies) == (6, 6, 3, 3)
    assert (dft.n_forces, dft.n_zero_forces, dft.n_missing_forces, dft.n_minima) == (0, 6, 0, 6)


def test_a_data_set_without_items_is_in_the_report(make_store: Callable[..., Store], tmp_path: Path):
    write_store(tmp_path / "small.h5", make_store())
    whole = DataSet(str(tmp_path / "small.h5"), ("cheap",))
    rows = label_report(load_items([whole, replace(whole, max_atoms=1)], ("cheap", "dft"), "train"))
    assert [(row.level, row.n_molecules, row.n_items) for row in rows] == [("cheap", 6, 12), ("-", 0, 0)]
    assert format_label_report(rows).splitlines()[2].split()[:4] == ["small", "-", "0", "0"]


def test_report_has_the_range_of_the_labels(make_store: Callable[..., Store], load: Callable[..., Items]):
    store = make_store()
    cheap, dft = label_report(load(store))
    forces = store.labels["cheap"].forces.astype(np.float64)
    assert cheap.energy_min == store.labels["cheap"].energy.min()
    assert cheap.energy_max == store.labels["cheap"].energy.max()
    assert cheap.force_rms == pytest.approx(np.sqrt(np.nanmean(forces**2)))
    assert cheap.force_max == np.nanmax(np.abs(forces))
    assert np.isnan([dft.force_rms, dft.force_max]).all()


def test_spread_is_what_the_composition_does_not_explain(make_store: Callable[..., Store], load: Callable[..., Items]):
    store = with_planted_energies(make_store())
    assert label_report(load(store))[0].energy_spread == pytest.approx(0, abs=LSTSQ * abs(PLANTED[35]))
    energy = store.labels["cheap"].energy.copy()
    energy[:6] += 0.3  # each minimum against the hot geometry of the same molecule: the regression meets them half-way
    labels = replace(store.labels["cheap"], energy=energy)
    spread = label_report(load(replace(store, labels={"cheap": labels}), levels=("cheap",)))[0].energy_spread
    assert spread == pytest.approx(np.mean(0.15 / store.molecules.n_atoms), rel=1e-5)


def test_table_has_a_line_for_each_row(load: Callable[..., Items]):
    lines = format_label_report(label_report(load())).splitlines()
    assert lines[0].startswith("data set  level  molecules")
    assert lines[2].split()[:6] == ["small", "dft", "6", "6", "3", "3"]
    assert len(lines) == 3
