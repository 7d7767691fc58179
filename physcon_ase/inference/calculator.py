"""The model as an ASE calculator, one structure or a list of them at a time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.outputs import Properties
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, in_chunks, make_batch, threads_for, unpad
from physcon_ase.errors import (
    MissingHeadError,
    PhysConError,
)
from physcon_ase.inference.intake import charge_and_multiplicity, check_structure, state_in_info
from physcon_ase.inference.results import FORCES_FROM, Prediction, Provenance
from physcon_ase.model.physcon import (
    DEFAULT_CHECKPOINT,
    LoadedModel,
    PhysCon,
    load_model,
)

ATOMS_PER_BATCH: Final = 256
"""Slots that `PhysConCalculator.predict` fills per batch: with more, the intermediates leave the processor's cache."""


_PROPERTIES: Final = ("energy", "free_energy", "energies", "forces")


class PhysConCalculator(Calculator):
    """Energies and forces of closed-shell molecules.

    Total charge and spin multiplicity (2S + 1, not the number of unpaired electrons) are those given here, unless
    `atoms.info["charge"]` and `atoms.info["spin"]` say otherwise for a structure. Initial charges and magnetic moments
    of the atoms are not looked at. Energies are total energies at the level; `atomization_energy` gives the other kind.

    After a calculation `results` also holds "energy_uncertainty" [eV], the standard deviation of the error of the
    energy, and "forces_uncertainty" [eV/Å, one for each atom], that of a component of its force, if the model has been
    calibrated at the level (`physcon calibrate`). ASE knows no such properties, so `get_property` does not either:
    ASE's sums of calculators would add them up like energies.
    """

    implemented_properties = list(_PROPERTIES)  # noqa: RUF012  # ASE's attribute is a list
    # What the energy does not depend on must not cost a new calculation.
    ignored_changes = {"cell", "initial_charges", "initial_magmoms"}  # noqa: RUF012  # ASE's attribute is a set

    def __init__(
        self,
        checkpoint: Path | str | LoadedModel = DEFAULT_CHECKPOINT,
        *,
        level: str | None = None,
        forces: str = "conservative",
        charge: int = 0,
        multiplicity: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
    ):
        """Loads the model.

        Args:
            checkpoint: a shipped name, a checkpoint folder, or a loaded model (which keeps its device and dtype).
            level: level of theory; the first one of the model unless given.
            forces: "conservative" for the derivative of the energy, or "direct" for the forces of a direct head, which
                are faster and derive from no energy: for the steps in between of `dynamics.MultipleTimeStepping`.
            charge: total charge [e] of structures that do not state theirs.
            multiplicity: spin multiplicity 2S + 1 of structures that do not state theirs.
            device: where the model computes.
            dtype: number format of the model, "float32" or "float64"; results are float64 either way.

        Raises:
            UnknownLevelError: the model has no such level.
            MissingHeadError: direct forces of a model without direct heads.
            CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `checkpoint.read_checkpoint`.
            PhysConError: another number format, a device that cannot be used, or an unknown kind of forces.
        """
        super().__init__()
        if forces not in FORCES_FROM:
            raise PhysConError(f"forces {forces!r} are unknown; choose {' or '.join(FORCES_FROM)}")
        if not isinstance(checkpoint, LoadedModel):
            checkpoint = load_model(checkpoint, device=device, dtype=dtype)
        self.model = checkpoint.model
        self.level = self.model.level_names[0] if level is None else self.model.level(level).name
        if forces == "direct" and not len(self.model.direct_heads):
            raise MissingHeadError(
                f"{checkpoint.name} has no direct-force heads: train one with encoder.output_vectors > 0, or leave "
                "forces='conservative'"
            )
        self._evaluate = _direct_evaluation if forces == "direct" else _conservative_evaluation
        self.provenance = Provenance(checkpoint.name, checkpoint.revision, self.level, FORCES_FROM[forces])
        self.charge, self.multiplicity = charge, multiplicity
        # Not in `results`: trajectories record the parameters as well.
        self.parameters = {**asdict(self.provenance), "charge": charge, "multiplicity": multiplicity}

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """ASE's way to change parameters; these are fixed, so that no result can have another origin than it says.

        Raises:
            PhysConError: anything was to be changed.
        """
        if kwargs:
            raise PhysConError(
                f"a PhysConCalculator cannot change {', '.join(kwargs)} afterwards: make a new one with these arguments"
            )
        return {}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation, charge and spin in `atoms.info` included."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None and state_in_info(self.atoms) != state_in_info(atoms):
            changes.append("info")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = _PROPERTIES,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fills `results` with all properties: the energy alone would be no cheaper by much.

        Raises:
            PhysConError: the structure is refused; see `intake.check_structure`.
        """
        if atoms is not None:
            self.atoms = atoms.copy()
        self.results = {}
        self._check(self.atoms)
        batch = self._batch([self.atoms])
        found = self._evaluate(self.model, self.level, batch)
        assert found.forces is not None
        energies = found.energies[0].numpy(force=True)
        energy = float(energies.sum())
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": energies,
            "forces": found.forces[0].numpy(force=True).astype(np.float64),
        }
        if found.energy_uncertainties is not None:
            self.results["energy_uncertainty"] = found.energy_uncertainties.item()
        if found.force_uncertainties is not None:
            self.results["forces_uncertainty"] = found.force_uncertainties[0].numpy(force=True).astype(np.float64)

    def export_properties(self) -> Properties:
        """The results that ASE has a name for."""
        return Properties({name: self.results[name] for name in _PROPERTIES if name in self.results})

    def atomization_energy(self, atoms: Atoms) -> float:
        """Atomic references of the level minus the energy of the molecule [eV]: positive if bound more than they say.

        The references (`LevelConfig.references`) are fitted to molecules, so that they hold the average binding of each
        element already: compare values of different molecules; none of them is a thermochemical atomisation energy.
        """
        energy: Any = self.get_property("energy", atoms)
        return self._references(atoms.numbers) - float(energy)

    def predict(
        self,
        structures: Sequence[Atoms],
        properties: Sequence[str] = ("energy", "forces"),
        *,
        on_error: Literal["record", "raise"] = "record",
        atoms_per_batch: int = ATOMS_PER_BATCH,
    ) -> list[Prediction]:
        """Energies and forces of many structures, batched by size; a structure's numbers do not depend on its company.

        Args:
            structures: the structures; none of them is changed.
            properties: without "forces" none are computed; the energies are always there.
            on_error: whether a refused structure becomes a record with its error or ends the call.
            atoms_per_batch: slots per batch; halved when memory runs out.

        Returns:
            One record per structure, in the order given.

        Raises:
            PhysConError: an unknown property, or a refused structure with `on_error` "raise".
        """
        unknown = sorted(set(properties) - set(_PROPERTIES))
        if unknown:
            raise PhysConError(f"unknown properties {', '.join(unknown)}; predict knows {', '.join(_PROPERTIES)}")
        found: dict[int, Prediction] = {}

        def refuse(index: int, error: PhysConError) -> None:
            if on_error == "raise":
                raise error
            found[index] = Prediction(None, None, None, None, None, None, self.provenance, error)

        for index, atoms in enumerate(structures):
            try:
                self._check(atoms)
            except PhysConError as error:
                refuse(index, error)
        accepted = [index for index in range(len(structures)) if index not in found]

        def work(rows: list[int]) -> None:
            chosen = [accepted[row] for row in rows]
            predictions = self._predict_batch([structures[i] for i in chosen], "forces" in properties)
            found.update(zip(chosen, predictions, strict=True))

        too_large = in_chunks([len(structures[index]) for index in accepted], atoms_per_batch, work)
        for row, message in too_large.items():
            n_atoms = len(structures[accepted[row]])
            refuse(accepted[row], PhysConError(f"{n_atoms} atoms do not fit into memory ({message}): use more of it"))
        return [found[index] for index in range(len(structures))]

    def _predict_batch(self, structures: list[Atoms], with_forces: bool) -> list[Prediction]:
        batch = self._batch(structures)
        found = self._evaluate(self.model, self.level, batch, with_forces=with_forces)
        of_energies = found.energy_uncertainties
        columns = (
            unpad(batch, found.energies),
            [None] * len(batch) if of_energies is None else of_energies.tolist(),
            _rows(batch, found.forces),
            _rows(batch, found.force_uncertainties),
        )
        return [self._prediction(*row) for row in zip(structures, *columns, strict=True)]

    def _prediction(
        self,
        atoms: Atoms,
        energies: np.ndarray,
        energy_uncertainty: float | None,
        forces: np.ndarray | None,
        forces_uncertainty: np.ndarray | None,
    ) -> Prediction:
        energy = float(energies.sum())
        return Prediction(
            energy=energy,
            energies=energies,
            atomization_energy=self._references(atoms.numbers) - energy,
            energy_uncertainty=energy_uncertainty,
            forces=forces,
            forces_uncertainty=forces_uncertainty,
            provenance=self.provenance,
        )

    def _references(self, atomic_numbers: np.ndarray) -> float:
        level = self.model.level(self.level)
        table = dict(zip(level.elements, level.references, strict=True))
        return sum(table[number] for number in atomic_numbers.tolist())

    def _check(self, atoms: Atoms) -> None:
        check_structure(atoms, self.model, self.level, self.charge, self.multiplicity)

    def _batch(self, structures: list[Atoms]) -> Batch:
        weight = self.model.energy.embedding.weight
        return make_batch(
            [atoms.numbers for atoms in structures],
            # Centred while still float64: far from the origin float32 has no digits left for the bonds.
            [atoms.positions - atoms.positions.mean(axis=0) for atoms in structures],
            charges=[charge_and_multiplicity(atoms, self.charge)[0] for atoms in structures],
            dtype=weight.dtype,
            device=weight.device,
        )


# ---- work


@dataclass(frozen=True)
class _Evaluation:
    """What the model says about a batch, all of it from one evaluation."""

    energies: Float[Tensor, "molecules slots"]
    """Energy of each atom [eV]."""
    forces: Float[Tensor, "molecules slots 3"] | None
    """[eV/Å]; None if they were not asked for."""
    energy_uncertainties: Float[Tensor, " molecules"] | None
    """[eV]; None without a table."""
    force_uncertainties: Float[Tensor, "molecules slots"] | None
    """[eV/Å]; None without a table, or without forces."""


def _conservative_evaluation(model: PhysCon, level: str, batch: Batch, *, with_forces: bool = True) -> _Evaluation:
    """Forces are the derivative of the energy."""
    with threads_for(batch):
        with torch.no_grad():
            outputs = model.evaluate(batch, level, forces=with_forces)
        return _Evaluation(
            outputs.atomic_energies,
            outputs.forces,
            model.energy_uncertainties(outputs.features, level),
            model.force_uncertainties(outputs.features, batch, level) if with_forces else None,
        )


def _direct_evaluation(model: PhysCon, level: str, batch: Batch, *, with_forces: bool = True) -> _Evaluation:
    """The same with the forces of the direct head: one pass, without a graph."""
    with threads_for(batch), torch.inference_mode():
        outputs = model.evaluate(batch, level, direct_forces=True)
    return _Evaluation(outputs.atomic_energies, outputs.direct_forces if with_forces else None, None, None)


def _rows(batch: Batch, values: Tensor | None) -> list[np.ndarray] | list[None]:
    """Per-slot values as one float64 array per molecule; None for each without values."""
    return [None] * len(batch) if values is None else [row.astype(np.float64) for row in unpad(batch, values)]


def predict_structures(
    structures: Sequence[Atoms],
    *,
    level: str | None = None,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> list[Atoms | PhysConError]:
    """Copies of the structures with energy and forces attached, ready to be written; or why one was refused."""
    calculator = PhysConCalculator(checkpoint, level=level, device=device, dtype=dtype)
    return [
        _with_prediction(atoms, prediction)
        for atoms, prediction in zip(structures, calculator.predict(structures), strict=True)
    ]


def _with_prediction(atoms: Atoms, prediction: Prediction) -> Atoms | PhysConError:
    if prediction.error is not None:
        return prediction.error
    labelled = atoms.copy()
    labelled.info |= asdict(prediction.provenance)
    if prediction.energy_uncertainty is not None:
        labelled.info["energy_uncertainty"] = prediction.energy_uncertainty
    labelled.calc = SinglePointCalculator(labelled, energy=prediction.energy, forces=prediction.forces)
    return labelled
