"""What an engine is: a function from a geometry to energy and forces, which says where its labels come from."""

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
    """One geometry of a molecule, to be labelled."""

    atomic_numbers: Integer[np.ndarray, " atoms"]
    """Atomic number of each atom."""
    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å]."""
    charge: int = 0
    """Total charge [e]."""
    multiplicity: int = 1
    """Spin multiplicity."""
    row: int = 0
    """Number of the molecule in the run; engines that are several models take turns by it."""


@dataclass(frozen=True)
class EngineLabel:
    """Labels of one geometry."""

    energy: float
    """Total energy [eV]."""
    forces: Float[np.ndarray, "atoms 3"]
    """Forces [eV/Å]."""
    charges: Float[np.ndarray, " atoms"] | None = None
    """Partial charges [e], if the engine has them."""
    force_spread: float | None = None
    """Disagreement [eV/Å] of the models whose mean the forces are: `selection.force_disagreement`."""


EngineFunction: TypeAlias = Callable[[Molecule], EngineLabel]
"""One geometry -> its label; raises EngineError."""

BatchFunction: TypeAlias = Callable[[Sequence[Molecule]], "list[EngineLabel | EngineError]"]
"""Many geometries at a time -> the label of each, or the reason why it has none."""


@dataclass(frozen=True)
class EngineRecord:
    """Where the labels of an engine come from."""

    level: str
    """Level of theory, the name of the labels in a store."""
    program: str
    """Program that computes."""
    version: str
    """Version of the program."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything that changes the numbers."""


@dataclass(frozen=True)
class Engine:
    """An `EngineFunction` that says what it is; labels that are not finite are errors."""

    record: EngineRecord
    """Its provenance."""
    function: EngineFunction
    """What computes; to label in several processes it has to be picklable (no lambda, no inner function)."""
    batched: BatchFunction | None = None
    """The same for many geometries at a time, where that is faster; picklable too."""
    batch_slots: int = 0
    """Atoms of one call of `batched`, padding included, at which it is fastest."""
    n_turns: int = 1
    """Number of models that take turns by `Molecule.row`; molecules of one model belong in one call."""

    def __call__(self, molecule: Molecule) -> EngineLabel:
        """The label of one geometry.

        Raises:
            EngineError: the program is missing, refuses the geometry, or finds no finite label.
        """
        label = self.function(molecule)
        if not _is_finite(label):
            raise EngineError(self._not_finite())
        return label

    def label_many(self, molecules: Sequence[Molecule]) -> "list[EngineLabel | EngineError]":
        """Labels of many geometries, or the reasons why they have none, in their order; one call of `batched`."""
        if self.batched is None:
            return [self._label_or_error(molecule) for molecule in molecules]
        return [
            label if isinstance(label, EngineError) or _is_finite(label) else EngineError(self._not_finite())
            for label in self.batched(molecules)
        ]

    def _label_or_error(self, molecule: Molecule) -> "EngineLabel | EngineError":
        try:
            return self(molecule)
        except EngineError as error:
            return error

    def _not_finite(self) -> str:
        return f"{self.record.program} found an energy or forces that are not finite; leave it out"


def _is_finite(label: EngineLabel) -> bool:
    return math.isfinite(label.energy) and bool(np.isfinite(label.forces).all())


def force_disagreement(forces: Float[np.ndarray, "models atoms 3"]) -> float:
    """Largest spread of the force on any atom [eV/Å]: max_i sqrt(mean_m |F_mi - mean_m F_mi|²)."""
    spread = ((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)  # (atoms,)
    return float(np.sqrt(spread.max(initial=0.0)))


def engine_forces(engine: EngineFunction) -> Callable[[Batch], tuple[Tensor, Tensor]]:
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
                label = engine(Molecule(numbers, places, charge, multiplicity))
            except EngineError:
                continue
            energies[row] = label.energy
            forces[row, : len(numbers)] = torch.as_tensor(label.forces)
        return energies, forces

    return forces_of


class EngineCalculator(Calculator):
    """An engine as an ASE calculator, for dynamics and ASE's optimisers; its EngineError passes through."""

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
        """Fills `results`."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        molecule = Molecule(self.atoms.numbers, self.atoms.positions, self.charge, self.multiplicity)
        label = self.engine(molecule)
        self.results = {"energy": label.energy, "forces": label.forces}


def record_as_dict(record: EngineRecord) -> dict[str, Any]:
    """The record for a file."""
    return {**asdict(record), "settings": dict(record.settings)}


def installed_version(package: str, remedy: str) -> str:
    """Version of a package, without importing it.

    Raises:
        EngineError: it is not installed; ends with the remedy.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise EngineError(f"{package} is not installed: {remedy}") from error


def one_line(error: BaseException) -> str:
    """Message of an error, shortened, for a record."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
