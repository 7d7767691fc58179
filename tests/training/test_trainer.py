import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from physcon_ase.data.store import LevelLabels, Store, geometry_offsets, write_store
from physcon_ase.errors import LabelError, RecipeError
from physcon_ase.model.checkpoint import read_checkpoint
from physcon_ase.model.physcon import load_model
from physcon_ase.training.config import Recipe, parse_recipe, with_steps
from physcon_ase.training.state import STATE_FILE
from physcon_ase.training.trainer import LOG_FILE, RunOptions, train

QUIET = RunOptions(log_steps=5, progress_bar=False)

SCRIPT = """
import sys
import torch
from physcon_ase.training.config import read_recipe
from physcon_ase.training.trainer import RunOptions, train
torch.set_num_threads(1)
options = RunOptions(save_minutes=float(sys.argv[4]), log_steps=1, progress_bar=False)
train(read_recipe(sys.argv[1]), sys.argv[2], store_root=sys.argv[3], options=options)
"""


@pytest.fixture
def recipe(recipe_text: str) -> Recipe:
    return parse_recipe(recipe_text)


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
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517", "script.py"]
    arguments = ["recipe.toml", "run", str(stores), "60"]
    subprocess.run([*command, *arguments], cwd=tmp_path, check=True, capture_output=True)
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


def test_weighted_loss_without_any_label_is_refused(recipe: Recipe, make_store: Callable[..., Store], tmp_path: Path):
    store = make_store(copies=8)
    labels = {"cheap": LevelLabels(store.labels["cheap"].energy)}
    write_store(tmp_path / "small.h5", replace(store, labels=labels))
    bare = replace(
        recipe, levels=recipe.levels[:1], data=(replace(recipe.data[0], levels=("cheap",)),), structure=None,
        loss=replace(recipe.loss, structure=0.0),
    )  # fmt: skip
    with pytest.raises(LabelError, match=r"loss\.forces = 1\.0, but the data have no forces label"):
        train(bare, tmp_path / "run", store_root=tmp_path, options=QUIET)


def test_frozen_parts_keep_their_weights_and_start_from_takes_references(recipe: Recipe, stores: Path, tmp_path: Path):
    first = train(with_steps(recipe, 3), tmp_path / "first", store_root=stores, options=QUIET)
    second = replace(
        with_steps(recipe, 3),
        start_from=(str(first),),
        optim=replace(recipe.optim, steps=3, freeze=("encoder", "heads")),
    )
    folder = train(second, tmp_path / "second", store_root=stores, options=QUIET)
    before, after = read_checkpoint(first), read_checkpoint(folder)
    frozen = [name for name in before.tensors if name.startswith(("encoder", "heads"))]
    assert same({name: before.tensors[name] for name in frozen}, {name: after.tensors[name] for name in frozen})
    moved = [name for name in before.tensors if name.startswith("structure") and "readout" in name]
    assert not same({name: before.tensors[name] for name in moved}, {name: after.tensors[name] for name in moved})
    assert before.config["levels"] == after.config["levels"]
