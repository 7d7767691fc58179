"""Uncertainty tables of a checkpoint.

They hold features and environments of the training molecules, and errors on the validation molecules.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from physcon_ase.data.loader import Items, load_items, move_items, take
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.data.selection import DataSet
from physcon_ase.data.split import split_mask
from physcon_ase.data.store import open_store
from physcon_ase.errors import LabelError
from physcon_ase.model.checkpoint import Checkpoint, check_replaceable, read_checkpoint, save_checkpoint
from physcon_ase.model.config import LevelConfig, config_from_dict, config_to_dict
from physcon_ase.model.coverage import format_charges
from physcon_ase.model.environments import environment_tensors
from physcon_ase.model.physcon import TABLES, PhysCon, load_model
from physcon_ase.model.uncertainty import energy_table, force_table, rigidity
from physcon_ase.training.environments import count_environments
from physcon_ase.training.evaluate import covered_items, left_out
from physcon_ase.training.held_out import check_held_out, forces_only
from physcon_ase.training.provenance import file_sum, read_provenance
from physcon_ase.units import CHEMICAL_SYMBOLS

FEWEST_GEOMETRIES: Final = 20
"""Held-out geometries with a label below which a level gets no table."""

FEWEST_MOLECULES: Final = 5
"""Held-out molecules with a label below which a level gets no table: geometries of one molecule have similar errors."""

FEWEST_CHARGED: Final = 5
"""Training molecules of a total charge below which a level does not cover it."""

_ATOMS_PER_BATCH: Final = 1024

_ENERGY, _FORCES, _ENVIRONMENTS = TABLES


@dataclass(frozen=True)
class Calibration:
    """What the tables of one level were made of, and σ beside the errors that it was fitted to; NaN where unknown."""

    level: str
    """Name of the level."""
    n_training: int
    """Geometries of training molecules in the tables."""
    n_energies: int
    """Held-out geometries with an energy."""
    energy_sigma: float
    """Median σ of these energies [eV]; NaN without a table."""
    energy_rmse: float
    """Root mean square error of these energies [eV]."""
    n_forces: int
    """Held-out geometries with forces."""
    force_sigma: float
    """Median σ of the force components of their atoms [eV/Å]; NaN without a table."""
    force_rmse: float
    """Root mean square error of these components [eV/Å]."""


@dataclass(frozen=True)
class _HeldOut:
    """Features and errors of held-out geometries."""

    features: Float[Tensor, "molecules features"]
    """Features of the molecules with an energy."""
    energy_errors: Float[Tensor, " molecules"]
    """Predicted minus labelled energies [eV]."""
    sizes: Int[Tensor, " molecules"]
    """Number of atoms of the same molecules."""
    atomic_features: Float[Tensor, "atoms features"]
    """Features of the atoms of molecules with forces."""
    force_errors: Float[Tensor, "atoms 3"]
    """Predicted minus labelled forces [eV/Å]."""
    atomic_numbers: Int[Tensor, " atoms"]
    """Atomic numbers of the same atoms."""
    n_atoms: Int[Tensor, " molecules_with_forces"]
    """Numbers of atoms of the molecules with forces."""
    identities: Int[Tensor, " molecules"]
    """Index of the molecule of each geometry with an energy."""
    identities_with_forces: Int[Tensor, " molecules_with_forces"]
    """Index of the molecule of each geometry with forces."""

    @property
    def is_enough_for_energies(self) -> bool:
        """Whether the energies are those of enough geometries and molecules."""
        return _is_enough(self.identities)

    @property
    def is_enough_for_forces(self) -> bool:
        """Whether the forces are those of enough geometries and molecules."""
        return _is_enough(self.identities_with_forces)


def _is_enough(identities: Tensor) -> bool:
    return len(identities) >= FEWEST_GEOMETRIES and len(identities.unique()) >= FEWEST_MOLECULES


def calibrate(
    checkpoint: Path | str,
    stores: Sequence[Path],
    folder: Path | str,
    *,
    continues: Path | str | None = None,
    n_molecules: int = 5000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Calibration, ...]:
    """Writes a copy of a checkpoint with a table of uncertainty for each level and quantity with enough labels.

    A table of the environments of atoms in all training molecules of the stores is added. Tables that the checkpoint
    had before are kept where the stores give none, such as those of other levels, and then the environments known to
    it, too. A level no longer covers elements that occur in no training molecule of its stores, nor total charges of
    fewer than `FEWEST_CHARGED` of them; geometries that it does not cover are left out. What is kept and left out is
    printed. Of stores whose forces alone were trained on, energies are left out.

    Args:
        checkpoint: a shipped name or a folder.
        stores: the data that it was trained on: training and validation molecules must be those of its training.
        folder: folder of the copy; may be that of the checkpoint.
        continues: calibrated checkpoint whose training this one continues, with other stores; the environments of its
            training molecules are known as well.
        n_molecules: molecules taken at most from each split of a store, for each level.
        seed: random seed of the choice of molecules.
        device: device of the model.

    Returns:
        One record for each level with labels.

    Raises:
        LabelError: no level gets a table, see `FEWEST_GEOMETRIES` and `FEWEST_MOLECULES`, or `continues` has no table
            of environments.
        StoreError: the recipe in the checkpoint assigns all molecules of a store to the training.
        PhysConError: `folder` holds something else than a checkpoint.
        UnsupportedElementError: a level does not cover the elements of any geometry of a store.
    """
    stored, model = read_checkpoint(checkpoint), load_model(checkpoint, device=device).model
    check_held_out(stored, stores)
    check_replaceable(Path(folder))
    found: list[Calibration] = []
    tables: dict[str, Tensor] = {}
    by_level, without = _stores_by_level(model, stores), forces_only(stored)
    for level, own in by_level.items():
        data = [_data_set(path, level, with_energies=Path(path).name not in without) for path in own]
        record, own_tables = _calibrate_level(model, level, data, n_molecules, seed)
        found.append(record)
        tables |= own_tables
    if not tables:
        raise LabelError(
            f"{', '.join(map(str, stores))}: no level of {stored.name} ({', '.join(model.level_names)}) has training "
            f"geometries and {FEWEST_GEOMETRIES} validation geometries, of {FEWEST_MOLECULES} molecules, with a label: "
            "give the data it was trained on"
        )
    kept = _kept_tables(stored, tables)
    tables |= kept
    counts = count_environments(stores)
    for known in (_earlier_environments(continues), _own_environments(model) if kept else {}):
        for environment, number in known.items():
            counts[environment] = max(number, counts.get(environment, 0))
    tables |= {f"{_ENVIRONMENTS}.{name}": value for name, value in environment_tensors(counts).items()}
    config = config_from_dict(stored.config)
    config = replace(
        config,
        levels=tuple(_covered(own, by_level[own.name]) if own.name in by_level else own for own in config.levels),
        n_environments=len(counts),
        energy_uncertainty=tuple(name for name in model.level_names if f"{_ENERGY}.{name}.factor" in tables),
        forces_uncertainty=tuple(name for name in model.level_names if f"{_FORCES}.{name}.factor" in tables),
    )
    weights = {name: value for name, value in stored.tensors.items() if not name.startswith(TABLES)}
    origin = read_provenance(checkpoint)
    if origin is not None:
        before = origin.get("calibrated_on", {}) if kept else {}
        origin = {**origin, "calibrated_on": before | {Path(store).name: file_sum(Path(store)) for store in stores}}
    tensors = {**weights, **tables}
    save_checkpoint(folder, tensors, config_to_dict(config), recipe=stored.recipe, provenance=origin)
    return tuple(found)


def copy_calibration(checkpoint: Path | str, calibrated: Path | str, folder: Path | str) -> None:
    """Writes a copy of a checkpoint with the tables and the coverage of another one that has the same energies.

    The tables do not depend on the structure network, and remain valid after a training of it alone.

    Args:
        checkpoint: a shipped name or a folder.
        calibrated: checkpoint with the tables, a shipped name or a folder.
        folder: folder of the copy; may be that of the checkpoint.

    Raises:
        LabelError: `calibrated` has other energies or no table of environments.
        PhysConError: `folder` holds something else than a checkpoint.
    """
    stored, other = read_checkpoint(checkpoint), read_checkpoint(calibrated)
    check_replaceable(Path(folder))
    if not other.config["n_environments"]:
        raise LabelError(f"{calibrated} has no table of environments; calibrate it first")
    energies, known = (
        {name: values for name, values in own.tensors.items() if name.startswith("energy.")} for own in (stored, other)
    )
    if energies.keys() != known.keys() or not all(
        torch.equal(values, known[name]) for name, values in energies.items()
    ):
        raise LabelError(
            f"{checkpoint} has other energies than {calibrated}, whose uncertainties are therefore not its own; give "
            "the stores that it was trained on"
        )
    weights = {name: values for name, values in stored.tensors.items() if not name.startswith(TABLES)}
    tables = {name: values for name, values in other.tensors.items() if name.startswith(TABLES)}
    of_tables = ("levels", "n_environments", "energy_uncertainty", "forces_uncertainty")
    config = stored.config | {key: other.config[key] for key in of_tables}
    origin = read_provenance(checkpoint)
    if origin is not None:
        origin = {**origin, "calibrated_on": (read_provenance(calibrated) or {}).get("calibrated_on", {})}
    save_checkpoint(folder, weights | tables, config, recipe=stored.recipe, provenance=origin)


def _covered(level: LevelConfig, stores: Sequence[Path]) -> LevelConfig:
    """The level with the elements and total charges of its training molecules; neutral molecules in any case."""
    elements: set[int] = set()
    with_charge: dict[int, set[int]] = {charge: set() for charge in level.charges}
    for path in stores:
        store = open_store(path, levels=())
        molecules, is_training = store.molecules, split_mask(store, "train")
        elements.update(molecules.atomic_numbers[np.repeat(is_training, molecules.n_atoms)].tolist())
        for charge, keys in with_charge.items():
            keys.update(molecules.key_hash[is_training & (molecules.charges == charge)].tolist())
    pairs = zip(level.elements, level.references, strict=True)
    references = {element: energy for element, energy in pairs if element in elements}
    charges = tuple(charge for charge, keys in with_charge.items() if charge == 0 or len(keys) >= FEWEST_CHARGED)
    lost = [CHEMICAL_SYMBOLS[element] for element in level.elements if element not in references]
    rare = [charge for charge in level.charges if charge not in charges]
    if lost:
        tqdm.write(f"{level.name}: no longer covers {', '.join(lost)}, which no training molecule of the stores has")
    if rare:
        tqdm.write(
            f"{level.name}: no longer covers charges {format_charges(rare)}, which fewer than {FEWEST_CHARGED} "
            "training molecules of the stores have"
        )
    return replace(level, elements=tuple(references), references=tuple(references.values()), charges=charges)


def _kept_tables(stored: Checkpoint, new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tables of a checkpoint, whose weights stay the same, that no new ones replace."""
    kept = {
        name: value
        for name, value in stored.tensors.items()
        if name.startswith((f"{_ENERGY}.", f"{_FORCES}.")) and f"{name.rpartition('.')[0]}.factor" not in new
    }
    for table, quantity in ((_ENERGY, "energies"), (_FORCES, "forces")):
        names = [name.split(".")[1] for name in kept if name.startswith(f"{table}.") and name.endswith(".factor")]
        if names:
            tqdm.write(f"{quantity}: the table of {', '.join(names)} is kept, for which the stores give none")
    return kept


def _earlier_environments(checkpoint: Path | str | None) -> dict[int, int]:
    """Table of environments of a checkpoint; empty without one."""
    if checkpoint is None:
        return {}
    found = _own_environments(load_model(checkpoint).model)
    if not found:
        raise LabelError(f"{checkpoint} has no table of environments; calibrate it first")
    return found


def _own_environments(model: PhysCon) -> dict[int, int]:
    """Table of environments of a model; empty without one."""
    table = model.environments
    return {} if table is None else dict(zip(table.hashes.tolist(), table.counts.tolist(), strict=True))


def format_calibrations(calibrations: Sequence[Calibration]) -> str:
    """One line for each level; "-" where there is no table."""
    line = "{:10s} {:>10s} {:>10s} {:>12s} {:>12s} {:>10s} {:>14s} {:>14s}"
    head = ("level", "training", "energies", "sigma [meV]", "RMSE [meV]", "forces", "sigma [meV/Å]", "RMSE [meV/Å]")
    rows = [
        (
            row.level,
            str(row.n_training),
            str(row.n_energies),
            *(_in_milli(value) for value in (row.energy_sigma, row.energy_rmse)),
            str(row.n_forces),
            *(_in_milli(value) for value in (row.force_sigma, row.force_rmse)),
        )
        for row in calibrations
    ]
    return "\n".join(line.format(*row) for row in (head, *rows))


def _in_milli(value: float) -> str:
    return "-" if math.isnan(value) else f"{1000 * value:.1f}"


def _calibrate_level(
    model: PhysCon, level: str, data: Sequence[DataSet], n_molecules: int, seed: int
) -> tuple[Calibration, dict[str, Tensor]]:
    generator, tables = np.random.default_rng(seed), {}
    n_training, of_molecules, of_atoms = _second_moments(
        model, level, _labelled(model, level, data, "train", n_molecules, generator)
    )
    held_out = _held_out(model, level, _labelled(model, level, data, "validation", n_molecules, generator))
    n_energies, energy_sigma, force_sigma = len(held_out.energy_errors), math.nan, math.nan
    if n_training and held_out.is_enough_for_energies:
        table = energy_table(of_molecules, held_out.features, held_out.energy_errors, held_out.sizes)
        tables |= {f"{_ENERGY}.{level}.{name}": value.float() for name, value in table.items()}
        energy_sigma = rigidity(held_out.features.double(), table["factor"]).median().item()
    if n_training and held_out.is_enough_for_forces:
        numbers = held_out.atomic_numbers
        table = force_table(of_atoms, held_out.atomic_features, held_out.force_errors, numbers)
        tables |= {f"{_FORCES}.{level}.{name}": value.float() for name, value in table.items()}
        sigma = table["scale"][numbers] * rigidity(held_out.atomic_features.double(), table["factor"])
        force_sigma = sigma.median().item()
    record = Calibration(
        level=level,
        n_training=n_training,
        n_energies=n_energies,
        energy_sigma=energy_sigma,
        energy_rmse=held_out.energy_errors.square().mean().sqrt().item(),
        n_forces=len(held_out.n_atoms),
        force_sigma=force_sigma,
        force_rmse=held_out.force_errors.square().mean().sqrt().item(),
    )
    return record, tables


# ---- data


def _stores_by_level(model: PhysCon, stores: Sequence[Path]) -> dict[str, list[Path]]:
    """The stores with labels of each level of the model."""
    labels = {path: open_store(path).labels for path in stores}
    found = {name: [path for path in stores if name in labels[path]] for name in model.level_names}
    return {name: paths for name, paths in found.items() if paths}


def _data_set(path: Path, level: str, *, with_energies: bool) -> DataSet:
    return DataSet(str(path), (level,), labels=("energy", "forces") if with_energies else ("forces",))


def _labelled(
    model: PhysCon, level: str, data: Sequence[DataSet], split: str, n_molecules: int, generator: np.random.Generator
) -> Iterator[LabelledBatch]:
    """The geometries with a label of the level, of at most `n_molecules` molecules of each data set.

    `LabelledBatch.identity` tells the molecules of all stores apart.
    """
    n_before = 0
    for own in data:
        items = load_items([own], model.level_names, split)
        items, n_left_out = covered_items(model, items, level)
        if n_left_out:
            tqdm.write(f"{Path(own.store).stem}, {split}: {left_out(n_left_out, model, level)}")
        moved = move_items(items, model.energy.embedding.weight.device)
        for bucket, rows in zip(moved.buckets, _rows_of_some(items, n_molecules, generator), strict=True):
            size = max(1, _ATOMS_PER_BATCH // bucket.n_slots)
            for begin in range(0, len(rows), size):
                labelled = take(bucket, rows[begin : begin + size])
                yield replace(labelled, identity=labelled.identity + n_before)
            n_before += int(bucket.molecule.max()) + 1


def _rows_of_some(items: Items, n_molecules: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Rows of the items, per bucket, of `n_molecules` random molecules."""
    counts = [int(bucket.molecule.max()) + 1 for bucket in items.buckets]
    chosen = np.split(generator.permutation(sum(counts)) < n_molecules, np.cumsum(counts))
    return [np.flatnonzero(own[bucket.molecule.numpy()]) for bucket, own in zip(items.buckets, chosen, strict=False)]


# ---- features and errors


def _second_moments(
    model: PhysCon, level: str, batches: Iterable[LabelledBatch]
) -> tuple[int, Float[Tensor, "features features"], Float[Tensor, "features features"]]:
    """Number of geometries, FᵀF / n of their features, and the same of their atoms."""
    size = model.energy.head(level).n_hidden
    of_molecules, of_atoms = torch.zeros(2, size, size, dtype=torch.float64)
    n_molecules = n_atoms = 0
    for labelled in batches:
        with torch.no_grad():
            features = model.evaluate(labelled.batch, level).features
        molecules, atoms = features.sum(dim=1).double().cpu(), features[labelled.batch.atom_mask].double().cpu()
        n_molecules, n_atoms = n_molecules + len(molecules), n_atoms + len(atoms)
        of_molecules += molecules.T @ molecules
        of_atoms += atoms.T @ atoms
    return n_molecules, of_molecules / max(1, n_molecules), of_atoms / max(1, n_atoms)


def _held_out(model: PhysCon, level: str, batches: Iterable[LabelledBatch]) -> _HeldOut:
    size = model.energy.head(level).n_hidden
    nothing = _HeldOut(
        features=torch.zeros(0, size),
        energy_errors=torch.zeros(0, dtype=torch.float64),
        sizes=torch.zeros(0, dtype=torch.int64),
        atomic_features=torch.zeros(0, size),
        force_errors=torch.zeros(0, 3),
        atomic_numbers=torch.zeros(0, dtype=torch.int64),
        n_atoms=torch.zeros(0, dtype=torch.int64),
        identities=torch.zeros(0, dtype=torch.int64),
        identities_with_forces=torch.zeros(0, dtype=torch.int64),
    )
    found = [nothing, *(_held_out_batch(model, level, labelled) for labelled in batches)]
    return _HeldOut(**{f.name: torch.cat([getattr(own, f.name).cpu() for own in found]) for f in fields(_HeldOut)})


def _held_out_batch(model: PhysCon, level: str, labelled: LabelledBatch) -> _HeldOut:
    batch = labelled.batch
    outputs = model.evaluate(batch, level, forces=True)
    assert outputs.forces is not None
    features = outputs.features
    with_energy, with_forces = labelled.has_energy, labelled.has_forces
    atoms = batch.atom_mask & with_forces[:, None]
    return _HeldOut(
        features=features.sum(dim=1)[with_energy],
        energy_errors=(outputs.energies - labelled.energy)[with_energy],
        sizes=batch.n_atoms[with_energy],
        atomic_features=features[atoms],
        force_errors=(outputs.forces - labelled.forces)[atoms],
        atomic_numbers=batch.atomic_numbers[atoms],
        n_atoms=batch.n_atoms[with_forces],
        identities=labelled.identity[with_energy],
        identities_with_forces=labelled.identity[with_forces],
    )
