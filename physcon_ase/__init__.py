"""SMILES to relaxed structure with energy and forces.

Public names are loaded on first use, so that importing the package takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physcon_ase.hub import from_pretrained, push_to_hub
    from physcon_ase.inference.calculator import PhysConCalculator
    from physcon_ase.inference.ensembles.ensemble import Ensemble
    from physcon_ase.inference.ensembles.search import ensemble, ensemble_many
    from physcon_ase.inference.generator import StructureGenerator
    from physcon_ase.inference.interactions.energies import interaction
    from physcon_ase.inference.interactions.interaction import Interaction
    from physcon_ase.inference.many import optimize_many
    from physcon_ase.inference.one import optimize
    from physcon_ase.inference.results import Result
    from physcon_ase.inference.run_records import RunRecord
    from physcon_ase.inference.scans.many import scan_many
    from physcon_ase.inference.scans.scan import Scan
    from physcon_ase.inference.scans.search import scan
    from physcon_ase.inference.strains.search import strain, strain_many
    from physcon_ase.inference.strains.strain import Strain
    from physcon_ase.inference.vibrations.harmonic import Vibrations, vibrations
    from physcon_ase.inference.vibrations.many import vibrations_many

__version__ = "0.2.0"

__all__ = [
    "Ensemble",
    "Interaction",
    "PhysConCalculator",
    "Result",
    "RunRecord",
    "Scan",
    "Strain",
    "StructureGenerator",
    "Vibrations",
    "__version__",
    "ensemble",
    "ensemble_many",
    "from_pretrained",
    "interaction",
    "optimize",
    "optimize_many",
    "push_to_hub",
    "scan",
    "scan_many",
    "strain",
    "strain_many",
    "vibrations",
    "vibrations_many",
]

_MODULES = {
    "Ensemble": "physcon_ase.inference.ensembles.ensemble",
    "Interaction": "physcon_ase.inference.interactions.interaction",
    "PhysConCalculator": "physcon_ase.inference.calculator",
    "Result": "physcon_ase.inference.results",
    "RunRecord": "physcon_ase.inference.run_records",
    "Scan": "physcon_ase.inference.scans.scan",
    "Strain": "physcon_ase.inference.strains.strain",
    "StructureGenerator": "physcon_ase.inference.generator",
    "Vibrations": "physcon_ase.inference.vibrations.harmonic",
    "ensemble": "physcon_ase.inference.ensembles.search",
    "ensemble_many": "physcon_ase.inference.ensembles.search",
    "from_pretrained": "physcon_ase.hub",
    "interaction": "physcon_ase.inference.interactions.energies",
    "optimize": "physcon_ase.inference.one",
    "optimize_many": "physcon_ase.inference.many",
    "push_to_hub": "physcon_ase.hub",
    "scan": "physcon_ase.inference.scans.search",
    "scan_many": "physcon_ase.inference.scans.many",
    "strain": "physcon_ase.inference.strains.search",
    "strain_many": "physcon_ase.inference.strains.search",
    "vibrations": "physcon_ase.inference.vibrations.harmonic",
    "vibrations_many": "physcon_ase.inference.vibrations.many",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
