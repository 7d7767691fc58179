"""Structures with their predicted energies and forces, as `physcon predict` writes them."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from physcon_ase.errors import PhysConError
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.results import Prediction
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel


def predict_structures(
    structures: Iterable[Atoms | PhysConError],
    *,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> list[Atoms | PhysConError]:
    """Copies of the structures with energy and forces; an error for each invalid one, and errors of the input."""
    calculator, structures = PhysConCalculator(checkpoint, level=level, device=device, dtype=dtype), list(structures)
    valid = [atoms for atoms in structures if isinstance(atoms, Atoms)]
    predictions = iter(calculator.predict(valid))
    return [_with_prediction(atoms, next(predictions)) if isinstance(atoms, Atoms) else atoms for atoms in structures]


def _with_prediction(atoms: Atoms, prediction: Prediction) -> Atoms | PhysConError:
    if prediction.error is not None:
        return prediction.error
    labelled = atoms.copy()
    for name in ("energy_uncertainty", "doubts"):  # of an earlier prediction
        labelled.info.pop(name, None)
    labelled.info |= asdict(prediction.provenance)
    if prediction.energy_uncertainty is not None:
        labelled.info["energy_uncertainty"] = prediction.energy_uncertainty
    if prediction.doubts:
        labelled.info["doubts"] = "; ".join(prediction.doubts)
    labelled.calc = SinglePointCalculator(labelled, energy=prediction.energy, forces=prediction.forces)
    return labelled
