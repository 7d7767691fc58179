"""Engines: programs that compute energies and forces, with a common interface.

Engines can be sent to other processes; the underlying program is only imported where it is used.
"""

from physcon_ase.labelling.engines.aimnet2 import aimnet2_engine
from physcon_ase.labelling.engines.ase_calculator import ase_engine
from physcon_ase.labelling.engines.by_name import engine_by_name
from physcon_ase.labelling.engines.checkpoint import checkpoint_engine
from physcon_ase.labelling.engines.engine import (
    Engine,
    EngineCalculator,
    EngineFunction,
    EngineLabel,
    EngineRecord,
    Molecule,
    engine_forces,
    force_disagreement,
    record_as_dict,
)
from physcon_ase.labelling.engines.mopac import MOPAC_METHODS, mopac_engine
from physcon_ase.labelling.engines.pyscf import PYSCF_LEVELS, pyscf_energy, pyscf_engine
from physcon_ase.labelling.engines.tblite import TBLITE_METHODS, tblite_engine

__all__ = [
    "MOPAC_METHODS",
    "PYSCF_LEVELS",
    "TBLITE_METHODS",
    "Engine",
    "EngineCalculator",
    "EngineFunction",
    "EngineLabel",
    "EngineRecord",
    "Molecule",
    "aimnet2_engine",
    "ase_engine",
    "checkpoint_engine",
    "engine_by_name",
    "engine_forces",
    "force_disagreement",
    "mopac_engine",
    "pyscf_energy",
    "pyscf_engine",
    "record_as_dict",
    "tblite_engine",
]
