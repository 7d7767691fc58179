from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from physcon_ase.batch import make_batch, unpad
from physcon_ase.chem.graph import MolGraph
from physcon_ase.data.loader import evaluation_batches, load_items
from physcon_ase.data.selection import DataSet
from physcon_ase.data.split import TEST_FRACTION, VALIDATION_FRACTION, split_of
from physcon_ase.data.store import (
    Geometries,
    LevelLabels,
    Store,
    molecule_graph,
    open_store,
    pack_molecules,
    select_geometries,
    write_store,
)
from physcon_ase.errors import LabelError, StoreError, UnsupportedElementError
from physcon_ase.model.checkpoint import read_checkpoint, save_checkpoint
from physcon_ase.model.config import config_from_dict, config_to_dict
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import PhysCon, load_model
from physcon_ase.training import store_errors
from physcon_ase.training.calibrate import (
    FEWEST_GEOMETRIES,
    FEWEST_MOLECULES,
    calibrate,
    copy_calibration,
    format_calibrations,
)
from physcon_ase.training.store_errors import error_table
from physcon_ase.units import CHEMICAL_SYMBOLS
from tests.small_stores import Example
from tests.tiny import STRUCTURE, tiny_model

ENERGY_ERROR, FORCE_ERROR = 0.1, 0.03
"""Standard deviations of the noise on labels that are else the model's own [eV, eV/Å]."""

HELD_OUT, TRAINING = int((TEST_FRACTION + VALIDATION_FRACTION / 2) * 2**64), 2**63
"""Hashes of molecules of the validation and of the training split."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = tiny_model(4, torch.float32)
    save_checkpoint(tmp_path / "bare", model.state_dict(), config_to_dict(model.config), recipe="seed = 1")
    return tmp_path / "bare"


@pytest.fixture
def write(examples: list[Example], graphs: list[MolGraph], tmp_path: Path) -> Callable[..., Path]:
    """Writes a store of water, methane, methanol, ethane and ethanol, 20 hot geometries each, a third held out.

    Level "cheap" has energies and forces with noise, level "dft" energies of every sixth geometry.
    """

    def work(model: PhysCon, *, n_geometries: int = 20, with_bromine: bool = False) -> Path:
        generator = np.random.default_rng(5)
        chosen = [index for index in range(5 + with_bromine) for _ in range(n_geometries)]
        positions = [
            examples[i].positions + generator.normal(scale=0.08, size=examples[i].positions.shape) for i in chosen
        ]
        batch = make_batch([examples[i].atomic_numbers for i in chosen], positions)
        energies, forces = energies_and_forces(model.energy_fn("cheap"), batch)
        dft = model.energies(batch, "dft").numpy() + generator.normal(scale=ENERGY_ERROR, size=len(chosen))
        flat = np.concatenate(unpad(batch, forces))
        labels = LevelLabels(
            energies.numpy() + generator.normal(scale=ENERGY_ERROR, size=len(chosen)),
            (flat + generator.normal(scale=FORCE_ERROR, size=flat.shape)).astype(np.float32),
        )
        store = Store(
            molecules=pack_molecules(
                [graphs[i] for i in chosen],
                smiles=[examples[i].smiles for i in chosen],
                names=[str(row) for row in range(len(chosen))],
                key_hashes=[HELD_OUT if row % 3 == 0 else TRAINING for row in range(len(chosen))],
            ),
            geometries=Geometries(
                molecule=np.arange(len(chosen), dtype=np.int32),
                kind=np.full(len(chosen), "thermal"),
                minimum_of=np.full(len(chosen), "", dtype="<U5"),
                positions=np.concatenate(positions).astype(np.float32),
            ),
            labels={
                "cheap": labels,
                "dft": LevelLabels(np.where(np.arange(len(chosen)) % 6 == 0, dft, np.nan)),
            },
            source="labelled",
        )
        write_store(tmp_path / "labelled.h5", store)
        return tmp_path / "labelled.h5"

    return work


def test_the_hashes_of_the_store_are_those_of_their_splits() -> None:
    assert (split_of(HELD_OUT), split_of(TRAINING)) == ("validation", "train")


def test_a_calibrated_checkpoint_is_the_same_model_and_knows_its_errors(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    store = write(load_model(checkpoint).model)
    cheap, dft = calibrate(checkpoint, [store], tmp_path / "calibrated")
    assert (cheap.level, dft.level) == ("cheap", "dft")
    assert (cheap.n_training, cheap.n_energies, cheap.n_forces) == (66, 34, 34)
    assert cheap.energy_rmse == pytest.approx(ENERGY_ERROR, rel=0.25)
    assert cheap.energy_sigma == pytest.approx(ENERGY_ERROR, rel=0.5)
    assert cheap.force_rmse == pytest.approx(FORCE_ERROR, rel=0.1)
    assert cheap.force_sigma == pytest.approx(FORCE_ERROR, rel=0.5)

    bare, calibrated = read_checkpoint(checkpoint), read_checkpoint(tmp_path / "calibrated")
    assert calibrated.recipe == bare.recipe
    assert all(torch.equal(calibrated.tensors[name], value) for name, value in bare.tensors.items())
    model = load_model(tmp_path / "calibrated").model
    assert model.config.energy_uncertainty == model.config.forces_uncertainty == ("cheap",)


def test_alpha_makes_the_held_out_errors_unit_normal(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_model(checkpoint).model
    calibrate(checkpoint, [write(model)], tmp_path / "calibrated")
    calibrated, ratios = load_model(tmp_path / "calibrated").model, []
    items = load_items([DataSet(str(tmp_path / "labelled.h5"), ("cheap",))], model.level_names, "validation")
    for labelled in evaluation_batches(items, atoms_per_batch=100):
        outputs = calibrated.evaluate(labelled.batch, "cheap")
        sigma = calibrated.energy_uncertainties(outputs.features, "cheap")
        ratios.append(((outputs.energies - labelled.energy) / sigma).numpy())
    assert np.mean(np.concatenate(ratios) ** 2) == pytest.approx(1, rel=0.01)


def test_environments_of_an_earlier_training_stay_known(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    store = write(load_model(checkpoint).model)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    calibrate(checkpoint, [store], first)
    stored = read_checkpoint(first)
    table = {name: stored.tensors[f"environments.{name}"] for name in ("hashes", "counts")}
    extended = {"hashes": torch.cat([table["hashes"] - 1, table["hashes"]]), "counts": table["counts"].repeat(2) + 7}
    order = extended["hashes"].argsort()
    tensors = stored.tensors | {f"environments.{name}": value[order] for name, value in extended.items()}
    config = replace(config_from_dict(stored.config), n_environments=len(order))
    save_checkpoint(second, tensors, config_to_dict(config))
    calibrate(checkpoint, [store], third, continues=second)
    merged = load_model(third).model.environments
    assert merged is not None
    np.testing.assert_array_equal(merged.n_molecules(table["hashes"].numpy()), table["counts"] + 7)
    np.testing.assert_array_equal(merged.n_molecules(table["hashes"].numpy() - 1), table["counts"] + 7)
    with pytest.raises(LabelError, match="has no table of environments; calibrate it first"):
        calibrate(checkpoint, [store], third, continues=checkpoint)


@pytest.fixture
def ions(checkpoint: Path, write: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint that covers iodine and charges from -4 to +2; a store in which 4 molecules have +1 and 8 have +2.

    Of the former one molecule is held out, of the latter two are.
    """
    stored = read_checkpoint(checkpoint)
    levels = [
        {
            **level,
            "elements": [*level["elements"], 53],
            "references": [*level["references"], -1.0],
            "charges": [-4, 0, 1, 2],
        }
        for level in stored.config["levels"]
    ]
    save_checkpoint(tmp_path / "ions", stored.tensors, {**stored.config, "levels": levels}, recipe=stored.recipe)
    path = write(load_model(checkpoint).model)
    store = open_store(path)
    charges = store.molecules.formal_charges.copy()
    charges[store.molecules.offsets["n_atoms"][:12]] = np.repeat([1, 2], [4, 8])
    keys = store.molecules.key_hash.copy()
    keys[:12] = [HELD_OUT, *range(TRAINING, TRAINING + 3), HELD_OUT, HELD_OUT, *range(TRAINING, TRAINING + 6)]
    write_store(path, replace(store, molecules=replace(store.molecules, formal_charges=charges, key_hash=keys)))
    return tmp_path / "ions", path


def test_elements_and_charges_without_training_molecules_are_not_covered(
    ions: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, store = ions
    assert 53 in load_model(checkpoint).model.level("cheap").elements
    calibrate(checkpoint, [store], tmp_path / "out")
    level = load_model(tmp_path / "out").model.level("cheap")
    assert level.charges == (0, 2)
    assert {1, 6} <= set(level.elements)
    assert 53 not in level.elements
    assert len(level.references) == len(level.elements)
    printed = capsys.readouterr().out
    assert "cheap: no longer covers charges -4, +1, which fewer than 5 training molecules of the stores have" in printed
    assert ", I, which no training molecule of the stores has" in printed


def test_stores_with_charges_that_a_level_no_longer_covers_can_be_used(
    ions: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, store = ions
    calibrate(checkpoint, [store], tmp_path / "out")
    (first, _) = calibrate(checkpoint, [store], tmp_path / "first")
    capsys.readouterr()
    (again, _) = calibrate(tmp_path / "out", [store], tmp_path / "again")
    assert (again.n_training, again.n_energies) == (first.n_training - 3, first.n_energies - 1)
    elements = " ".join(CHEMICAL_SYMBOLS[z] for z in load_model(tmp_path / "out").model.level("cheap").elements)
    remark = f"1 geometry left out, level 'cheap' only covers {elements} and charges 0, +2"
    assert f"labelled, validation: {remark}" in capsys.readouterr().out
    lines = list(error_table(tmp_path / "out", [store], split="validation"))
    assert lines[2] == f"labelled, thermal: {remark}"
    energies = {line.split()[1]: int(line.split()[3]) for line in lines if line.startswith("labelled ")}
    assert energies["cheap"] == first.n_energies - 1


def test_tables_of_levels_whose_stores_are_not_given_are_kept(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write(load_model(checkpoint).model)
    calibrate(checkpoint, [store], tmp_path / "first")
    before = read_checkpoint(tmp_path / "first")
    other = tmp_path / "other.h5"
    labelled = open_store(store)
    few = select_geometries(labelled, np.arange(90))
    write_store(other, replace(few, labels={"dft": few.labels["cheap"]}))
    capsys.readouterr()
    (dft,) = calibrate(tmp_path / "first", [other], tmp_path / "second")
    assert dft.level == "dft"
    assert "energies: the table of cheap is kept" in capsys.readouterr().out
    after = read_checkpoint(tmp_path / "second")
    assert sorted(after.config["energy_uncertainty"]) == sorted(after.config["forces_uncertainty"]) == ["cheap", "dft"]
    own = [name for name in before.tensors if "_rigidity.cheap." in name]
    assert len(own) == 4
    assert all(torch.equal(after.tensors[name], before.tensors[name]) for name in own)
    known = load_model(tmp_path / "second").model.environments
    assert known is not None
    np.testing.assert_array_equal(
        known.n_molecules(before.tensors["environments.hashes"].numpy()), before.tensors["environments.counts"].numpy()
    )


def test_a_level_with_held_out_geometries_of_few_molecules_gets_no_table(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(load_model(checkpoint).model)
    store = open_store(path)
    # the 20 geometries of each molecule become geometries of one, of which all of water and methane are held out
    rows = store.geometries.molecule // 20 * 20
    molecules = replace(
        store.molecules,
        key_hash=np.array([HELD_OUT if row < 40 else TRAINING for row in range(100)], dtype=np.uint64),
    )
    write_store(path, replace(store, molecules=molecules, geometries=replace(store.geometries, molecule=rows)))
    with pytest.raises(
        LabelError, match=rf"{FEWEST_GEOMETRIES} validation geometries, of {FEWEST_MOLECULES} molecules"
    ):
        calibrate(checkpoint, [path], tmp_path / "calibrated")


def test_calibrating_again_replaces_the_tables_and_fewer_molecules_are_enough(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    store = write(load_model(checkpoint).model)
    calibrate(checkpoint, [store], tmp_path / "calibrated")
    before = read_checkpoint(tmp_path / "calibrated").tensors
    (cheap, _) = calibrate(tmp_path / "calibrated", [store], tmp_path / "calibrated", n_molecules=30)
    assert (cheap.n_training, cheap.n_energies) == (30, 30)
    after = read_checkpoint(tmp_path / "calibrated").tensors
    assert before.keys() == after.keys()
    assert not torch.equal(before["energy_rigidity.cheap.factor"], after["energy_rigidity.cheap.factor"])


def test_a_level_with_few_held_out_geometries_gets_no_table(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    store = write(load_model(checkpoint).model, n_geometries=3)
    with pytest.raises(LabelError, match=rf"no level of bare \(cheap, dft\) .* {FEWEST_GEOMETRIES} validation"):
        calibrate(checkpoint, [store], tmp_path / "calibrated")
    assert not (tmp_path / "calibrated").exists()


def test_geometries_with_elements_that_a_level_does_not_cover_are_left_out(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(load_model(checkpoint).model, with_bromine=True)
    calibrate(checkpoint, [path], tmp_path / "calibrated")
    assert "geometries left out, level 'cheap' only covers" in capsys.readouterr().out
    store = open_store(path)
    has_bromine = np.array(
        [35 in molecule_graph(store, row).atomic_numbers for row in store.geometries.molecule.tolist()]
    )
    write_store(path, select_geometries(store, np.flatnonzero(has_bromine)))
    with pytest.raises(UnsupportedElementError, match="'cheap' does not cover Br"):
        calibrate(checkpoint, [path], tmp_path / "calibrated")


def test_the_table_shows_a_missing_table_as_such(checkpoint: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    lines = format_calibrations(
        calibrate(checkpoint, [write(load_model(checkpoint).model)], tmp_path / "calibrated")
    ).splitlines()
    assert [line.split()[0] for line in lines] == ["level", "cheap", "dft"]
    assert lines[2].split()[2:4] == ["17", "-"]


PLAIN = """
[[data]]
store = "data/labelled.h5"
assign_to = "train"
"""

STAGED = """
[data.mine]
store = "labelled.h5"

[[stage]]
use = [{ data = "mine", assign_to = "train" }]
"""


@pytest.mark.parametrize("recipe", [PLAIN, STAGED])
def test_a_store_all_of_whose_molecules_were_in_the_training_is_not_held_out(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path, recipe: str
) -> None:
    stored, store = read_checkpoint(checkpoint), write(load_model(checkpoint).model)
    save_checkpoint(checkpoint, stored.tensors, stored.config, recipe=recipe)
    message = r"labelled\.h5 has no held-out molecules: the recipe of bare assigns all .* Give another store"
    for split in ("validation", "test", "all"):
        with pytest.raises(StoreError, match=message):
            list(error_table(checkpoint, [store], split=split))
    with pytest.raises(StoreError, match=message):
        calibrate(checkpoint, [store], tmp_path / "calibrated")
    assert len(list(error_table(checkpoint, [store], split="train"))) > 2
    other = store.rename(tmp_path / "other.h5")
    assert len(list(error_table(checkpoint, [other], split="validation"))) > 2


@pytest.mark.parametrize("recipe", [PLAIN, STAGED])
def test_energies_that_were_not_trained_on_are_left_out(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path, recipe: str
) -> None:
    """Those of a store whose forces alone were used can be those of another program."""
    stored, store = read_checkpoint(checkpoint), write(load_model(checkpoint).model)
    for entry, n_energies in (('labels = ["forces"]', 0), ('labels = ["energy", "forces"]', 34), ("repeat = 2.0", 34)):
        own = recipe.replace('assign_to = "train"', entry)
        save_checkpoint(checkpoint, stored.tensors, stored.config, recipe=own)
        cheap, _ = calibrate(checkpoint, [store], tmp_path / "calibrated")
        assert (cheap.n_energies, cheap.n_forces) == (n_energies, 34)


def test_a_store_that_the_parent_was_trained_on_is_not_held_out_either(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    stored, store = read_checkpoint(checkpoint), write(load_model(checkpoint).model)
    parent, child = tmp_path / "parent", tmp_path / "child"
    save_checkpoint(parent, {**stored.tensors}, stored.config, recipe=PLAIN)
    changed = {**stored.tensors, "energy.embedding.weight": stored.tensors["energy.embedding.weight"] + 1}
    save_checkpoint(child, changed, stored.config, recipe=f'start_from = ["{parent}#energy", "nowhere"]')
    with pytest.raises(StoreError, match="the recipe of parent assigns all molecules"):
        list(error_table(child, [store]))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_errors_are_computed_on_the_device_of_the_model(
    checkpoint: Path, write: Callable[..., Path], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, move, moved = write(load_model(checkpoint).model), store_errors.move_items, []

    def recorded(items, to):
        moved.append(torch.device(to).type)
        return move(items, to)

    monkeypatch.setattr(store_errors, "move_items", recorded)
    lines = list(error_table(checkpoint, [store], split="validation", device=device))
    assert moved == [device]
    assert [line.split()[1] for line in lines[2:]] == ["cheap", "dft"]
    assert float(lines[2].split()[4]) == pytest.approx(1000 * ENERGY_ERROR * np.sqrt(2 / np.pi), rel=0.3)


def test_a_checkpoint_with_other_structures_gets_the_uncertainties_of_one_with_the_same_energies(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_model(4, torch.float32, structure=STRUCTURE)
    bare, calibrated, trained, copy = (tmp_path / name for name in ("bare", "calibrated", "trained", "copy"))
    save_checkpoint(bare, model.state_dict(), config_to_dict(model.config))
    calibrate(bare, [write(model)], calibrated)
    expected = read_checkpoint(calibrated)
    moved = {name: value + name.startswith("structure.") for name, value in read_checkpoint(bare).tensors.items()}
    save_checkpoint(trained, moved, config_to_dict(model.config))
    copy_calibration(trained, calibrated, copy)
    made = read_checkpoint(copy)
    assert made.config == expected.config
    assert made.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(value, moved.get(name, expected.tensors[name])) for name, value in made.tensors.items())
    assert not torch.equal(made.tensors["structure.embedding.weight"], expected.tensors["structure.embedding.weight"])


def test_uncertainties_of_other_energies_are_refused(
    checkpoint: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    calibrated, trained = tmp_path / "calibrated", tmp_path / "trained"
    calibrate(checkpoint, [write(load_model(checkpoint).model)], calibrated)
    bare = read_checkpoint(checkpoint)
    moved = {name: value + name.startswith("energy.") for name, value in bare.tensors.items()}
    save_checkpoint(trained, moved, bare.config)
    with pytest.raises(LabelError, match=r"other energies than .*calibrated.* give the stores"):
        copy_calibration(trained, calibrated, tmp_path / "copy")
    with pytest.raises(LabelError, match="has no table of environments; calibrate it first"):
        copy_calibration(trained, checkpoint, tmp_path / "copy")
