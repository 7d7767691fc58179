"""Reasons to doubt a prediction: atoms unlike those of the training molecules, or a large estimated error."""

import numpy as np
from jaxtyping import Int, Integer

from physcon_ase.model.environments import FEWEST_MOLECULES
from physcon_ase.model.physcon import PhysCon

_SHOWN = 3
"""Number of environments that are named."""


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
        found.append(
            f"fewer than {FEWEST_MOLECULES} training molecules have {'; '.join(unknown[:_SHOWN])}{more}: compare with "
            "another method"
        )
    limit = model.uncertainty_limit(level, len(atomic_numbers))
    if energy_uncertainty is not None and limit is not None and energy_uncertainty > limit:
        found.append(
            f"the estimated error of the energy, {energy_uncertainty:.2f} eV, is above {limit:.2f} eV: compare with "
            "another method"
        )
    return tuple(found)


def unknown_environments(
    model: PhysCon, atomic_numbers: Integer[np.ndarray, " atoms"], bonds: Int[np.ndarray, "bonds 2"]
) -> list[str]:
    """Environments of atoms that fewer than `FEWEST_MOLECULES` training molecules have; empty without a table."""
    if model.environments is None:
        return []
    # Imported lazily: RDKit is slow to load, and the calculator does not need it otherwise.
    from physcon_ase.chem.environments import environment_hashes, environment_names

    counts = model.environments.n_molecules(environment_hashes(atomic_numbers, bonds))
    names = environment_names(atomic_numbers, bonds)
    return list(dict.fromkeys(name for name, count in zip(names, counts, strict=True) if count < FEWEST_MOLECULES))
