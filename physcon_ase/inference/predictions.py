"""Structures with their predicted energies and forces, as `physcon predict` writes them."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from physcon_ase.chem.environments import bonds_by_distance
from physcon_ase.errors import PhysConError
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.doubts import doubts_about, unfit_charge
from physcon_ase.inference.formats.rows import Geometry
from physcon_ase.inference.intake import charge_and_multiplicity
from physcon_ase.inference.results import Prediction
from physcon_ase.inference.starts import graph_of_geometry
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel


def predict_structures(
    structures: Iterable[Atoms | Geometry | PhysConError],
    *,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> list[Atoms | PhysConError]:
    """Copies of the structures with energy and forces; an error for each invalid one, and errors of the input.

    Doubts include those about the molecule of a structure, whose bonds are perceived unless they are known.
    """
    calculator, structures = PhysConCalculator(checkpoint, level=level, device=device, dtype=dtype), list(structures)
    placed = [own.atoms if isinstance(own, Geometry) else own for own in structures]
    predictions = iter(calculator.predict([atoms for atoms in placed if isinstance(atoms, Atoms)]))
    perceived, outcomes = _Perceived(), list[Atoms | PhysConError]()
    for structure, atoms in zip(structures, placed, strict=True):
        if isinstance(atoms, Atoms):
            prediction = next(predictions)
            if prediction.error is None:
                own = doubts_about(structure.graph) if isinstance(structure, Geometry) else perceived.doubts(atoms)
                prediction = replace(prediction, doubts=(*own, *prediction.doubts))
            outcomes.append(_with_prediction(atoms, prediction))
        else:
            outcomes.append(atoms)
    return outcomes


class _Perceived:
    """Doubts about the molecules of geometries, whose bonds are perceived once for the same neighbours; mutable."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes, int], list[str]] = {}

    def doubts(self, atoms: Atoms) -> list[str]:
        """Reasons to doubt the energy of a geometry, apart from those of the model."""
        charge, _ = charge_and_multiplicity(atoms)
        key = atoms.numbers.tobytes(), bonds_by_distance(atoms.numbers, atoms.positions).tobytes(), charge
        if key not in self._known:
            graph = graph_of_geometry(atoms, charge)
            self._known[key] = [unfit_charge(charge)] if graph is None else doubts_about(graph)
        return self._known[key]


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
