"""Provenance of a checkpoint: code, data, parent checkpoints and computing time."""

import functools
import hashlib
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from physcon_ase.model.checkpoint import PROVENANCE_FILE, read_checkpoint, resolve
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import format_recipe
from physcon_ase.training.state import TrainingProgress


def provenance(
    recipe: Recipe, stores: dict[str, str], progress: TrainingProgress, device: torch.device
) -> dict[str, Any]:
    """Code, SHA-256 of recipe and stores, parents with their own provenance, steps and processor hours.

    Args:
        recipe: recipe of the training.
        stores: SHA-256 of each store by its path in the recipe, at the beginning of the training.
        progress: final progress of the training.
        device: device of the model.
    """
    return {
        "physcon_ase": _own_version(),
        "commit": _commit(),
        "torch": torch.__version__,
        "recipe": {"name": recipe.name, "sha256": hashlib.sha256(format_recipe(recipe).encode()).hexdigest()},
        "stores": stores,
        "parents": [_parent(entry) for entry in recipe.start_from],
        "steps": progress.step,
        "device": _name_of(device),
        "processes": progress.n_processes,
        "processor_hours": round(progress.n_processes * progress.cpu_seconds / 3600, 2),
    }


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def file_sum(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parent(entry: str) -> dict[str, Any]:
    """Name and revision of a start checkpoint, the part that was used, and its own provenance."""
    name, _, part = entry.partition("#")
    stored = read_checkpoint(name)
    return {"name": stored.name, "revision": stored.revision, "part": part, "provenance": read_provenance(name)}


def read_provenance(checkpoint: Path | str) -> dict[str, Any] | None:
    """The record of a checkpoint; None if it has none."""
    record = resolve(checkpoint) / PROVENANCE_FILE
    return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None


def _own_version() -> str | None:
    """Version of this package; None for a source checkout that is not installed."""
    try:
        return version("physcon-ase")
    except PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """Revision of the source tree that the package was imported from, "-dirty" with changes; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
