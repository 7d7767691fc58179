"""Programs that compute energies and forces, behind one function type."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from physcon_ase.batch import Batch, unpad
from physcon_ase.errors import EngineError
from physcon_ase.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

TBLITE_METHODS: Final = {"gfn2": "GFN2-xTB", "gfn1": "GFN1-xTB"}
"""Name of each level in tblite."""


@dataclass(frozen=True)
class EngineLabel:
    """What an engine says of one geometry."""

    energy: float
    """Total energy [eV]."""
    forces: Float[np.ndarray, "atoms 3"]
    """[eV/Å]."""


Engine: TypeAlias = Callable[[np.ndarray, np.ndarray, int, int], EngineLabel]
"""(atomic numbers [atoms], positions [atoms, 3] in Å, total charge [e], multiplicity) -> label; raises EngineError."""


def tblite_engine(level: str = "gfn2", *, accuracy: float = 1.0) -> Engine:
    """GFN1-xTB or GFN2-xTB as computed by tblite.

    Bannwarth, Ehlert and Grimme 2019, doi 10.1021/acs.jctc.8b01176 (GFN2).

    Args:
        level: a key of `TBLITE_METHODS`.
        accuracy: tblite's scale of all thresholds; smaller is tighter.

    Raises:
        EngineError: tblite is not installed, or the level is none of its own.
    """
    if level not in TBLITE_METHODS:
        raise EngineError(f"tblite has no level {level!r}; choose one of {', '.join(TBLITE_METHODS)}")
    try:
        from tblite.interface import Calculator
    except ImportError as error:
        raise EngineError("tblite is not installed: pip install 'physcon-ase[label]'") from error

    def label(
        atomic_numbers: Integer[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"], charge: int, spin: int
    ) -> EngineLabel:
        try:
            calculator = Calculator(
                TBLITE_METHODS[level],
                np.asarray(atomic_numbers),
                np.asarray(positions, dtype=float) / ANGSTROM_PER_BOHR,
                charge=float(charge),
                uhf=spin - 1,
            )
            calculator.set("accuracy", accuracy)
            calculator.set("verbosity", 0)
            result = calculator.singlepoint()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"tblite failed: {str(error).strip() or 'no reason given'}") from error
        gradient = np.asarray(result.get("gradient"))
        return EngineLabel(
            energy=float(result.get("energy")) * EV_PER_HARTREE,
            forces=-gradient * (EV_PER_HARTREE / ANGSTROM_PER_BOHR),
        )

    return label


def engine_forces(engine: Engine) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """The engine as a force function of batches, molecule by molecule, for `relax.driver.relax`.

    A geometry that the engine refuses has the energy NaN, so that its relaxation ends there and that of others goes on.
    """

    def forces_of(batch: Batch) -> tuple[Tensor, Tensor]:
        energies = torch.full((len(batch),), float("nan"), dtype=torch.float64)
        forces = torch.zeros_like(batch.positions)
        molecules = zip(
            unpad(batch, batch.atomic_numbers),
            unpad(batch, batch.positions),
            batch.charge.tolist(),
            batch.multiplicity.tolist(),
            strict=True,
        )
        for row, (numbers, places, charge, multiplicity) in enumerate(molecules):
            try:
                label = engine(numbers, places, charge, multiplicity)
            except EngineError:
                continue
            energies[row] = label.energy
            forces[row, : len(numbers)] = torch.as_tensor(label.forces)
        return energies, forces

    return forces_of
