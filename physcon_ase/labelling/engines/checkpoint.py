"""Checkpoints of this package as engines."""

import functools
import re
from pathlib import Path

import torch

from physcon_ase.batch import make_batch, threads_for
from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines.engine import Engine, EngineLabel, EngineRecord, Molecule
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel, load_model
from physcon_ase.units import CHEMICAL_SYMBOLS


def checkpoint_engine(checkpoint: str | Path, *, level: str | None = None) -> Engine:
    """Engine for a checkpoint of this package, in float64.

    The level of the labels is named "<checkpoint>_<level>" to distinguish them from labels of the level itself. Dots
    and other characters that names of levels in recipes must not have are replaced by "_".

    Args:
        checkpoint: a shipped name or a folder.
        level: level of theory of the checkpoint; by default the first.

    Raises:
        CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `load_model`.
        UnknownLevelError: the checkpoint has no such level.
    """
    loaded = _loaded(str(checkpoint))
    name = loaded.model.level_names[0] if level is None else loaded.model.level(level).name
    own_name = re.sub(r"[^\w+-]", "_", f"{loaded.name}_{name}")
    record = EngineRecord(own_name, "physcon_ase", loaded.revision, {"level": name, "dtype": "float64"})
    return Engine(record, functools.partial(_checkpoint_label, checkpoint=str(checkpoint), level=name))


def _checkpoint_label(molecule: Molecule, *, checkpoint: str, level: str) -> EngineLabel:
    model = _loaded(checkpoint).model
    missing = sorted(set(molecule.atomic_numbers.tolist()) - set(model.level(level).elements))
    if missing:
        symbols = ", ".join(CHEMICAL_SYMBOLS.get(number, str(number)) for number in missing)
        raise EngineError(f"level {level!r} of {checkpoint} does not cover {symbols}; use another engine")
    charges = model.level(level).charges
    if molecule.charge not in charges or molecule.multiplicity != 1:
        raise EngineError(
            f"level {level!r} of {checkpoint} only covers closed shells of charge {', '.join(map(str, charges))}, "
            f"received charge {molecule.charge:+d} and multiplicity {molecule.multiplicity}; use another engine"
        )
    centred = molecule.positions - molecule.positions.mean(axis=0)
    batch = make_batch([molecule.atomic_numbers], [centred], charges=[molecule.charge], dtype=torch.float64)
    with threads_for(batch):
        energies, forces = energies_and_forces(model.energy_fn(level), batch)
    return EngineLabel(float(energies[0]), forces[0].numpy(force=True))


@functools.lru_cache(maxsize=4)
def _loaded(checkpoint: str) -> LoadedModel:
    """Loaded checkpoint, cached per process."""
    return load_model(checkpoint, dtype=torch.float64)
