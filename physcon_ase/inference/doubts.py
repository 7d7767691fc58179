"""Reasons to doubt a prediction: atoms unlike those of the training molecules, or a large estimated error."""

from typing import Final

import numpy as np
from jaxtyping import Int, Integer

from physcon_ase.chem.environments import environment_hashes, environment_names, small_molecule_hashes
from physcon_ase.model.physcon import PhysCon

_SHOWN: Final = 3
"""Maximum number of environments named in a reason."""

FEWEST: Final = 5
"""Minimum number of training molecules with an environment for it to be known. Of unusual molecules
below it, 35 % have energy errors above 0.3 eV, of the others 22 % (`benchmarks/hard.py`); 4 % of drug-like molecules
are below it (`benchmarks/many.py`)."""

_NEGLIGIBLE: Final = 0.25
"""Estimated error [eV] of the energy up to which there is no reason to doubt it."""


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
        atomic_numbers: atomic number of each atom.
        bonds: atom indices of its bonds.
        energy_uncertainty: estimated standard deviation [eV] of the error of the energy.
    """
    found = []
    if rare := rare_environments(model, atomic_numbers, bonds):
        more = f" and {len(rare) - _SHOWN} more" if len(rare) > _SHOWN else ""
        found.append(
            f"fewer than {FEWEST} training molecules have {'; '.join(rare[:_SHOWN])}{more}: compare with another method"
        )
    limit = max(model.uncertainty_limit(level, len(atomic_numbers)), _NEGLIGIBLE)
    if energy_uncertainty is not None and energy_uncertainty > limit:
        found.append(
            f"the estimated error of the energy, {energy_uncertainty:.2f} eV, is above {limit:.2f} eV: compare with "
            "another method"
        )
    return tuple(found)


def rare_environments(
    model: PhysCon, atomic_numbers: Integer[np.ndarray, " atoms"], bonds: Int[np.ndarray, "bonds 2"]
) -> list[str]:
    """Environments of atoms that occur in fewer than `FEWEST` training molecules; empty without a table.

    Small molecules that are training molecules have none.
    """
    if model.environments is None:
        return []
    is_rare = model.environments.n_molecules(environment_hashes(atomic_numbers, bonds)) < FEWEST
    is_rare &= model.environments.n_molecules(small_molecule_hashes(atomic_numbers, bonds)) == 0
    names = environment_names(atomic_numbers, bonds)
    return list(dict.fromkeys(name for name, rare in zip(names, is_rare, strict=True) if rare))
