"""Errors of a checkpoint on stores, for each level and kind of geometry: the table of ``physcon evaluate``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from physcon_ase.data.loader import load_items, move_items
from physcon_ase.data.selection import ENERGY_LABELS, DataSet
from physcon_ase.data.store import open_store
from physcon_ase.errors import StoreError
from physcon_ase.model.checkpoint import read_checkpoint
from physcon_ase.model.physcon import PhysCon, load_model
from physcon_ase.training.evaluate import LevelErrors, covered_items, evaluate_energies, left_out
from physcon_ase.training.held_out import check_held_out

_LINE: Final = "{:20s} {:10s} {:12s} {:>10s} {:>18s} {:>12s} {:>14s}"


def error_table(
    checkpoint: Path | str, stores: Sequence[Path], *, split: str = "test", device: torch.device | str = "cpu"
) -> Iterator[str]:
    """The lines of the table, each as soon as it is computed.

    Geometries with elements or total charges that a level does not cover are left out; a line says how many.

    Args:
        checkpoint: a shipped name or a folder.
        stores: the stores.
        split: which molecules: "train", "validation", "test", or "all" for a store without
            training molecules.
        device: device of the model.

    Raises:
        StoreError: a store that cannot be read, that has no level of the model, or all of whose molecules the recipe
            in the checkpoint assigns to the training, unless `split` is "train".
        UnsupportedElementError: a level does not cover the elements of any geometry of a store.
    """
    loaded = load_model(checkpoint, device=device)
    if split != "train":
        check_held_out(read_checkpoint(checkpoint), stores)
    yield f"{loaded.name} (revision {loaded.revision[:12]}), split {split}"
    yield _LINE.format("store", "level", "kind", "energies", "energy MAE [meV]", "components", "F MAE [meV/Å]")
    for store in stores:
        for kind, errors in _errors_by_kind(loaded.model, store, split):
            if isinstance(errors, str):
                yield f"{store.stem}, {kind}: {errors}"
                continue
            energy, force = f"{1000 * errors.energy_mae:.1f}", f"{1000 * errors.force_mae:.1f}"
            yield _LINE.format(
                store.stem, errors.level, kind, str(errors.n_energies), energy, str(errors.n_forces), force
            )


def _errors_by_kind(model: PhysCon, path: Path, split: str) -> Iterator[tuple[str, LevelErrors | str]]:
    """Errors of a model on one store, for each level that both have and each kind of geometry, or what was left out."""
    store = open_store(path)
    split, assign_to = ("test", "test") if split == "all" else (split, "")
    levels = tuple(name for name in model.level_names if name in {*store.labels, *store.geometries.minimum_of.tolist()})
    if not levels:
        raise StoreError(
            f"{path} has labels of {', '.join(store.labels) or 'no level'}, the model has the levels "
            f"{', '.join(model.level_names)}: nothing to compare"
        )
    for kind in dict.fromkeys(store.geometries.kind.tolist()):
        source = DataSet(str(path), levels, kinds=(kind,), assign_to=assign_to, labels=ENERGY_LABELS)
        items = load_items([source], model.level_names, split)
        for level in levels:
            items, n_left_out = covered_items(model, items, level)
            if n_left_out:
                yield kind, left_out(n_left_out, model, level)
        for errors in evaluate_energies(model, move_items(items, model.energy.embedding.weight.device)):
            yield kind, errors
