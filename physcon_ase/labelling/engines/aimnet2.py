"""AIMNet2: ensemble of four networks trained on ωB97M-D3(BJ)/def2-TZVPP.

Anstine, Zubatyuk and Isayev 2025, doi 10.1039/D4SC08572H. The weights are a TorchScript file that is not part of this
package; it is read from the wheel `WHEEL` of the Python package index. Since TorchScript is executable code, only a
file with the expected SHA-256 is loaded.
"""

import functools
import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines.engine import (
    Engine,
    EngineLabel,
    EngineRecord,
    Molecule,
    force_disagreement,
)
from physcon_ase.units import CHEMICAL_SYMBOLS

LEVEL: Final = "wb97m"
"""Level of theory of the labels: AIMNet2 predictions of ωB97M-D3(BJ)/def2-TZVPP."""

ELEMENTS: Final = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53)
"""Atomic numbers covered by the networks: H B C N O F Si P S Cl As Se Br I."""

N_MEMBERS: Final = 4
"""Number of networks in the file."""

WHEEL: Final = "Auto3D==2.3.1"
"""Package whose wheel contains the file (MIT licence)."""

MEMBER_FILE: Final = "Auto3D/models/aimnet2_wb97m_ens_f.jpt"
"""Path of the file in the wheel."""

SHA256: Final = "e34e147e3dd67bfe3e5ae8c2a2a097d59ff3a8260d98e42552004f710bb3a68b"
"""Expected SHA-256 of the file."""

MAX_SPREAD: Final = 1.0
"""Ensemble disagreement [eV/Å] above which a geometry gets no label."""

PATH_VARIABLE: Final = "PHYSCON_AIMNET2"
"""Environment variable with the path of the file or of the wheel."""

BATCH_SLOTS: Final = 448
"""Number of padded atoms per evaluation; 320 to 560 are fastest on a core with 1 MiB of cache."""


def aimnet2_engine(
    path: str | Path | None = None, *, member: int | None = None, mean: bool = False, max_spread: float = MAX_SPREAD
) -> Engine:
    """Engine for AIMNet2 in float32, with partial charges.

    By default the four networks are used in turn: all geometries of molecule n of a run are labelled by network n
    modulo 4, at a quarter of the cost of the mean; a model trained on such labels learns their average.

    Args:
        path: the file, or the wheel that contains it; by default the path in the environment variable
            `PHYSCON_AIMNET2` or the file of an installed Auto3D (which is not imported).
        member: index, 0 to 3, of a single network that computes all labels.
        mean: whether labels are the mean of the four networks, with their disagreement (`EngineLabel.force_spread`).
        max_spread: disagreement [eV/Å] above which a geometry gets no label; only with `mean`.

    Raises:
        EngineError: the file is missing or not the expected one, or the options are incompatible.
    """
    if member is not None and (mean or not 0 <= member < N_MEMBERS):
        raise EngineError(f"AIMNet2 network {member} (mean={mean}): give one of 0 to {N_MEMBERS - 1}, or the mean")
    found = find_file(path)
    _networks(str(found))  # raises errors here instead of in the workers
    members = "mean" if mean else "in turn" if member is None else member
    settings = {"file": MEMBER_FILE, "sha256": SHA256, "members": members, "dtype": "float32"}
    if mean:
        settings["max_spread"] = max_spread
    options = {"path": str(found), "members": members, "max_spread": max_spread}
    return Engine(
        EngineRecord(LEVEL, "AIMNet2", WHEEL.replace("==", " "), settings),
        functools.partial(_label_one, **options),
        batched=functools.partial(_label_many, **options),
        batch_slots=BATCH_SLOTS,
        n_turns=N_MEMBERS if members == "in turn" else 1,
    )


def find_file(path: str | Path | None = None) -> Path:
    """Path of the TorchScript file, or of a wheel that contains it.

    Raises:
        EngineError: there is no such file; the message explains how to get it.
    """
    for place in (path, os.environ.get(PATH_VARIABLE)):
        if place:
            if not Path(place).is_file():
                raise EngineError(f"there is no AIMNet2 file {place}; {_remedy()}")
            return Path(place).resolve()
    installed = _installed_file()
    if installed is None:
        raise EngineError(f"the AIMNet2 networks were not found; {_remedy()}")
    return installed


def _remedy() -> str:
    return (
        f"`pip download --no-deps {WHEEL}` (50 MB) downloads a wheel with {MEMBER_FILE}: give the path of this wheel, "
        f"or set the environment variable {PATH_VARIABLE} to it"
    )


def _installed_file() -> Path | None:
    """File of an installed Auto3D, located without importing it."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        place = Path(str(distribution("Auto3D").locate_file(MEMBER_FILE)))
    except PackageNotFoundError:
        return None
    return place if place.is_file() else None


def _read_file(path: Path) -> bytes:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if MEMBER_FILE in archive.namelist():  # TorchScript files are zip archives as well
                    return archive.read(MEMBER_FILE)
        return path.read_bytes()
    except (OSError, zipfile.BadZipFile) as error:
        raise EngineError(f"{path} cannot be read ({error}); {_remedy()}") from error


@functools.lru_cache(maxsize=1)
def _networks(path: str) -> tuple[Any, ...]:
    """Networks of the file, cached per process.

    Raises:
        EngineError: the file is not the expected one.
    """
    content = _read_file(Path(path))
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise EngineError(
            f"{path} has the SHA-256 {found}, expected {SHA256}; TorchScript is executable code, so this file is not "
            f"loaded: {_remedy()}"
        )
    ensemble = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    return tuple(getattr(ensemble.models, str(number)) for number in range(N_MEMBERS))


def _label_one(molecule: Molecule, **options: Any) -> EngineLabel:
    (label,) = _label_many([molecule], **options)
    if isinstance(label, EngineError):
        raise label
    return label


def _label_many(
    molecules: Sequence[Molecule], *, path: str, members: str | int, max_spread: float
) -> list[EngineLabel | EngineError]:
    """Labels in the order of the molecules; an error for geometries that the networks do not cover."""
    refusals = {row: error for row, molecule in enumerate(molecules) if (error := _refusal(molecule)) is not None}
    labels: dict[int, EngineLabel | EngineError] = {**refusals}
    covered = [row for row in range(len(molecules)) if row not in refusals]
    for chosen, rows in _shares(molecules, covered, members):
        found = _evaluate([_networks(path)[number] for number in chosen], [molecules[row] for row in rows])
        for row, label in zip(rows, found, strict=True):
            labels[row] = _disputed(label.force_spread, max_spread) or label
    return [labels[row] for row in range(len(molecules))]


def _disputed(spread: float | None, max_spread: float) -> EngineError | None:
    if spread is None or spread <= max_spread:
        return None
    return EngineError(
        f"the AIMNet2 networks disagree by {spread:.2f} eV/Å, more than {max_spread:.2f}; omit the geometry"
    )


def _shares(
    molecules: Sequence[Molecule], covered: list[int], members: str | int
) -> list[tuple[tuple[int, ...], list[int]]]:
    """Pairs of network indices and the rows of the molecules labelled by them."""
    if members == "in turn":
        shares = [((n,), [row for row in covered if molecules[row].row % N_MEMBERS == n]) for n in range(N_MEMBERS)]
    else:
        shares = [(tuple(range(N_MEMBERS)) if isinstance(members, str) else (members,), covered)]
    return [(chosen, rows) for chosen, rows in shares if rows]


def _refusal(molecule: Molecule) -> EngineError | None:
    foreign = sorted(set(molecule.atomic_numbers.tolist()) - set(ELEMENTS))
    if foreign:
        symbols = ", ".join(CHEMICAL_SYMBOLS.get(number, str(number)) for number in foreign)
        known = " ".join(CHEMICAL_SYMBOLS[number] for number in ELEMENTS)
        return EngineError(f"AIMNet2 does not cover {symbols}, only {known}; use another engine")
    if molecule.multiplicity != 1:
        return EngineError(
            f"AIMNet2 only covers closed shells, received multiplicity {molecule.multiplicity}; use another engine"
        )
    return None


def _evaluate(networks: Sequence[Any], molecules: Sequence[Molecule]) -> list[EngineLabel]:
    n_atoms = [len(molecule.atomic_numbers) for molecule in molecules]
    n_slots = max(2, *n_atoms)  # with a single slot, the networks add the energies of all molecules
    numbers = torch.zeros(len(molecules), n_slots, dtype=torch.int64)
    positions = torch.zeros(len(molecules), n_slots, 3)
    for row, molecule in enumerate(molecules):
        numbers[row, : n_atoms[row]] = torch.as_tensor(molecule.atomic_numbers.astype(np.int64))
        positions[row, : n_atoms[row]] = torch.as_tensor(molecule.positions - molecule.positions.mean(axis=0))
    charge = torch.tensor([float(molecule.charge) for molecule in molecules])
    found = [_outputs(network, positions, numbers, charge) for network in networks]
    energies, forces, charges = (torch.stack(values).double().numpy() for values in zip(*found, strict=True))
    return [
        EngineLabel(
            energy=float(energies[:, row].mean()),
            forces=forces[:, row, :n].mean(axis=0),
            charges=charges[:, row, :n].mean(axis=0),
            force_spread=force_disagreement(forces[:, row, :n]) if len(networks) > 1 else None,
        )
        for row, n in enumerate(n_atoms)
    ]


def _outputs(network: Any, positions: Tensor, numbers: Tensor, charge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energies [eV, molecules], forces [eV/Å, molecules x slots x 3] and partial charges [e, molecules x slots]."""
    found = network({"coord": positions.clone(), "numbers": numbers, "charge": charge})
    return found["energy"].detach(), found["forces"].detach(), found["charges"].detach()
