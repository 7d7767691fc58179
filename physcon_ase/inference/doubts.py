"""Reasons to doubt a prediction: atoms unlike those of the training molecules, or a large estimated error."""

from typing import Final

import numpy as np
from jaxtyping import Int, Integer

from physcon_ase.chem.environments import environment_hashes, environment_names
from physcon_ase.model.physcon import PhysCon

_SHOWN: Final = 3
"""Number of environments that are named."""

_NEGLIGIBLE: Final = 0.25
"""Estimated error [eV] of the energy that is no reason to doubt."""


def doubts_of(
    model: PhysCon,
    level: str,
    atomic_numbers: Integer[np.ndarray, " atoms"],
    bonds: Int[np.ndarray, "bonds 2"],
    energy_uncertainty: float | None,
) -> tuple[str, ...]:
    """Reasons to doubt the energy of a geometry; empty if there are none, or the checkpoint is not calibrated.

    Args:
        model: the model.
        level: level of theory.
        atomic_numbers: elements of the molecule.
        bonds: atom indices of its bonds.
        energy_uncertainty: estimated standard deviation [eV] of the error of the energy.
    """
    found = []
    if unknown := unknown_environments(model, atomic_numbers, bonds):
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        found.append(f"no training molecule has {'; '.join(unknown[:_SHOWN])}{more}: compare with another method")
    limit = max(model.uncertainty_limit(level, len(atomic_numbers)), _NEGLIGIBLE)
    if energy_uncertainty is not None and energy_uncertainty > limit:
        found.append(
            f"the estimated error of the energy, {energy_uncertainty:.2f} eV, is above {limit:.2f} eV: compare with "
            "another method"
        )
    return tuple(found)


def unknown_environments(
    model: PhysCon, atomic_numbers: Integer[np.ndarray, " atoms"], bonds: Int[np.ndarray, "bonds 2"]
) -> list[str]:
    """Environments of atoms that no training molecule has; empty without a table."""
    if model.environments is None:
        return []
    counts = model.environments.n_molecules(environment_hashes(atomic_numbers, bonds))
    names = environment_names(atomic_numbers, bonds)
    return list(dict.fromkeys(name for name, count in zip(names, counts, strict=True) if count == 0))
