"""Checkpoints as text for the terminal."""

from physcon_ase.model.checkpoint import read_checkpoint, shipped_names
from physcon_ase.model.coverage import format_charges, format_elements
from physcon_ase.model.physcon import TABLES


def describe_shipped() -> str:
    """One line for each checkpoint shipped with the package: levels, heads and revision."""
    lines = []
    for name in shipped_names():
        stored = read_checkpoint(name)
        levels = ", ".join(level["name"] for level in stored.config["levels"])
        lines.append(f"{name}  levels {levels}  {_heads(stored.config)}  revision {stored.revision[:12]}")
    return "\n".join(lines) or "no checkpoint is shipped with this package"


def describe_checkpoint(name: str) -> str:
    """Revision, size and levels of a checkpoint, by a shipped name or a folder.

    Raises:
        CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `checkpoint.read_checkpoint`.
    """
    stored = read_checkpoint(name)
    fitted = ("references", *TABLES)  # after the training
    size = sum(tensor.numel() for name, tensor in stored.tensors.items() if not name.startswith(fitted))
    lines = [f"{stored.name}\n  revision   {stored.revision}\n  parameters {size}, {_heads(stored.config)}"]
    for level in stored.config["levels"]:
        elements = format_elements(level["elements"])
        charges = format_charges(level.get("charges", [0]))
        lines.append(f"  level      {level['name']}: {level['description']}; {elements}; charge {charges}")
    return "\n".join(lines)


def _heads(config: dict) -> str:
    return "energies only" if config["structure"] is None else "energies and structures"
