"""SMILES to relaxed structure with energy and forces.

The public names are loaded on first use, so that importing the package costs milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physcon_ase.calculator import PhysConCalculator
    from physcon_ase.generator import StructureGenerator
    from physcon_ase.hub import from_pretrained, push_to_hub
    from physcon_ase.optimize import Result, optimize, optimize_many

__version__ = "0.1.0"

__all__ = [
    "PhysConCalculator",
    "Result",
    "StructureGenerator",
    "__version__",
    "from_pretrained",
    "optimize",
    "optimize_many",
    "push_to_hub",
]

_MODULES = {
    "PhysConCalculator": "physcon_ase.calculator",
    "Result": "physcon_ase.optimize",
    "StructureGenerator": "physcon_ase.generator",
    "from_pretrained": "physcon_ase.hub",
    "optimize": "physcon_ase.optimize",
    "optimize_many": "physcon_ase.optimize",
    "push_to_hub": "physcon_ase.hub",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_MODULES[name])
    # All names of the module: importing it has just bound `optimize` to the module, and the function is meant.
    globals().update({key: getattr(module, key) for key, home in _MODULES.items() if home == _MODULES[name]})
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
