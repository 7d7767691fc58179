"""State of a training on disk: weights, averages, optimiser and progress, for bit-identical continuation."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from physcon_ase.errors import CorruptCheckpointError
from physcon_ase.model.config import ModelConfig, config_from_dict, config_to_dict
from physcon_ase.model.physcon import PhysCon
from physcon_ase.training.optim import Optimizer, WeightAverage

STATE_FILE = "state.safetensors"
"""Name of the file in the folder of a run."""


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a training; it determines noise and order of the data together with the seed of the recipe."""

    step: int = 0
    """Steps done."""
    epoch: int = 0
    """Epoch of the next batch."""
    batch: int = 0
    """Number of the next batch of this process within the epoch."""
    n_processes: int = 0
    """Processes that share the steps, on which the order of the data depends; 0 if not known."""
    cpu_seconds: float = 0.0
    """Processor time of this process so far, that of interrupted runs included."""


@dataclass(frozen=True)
class Origin:
    """What a state belongs to; None where its file does not contain it."""

    recipe: str
    """Text of the recipe."""
    stores: dict[str, str] | None
    """SHA-256 of each store by its path in the recipe."""
    config: ModelConfig | None
    """Configuration of the model."""


def save_state(
    folder: Path,
    progress: TrainingProgress,
    origin: Origin,
    model: PhysCon,
    average: WeightAverage,
    optimizer: Optimizer,
) -> None:
    """Writes the state so that a kill at any moment leaves either the old or the new file."""
    parts = {
        "model": dict(model.named_parameters()),
        "average": average.tensors,
        "optimizer": optimizer.tensors(),
    }
    tensors = {
        f"{part}/{name}": value.detach().contiguous() for part, group in parts.items() for name, value in group.items()
    }
    partial = folder / f"{STATE_FILE}.partial"
    metadata = {
        "progress": json.dumps(asdict(progress)),
        "recipe": origin.recipe,
        "stores": json.dumps(origin.stores),
        "config": json.dumps(config_to_dict(model.config)),
    }
    save_file(tensors, partial, metadata=metadata)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, folder / STATE_FILE)


def load_state(
    folder: Path, model: PhysCon, average: WeightAverage, optimizer: Optimizer
) -> tuple[TrainingProgress, Origin]:
    """Restores a saved state.

    Returns:
        Its progress, and what it belongs to.

    Raises:
        CorruptCheckpointError: the file is damaged, or its tensors do not belong to this model.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    try:
        with safe_open(folder / STATE_FILE, framework="pt") as file:
            metadata = file.metadata()
            for key in file.keys():  # noqa: SIM118 - not a dict
                part, name = key.split("/", 1)
                parts[part][name] = file.get_tensor(key)
    except SafetensorError as error:
        raise CorruptCheckpointError(f"{folder / STATE_FILE} is damaged ({error}); delete it and restart") from error
    parameters = dict(model.named_parameters())
    if {k: v.shape for k, v in parameters.items()} != {k: v.shape for k, v in parts["model"].items()}:
        raise CorruptCheckpointError(
            f"{folder / STATE_FILE} belongs to another model than the recipe describes; train into another folder"
        )
    with torch.no_grad():
        for name, value in parts["model"].items():
            parameters[name].copy_(value)
    average.restore(parts["average"])
    optimizer.restore(parts["optimizer"])
    config = config_from_dict(json.loads(metadata["config"])) if "config" in metadata else None
    origin = Origin(metadata["recipe"], json.loads(metadata.get("stores", "null")), config)
    return TrainingProgress(**json.loads(metadata["progress"])), origin
