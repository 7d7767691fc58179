"""PM6 and PM7 by MOPAC."""

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
"""Name of each level in MOPAC."""

_MULTIPLETS: Final = ("", "SINGLET", "DOUBLET", "TRIPLET", "QUARTET", "QUINTET")


def mopac_engine(level: str = "pm7") -> Engine:
    """PM6 or PM7 as computed by the program `mopac`; the energy is the heat of formation.

    Stewart 2013, doi 10.1007/s00894-012-1667-x (PM7).

    Args:
        level: a key of `MOPAC_METHODS`.

    Raises:
        EngineError: there is no program `mopac`, or the level is none of its own.
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
        told = subprocess.run(["mopac", "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"the program mopac does not run: {error}; install it anew") from error
    return next((word for word in told.split() if word[:1].isdigit()), "unknown")


def _mopac_label(molecule: Molecule, *, method: str) -> EngineLabel:
    from ase.calculators.mopac import MOPAC

    multiplicity = molecule.multiplicity
    if not 1 <= multiplicity < len(_MULTIPLETS):
        raise EngineError(f"multiplicity {multiplicity} is not known to MOPAC; allowed are 1 to {len(_MULTIPLETS) - 1}")
    atoms = Atoms(molecule.atomic_numbers, molecule.positions)
    # ASE writes the multiplet itself, from the magnetic moments
    atoms.set_initial_magnetic_moments([multiplicity - 1.0] + [0.0] * (len(atoms) - 1))
    with tempfile.TemporaryDirectory(prefix="physcon-mopac-") as folder:
        atoms.calc = MOPAC(
            label=str(Path(folder) / "job"),
            command="mopac PREFIX.mop > /dev/null 2>&1",  # it tells the terminal how each job ended
            method=method,
            charge=molecule.charge,
            task="1SCF GRADIENTS",
            relscf=0.0001,
        )
        label = label_of_atoms(atoms, "MOPAC")
    if not np.asarray(label.forces).shape == molecule.positions.shape:
        raise EngineError("MOPAC printed no forces; leave the geometry out")
    return label
