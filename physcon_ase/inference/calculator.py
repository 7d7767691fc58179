"""ASE calculator, with a method for many structures in batches."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import RLock
from typing import Any, Final, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, in_chunks, make_batch, unpad
from physcon_ase.chem.environments import bonds_by_distance
from physcon_ase.errors import CompilationError, MissingHeadError, PhysConError, UncertainWarning
from physcon_ase.inference.doubts import doubts_of
from physcon_ase.inference.evaluation import compiled_evaluation, conservative_evaluation, direct_evaluation
from physcon_ase.inference.intake import charge_and_multiplicity, check_structure, state_in_info
from physcon_ase.inference.results import FORCES_FROM, Prediction, Provenance
from physcon_ase.model.compiled import CompiledModel
from physcon_ase.model.coverage import AUTO, checked_level, level_for
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, load_model

ATOMS_PER_BATCH: Final = 256
"""Default number of slots per batch of `PhysConCalculator.predict`; larger batches exceed the processor cache."""

_PROPERTIES: Final = ("energy", "free_energy", "energies", "forces")
"""Properties of all models."""

_OF_CHARGES: Final = ("charges", "dipole")
"""Properties of models with partial charges."""

_SMALL_STEP: Final = 0.5
"""Displacement [Å] below which a geometry is the next step of a trajectory."""

_SETTINGS: Final = ("model", "level", "charge", "multiplicity")
"""Attributes on which the results depend."""


class PhysConCalculator(Calculator):
    """ASE calculator for energies and forces of closed-shell molecules.

    `atoms.info["charge"]` and `atoms.info["spin"]` (multiplicity 2S + 1, not the number of unpaired electrons) override
    the charge and multiplicity of the calculator. Initial charges and magnetic moments of the atoms are ignored.
    Energies are total energies at the level; see `atomization_energy` for energies relative to atomic references.

    If the model is calibrated at the level (`physcon calibrate`), `results` also contains the standard deviations of
    the error of the energy, "energy_uncertainty" [eV], and of the error of a force component on each atom,
    "forces_uncertainty" [eV/Å]. They are not available through `get_property`, because combined ASE calculators would
    add them up.

    A model with partial charges also gives "charges" [e], which sum to the total charge, and "dipole" [e Å], their
    dipole moment about the centre of mass.
    """

    implemented_properties = list(_PROPERTIES)  # noqa: RUF012  # ASE's attribute is a list
    # The energy does not depend on these; changes must not trigger a new calculation.
    ignored_changes = {"cell", "initial_charges", "initial_magmoms"}  # noqa: RUF012  # ASE's attribute is a set

    def __init__(
        self,
        checkpoint: Path | str | LoadedModel = DEFAULT_CHECKPOINT,
        *,
        level: str = AUTO,
        forces: str = "conservative",
        charge: int = 0,
        multiplicity: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
        compile: bool = False,
    ):
        """Loads the model.

        Args:
            checkpoint: a shipped name, a checkpoint folder, or a loaded model (which keeps its device and dtype).
            level: level of theory; "auto" for the first of the checkpoint that covers the molecule. Energies at
                different levels are not comparable: `provenance` names the level of the last
                calculation, and records of `predict` that of each structure.
            forces: "conservative" for the derivative of the energy, or "direct" for the faster, non-conservative forces
                of a direct head, e.g. as fast forces of `dynamics.MultipleTimeStepping`.
            charge: default total charge [e], for structures without `info["charge"]`.
            multiplicity: default spin multiplicity 2S + 1, for structures without `info["spin"]`.
            device: device of the model.
            dtype: dtype of the model, "float32" or "float64"; results are always float64.
            compile: whether to compile the model for single structures, for molecular dynamics and other long runs of
                molecules of up to 300 atoms (`model.compiled`): the first calculation with each number of atoms takes
                half a minute, and seconds when it is repeated later. Needs a C++ compiler.

        Raises:
            UnknownLevelError: the model has no such level.
            CompilationError: `compile` without a C++ compiler, on another device than the CPU, or with direct forces.
            MissingHeadError: direct forces requested, but the model has no direct heads.
            CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `checkpoint.read_checkpoint`.
            PhysConError: an unsupported dtype, device or kind of forces.
        """
        super().__init__()
        if forces not in FORCES_FROM:
            raise PhysConError(f"unknown kind of forces {forces!r}; choose {' or '.join(FORCES_FROM)}")
        if not isinstance(checkpoint, LoadedModel):
            checkpoint = load_model(checkpoint, device=device, dtype=dtype)
        self.model = checkpoint.model
        self.level = checked_level(level, self.model)
        if forces == "direct" and not len(self.model.direct_heads):
            raise MissingHeadError(
                f"{checkpoint.name} has no direct-force heads: train a model with encoder.output_vectors > 0, or use "
                "forces='conservative'"
            )
        if self.model.config.encoder.charged:
            self.implemented_properties = [*_PROPERTIES, *_OF_CHARGES]
        if compile and forces == "direct":
            raise CompilationError("compile=True is for conservative forces; omit it with forces='direct'")
        self._evaluate = direct_evaluation if forces == "direct" else conservative_evaluation
        self._compiled = CompiledModel(self.model) if compile else None
        self.provenance = Provenance(checkpoint.name, checkpoint.revision, self.level, FORCES_FROM[forces])
        self.charge, self.multiplicity = charge, multiplicity
        self._lock = RLock()
        self.warns = True
        """Whether a doubtful molecule causes an `UncertainWarning`."""
        self._judged: set[bytes] = set()
        self._last: Atoms | None = None
        # ASE trajectories record the parameters.
        self.parameters = {**asdict(self.provenance), "charge": charge, "multiplicity": multiplicity}

    def __getstate__(self) -> dict[str, Any]:
        # a lock can neither be copied nor sent to another process
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=RLock())

    def __setattr__(self, name: str, value: Any) -> None:
        """Rejects changes of what the results depend on, as `set` does."""
        if name in _SETTINGS and name in vars(self):
            self.set(**{name: value})
        super().__setattr__(name, value)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Value of one property; threads may share a calculator, and their calculations run one after another."""
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)

    def calculate_properties(self, atoms: Atoms, properties: Sequence[str]) -> Properties:
        """Values of several properties; threads may share a calculator, as in `get_property`."""
        with self._lock:
            return super().calculate_properties(atoms, properties)

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Rejects changes of parameters, which would invalidate the recorded provenance.

        Raises:
            PhysConError: any parameter is given.
        """
        if kwargs:
            raise PhysConError(
                f"{', '.join(kwargs)} of a PhysConCalculator cannot be changed; create a new one with these arguments"
            )
        return {}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Changes since the last calculation, including charge and spin in `atoms.info`."""
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
        """Computes all properties, independent of those requested, and stores them in `results`.

        Raises:
            PhysConError: the structure is invalid; see `intake.check_structure`.
        """
        if atoms is not None:
            self.atoms = atoms.copy()
        self.results = {}
        self._check(self.atoms)
        batch = self._batch([self.atoms])
        level = self._level_of(self.atoms)
        self.provenance = replace(self.provenance, level=level)
        self.parameters["level"] = level
        if self._compiled is None:
            found = self._evaluate(self.model, level, batch)
        else:
            found = compiled_evaluation(self._compiled, level, batch)
        assert found.forces is not None
        energies = found.energies[0].numpy(force=True)
        energy = float(energies.sum())
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": energies,
            "forces": found.forces[0].numpy(force=True).astype(np.float64),
        }
        if found.charges is not None:
            charges = found.charges[0].numpy(force=True).astype(np.float64)
            self.results |= {"charges": charges, "dipole": _dipole_moment(self.atoms, charges)}
        if found.energy_uncertainties is not None:
            self.results["energy_uncertainty"] = found.energy_uncertainties.item()
        self._warn_of_doubts(level)
        if found.force_uncertainties is not None:
            self.results["forces_uncertainty"] = found.force_uncertainties[0].numpy(force=True).astype(np.float64)

    def _warn_of_doubts(self, level: str) -> None:
        """Warns once for each molecule, about the geometry of its first calculation.

        A small step from the last geometry does not change the molecule.
        """
        assert self.atoms is not None
        last, self._last = self._last, self.atoms
        if not self.warns or (last is not None and _is_near(last, self.atoms)):
            return
        bonds = bonds_by_distance(self.atoms.numbers, self.atoms.positions)
        molecule = self.atoms.numbers.tobytes() + bonds.tobytes()
        if molecule in self._judged:
            return
        self._judged.add(molecule)
        if doubts := self._doubts_of(self.atoms, level, self.results.get("energy_uncertainty")):
            warnings.warn(
                f"{self.atoms.get_chemical_formula()} is uncertain: {'; '.join(doubts)}", UncertainWarning, stacklevel=2
            )

    def _doubts_of(self, atoms: Atoms, level: str, energy_uncertainty: float | None) -> tuple[str, ...]:
        if self.model.environments is None and energy_uncertainty is None:
            return ()
        bonds = bonds_by_distance(atoms.numbers, atoms.positions)
        return doubts_of(self.model, level, atoms.numbers, bonds, energy_uncertainty)

    def export_properties(self) -> Properties:
        """Results restricted to properties known to ASE."""
        known = (*_PROPERTIES, *_OF_CHARGES)
        return Properties({name: self.results[name] for name in known if name in self.results})

    def atomization_energy(self, atoms: Atoms) -> float:
        """Sum of the atomic references of the level minus the energy of the molecule [eV].

        The references (`LevelConfig.references`) are fitted to molecules and thus include the average binding energy of
        each element. Only differences between molecules are meaningful; the values are not thermochemical atomisation
        energies.
        """
        energy: Any = self.get_property("energy", atoms)
        return self._references(atoms) - float(energy)

    def predict(
        self,
        structures: Iterable[Atoms],
        properties: Sequence[str] = ("energy", "forces"),
        *,
        on_error: Literal["record", "raise"] = "record",
        atoms_per_batch: int = ATOMS_PER_BATCH,
    ) -> list[Prediction]:
        """Energies and forces of many structures, in batches of similar size.

        Args:
            structures: the structures; not modified.
            properties: requested properties; forces are only computed if included, energies always.
            on_error: "record" to return a record with the error of an invalid structure, "raise" to raise it.
            atoms_per_batch: number of slots per batch; halved if memory runs out.

        Returns:
            One record per structure, in the order given.

        Raises:
            PhysConError: an unknown property, or an invalid structure with `on_error` "raise".
        """
        unknown = sorted(set(properties) - set(_PROPERTIES))
        if unknown:
            raise PhysConError(f"unknown properties {', '.join(unknown)}; allowed are {', '.join(_PROPERTIES)}")
        structures = [structures] if isinstance(structures, Atoms) else list(structures)
        found: dict[int, Prediction] = {}

        def refuse(index: int, error: PhysConError) -> None:
            if on_error == "raise":
                raise error
            found[index] = Prediction(None, None, None, None, None, None, self.provenance, error=error)

        for index, atoms in enumerate(structures):
            try:
                self._check(atoms)
            except PhysConError as error:
                refuse(index, error)
        accepted = [index for index in range(len(structures)) if index not in found]

        by_level: dict[str, list[int]] = defaultdict(list)
        for index in accepted:
            by_level[self._level_of(structures[index])].append(index)
        for level, indices in by_level.items():

            def work(rows: list[int], level: str = level, indices: list[int] = indices) -> None:
                chosen = [indices[row] for row in rows]
                predictions = self._predict_batch([structures[i] for i in chosen], level, "forces" in properties)
                found.update(zip(chosen, predictions, strict=True))

            too_large = in_chunks([len(structures[index]) for index in indices], atoms_per_batch, work)
            for row, error in too_large.items():
                refuse(indices[row], error)
        return [found[index] for index in range(len(structures))]

    def _predict_batch(self, structures: list[Atoms], level: str, with_forces: bool) -> list[Prediction]:
        batch = self._batch(structures)
        found = self._evaluate(self.model, level, batch, with_forces=with_forces)
        of_energies = found.energy_uncertainties
        columns = (
            unpad(batch, found.energies),
            [None] * len(batch) if of_energies is None else of_energies.tolist(),
            _rows(batch, found.forces),
            _rows(batch, found.force_uncertainties),
            _rows(batch, found.charges),
        )
        return [self._prediction(level, *row) for row in zip(structures, *columns, strict=True)]

    def _prediction(
        self,
        level: str,
        atoms: Atoms,
        energies: np.ndarray,
        energy_uncertainty: float | None,
        forces: np.ndarray | None,
        forces_uncertainty: np.ndarray | None,
        charges: np.ndarray | None,
    ) -> Prediction:
        energy = float(energies.sum())
        return Prediction(
            energy=energy,
            energies=energies,
            atomization_energy=self._references(atoms) - energy,
            energy_uncertainty=energy_uncertainty,
            forces=forces,
            forces_uncertainty=forces_uncertainty,
            provenance=replace(self.provenance, level=level),
            charges=charges,
            dipole=None if charges is None else _dipole_moment(atoms, charges),
            doubts=self._doubts_of(atoms, level, energy_uncertainty),
        )

    def _level_of(self, atoms: Atoms) -> str:
        charge, _ = charge_and_multiplicity(atoms, self.charge)
        return level_for(self.level, [(atoms.numbers, charge)], self.model)

    def _references(self, atoms: Atoms) -> float:
        level = self.model.level(self._level_of(atoms))
        table = dict(zip(level.elements, level.references, strict=True))
        return sum(table[number] for number in atoms.numbers.tolist())

    def _check(self, atoms: Atoms) -> None:
        check_structure(atoms, self.model, self.level, self.charge, self.multiplicity)

    def _batch(self, structures: list[Atoms]) -> Batch:
        weight = self.model.energy.embedding.weight
        return make_batch(
            [atoms.numbers for atoms in structures],
            # Centred in float64, since float32 loses precision far from the origin.
            [atoms.positions - atoms.positions.mean(axis=0) for atoms in structures],
            charges=[charge_and_multiplicity(atoms, self.charge)[0] for atoms in structures],
            dtype=weight.dtype,
            device=weight.device,
        )


def _is_near(one: Atoms, other: Atoms) -> bool:
    """Whether two geometries have the same elements and no atom is displaced by `_SMALL_STEP` or more."""
    if not np.array_equal(one.numbers, other.numbers):
        return False
    return bool(np.abs(one.positions - other.positions).max(initial=0.0) < _SMALL_STEP)


def _dipole_moment(atoms: Atoms, charges: Float[np.ndarray, " atoms"]) -> Float[np.ndarray, "3"]:
    """Dipole moment [e Å] of partial charges about the centre of mass; that of an ion depends on this origin."""
    return charges @ (atoms.positions - atoms.get_center_of_mass())


def _rows(batch: Batch, values: Tensor | None) -> list[np.ndarray] | list[None]:
    """Per-slot values as one float64 array per molecule; a list of None without values."""
    return [None] * len(batch) if values is None else [row.astype(np.float64) for row in unpad(batch, values)]
