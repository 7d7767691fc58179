"""Checkpoint folders: weights as safetensors, configuration as JSON, the recipe as text. Nothing in them is executed.

    <name>/model.safetensors   the tensors
    <name>/config.json         {"format_version", "name", "weights_sha256", "config", "config_sha256"}
    <name>/recipe.toml         the training recipe, for documentation

The checkpoints shipped with the package are listed in `manifest.json` in their folder, with size and sha256 of each
file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from physcon_ase.errors import (
    CheckpointNotFoundError,
    CheckpointVersionError,
    CorruptCheckpointError,
    PhysConError,
)

WEIGHTS_FILE: Final = "model.safetensors"
"""Name of the file with the tensors."""

CONFIG_FILE: Final = "config.json"
"""Name of the file with the configuration and the sha256 of the tensors."""

RECIPE_FILE: Final = "recipe.toml"
"""Name of the file with the training recipe."""

CARD_FILE: Final = "README.md"
"""Name of the model card."""

PROVENANCE_FILE: Final = "provenance.json"
"""Origin of the weights: revision of the code, SHA-256 of recipe and stores, parents, steps, device and hours."""

CHECKPOINT_FILES: Final = (WEIGHTS_FILE, CONFIG_FILE, RECIPE_FILE, PROVENANCE_FILE, CARD_FILE)
"""All files that a checkpoint folder can contain."""

MANIFEST_FILE: Final = "manifest.json"
"""Name of the list of shipped checkpoints."""

Config: TypeAlias = dict[str, Any]
"""Configuration of a model as written by `ModelConfig`: JSON values only."""

Upgrade: TypeAlias = Callable[[Config, dict[str, Tensor]], tuple[Config, dict[str, Tensor]]]
"""Converts configuration and tensors of one format version to those of the next."""


OLDEST_FORMAT: Final = 3
"""Oldest format version that can be read; versions 1 and 2 are of another network."""

UPGRADES: tuple[Upgrade, ...] = ()
"""`upgrade_v3_v4`, ... in this order; the current format version is `OLDEST_FORMAT` plus their number."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, verified and in the current format."""

    name: str
    """Name in results, for instance "physcon-2"."""
    revision: str
    """sha256 of the weights file."""
    config: Config
    """Configuration of the model."""
    tensors: dict[str, Tensor]
    """Tensors by the name of their parameter or buffer, on the CPU."""
    recipe: str
    """Text of the training recipe; empty if there is none."""


def format_version() -> int:
    """Format version that `save_checkpoint` writes."""
    return OLDEST_FORMAT + len(UPGRADES)


# ---- write


def save_checkpoint(
    directory: Path | str,
    tensors: Mapping[str, Tensor],
    config: Config,
    *,
    recipe: str = "",
    provenance: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> str:
    """Writes a checkpoint folder atomically and returns its revision (sha256 of the weights).

    Equal tensors give equal bytes. An existing checkpoint is replaced; its model card is kept, and its provenance
    unless another is given.

    Args:
        directory: the checkpoint folder; an existing folder must be a checkpoint.
        tensors: parameters and buffers by name.
        config: configuration of the model, JSON values only.
        recipe: text of the training recipe.
        provenance: origin of the weights, JSON values only.
        name: name in results; by default that of the folder.

    Raises:
        PhysConError: the folder contains other files than those of a checkpoint.
    """
    directory = Path(directory).resolve()
    check_replaceable(directory)
    # Cloned, because safetensors refuses tensors that share memory, as tied weights and views do.
    weights = safetensors.torch.save({key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()})
    revision = hashlib.sha256(weights).hexdigest()
    header = {
        "format_version": format_version(),
        "name": directory.name if name is None else name,
        "weights_sha256": revision,
        "config_sha256": _config_fingerprint(config),
        "config": config,
    }
    new = _empty_sibling(directory, "new")
    _write_durably(new / WEIGHTS_FILE, weights)
    _write_durably(new / CONFIG_FILE, (json.dumps(header, indent=2, allow_nan=False) + "\n").encode())
    _write_durably(new / RECIPE_FILE, recipe.encode())
    if provenance is not None:
        _write_durably(new / PROVENANCE_FILE, (json.dumps(provenance, indent=2, allow_nan=False) + "\n").encode())
    for kept in (CARD_FILE, PROVENANCE_FILE):
        if (directory / kept).exists() and not (new / kept).exists():
            shutil.copyfile(directory / kept, new / kept)
    _swap_in(new, directory)
    return revision


def write_manifest(checkpoints_dir: Path | str) -> dict[str, dict[str, dict[str, Any]]]:
    """Writes and returns `manifest.json` (name -> file -> size [bytes] and sha256) of the checkpoints in a folder.

    Model cards are not listed, since they do not affect results.
    """
    root = Path(checkpoints_dir)
    manifest = {
        folder.name: {
            path.name: _fingerprint(path.read_bytes()) for path in sorted(folder.iterdir()) if path.name != CARD_FILE
        }
        for folder in sorted(root.iterdir())
        if (folder / WEIGHTS_FILE).is_file() and not folder.name.startswith(".")
    }
    (root / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def check_replaceable(directory: Path) -> None:
    """Checks that `save_checkpoint` may write to a folder, for instance before a long computation.

    Raises:
        PhysConError: the folder holds something else than a checkpoint.
    """
    foreign = sorted({path.name for path in directory.iterdir()} - set(CHECKPOINT_FILES)) if directory.is_dir() else []
    if foreign:
        raise PhysConError(
            f"{directory} is not a checkpoint folder: it contains {', '.join(foreign[:3])}. Saving would replace the "
            "folder; give a new or empty folder, or a checkpoint."
        )


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sibling(directory: Path, role: str) -> Path:
    return directory.with_name(f".{directory.name}.{role}")


def _empty_sibling(directory: Path, role: str) -> Path:
    sibling = _sibling(directory, role)
    shutil.rmtree(sibling, ignore_errors=True)
    sibling.mkdir(parents=True)
    return sibling


def _swap_in(new: Path, directory: Path) -> None:
    # A folder cannot replace another in one step; if killed between the renames, `_folder` finds the old one.
    old = _sibling(directory, "old")
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


# ---- find


def shipped_names() -> tuple[str, ...]:
    """Names of the checkpoints shipped with the package."""
    return tuple(sorted(_manifest()))


def resolve(name_or_path: Path | str) -> Path:
    """Folder of a checkpoint.

    Args:
        name_or_path: a shipped name ("physcon-2"), a checkpoint folder, or one of its files. A shipped name
            has precedence over a folder of that name; write "./physcon-2" or pass a `Path` for the folder.

    Raises:
        CheckpointNotFoundError: neither a shipped name nor a folder with weights.
    """
    if isinstance(name_or_path, str) and name_or_path in shipped_names():
        return shipped_root() / name_or_path
    folder = _folder(Path(name_or_path).expanduser())
    if (folder / WEIGHTS_FILE).is_file():
        return folder
    shipped = ", ".join(shipped_names()) or "none"
    problem = f"has no {WEIGHTS_FILE}" if folder.is_dir() else "does not exist"
    if folder.is_file():
        problem = f"is not a file of a checkpoint folder ({', '.join(CHECKPOINT_FILES)})"
    raise CheckpointNotFoundError(
        f"checkpoint {str(name_or_path)!r} {problem}. Shipped checkpoints: {shipped}. Give one of these names, a "
        f"folder with {WEIGHTS_FILE} and {CONFIG_FILE}, or download one first (physcon_ase.hub.download)."
    )


def shipped_root() -> Path:
    """Folder of the shipped checkpoints: inside the installed package, next to it in a source checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "checkpoints"
    return inside if inside.is_dir() else package.parent / "checkpoints"


def _folder(path: Path) -> Path:
    if path.is_file() and path.name in CHECKPOINT_FILES:  # no other file denotes the checkpoint in its folder
        return path.parent
    old = _sibling(path.absolute(), "old")
    return old if not path.exists() and old.is_dir() else path


def _manifest() -> dict[str, dict[str, dict[str, Any]]]:
    path = shipped_root() / MANIFEST_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# ---- read


def read_checkpoint(name_or_path: Path | str) -> Checkpoint:
    """Reads and verifies a checkpoint; a shipped one is also compared with the manifest.

    Args:
        name_or_path: see `resolve`.

    Raises:
        CheckpointNotFoundError: there is no such checkpoint.
        CorruptCheckpointError: a file is truncated, modified or of another format.
        CheckpointVersionError: the format is newer than the package, or no longer supported.
    """
    folder = resolve(name_or_path)
    weights = (folder / WEIGHTS_FILE).read_bytes()
    refuse_other_formats(weights, folder / WEIGHTS_FILE)
    header = _read_header(folder / CONFIG_FILE)
    revision = hashlib.sha256(weights).hexdigest()
    if revision != header["weights_sha256"]:
        raise CorruptCheckpointError(
            f"{folder / WEIGHTS_FILE} has sha256 {revision}, but its {CONFIG_FILE} expects "
            f"{header['weights_sha256']}: truncated or changed. Get a fresh copy."
        )
    if folder.parent == shipped_root():
        _compare_with_manifest(folder)
    config, tensors = header["config"], _parse_weights(weights, folder / WEIGHTS_FILE)
    for upgrade in UPGRADES[header["format_version"] - OLDEST_FORMAT :]:
        config, tensors = upgrade(config, tensors)
    recipe_file = folder / RECIPE_FILE
    return Checkpoint(
        name=header["name"],
        revision=revision,
        config=config,
        tensors=tensors,
        recipe=recipe_file.read_text(encoding="utf-8") if recipe_file.is_file() else "",
    )


def load_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies the tensors of a checkpoint into a module, whose tensors must have the same names and shapes.

    Raises:
        CorruptCheckpointError: a tensor is missing, unexpected or of another shape.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    problems = [f"missing {key}" for key in sorted(wanted.keys() - given.keys())]
    problems += [f"unexpected {key}" for key in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{key} has shape {given[key]} instead of {wanted[key]}"
        for key in sorted(wanted.keys() & given.keys())
        if given[key] != wanted[key]
    ]
    if problems:
        listed = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CorruptCheckpointError(f"these weights do not fit the model of their configuration: {listed}.")
    module.load_state_dict(dict(tensors))


def refuse_other_formats(weights: bytes, path: Path) -> None:
    """Checks the first bytes of a safetensors file before it is parsed.

    Layout: 8 bytes little-endian header length, a JSON object of that length, the tensors.

    Raises:
        CorruptCheckpointError: a pickle, a web page, or a truncated header.
    """
    header_length = int.from_bytes(weights[:8], "little")
    if len(weights) >= 10 and header_length <= len(weights) - 8 and weights[8:9] == b"{":
        return
    # Checked second, because a safetensors header of 640 bytes begins with the same bytes as a pickle.
    if weights.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise CorruptCheckpointError(
            f"{path} is a pickle, which could run code, and was not opened. Only safetensors files are read; "
            "convert it with a trusted tool."
        )
    if weights[:64].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CorruptCheckpointError(
            f"{path} is a web page (an error page?), not safetensors weights. Delete it and download again."
        )
    raise CorruptCheckpointError(
        f"{path} ({len(weights)} bytes) is truncated or not a safetensors file. Get a fresh copy."
    )


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CorruptCheckpointError(f"{path} is missing: weights without their configuration cannot be used.")
    try:
        header = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptCheckpointError(f"{path} is not JSON ({error}). Get a fresh copy.") from error
    expected = {"format_version": int, "name": str, "weights_sha256": str, "config_sha256": str, "config": dict}
    for key, kind in expected.items():
        if not isinstance(header, dict) or not isinstance(header.get(key), kind):
            raise CorruptCheckpointError(
                f"{path} has no valid {key!r}; a checkpoint has {', '.join(expected)}. Get a fresh copy."
            )
    if _config_fingerprint(header["config"]) != header["config_sha256"]:
        raise CorruptCheckpointError(f"{path}: the configuration does not match its SHA-256. Get a fresh copy.")
    version = header["format_version"]
    if version > format_version():
        raise CheckpointVersionError(
            f"{path.parent} has checkpoint format {version}, this package reads up to {format_version()}: the file is "
            "newer than the package. Upgrade physcon-ase."
        )
    if version < 1:
        raise CorruptCheckpointError(f"{path} has format_version {version}; the first one was 1. Get a fresh copy.")
    if version < OLDEST_FORMAT:
        raise CheckpointVersionError(
            f"{path.parent} has checkpoint format {version}, whose network this package no longer has; it reads "
            f"formats from {OLDEST_FORMAT}. Use a newer checkpoint, or the release of physcon-ase that wrote this one."
        )
    return header


def _config_fingerprint(config: Config) -> str:
    """sha256 of the configuration: other references or elements would give wrong energies without any error."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _parse_weights(weights: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(weights)
    except SafetensorError as error:
        raise CorruptCheckpointError(f"{path} is not a valid safetensors file ({error}). Get a fresh copy.") from error


def _compare_with_manifest(folder: Path) -> None:
    expected = _manifest().get(folder.name)
    if expected is None:
        raise CorruptCheckpointError(
            f"{folder} is not in {MANIFEST_FILE} beside it. Reinstall physcon-ase; in a source checkout "
            "run `make manifest`."
        )
    for file_name, fingerprint in expected.items():
        path = folder / file_name
        found = _fingerprint(path.read_bytes()) if path.is_file() else None
        if found != fingerprint:
            raise CorruptCheckpointError(
                f"{path} is {found or 'missing'}, but {MANIFEST_FILE} expects {fingerprint}. Reinstall physcon-ase; "
                "in a source checkout run `make manifest` if the change is yours."
            )


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
