"""Study of many inexpensive and few accurate forces of one molecule: trainings and table of force errors.

    python studies/asteroid/label.py stores                        # the geometries and their labels
    python studies/asteroid/run.py stores runs --molecules ethanol --seeds 0 1 2
    python studies/asteroid/run.py stores runs20 --molecules ethanol --trajectories 2       # 20 accurate labels, not 80

Force MAE on the test geometries, at B3LYP/6-31G(2df,p). Every row has the number of optimiser steps of "accurate
alone". Finished trainings in the folder are not repeated, and interrupted ones continue.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from physcon_ase.data.loader import Items, load_items
from physcon_ase.data.selection import DataSet
from physcon_ase.data.store import geometry_offsets, molecule_graph, open_store
from physcon_ase.errors import PhysConError
from physcon_ase.labelling.engines import Molecule, tblite_engine
from physcon_ase.model.physcon import load_model
from physcon_ase.training.evaluate import evaluate_energies
from physcon_ase.training.recipe import AsteroidRecipe, LossRecipe, Recipe
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.trainer import RunOptions, train

STAGES: Final = ("1-accurate", "2-cheap", "3-tuned")
"""Recipes of the three stages."""

OPTIONS: Final = RunOptions(log_steps=100, validate_steps=10**9, progress_bar=False)


def first_stages(cheap: Recipe, judge: Path) -> dict[str, Recipe]:
    """Recipes of the trainings before the fine-tuning, by the name of the row."""
    assert cheap.asteroid is not None
    bare = replace(cheap.data[0], borrow_forces_from="", unlabelled=True)
    return {
        "cheap forces": replace(cheap, asteroid=None),
        "cheap forces, weighted (ASTEROID)": replace(cheap, asteroid=replace(cheap.asteroid, checkpoint=str(judge))),
        "geometries, score matching": replace(
            cheap,
            asteroid=AsteroidRecipe(),
            loss=LossRecipe(energy=0.0, forces=0.0, score_matching=1.0),
            data=(bare, *cheap.data[1:]),
        ),
    }


def trajectories_of(path: Path, n: int) -> tuple[str, ...]:
    """Kinds of the geometries of the first `n` trajectories of a store of label.py; empty, which is all, for 0.

    Raises:
        PhysConError: the store has fewer.
    """
    kinds = tuple(dict.fromkeys(open_store(path, levels=()).geometries.kind.tolist()))
    if len(kinds) < n:
        raise PhysConError(
            f"{path} tells {len(kinds)} trajectories apart, but {n} are asked for; ask for fewer, or make the store "
            "again with label.py if it is older"
        )
    return kinds[:n]


def recipe_of(molecule: str, stage: str, seed: int, kinds: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a stage, with accurate labels of some kinds of geometries, see `trajectories_of`; that of ethanol
    with another molecule's name in all places.
    """
    text = Path(__file__).with_name(f"ethanol-{stage}.toml").read_text(encoding="utf-8")
    recipe = replace(parse_recipe(text.replace("ethanol", molecule)), seed=seed)
    data = [replace(data, kinds=kinds) if data.store == f"{molecule}_b3lyp.h5" else data for data in recipe.data]
    return replace(recipe, data=tuple(data))


def rows(molecule: str, seed: int, trajectories: int, stores: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """The name and the checkpoint of each row."""
    kinds = trajectories_of(stores / f"{molecule}_b3lyp.h5", trajectories)
    accurate, cheap, tuned = (recipe_of(molecule, stage, seed, kinds) for stage in STAGES)

    def fit(recipe: Recipe, name: str) -> Path:
        return train(recipe, folder / molecule / f"{seed}-{name}", store_root=stores, options=OPTIONS)

    judge = fit(accurate, "accurate")
    yield "accurate alone", judge
    for number, (name, recipe) in enumerate(first_stages(cheap, judge).items()):
        start = fit(recipe, f"cheap-{number}")
        yield f"{name}, before fine-tuning", start
        yield f"{name}, fine-tuned", fit(replace(tuned, start_from=(str(start),)), f"tuned-{number}")


def force_mae(checkpoint: Path, items: Items) -> float:
    """Force MAE of a checkpoint [meV/Å]."""
    (errors,) = evaluate_energies(load_model(checkpoint).model, items)
    return 1000 * errors.force_mae


def cheap_mae(path: Path) -> float:
    """Force MAE of GFN2-xTB itself [meV/Å]."""
    store, engine = open_store(path), tblite_engine()
    bounds, labels = geometry_offsets(store), store.labels["b3lyp"]
    assert labels.forces is not None
    errors = []
    for row, molecule in enumerate(store.geometries.molecule.tolist()):
        atoms = slice(bounds[row], bounds[row + 1])
        graph = molecule_graph(store, molecule)
        positions = store.geometries.positions[atoms]
        forces = engine(Molecule(graph.atomic_numbers, positions, graph.charge, graph.multiplicity)).forces
        errors.append(np.abs(forces - labels.forces[atoms]).ravel())
    return 1000 * float(np.concatenate(errors).mean())


def table(
    molecules: Sequence[str], seeds: Sequence[int], trajectories: int, stores: Path, folder: Path
) -> dict[str, dict[str, list[float]]]:
    """Force MAE [meV/Å] of each seed, by row and molecule."""
    found: dict[str, dict[str, list[float]]] = {}
    for molecule in molecules:
        path = stores / f"{molecule}_b3lyp_test.h5"
        items = load_items([DataSet(str(path), ("b3lyp",), assign_to="test")], ("b3lyp",), "test")
        found.setdefault("GFN2-xTB itself", {})[molecule] = [cheap_mae(path)]
        for seed in seeds:
            for name, checkpoint in rows(molecule, seed, trajectories, stores, folder):
                found.setdefault(name, {}).setdefault(molecule, []).append(force_mae(checkpoint, items))
                print(f"{molecule}, seed {seed}, {name}: {found[name][molecule][-1]:.1f} meV/Å", flush=True)
    return found


def main() -> None:
    """Runs the trainings and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, help="folder that label.py wrote to")
    parser.add_argument("folder", type=Path, help="where trainings go")
    parser.add_argument("--molecules", nargs="+", default=["ethanol", "toluene", "aspirin"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--trajectories", type=int, default=0, help="whose accurate labels are trained on (default: all)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = table(options.molecules, options.seeds, options.trajectories, options.stores, options.folder)
    print(f"\n| force MAE [meV/Å] | {' | '.join(options.molecules)} |\n| --- |{' ---: |' * len(options.molecules)}")
    for name, of_molecule in found.items():
        cells = [" / ".join(f"{error:.0f}" for error in of_molecule[molecule]) for molecule in options.molecules]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
