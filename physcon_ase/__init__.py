"""SMILES to relaxed structure with energy and forces.

Public names are loaded on first use, so that importing the package takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physcon_ase.hub import from_pretrained, push_to_hub
    from physcon_ase.inference.calculator import PhysConCalculator
    from physcon_ase.inference.conformer_search import ensemble, ensemble_many
    from physcon_ase.inference.ensemble import Ensemble
    from physcon_ase.inference.generator import StructureGenerator
    from physcon_ase.inference.many import optimize_many
    from physcon_ase.inference.one import optimize
    from physcon_ase.inference.results import Result
    from physcon_ase.inference.scan import Scan
    from physcon_ase.inference.torsion_scan import scan

__version__ = "0.1.0"

__all__ = [
    "Ensemble",
    "PhysConCalculator",
    "Result",
    "Scan",
    "StructureGenerator",
    "__version__",
    "ensemble",
    "ensemble_many",
    "from_pretrained",
    "optimize",
    "optimize_many",
    "push_to_hub",
    "scan",
]

_MODULES = {
    "Ensemble": "physcon_ase.inference.ensemble",
    "PhysConCalculator": "physcon_ase.inference.calculator",
    "Result": "physcon_ase.inference.results",
    "Scan": "physcon_ase.inference.scan",
    "StructureGenerator": "physcon_ase.inference.generator",
    "ensemble": "physcon_ase.inference.conformer_search",
    "ensemble_many": "physcon_ase.inference.conformer_search",
    "from_pretrained": "physcon_ase.hub",
    "optimize": "physcon_ase.inference.one",
    "optimize_many": "physcon_ase.inference.many",
    "push_to_hub": "physcon_ase.hub",
    "scan": "physcon_ase.inference.torsion_scan",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
