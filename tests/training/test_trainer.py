import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from physcon_ase.data.loader import Items, epoch_batches
from physcon_ase.data.sample import select
from physcon_ase.data.selection import LABELS
from physcon_ase.data.store import LevelLabels, Store, geometry_offsets, write_store
from physcon_ase.errors import LabelError, PhysConError, RecipeError, StoreError, UnsupportedChargeError
from physcon_ase.jobs.journal import output_lock
from physcon_ase.model.checkpoint import read_checkpoint, save_checkpoint
from physcon_ase.model.config import config_from_dict, config_to_dict
from physcon_ase.model.physcon import PhysCon, load_model
from physcon_ase.training import processes as processes_module
from physcon_ase.training import trainer
from physcon_ase.training.losses.terms import compute_losses
from physcon_ase.training.preflight import check_labels, check_recipe
from physcon_ase.training.recipe import (
    AsteroidRecipe,
    LevelRecipe,
    LossRecipe,
    OptimalityRecipe,
    Recipe,
    ScoreRecipe,
    with_steps,
)
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.start import added_to, bias_weighted_items, make_model
from physcon_ase.training.state import STATE_FILE
from physcon_ase.training.trainer import LOG_FILE, RunOptions, load_training_items, train

QUIET = RunOptions(log_steps=5, progress_bar=False)

SCRIPT = """
import sys
import torch
from physcon_ase.training.recipe_files import read_recipe
from physcon_ase.training.trainer import RunOptions, train
torch.set_num_threads(1)
options = RunOptions(save_minutes=float(sys.argv[4]), log_steps=1, progress_bar=False)
train(read_recipe(sys.argv[1]), sys.argv[2], store_root=sys.argv[3], options=options)
"""

WEIGHTS_OF_EACH_PROCESS = """
import sys
import weakref
from pathlib import Path
import torch
from safetensors.torch import save_file
from physcon_ase.training import processes as processes_module
from physcon_ase.training import trainer
from physcon_ase.training.processes import processes
from physcon_ase.training.recipe_files import read_recipe
torch.set_num_threads(1)
options = trainer.RunOptions(save_minutes=float(sys.argv[4]), log_steps=1, progress_bar=False)
folder = Path(sys.argv[2])
folder.mkdir(exist_ok=True)
with processes() as (rank, world_size):
    recipe, stores = read_recipe(sys.argv[1]), Path(sys.argv[3])
    training = trainer._Training(recipe, folder, stores, torch.device("cpu"), options, rank, world_size)
    training.run()
    weights = {name: value.detach() for name, value in training.model.named_parameters()}
    save_file(weights, f"weights{rank}.safetensors")
    group = weakref.ref(torch.distributed.group.WORLD)
assert group() is None, "its threads may abort the interpreter at its end"
"""


@pytest.fixture
def recipe(recipe_text: str) -> Recipe:
    return parse_recipe(recipe_text)


def test_a_log_file_gets_a_line_per_interval_instead_of_a_bar(
    recipe: Recipe, stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train(with_steps(recipe, 10), tmp_path / "run", store_root=stores, options=RunOptions(log_steps=5))
    lines = capsys.readouterr().err.splitlines()
    assert [line[:18].split() for line in lines] == [["step", "5", "of", "10"], ["step", "10", "of", "10"]]
    shown = r"step +\d+ of 10  energy \d+\.\d{4}  forces .* steps/s, 0:\d\d:\d\d left"
    assert all(re.fullmatch(shown, line) for line in lines)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def with_springs(store: Store) -> Store:
    """The store with labels that can be learned: springs of .5 eV/Å² between all pairs of atoms at 1.5 Å."""
    offsets, positions = geometry_offsets(store), torch.tensor(store.geometries.positions, requires_grad=True)
    energies = [
        0.25 * (torch.nn.functional.pdist(positions[low:high]) - 1.5).square().sum()
        for low, high in itertools.pairwise(offsets.tolist())
    ]
    (gradient,) = torch.autograd.grad(torch.stack(energies).sum(), positions)
    labels = LevelLabels(torch.stack(energies).detach().double().numpy(), -gradient.numpy())
    return replace(store, labels={**store.labels, "cheap": labels})


def test_training_lowers_the_errors_and_leaves_a_checkpoint(
    recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path
):
    write_store(tmp_path / "small.h5", with_springs(make_store(copies=8)))
    folder = train(with_steps(recipe, 200), tmp_path / "run", store_root=tmp_path, options=QUIET)
    losses = [row for row in log(tmp_path / "run") if "energy" in row]
    for term in ("energy", "forces"):
        assert sum(row[term] for row in losses[-3:]) < 0.8 * sum(row[term] for row in losses[:3])
    loaded = load_model(folder)
    assert loaded.name == "small"
    assert loaded.model.level_names == ("cheap", "dft")
    assert parse_recipe(read_checkpoint(folder).recipe) == with_steps(recipe, 200)


def test_structures_are_learned_from_minima_without_any_energy(
    recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path
):
    bare = replace(make_store(), labels={})
    write_store(tmp_path / "small.h5", bare)
    minima = replace(recipe.data[0], levels=("dft",))
    alone = replace(
        with_steps(recipe, 2),
        levels=(replace(recipe.levels[1], like=""),),
        data=(minima,),
        loss=replace(recipe.loss, energy=0.0, forces=0.0, structure=1.0),
    )
    (level,) = load_model(train(alone, tmp_path / "run", store_root=tmp_path, options=QUIET)).model.config.levels
    assert level.elements == tuple(sorted(set(bare.molecules.atomic_numbers.tolist())))
    with pytest.raises(RecipeError, match="no energies to fit its atomic reference energies to"):
        train(
            replace(alone, loss=replace(alone.loss, forces=1.0)), tmp_path / "other", store_root=tmp_path, options=QUIET
        )


def test_direct_forces_are_learned_without_an_energy(recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path):
    write_store(tmp_path / "small.h5", with_springs(make_store(copies=8)))
    direct = replace(
        with_steps(recipe, 100),
        encoder=replace(recipe.encoder, output_vectors=3),
        loss=replace(recipe.loss, energy=0.0, forces=0.0, structure=0.0, direct_forces=1.0),
        structure=None,
    )
    folder = train(direct, tmp_path / "run", store_root=tmp_path, options=QUIET)
    losses = [row["direct_forces"] for row in log(tmp_path / "run") if "direct_forces" in row]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert any(name.startswith("direct_heads.cheap") for name in read_checkpoint(folder).tensors)
    errors = [row for row in log(tmp_path / "run") if row.get("validation") == "cheap"]
    assert 0 < errors[-1]["direct_force_mae"] != errors[-1]["force_mae"]


def test_killed_training_ends_with_the_weights_of_an_uninterrupted_one(recipe_text: str, stores: Path, tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(recipe_text)

    def start(folder: str, save_minutes: float) -> subprocess.Popen:
        arguments = [str(tmp_path / "recipe.toml"), str(tmp_path / folder), str(stores), str(save_minutes)]
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.DEVNULL)

    assert start("whole", 60).wait() == 0
    process, killed_at = start("killed", 0.0), 0
    while process.poll() is None and killed_at < 12:
        time.sleep(0.01)
        if (tmp_path / "killed" / LOG_FILE).exists():
            killed_at = len((tmp_path / "killed" / LOG_FILE).read_text().splitlines())
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "killed" / STATE_FILE).exists()
    assert not (tmp_path / "killed" / "small").exists()
    assert start("killed", 60).wait() == 0
    whole, resumed = (read_checkpoint(tmp_path / folder / "small") for folder in ("whole", "killed"))
    assert same(whole.tensors, resumed.tensors)
    assert whole.revision == resumed.revision


def test_two_processes_keep_the_same_weights(recipe_text: str, stores: Path, tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(recipe_text.replace("steps = 40", "steps = 6"))
    (tmp_path / "script.py").write_text(WEIGHTS_OF_EACH_PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "script.py"]
    arguments = ["recipe.toml", "run", str(stores), "60"]
    subprocess.run([*command, *arguments], cwd=tmp_path, check=True, capture_output=True)
    # each process has seen batches of its own
    assert same(*(safetensors.torch.load_file(tmp_path / f"weights{rank}.safetensors") for rank in (0, 1)))
    rows = [row for row in log(tmp_path / "run") if "forces" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert load_model(tmp_path / "run" / "small").name == "small"


def test_the_state_of_another_recipe_is_refused(recipe: Recipe, stores: Path, tmp_path: Path):
    short = with_steps(recipe, 2)
    train(short, tmp_path / "run", store_root=stores, options=QUIET)
    other = replace(short, loss=replace(short.loss, energy=0.7))
    with pytest.raises(RecipeError, match="holds the state of another recipe"):
        train(other, tmp_path / "run", store_root=stores, options=QUIET)


def test_a_longer_training_goes_on_where_the_shorter_one_ended(recipe: Recipe, stores: Path, tmp_path: Path):
    constant = replace(recipe, optim=replace(recipe.optim, decay=0.0))
    whole = train(with_steps(constant, 9), tmp_path / "whole", store_root=stores, options=QUIET)
    train(with_steps(constant, 5), tmp_path / "parts", store_root=stores, options=QUIET)
    parts = train(with_steps(constant, 9), tmp_path / "parts", store_root=stores, options=QUIET)
    assert same(read_checkpoint(whole).tensors, read_checkpoint(parts).tensors)


def test_a_folder_that_the_checkpoint_would_replace_is_refused_before_the_first_step(
    recipe: Recipe, stores: Path, tmp_path: Path
):
    (tmp_path / "run" / "small").mkdir(parents=True)
    (tmp_path / "run" / "small" / "notes.txt").touch()
    with pytest.raises(PhysConError, match=r"small is not a checkpoint folder: it contains notes\.txt"):
        train(with_steps(recipe, 1), tmp_path / "run", store_root=stores, options=QUIET)
    assert not (tmp_path / "run" / STATE_FILE).exists()


def test_fewer_steps_than_were_made_are_refused(recipe: Recipe, stores: Path, tmp_path: Path):
    train(with_steps(recipe, 3), tmp_path / "run", store_root=stores, options=QUIET)
    with pytest.raises(RecipeError, match=r"the state after 3 steps, more than the 2 of the recipe"):
        train(with_steps(recipe, 2), tmp_path / "run", store_root=stores, options=QUIET)


def test_a_state_of_other_optimisers_is_that_of_another_recipe(recipe: Recipe, stores: Path, tmp_path: Path):
    short = with_steps(recipe, 1)
    train(short, tmp_path / "run", store_root=stores, options=QUIET)
    matrices = replace(short, optim=replace(short.optim, train=("energy.interactions.0.update.0.weight",)))
    with pytest.raises(RecipeError, match="holds the state of another recipe"):
        train(matrices, tmp_path / "run", store_root=stores, options=QUIET)


def test_the_log_of_a_resumed_training_has_each_step_once(recipe: Recipe, stores: Path, tmp_path: Path):
    options = replace(QUIET, log_steps=1)
    train(with_steps(recipe, 2), tmp_path / "run", store_root=stores, options=options)
    log = tmp_path / "run" / LOG_FILE
    with open(log, "a") as file:  # as if killed after the last saved state
        file.write('{"step": 3}\n{"step": 4, "ener')
    train(with_steps(recipe, 4), tmp_path / "run", store_root=stores, options=options)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines if "energy" in line] == [1, 2, 3, 4]


def test_weighted_loss_without_any_label_is_refused(recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path):
    store = make_store(copies=8)
    labels = {"cheap": LevelLabels(store.labels["cheap"].energy)}
    write_store(tmp_path / "small.h5", replace(store, labels=labels))
    bare = replace(
        recipe, levels=recipe.levels[:1], data=(replace(recipe.data[0], levels=("cheap",)),), structure=None,
        loss=replace(recipe.loss, structure=0.0),
    )  # fmt: skip
    with pytest.raises(LabelError, match=r"loss\.forces = 1\.0, but the data have no force label"):
        train(bare, tmp_path / "run", store_root=tmp_path, options=QUIET)


def consistent(recipe: Recipe) -> Recipe:
    return replace(
        recipe,
        loss=replace(recipe.loss, optimality=0.5, score=0.5, displacement=0.5),
        optimality=OptimalityRecipe(level="dft", variant="newton"),
        score=ScoreRecipe(level="dft"),
    )


def test_consistency_trains_the_structure_head_and_nothing_else(recipe: Recipe, stores: Path, tmp_path: Path):
    first = train(with_steps(recipe, 3), tmp_path / "first", store_root=stores, options=QUIET)
    second = consistent(with_steps(replace(recipe, start_from=(str(first),)), 3))
    second = replace(second, loss=replace(second.loss, energy=0.0, forces=0.0, displacement=0.0, structure=0.0))
    folder = train(second, tmp_path / "second", store_root=stores, options=QUIET)
    before, after = read_checkpoint(first).tensors, read_checkpoint(folder).tensors
    teacher = [name for name in before if not name.startswith("structure")]
    assert same({name: before[name] for name in teacher}, {name: after[name] for name in teacher})
    assert not torch.equal(before["structure.readout.weight"], after["structure.readout.weight"])


def test_geometries_that_are_no_minima_do_not_reach_the_structure_head(recipe: Recipe, stores: Path):
    recipe = replace(recipe, loss=LossRecipe(energy=0.0, forces=0.0, structure=1.0, refinement=1.0))
    items = load_training_items(recipe, stores, "train")
    model = make_model(recipe, items)
    labelled = next(iter(epoch_batches(items, seed=0, epoch=0, atoms_per_batch=40)))
    minima = select(labelled, labelled.is_minimum)
    assert 0 < len(minima) < len(labelled)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    both = [compute_losses(model, b, recipe, generator=g) for b, g in zip((labelled, minima), generators, strict=True)]
    assert both[0] == both[1]
    none = compute_losses(model, select(labelled, ~labelled.is_minimum), recipe, generator=generators[0])
    assert {name: value.item() for name, value in none.items()} == {"structure": 0, "refinement": 0}


def test_a_part_of_a_checkpoint_is_taken_alone(recipe: Recipe, stores: Path, tmp_path: Path):
    first = train(with_steps(recipe, 3), tmp_path / "first", store_root=stores, options=QUIET)
    items = load_training_items(recipe, stores, "train")
    model = make_model(replace(recipe, seed=9, start_from=(f"{first}#structure",)), items)
    fresh = make_model(replace(recipe, seed=9), items)
    kept = read_checkpoint(first).tensors
    for name, value in model.named_parameters():
        expected = kept[name] if name.startswith("structure") else fresh.get_parameter(name)
        assert torch.equal(value, expected), name


def test_a_teacher_that_no_force_has_taught_is_refused(recipe: Recipe, stores: Path, tmp_path: Path):
    untaught = consistent(recipe)
    untaught = replace(untaught, loss=replace(untaught.loss, forces=0.0, displacement=0.0))
    of_each = replace(untaught, optimality=replace(untaught.optimality, level=""))
    for number, refused in enumerate((untaught, of_each)):
        with pytest.raises(LabelError, match=r"level dft is to teach loss\.optimality, but no force trains it"):
            train(refused, tmp_path / f"run-{number}", store_root=stores, options=QUIET)


def test_guidance_by_forces_that_nothing_has_taught_is_refused(recipe: Recipe, stores: Path, tmp_path: Path):
    assert recipe.structure is not None
    guided = replace(recipe, structure=replace(recipe.structure, guided=True))
    train(with_steps(guided, 2), tmp_path / "taught", store_root=stores, options=QUIET)
    untaught = replace(guided, loss=LossRecipe(energy=0.0, forces=0.0, structure=1.0))
    with pytest.raises(LabelError, match="forces of level dft are to guide the structure network"):
        train(untaught, tmp_path / "run", store_root=stores, options=QUIET)


def test_consistency_without_minima_is_refused(recipe: Recipe, stores: Path, tmp_path: Path):
    hot = replace(consistent(recipe), data=(replace(recipe.data[0], kinds=("thermal",)),))
    hot = replace(hot, loss=replace(hot.loss, structure=0.0))
    with pytest.raises(LabelError, match=r"loss\.optimality = 0\.5, but the data have no minimum"):
        train(hot, tmp_path / "run", store_root=stores, options=QUIET)


def test_borrowed_labels_are_judged_by_a_model_of_the_accurate_ones(
    recipe: Recipe, stores: Path, make_store: Callable[..., Store], tmp_path: Path
):
    cheap = make_store()
    write_store(stores / "cheap.h5", replace(cheap, labels={"cheap": cheap.labels["cheap"]}))
    judge = train(with_steps(recipe, 3), tmp_path / "judge", store_root=stores, options=QUIET)
    own = replace(recipe.data[0], levels=("dft",))
    lent = replace(own, store="cheap.h5", borrow_forces_from="cheap", labels=LABELS[:3])
    recipe = replace(recipe, data=(own, lent), asteroid=AsteroidRecipe(str(judge), gamma=0.5))
    items = load_training_items(recipe, stores, "train")
    for before, after in zip(items.buckets, bias_weighted_items(recipe, items).buckets, strict=True):
        is_lent, has_forces = before.source == 1, before.forces[:, 0].isfinite().all(dim=1)
        assert torch.equal(after.weight[~is_lent], before.weight[~is_lent])
        assert (after.weight[is_lent & has_forces] < before.weight[is_lent & has_forces]).all()


def test_a_store_can_be_kept_apart_where_the_molecules_would_decide(recipe: Recipe, make_store, tmp_path: Path):
    write_store(tmp_path / "small.h5", make_store())
    kept = {name: replace(recipe, data=(replace(recipe.data[0], assign_to=name),)) for name in ("train", "validation")}
    sizes = {name: len(load_training_items(own, tmp_path, "train")) for name, own in kept.items()}
    assert sizes["train"] == len(load_training_items(kept["validation"], tmp_path, "validation")) > 0
    assert sizes["validation"] == 0
    with pytest.raises(RecipeError, match="is assigned to 'tset'; choose one of train, validation, test"):
        check_recipe(replace(recipe, data=(replace(recipe.data[0], assign_to="tset"),)))


def test_geometries_at_a_level_that_nobody_labelled_are_items_without_labels(
    recipe: Recipe, make_store, tmp_path: Path
):
    store = make_store()
    write_store(tmp_path / "small.h5", replace(store, labels={"cheap": store.labels["cheap"]}))
    data = replace(recipe.data[0], levels=("dft",), unlabelled=True, labels=LABELS[:2])
    items = load_training_items(replace(recipe, data=(replace(data, assign_to="train"),)), tmp_path, "train")
    assert len(items) == len(store.geometries)
    for bucket in items.buckets:
        assert (bucket.level == 1).all()
        assert bucket.energy.isnan().all()
        assert bucket.forces[:, 0].isnan().all()


def test_score_matching_trains_on_geometries_without_labels(recipe: Recipe, make_store, tmp_path: Path):
    store = make_store()
    bare = replace(store, labels={name: LevelLabels(labels.energy, None) for name, labels in store.labels.items()})
    write_store(tmp_path / "small.h5", bare)
    weights = LossRecipe(energy=0.0, forces=0.0, score_matching=1.0)
    recipe = with_steps(replace(recipe, loss=weights, asteroid=AsteroidRecipe()), 5)
    recipe = replace(recipe, structure=None, data=(replace(recipe.data[0], labels=("energy", "forces", "target")),))
    train(recipe, tmp_path / "run", store_root=tmp_path, options=replace(QUIET, log_steps=5))
    assert np.isfinite(log(tmp_path / "run")[0]["score_matching"])


def test_frozen_parts_keep_their_weights_and_start_from_takes_references(recipe: Recipe, stores: Path, tmp_path: Path):
    first = train(with_steps(recipe, 3), tmp_path / "first", store_root=stores, options=QUIET)
    second = replace(
        with_steps(recipe, 3),
        start_from=(str(first),),
        optim=replace(recipe.optim, steps=3, train=("structure",)),
    )
    folder = train(second, tmp_path / "second", store_root=stores, options=QUIET)
    before, after = read_checkpoint(first), read_checkpoint(folder)
    frozen = [name for name in before.tensors if name.startswith("energy.")]
    assert same({name: before.tensors[name] for name in frozen}, {name: after.tensors[name] for name in frozen})
    moved = [name for name in before.tensors if name.startswith("structure") and "readout" in name]
    assert not same({name: before.tensors[name] for name in moved}, {name: after.tensors[name] for name in moved})
    assert before.config["levels"] == after.config["levels"]


def test_an_added_level_leaves_the_other_levels_bit_for_bit(recipe: Recipe, stores: Path, tmp_path: Path):
    cheap = replace(recipe, levels=recipe.levels[:1], data=(replace(recipe.data[0], levels=("cheap",)),))
    cheap = replace(cheap, loss=replace(cheap.loss, structure=0.0))
    first = train(with_steps(cheap, 3), tmp_path / "first", store_root=stores, options=QUIET)
    dft = replace(
        recipe, levels=recipe.levels[1:], data=(replace(recipe.data[0], levels=("dft",)),),
        loss=replace(recipe.loss, structure=0.0),
    )  # fmt: skip
    config = config_from_dict(read_checkpoint(first).config)
    both = train(with_steps(added_to(dft, str(first), config), 20), tmp_path / "both", store_root=stores, options=QUIET)
    before, after = read_checkpoint(first), read_checkpoint(both)
    assert same(before.tensors, {name: after.tensors[name] for name in before.tensors})
    assert after.config["levels"][0] == before.config["levels"][0]
    for name in ("rows.{}.weight", "heads.{}.network.0.weight", "heads.{}.network.2.weight"):
        own, other = (after.tensors[f"energy.{name.format(level)}"] for level in ("dft", "cheap"))
        assert not torch.equal(own, other), "it begins like the other level"


def test_the_direct_head_begins_like_that_of_the_other_level(recipe: Recipe, stores: Path, tmp_path: Path):
    loss = replace(recipe.loss, structure=0.0, direct_forces=1.0)
    both = replace(recipe, encoder=replace(recipe.encoder, output_vectors=2), loss=loss)
    cheap = replace(both, levels=both.levels[:1], data=(replace(both.data[0], levels=("cheap",)),))
    first = train(with_steps(cheap, 2), tmp_path / "first", store_root=stores, options=QUIET)
    model = make_model(replace(both, start_from=(str(first),)), load_training_items(both, stores, "train"))
    assert same(model.direct_heads["cheap"].state_dict(), model.direct_heads["dft"].state_dict())


def test_a_level_begins_like_another_one(recipe: Recipe, stores: Path, tmp_path: Path):
    cheap = replace(recipe, levels=recipe.levels[:1], data=(replace(recipe.data[0], levels=("cheap",)),))
    cheap = replace(cheap, loss=replace(cheap.loss, structure=0.0))
    first = train(with_steps(cheap, 3), tmp_path / "first", store_root=stores, options=QUIET)
    both = replace(recipe, start_from=(str(first),))
    model = make_model(both, load_training_items(both, stores, "train"))
    for cheap_part, dft_part in (
        (model.energy.rows["cheap"], model.energy.rows["dft"]),
        (model.energy.heads["cheap"], model.energy.heads["dft"]),
    ):
        assert same(cheap_part.state_dict(), dft_part.state_dict())
    second = train(with_steps(both, 3), tmp_path / "second", store_root=stores, options=QUIET)
    again = make_model(replace(both, start_from=(str(second),)), load_training_items(both, stores, "train"))
    assert same(again.energy.heads["dft"].state_dict(), load_model(second).model.energy.heads["dft"].state_dict())


def charges_of(items: Items) -> set[int]:
    return {charge for bucket in items.buckets for charge in bucket.charge.tolist()}


def test_ions_need_a_model_that_sees_the_charge(recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path):
    store = make_store(copies=8)
    charges = np.ones_like(store.molecules.formal_charges)
    write_store(tmp_path / "small.h5", replace(store, molecules=replace(store.molecules, formal_charges=charges)))
    items = load_training_items(recipe, tmp_path, "train")
    with pytest.raises(UnsupportedChargeError, match=f"{len(items)} of {len(items)} items are charged, which"):
        check_labels(recipe, items)
    seeing = replace(recipe, encoder=replace(recipe.encoder, charged=True))
    check_labels(seeing, items)
    levels = make_model(seeing, items).config.levels
    assert {charge for level in levels for charge in level.charges} == set(charges_of(items))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_processes": 2}, "training by 2 processes, now there are 1"),
        ({"batch": 10**6}, "stopped at batch 1000000 of an epoch that now has"),
    ],
)
def test_a_state_that_does_not_fit_the_data_or_the_processes_is_refused(
    recipe: Recipe, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
):
    train(with_steps(recipe, 2), tmp_path / "run", store_root=stores, options=QUIET)
    load = trainer.load_state

    def load_changed(*arguments):
        progress, *saved = load(*arguments)
        return replace(progress, **changes), *saved

    monkeypatch.setattr(trainer, "load_state", load_changed)
    with pytest.raises(RecipeError, match=message):
        train(with_steps(recipe, 4), tmp_path / "run", store_root=stores, options=QUIET)


def test_references_of_new_elements_are_fitted_and_old_ones_stay(recipe: Recipe, stores: Path, tmp_path: Path):
    items = load_training_items(recipe, stores, "train")
    fitted = make_model(recipe, items).config.levels[0]
    first = train(with_steps(recipe, 1), tmp_path / "first", store_root=stores, options=QUIET)
    stored = read_checkpoint(first)
    level = stored.config["levels"][0]
    place = level["elements"].index(8)
    del level["elements"][place], level["references"][place]
    level["references"][0] += 1.0
    save_checkpoint(first, stored.tensors, stored.config)
    second = make_model(replace(recipe, start_from=(str(first),)), items).config.levels[0]
    assert second.elements == fitted.elements
    old = dict(zip(level["elements"], level["references"], strict=True))
    new = dict(zip(second.elements, second.references, strict=True))
    assert {number: new[number] for number in old} == old
    assert new[8] != dict(zip(fitted.elements, fitted.references, strict=True))[8]  # hydrogen was moved by 1 eV


def test_a_level_without_energies_takes_the_references_of_that_which_it_begins_like(recipe: Recipe, stores: Path):
    forces_only = replace(recipe.data[0], levels=("lent",), borrow_forces_from="cheap", labels=LABELS[:3])
    level = LevelRecipe("lent", "forces of another level", like="cheap")
    data = (replace(recipe.data[0], levels=("cheap",)), forces_only)
    lent = replace(recipe, levels=(recipe.levels[0], level), data=data)
    cheap, found = make_model(lent, load_training_items(lent, stores, "train")).config.levels
    of_cheap = dict(zip(cheap.elements, cheap.references, strict=True))
    assert set(found.elements) <= set(cheap.elements)
    assert len(found.elements) > 1
    assert found.references == tuple(of_cheap[element] for element in found.elements)
    first = replace(lent, levels=(level, recipe.levels[0]))
    with pytest.raises(RecipeError, match="level 'lent' begin like 'cheap', which is none of those named before it"):
        make_model(first, load_training_items(first, stores, "train"))


def test_errors_before_the_first_step_are_those_of_the_checkpoint(recipe: Recipe, stores: Path, tmp_path: Path):
    first = train(with_steps(recipe, 3), tmp_path / "first", store_root=stores, options=QUIET)
    second = replace(with_steps(recipe, 3), start_from=(str(first),))
    train(second, tmp_path / "second", store_root=stores, options=QUIET)

    def validations(folder: Path) -> list[dict]:
        lines = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
        return [line for line in lines if line.get("validation") == "cheap"]

    (end,), (begin, after) = validations(tmp_path / "first"), validations(tmp_path / "second")
    assert (end["step"], begin["step"], after["step"]) == (3, 0, 3)
    assert begin["force_mae"] == pytest.approx(end["force_mae"], rel=1e-6) != after["force_mae"]


# ---- a folder belongs to one training on one set of data


def shifted(store: Store, energy: float) -> Store:
    """The store with this energy [eV] added to each label of level "cheap"."""
    cheap = store.labels["cheap"]
    return replace(store, labels={**store.labels, "cheap": replace(cheap, energy=cheap.energy + energy)})


@pytest.mark.parametrize("steps", [2, 4])
def test_a_training_does_not_go_on_with_other_stores(
    recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path, steps: int
):
    write_store(tmp_path / "small.h5", make_store(copies=8))
    checkpoint = train(with_steps(recipe, 2), tmp_path / "run", store_root=tmp_path, options=QUIET)
    revision, config = read_checkpoint(checkpoint).revision, read_checkpoint(checkpoint).config
    (tmp_path / "small.h5").unlink()
    write_store(tmp_path / "small.h5", shifted(make_store(copies=8), 5.0))
    with pytest.raises(RecipeError, match=r"on other data: small\.h5 changed since its first step; restore"):
        train(with_steps(recipe, steps), tmp_path / "run", store_root=tmp_path, options=QUIET)
    assert read_checkpoint(checkpoint).revision == revision
    assert read_checkpoint(checkpoint).config == config


def test_a_training_does_not_go_on_from_another_start_checkpoint(recipe: Recipe, stores: Path, tmp_path: Path):
    start = train(with_steps(recipe, 1), tmp_path / "start", store_root=stores, options=QUIET)
    second = with_steps(replace(recipe, start_from=(str(start),)), 2)
    train(second, tmp_path / "run", store_root=stores, options=QUIET)
    stored = read_checkpoint(start)
    stored.config["levels"][0]["references"][0] += 1.0
    save_checkpoint(start, stored.tensors, stored.config)
    with pytest.raises(RecipeError, match=r"differ now \(level 'cheap'\), so the checkpoints .* changed"):
        train(second, tmp_path / "run", store_root=stores, options=QUIET)


def test_a_state_without_its_origin_goes_on(recipe: Recipe, stores: Path, tmp_path: Path):
    """Written by an earlier version."""
    constant = replace(recipe, optim=replace(recipe.optim, decay=0.0))
    whole = train(with_steps(constant, 4), tmp_path / "whole", store_root=stores, options=QUIET)
    train(with_steps(constant, 2), tmp_path / "parts", store_root=stores, options=QUIET)
    state = tmp_path / "parts" / STATE_FILE
    with safe_open(state, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key not in ("config", "stores")}
    safetensors.torch.save_file(safetensors.torch.load_file(state), state, metadata=metadata)
    parts = train(with_steps(constant, 4), tmp_path / "parts", store_root=stores, options=QUIET)
    assert same(read_checkpoint(whole).tensors, read_checkpoint(parts).tensors)


def test_a_second_training_in_the_same_folder_is_refused(recipe: Recipe, stores: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    with (
        output_lock(tmp_path / "run" / STATE_FILE, "writing"),
        pytest.raises(StoreError, match=f"another process is currently writing .*{STATE_FILE}"),
    ):
        train(with_steps(recipe, 2), tmp_path / "run", store_root=stores, options=QUIET)
    train(with_steps(recipe, 2), tmp_path / "run", store_root=stores, options=QUIET)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {STATE_FILE, LOG_FILE, "small"}


def test_the_other_processes_wait_for_stores_that_take_days_to_make(monkeypatch: pytest.MonkeyPatch):
    asked: dict = {}

    def joined(backend: str, **options) -> None:
        asked.update(options)
        raise InterruptedError

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "init_process_group", joined)
    with pytest.raises(InterruptedError), processes_module.processes():
        pass
    assert asked["timeout"] >= timedelta(days=2)


# ---- gradients and parts


def test_a_gradient_that_is_not_finite_stops_the_training_before_its_step(
    recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_store(tmp_path / "small.h5", make_store(copies=8))
    constant = replace(recipe, optim=replace(recipe.optim, decay=0.0))
    train(with_steps(constant, 2), tmp_path / "two", store_root=tmp_path, options=QUIET)
    whole = train(with_steps(constant, 6), tmp_path / "whole", store_root=tmp_path, options=QUIET)
    compute, computed = trainer.compute_losses, []

    def overlapping(model, labelled, *arguments, **options):
        computed.append(labelled)
        if len(computed) == 3:
            labelled.batch.positions[:, 1] = labelled.batch.positions[:, 0]
            terms = compute(model, labelled, *arguments, **options)
            return {name: value * torch.nan for name, value in terms.items()}
        return compute(model, labelled, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "compute_losses", overlapping)
        with pytest.raises(LabelError, match=r"step 3: the norm of the gradient is nan, .* are 0 Å apart\. Look in"):
            train(with_steps(constant, 6), tmp_path / "run", store_root=tmp_path, options=QUIET)
    states = [safetensors.torch.load_file(tmp_path / folder / STATE_FILE) for folder in ("run", "two")]
    assert same(*states)
    again = train(with_steps(constant, 6), tmp_path / "run", store_root=tmp_path, options=QUIET)
    assert same(read_checkpoint(whole).tensors, read_checkpoint(again).tensors)


def test_the_log_is_json_where_a_level_has_no_forces(recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path):
    store = make_store(copies=8)
    bare = replace(store, labels={"cheap": LevelLabels(store.labels["cheap"].energy)})
    write_store(tmp_path / "small.h5", bare)
    data = replace(recipe.data[0], levels=("cheap",), labels=("energy",))
    energies = replace(
        with_steps(recipe, 2), levels=recipe.levels[:1], data=(data,), loss=LossRecipe(energy=1.0, forces=0.0)
    )
    train(energies, tmp_path / "run", store_root=tmp_path, options=replace(QUIET, log_steps=1))
    assert "NaN" not in (tmp_path / "run" / LOG_FILE).read_text()
    assert [row["force_mae"] for row in log(tmp_path / "run") if "validation" in row] == [None]


def test_a_part_to_train_that_the_model_does_not_have_is_refused(recipe: Recipe, stores: Path):
    wrong = replace(recipe, optim=replace(recipe.optim, train=("structure", "energy.head.dft.")))
    message = (
        r"'energy\.head\.dft\.', with .* parts of the model are energy, structure; those of energy are "
        r".*energy\.rows.*energy\.heads"
    )
    with pytest.raises(RecipeError, match=message):
        make_model(wrong, load_training_items(recipe, stores, "train"))


# ---- tables of uncertainty


def with_tables(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint with random tables of uncertainty of level "cheap" and two known environments."""
    stored = read_checkpoint(checkpoint)
    config = replace(
        config_from_dict(stored.config),
        energy_uncertainty=("cheap",),
        forces_uncertainty=("cheap",),
        n_environments=2,
    )
    tables = {
        name: torch.rand(value.shape) if value.is_floating_point() else torch.arange(1, 3, dtype=value.dtype)
        for name, value in PhysCon(config).state_dict().items()
        if name not in stored.tensors
    }
    save_checkpoint(folder, stored.tensors | tables, config_to_dict(config), recipe=stored.recipe)
    return folder


@pytest.fixture
def calibrated(recipe: Recipe, stores: Path, tmp_path: Path) -> Path:
    """A checkpoint of level "cheap" with tables of uncertainty."""
    cheap = replace(recipe, levels=recipe.levels[:1], data=(replace(recipe.data[0], levels=("cheap",)),))
    cheap = replace(cheap, loss=replace(cheap.loss, structure=0.0))
    return with_tables(train(with_steps(cheap, 2), tmp_path / "bare", store_root=stores, options=QUIET), tmp_path / "c")


def test_an_added_level_leaves_the_uncertainties_of_the_other_levels(
    recipe: Recipe, stores: Path, tmp_path: Path, calibrated: Path
):
    dft = replace(
        recipe, levels=recipe.levels[1:], data=(replace(recipe.data[0], levels=("dft",)),),
        loss=replace(recipe.loss, structure=0.0),
    )  # fmt: skip
    config = config_from_dict(read_checkpoint(calibrated).config)
    added = with_steps(added_to(dft, str(calibrated), config), 2)
    both = train(added, tmp_path / "both", store_root=stores, options=QUIET)
    before, after = read_checkpoint(calibrated).tensors, read_checkpoint(both).tensors
    assert same(before, {name: after[name] for name in before})
    old, new = load_model(calibrated).model, load_model(both).model
    assert new.config.energy_uncertainty == new.config.forces_uncertainty == ("cheap",)
    assert new.uncertainty_limit("cheap", 9) == old.uncertainty_limit("cheap", 9)
    assert new.environments is not None


@pytest.mark.parametrize("part", [(), ("energy",), ("energy.heads.cheap.",), ("structure", "energy.embedding")])
def test_tables_of_a_level_that_is_trained_are_dropped_and_environments_stay_known(
    recipe: Recipe, stores: Path, calibrated: Path, part: tuple[str, ...]
):
    trained = replace(recipe, start_from=(str(calibrated),), optim=replace(recipe.optim, train=part))
    model = make_model(trained, load_training_items(recipe, stores, "train"))
    assert model.config.energy_uncertainty == model.config.forces_uncertainty == ()
    assert model.environments is not None
    np.testing.assert_array_equal(model.environments.n_molecules(np.array([1, 2, 3])), [1, 2, 0])


def test_a_structure_network_is_trained_beside_the_uncertainties_of_all_levels(
    recipe: Recipe, stores: Path, calibrated: Path
):
    structures = replace(recipe, start_from=(str(calibrated),), optim=replace(recipe.optim, train=("structure",)))
    model = make_model(structures, load_training_items(recipe, stores, "train"))
    assert model.config.energy_uncertainty == ("cheap",)
    tables = read_checkpoint(calibrated).tensors
    assert torch.equal(model.get_buffer("energy_rigidity.cheap.factor"), tables["energy_rigidity.cheap.factor"])


def test_another_network_keeps_no_tables(recipe: Recipe, stores: Path, calibrated: Path):
    wider = replace(recipe, start_from=(str(calibrated),), encoder=replace(recipe.encoder, hidden=16))
    model = make_model(wider, load_training_items(recipe, stores, "train"))
    assert model.environments is None


def test_a_store_that_is_missing_is_named(recipe: Recipe, tmp_path: Path):
    with pytest.raises(StoreError, match=r"there is no store .*; create it with `physcon data import`"):
        train(recipe, tmp_path / "run", store_root=tmp_path / "nowhere", options=QUIET)
