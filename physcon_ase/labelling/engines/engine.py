"""Engine: a function from a geometry to energy and forces, with a record of its provenance."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from jaxtyping import Float, Integer
from torch import Tensor

from physcon_ase.batch import Batch, unpad
from physcon_ase.errors import EngineError


@dataclass(frozen=True)
class Molecule:
    """Geometry of a molecule to be labelled."""

    atomic_numbers: Integer[np.ndarray, " atoms"]
    """Atomic number of each atom."""
    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å]."""
    charge: int = 0
    """Total charge [e]."""
    multiplicity: int = 1
    """Spin multiplicity."""
    row: int = 0
    """Index of the molecule in the run; determines the model of engines that use several models in turn."""


@dataclass(frozen=True)
class EngineLabel:
    """Labels of one geometry."""

    energy: float
    """Total energy [eV]."""
    forces: Float[np.ndarray, "atoms 3"]
    """Forces [eV/Å]."""
    charges: Float[np.ndarray, " atoms"] | None = None
    """Partial charges [e], if provided by the engine."""
    force_spread: float | None = None
    """Ensemble disagreement [eV/Å] for forces that are the mean of several models, see `force_disagreement`."""


EngineFunction: TypeAlias = Callable[[Molecule], EngineLabel]
"""Function that labels one geometry; raises EngineError."""

BatchFunction: TypeAlias = Callable[[Sequence[Molecule]], "list[EngineLabel | EngineError]"]
"""Function that labels many geometries; returns a label or an error for each."""


@dataclass(frozen=True)
class EngineRecord:
    """Provenance of the labels of an engine."""

    level: str
    """Level of theory, the name of the labels in a store."""
    program: str
    """Name of the program."""
    version: str
    """Version of the program."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All settings that affect the labels."""


@dataclass(frozen=True)
class Engine:
    """An `EngineFunction` with its provenance; labels that are not finite are errors."""

    record: EngineRecord
    """Provenance of the labels."""
    function: EngineFunction
    """Function that labels one geometry; must be picklable (no lambda or inner function) for several processes."""
    batched: BatchFunction | None = None
    """Function that labels many geometries in one call, if this is faster; must be picklable as well."""
    batch_slots: int = 0
    """Optimal number of atoms per call of `batched`, including padding."""
    n_turns: int = 1
    """Number of models that are used in turn, selected by `Molecule.row`; one call should use a single model."""

    def __call__(self, molecule: Molecule) -> EngineLabel:
        """Labels one geometry.

        Raises:
            EngineError: the program is not installed, rejects the geometry, fails with any error, or returns a label
                that is not finite.
        """
        try:
            label = self.function(molecule)
        except EngineError:
            raise
        except Exception as error:  # of the program, such as too little memory: one geometry must not end a run
            reason = f"{self.record.program} failed: {type(error).__name__}: {one_line(error)}"
            raise EngineError(f"{reason}; omit the geometry") from error
        if not _is_finite(label):
            raise EngineError(self._not_finite())
        return label

    def label_many(self, molecules: Sequence[Molecule]) -> "list[EngineLabel | EngineError]":
        """Labels many geometries, with one call of `batched` if available; a label or an error for each, in order."""
        if self.batched is None:
            return [_label_or_error(self, molecule) for molecule in molecules]
        try:
            labels = self.batched(molecules)
        except EngineError:
            raise
        except Exception:  # the one that the program fails for is found by labelling each alone
            return [_label_or_error(self, molecule) for molecule in molecules]
        return [
            label if isinstance(label, EngineError) or _is_finite(label) else EngineError(self._not_finite())
            for label in labels
        ]

    def _not_finite(self) -> str:
        return f"{self.record.program} returned an energy, forces or charges that are not finite; omit the geometry"


def _label_or_error(engine: EngineFunction, molecule: Molecule) -> EngineLabel | EngineError:
    try:
        return engine(molecule)
    except EngineError as error:
        return error


def _is_finite(label: EngineLabel) -> bool:
    arrays = [label.forces] if label.charges is None else [label.forces, label.charges]
    return math.isfinite(label.energy) and all(bool(np.isfinite(array).all()) for array in arrays)


def force_disagreement(forces: Float[np.ndarray, "models atoms 3"]) -> float:
    """Ensemble disagreement [eV/Å], the largest over the atoms: max_i sqrt(mean_m |F_mi - mean_m F_mi|²)."""
    spread = ((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)  # (atoms,)
    return float(np.sqrt(spread.max(initial=0.0)))


def engine_forces(engine: EngineFunction) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Force function of batches for `relax.driver.relax`; an `Engine` may label the molecules in one call.

    Geometries for which the engine fails get the energy NaN, which ends their relaxation.
    """

    def forces_of(batch: Batch) -> tuple[Tensor, Tensor]:
        energies = torch.full((len(batch),), float("nan"), dtype=torch.float64)
        forces = torch.zeros_like(batch.positions)
        columns = (unpad(batch, batch.atomic_numbers), unpad(batch, batch.positions), batch.charge, batch.multiplicity)
        molecules = [Molecule(*row[:2], int(row[2]), int(row[3])) for row in zip(*columns, strict=True)]
        if isinstance(engine, Engine):
            labels = engine.label_many(molecules)
        else:
            labels = [_label_or_error(engine, molecule) for molecule in molecules]
        for row, label in enumerate(labels):
            if isinstance(label, EngineLabel):
                energies[row] = label.energy
                forces[row, : len(label.forces)] = torch.as_tensor(label.forces)
        return energies, forces

    return forces_of


class EngineCalculator(Calculator):
    """ASE calculator that calls an engine; EngineError is propagated."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  # ASE's attribute is a list

    def __init__(self, engine: EngineFunction, *, charge: int = 0, multiplicity: int = 1):
        super().__init__()
        self.engine, self.charge, self.multiplicity = engine, charge, multiplicity

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Computes energy and forces and stores them in `results`."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        molecule = Molecule(self.atoms.numbers, self.atoms.positions, self.charge, self.multiplicity)
        label = self.engine(molecule)
        self.results = {"energy": label.energy, "forces": label.forces}


def record_as_dict(record: EngineRecord) -> dict[str, Any]:
    """Record as a dictionary that can be written to a file."""
    return {**asdict(record), "settings": dict(record.settings)}


def installed_version(package: str, remedy: str) -> str:
    """Version of a package, determined without importing it.

    Raises:
        EngineError: the package is not installed; the message ends with the remedy.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise EngineError(f"{package} is not installed: {remedy}") from error


def one_line(error: BaseException) -> str:
    """Error message on one line, truncated to 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
