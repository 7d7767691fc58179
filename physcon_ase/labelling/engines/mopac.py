"""PM6 and PM7 with MOPAC."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from ase import Atoms

from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines.ase_calculator import label_of_atoms
from physcon_ase.labelling.engines.engine import Engine, EngineLabel, EngineRecord, Molecule

MOPAC_METHODS: Final = {"pm6": "PM6", "pm7": "PM7"}
"""MOPAC keyword of each level."""

_MULTIPLETS: Final = ("", "SINGLET", "DOUBLET", "TRIPLET", "QUARTET", "QUINTET")


def mopac_engine(level: str = "pm7") -> Engine:
    """Engine for PM6 or PM7 with the program `mopac`; the energy is the heat of formation.

    Stewart 2013, doi 10.1007/s00894-012-1667-x (PM7).

    Args:
        level: a key of `MOPAC_METHODS`.

    Raises:
        EngineError: the program `mopac` is not installed, or the level is unknown.
    """
    if level not in MOPAC_METHODS:
        raise EngineError(f"MOPAC has no level {level!r}; choose one of {', '.join(MOPAC_METHODS)}")
    if shutil.which("mopac") is None:
        raise EngineError(
            "the program mopac is not installed: apt install mopac, or conda install -c conda-forge mopac"
        )
    settings = {"method": MOPAC_METHODS[level]}
    record = EngineRecord(level, "MOPAC", _mopac_version(), {**settings, "energy": "heat of formation"})
    return Engine(record, functools.partial(_mopac_label, **settings))


def _mopac_version() -> str:
    try:
        output = subprocess.run(["mopac", "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"the program mopac does not run: {error}; reinstall it") from error
    return next((word for word in output.split() if word[:1].isdigit()), "unknown")


def _mopac_label(molecule: Molecule, *, method: str) -> EngineLabel:
    from ase.calculators.mopac import MOPAC

    multiplicity = molecule.multiplicity
    if not 1 <= multiplicity < len(_MULTIPLETS):
        raise EngineError(f"MOPAC has no multiplicity {multiplicity}; allowed are 1 to {len(_MULTIPLETS) - 1}")
    atoms = Atoms(molecule.atomic_numbers, molecule.positions)
    # ASE derives the multiplicity keyword from the magnetic moments
    atoms.set_initial_magnetic_moments([multiplicity - 1.0] + [0.0] * (len(atoms) - 1))
    with tempfile.TemporaryDirectory(prefix="physcon-mopac-") as folder:
        atoms.calc = MOPAC(
            label=str(Path(folder) / "job"),
            command="mopac PREFIX.mop > /dev/null 2>&1",  # suppress the status message of each job
            method=method,
            charge=molecule.charge,
            task="1SCF GRADIENTS",
            relscf=0.0001,
        )
        label = label_of_atoms(atoms, "MOPAC")
    if not np.asarray(label.forces).shape == molecule.positions.shape:
        raise EngineError("MOPAC printed no forces; omit the geometry")
    return label
