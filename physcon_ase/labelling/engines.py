"""Programs that compute energies and forces, behind one function type.

An engine is made by a function of its program (`tblite_engine`, `pyscf_engine`, `mopac_engine`, `ase_engine`,
`checkpoint_engine`), can be sent to another process, and imports its program only there.
"""

import functools
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError, all_changes
from jaxtyping import Float, Integer
from torch import Tensor

from physcon_ase.batch import Batch, make_batch, threads_for, unpad
from physcon_ase.errors import EngineError
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel, load_model
from physcon_ase.units import ANGSTROM_PER_BOHR, CHEMICAL_SYMBOLS, EV_PER_HARTREE

TBLITE_METHODS: Final = {"gfn2": "GFN2-xTB", "gfn1": "GFN1-xTB"}
"""Name of each level in tblite."""

MOPAC_METHODS: Final = {"pm6": "PM6", "pm7": "PM7"}
"""Name of each level in MOPAC."""

PYSCF_LEVELS: Final = {
    "b3lyp": ("b3lypg", "6-31G(2df,p)"),
    "wb97x-d3bj": ("wb97x-d3bj", "def2-TZVP"),
    "r2scan": ("r2scan", "def2-TZVP"),
    "m062x": ("m062x", "def2-TZVP"),
}
"""Functional and basis of each level in PySCF. "b3lypg" is Gaussian's B3LYP (VWN3 correlation), with which QM9 was
made; PySCF's plain "b3lyp" has meant the same since its version 2.3, and VWN5 before, which is 1.7 eV off for ethane.
The basis has spherical d functions, that of Gaussian probably six Cartesian ones: energies lie above those of QM9 by
.02 eV for ethane, .18 eV for c1nnon1 and .25 eV for N#Cc1nnon1, and the largest forces at their QM9 minima are .03, .03
and .10 eV/Å (with Cartesian functions throughout .07 and .16 for the first two)."""

_PYSCF_SETTINGS: Final = ("functional", "basis", "grid_level", "convergence", "gpu")

_MULTIPLETS: Final = ("", "SINGLET", "DOUBLET", "TRIPLET", "QUARTET", "QUINTET")
_MAX_CYCLES: Final = 100


@dataclass(frozen=True)
class EngineLabel:
    """What an engine says of one geometry."""

    energy: float
    """Total energy [eV]."""
    forces: Float[np.ndarray, "atoms 3"]
    """[eV/Å]."""


EngineFunction: TypeAlias = Callable[[np.ndarray, np.ndarray, int, int], EngineLabel]
"""(atomic numbers [atoms], positions [atoms, 3] in Å, total charge [e], multiplicity) -> label; raises EngineError."""


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

    def __call__(
        self,
        atomic_numbers: Integer[np.ndarray, " atoms"],
        positions: Float[np.ndarray, "atoms 3"],
        charge: int,
        multiplicity: int,
    ) -> EngineLabel:
        """The label of one geometry.

        Raises:
            EngineError: the program is missing, refuses the geometry, or finds no finite label.
        """
        label = self.function(np.asarray(atomic_numbers), np.asarray(positions, dtype=float), charge, multiplicity)
        if not (math.isfinite(label.energy) and np.isfinite(label.forces).all()):
            raise EngineError(f"{self.record.program} found an energy or forces that are not finite; leave it out")
        return label


# ---- tblite


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
    settings = {"method": TBLITE_METHODS[level], "accuracy": accuracy}
    record = EngineRecord(level, "tblite", _installed("tblite", "pip install 'physcon-ase[label]'"), settings)
    return Engine(record, functools.partial(_tblite_label, **settings))


def _tblite_label(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int,
    multiplicity: int,
    *,
    method: str,
    accuracy: float,
) -> EngineLabel:
    from tblite.interface import Calculator as TBLiteCalculator

    try:
        calculator = TBLiteCalculator(
            method, atomic_numbers, positions / ANGSTROM_PER_BOHR, charge=float(charge), uhf=multiplicity - 1
        )
        calculator.set("accuracy", accuracy)
        calculator.set("verbosity", 0)
        result = calculator.singlepoint()
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"tblite failed: {_one_line(error)}") from error
    return EngineLabel(
        energy=float(result.get("energy")) * EV_PER_HARTREE,
        forces=-np.asarray(result.get("gradient")) * (EV_PER_HARTREE / ANGSTROM_PER_BOHR),
    )


# ---- PySCF


def pyscf_engine(
    level: str = "b3lyp",
    *,
    functional: str | None = None,
    basis: str | None = None,
    grid_level: int = 3,
    convergence: float = 1e-9,
    gpu: bool | None = None,
) -> Engine:
    """A density functional as computed by PySCF with density fitting, on a GPU by GPU4PySCF if there are both.

    Sun et al. 2020, doi 10.1063/5.0006074; Wu et al. 2025, doi 10.1002/wcms.70008. The choice of GPU4PySCF is tested
    with a stand-in only: nobody has run it from here on a GPU yet.

    Args:
        level: a key of `PYSCF_LEVELS`, or any name if functional and basis are given.
        functional: in PySCF's notation, with the suffix "-d3bj" for dispersion (needs the package pyscf-dispersion).
        basis: in PySCF's notation.
        grid_level: PySCF's integration grid, 0 (coarse) to 9.
        convergence: of the total energy [hartree].
        gpu: whether GPU4PySCF computes; decided here, where the engine is made, unless given: say it if workers have
            other machines.

    Raises:
        EngineError: PySCF or a package that it needs is not installed, or the level is unknown and not defined here.
    """
    if level not in PYSCF_LEVELS and (functional is None or basis is None):
        raise EngineError(
            f"PySCF level {level!r} is not known; choose one of {', '.join(PYSCF_LEVELS)}, or give functional and basis"
        )
    default_functional, default_basis = PYSCF_LEVELS.get(level, ("", ""))
    settings = {
        "functional": functional or default_functional,
        "basis": basis or default_basis,
        "grid_level": grid_level,
        "convergence": convergence,
        "gpu": _gpu4pyscf_works() if gpu is None else gpu,
    }
    found = _installed("pyscf", "pip install 'physcon-ase[label]'")
    if gpu and find_spec("gpu4pyscf") is None:
        raise EngineError("GPU4PySCF is not installed: pip install gpu4pyscf-cuda12x (or that of your CUDA version)")
    if settings["functional"].lower().endswith(("-d3bj", "-d4")):
        _installed("pyscf-dispersion", "pip install pyscf-dispersion")
    record = EngineRecord(level, "PySCF", found, {**settings, "density_fitting": True, "spherical": True})
    return Engine(record, functools.partial(_pyscf_label, **settings))


def pyscf_energy(
    engine: Engine,
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int,
    multiplicity: int,
) -> float:
    """Energy [eV] of one geometry by an engine of `pyscf_engine`, without the forces, which are two fifths of the work.

    Raises:
        EngineError: as the engine.
    """
    settings = {name: engine.record.settings[name] for name in _PYSCF_SETTINGS}
    with _pyscf_errors():
        method = _pyscf_solved(atomic_numbers, positions, charge, multiplicity, **settings)
    return float(method.e_tot) * EV_PER_HARTREE


def _gpu4pyscf_works() -> bool:
    """Whether GPU4PySCF is installed and finds a CUDA device."""
    if find_spec("gpu4pyscf") is None:
        return False
    from cupy.cuda import runtime  # pyright: ignore[reportMissingImports]  # comes with GPU4PySCF

    try:
        return runtime.getDeviceCount() > 0
    except runtime.CUDARuntimeError:  # no driver, or no device
        return False


def _pyscf_label(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int,
    multiplicity: int,
    **settings: Any,
) -> EngineLabel:
    with _pyscf_errors():
        method = _pyscf_solved(atomic_numbers, positions, charge, multiplicity, **settings)
        gradient = np.asarray(method.nuc_grad_method().kernel())
    return EngineLabel(float(method.e_tot) * EV_PER_HARTREE, -gradient * (EV_PER_HARTREE / ANGSTROM_PER_BOHR))


@contextmanager
def _pyscf_errors() -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except (RuntimeError, ValueError, KeyError, ImportError, np.linalg.LinAlgError) as error:
        raise EngineError(f"PySCF failed: {_one_line(error)}") from error


def _pyscf_solved(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int,
    multiplicity: int,
    *,
    functional: str,
    basis: str,
    grid_level: int,
    convergence: float,
    gpu: bool,
) -> Any:
    """The converged Kohn-Sham method of PySCF."""
    from pyscf import dft, gto

    symbols = [CHEMICAL_SYMBOLS.get(number, "?") for number in atomic_numbers.tolist()]
    places = (positions / ANGSTROM_PER_BOHR).tolist()
    molecule = gto.M(
        atom=list(zip(symbols, places, strict=True)),
        unit="Bohr",
        basis=basis,
        charge=charge,
        spin=multiplicity - 1,
        verbose=0,
        parse_arg=False,  # or PySCF would read the command line of this process
    )
    kohn_sham = dft.RKS if multiplicity == 1 else dft.UKS
    method: Any = kohn_sham(molecule, xc=functional).density_fit()
    method.grids.level, method.conv_tol, method.max_cycle = grid_level, convergence, _MAX_CYCLES
    if gpu:
        method = method.to_gpu()
    method.kernel()
    if not method.converged:
        raise EngineError(
            f"SCF not converged within {_MAX_CYCLES} cycles ({functional}/{basis}); leave the geometry out"
        )
    return method


# ---- MOPAC and other ASE calculators


def mopac_engine(level: str = "pm7") -> Engine:
    """PM6 or PM7 as computed by the program `mopac`; the energy is the heat of formation.

    Stewart 2013, doi 10.1007/s00894-012-1667-x (PM7).

    Args:
        level: a key of `MOPAC_METHODS`.

    Raises:
        EngineError: there is no program `mopac`, or the level is none of its own.
    """
    if level not in MOPAC_METHODS:
        raise EngineError(f"MOPAC has no level {level!r}; choose one of {', '.join(MOPAC_METHODS)}")
    if shutil.which("mopac") is None:
        raise EngineError(
            "the program mopac is not installed: apt install mopac, or conda install -c conda-forge mopac"
        )
    settings = {"method": MOPAC_METHODS[level]}
    record = EngineRecord(level, "MOPAC", _mopac_version(), {**settings, "energy": "heat of formation"})
    return Engine(record, functools.partial(_mopac_label, **settings))


def _mopac_version() -> str:
    try:
        told = subprocess.run(["mopac", "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"the program mopac does not run: {error}; install it anew") from error
    return next((word for word in told.split() if word[:1].isdigit()), "unknown")


def _mopac_label(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int,
    multiplicity: int,
    *,
    method: str,
) -> EngineLabel:
    from ase.calculators.mopac import MOPAC

    if not 1 <= multiplicity < len(_MULTIPLETS):
        raise EngineError(f"multiplicity {multiplicity} is not known to MOPAC; allowed are 1 to {len(_MULTIPLETS) - 1}")
    atoms = Atoms(atomic_numbers, positions)
    # ASE writes the multiplet itself, from the magnetic moments
    atoms.set_initial_magnetic_moments([multiplicity - 1.0] + [0.0] * (len(atoms) - 1))
    with tempfile.TemporaryDirectory(prefix="physcon-mopac-") as folder:
        atoms.calc = MOPAC(
            label=str(Path(folder) / "job"),
            command="mopac PREFIX.mop > /dev/null 2>&1",  # it tells the terminal how each job ended
            method=method,
            charge=charge,
            task="1SCF GRADIENTS",
            relscf=0.0001,
        )
        label = _ase_label(atoms, "MOPAC")
    if not np.asarray(label.forces).shape == positions.shape:
        raise EngineError("MOPAC printed no forces; leave the geometry out")
    return label


def ase_engine(
    factory: Callable[[int, int], Calculator],
    *,
    level: str,
    program: str = "ASE",
    program_version: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Engine:
    """Any ASE calculator that has energy and forces.

    Args:
        factory: (total charge [e], multiplicity) -> a new calculator; called once for each geometry. To label in
            several processes it has to be picklable: a function of a module, or `functools.partial` of one.
        level: level of theory.
        program: name of the program, for the provenance.
        program_version: its version.
        settings: its settings, for the provenance.
    """
    record = EngineRecord(level, program, program_version, dict(settings or {}))
    return Engine(record, functools.partial(_label_with_factory, factory=factory, program=program))


def _label_with_factory(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int,
    multiplicity: int,
    *,
    factory: Callable[[int, int], Calculator],
    program: str,
) -> EngineLabel:
    atoms = Atoms(atomic_numbers, positions)
    try:
        atoms.calc = factory(charge, multiplicity)
    except ImportError as error:
        raise EngineError(f"{program} is not installed: {_one_line(error)}; install it") from error
    return _ase_label(atoms, program)


def _ase_label(atoms: Atoms, program: str) -> EngineLabel:
    try:
        return EngineLabel(float(atoms.get_potential_energy()), np.array(atoms.get_forces(), dtype=float))
    # Readers of output files end in any of these when a program has stopped half-way.
    except (CalculatorError, RuntimeError, ValueError, KeyError, IndexError, AssertionError, OSError) as error:
        raise EngineError(f"{program} failed: {type(error).__name__}: {_one_line(error)}") from error


# ---- checkpoints of this package


def checkpoint_engine(checkpoint: str | Path, *, level: str | None = None) -> Engine:
    """A checkpoint of this package in float64, as one engine among others.

    The level is named "<checkpoint>.<level>", so that its labels are not mistaken for those of the level itself.

    Args:
        checkpoint: a shipped name or a folder.
        level: level of theory of the checkpoint; its first unless given.

    Raises:
        CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `load_model`.
        UnknownLevelError: the checkpoint has no such level.
    """
    loaded = _loaded(str(checkpoint))
    name = loaded.model.level_names[0] if level is None else loaded.model.level(level).name
    record = EngineRecord(f"{loaded.name}.{name}", "physcon_ase", loaded.revision, {"level": name, "dtype": "float64"})
    return Engine(record, functools.partial(_checkpoint_label, checkpoint=str(checkpoint), level=name))


def _checkpoint_label(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int,
    multiplicity: int,
    *,
    checkpoint: str,
    level: str,
) -> EngineLabel:
    model = _loaded(checkpoint).model
    missing = sorted(set(atomic_numbers.tolist()) - set(model.level(level).elements))
    if missing:
        symbols = ", ".join(CHEMICAL_SYMBOLS.get(number, str(number)) for number in missing)
        raise EngineError(f"level {level!r} of {checkpoint} does not cover {symbols}; use another engine")
    charges = model.level(level).charges
    if charge not in charges or multiplicity != 1:
        raise EngineError(
            f"level {level!r} of {checkpoint} knows closed shells of charge {', '.join(map(str, charges))} only, "
            f"received charge {charge:+d} and multiplicity {multiplicity}; use another engine"
        )
    centred = positions - positions.mean(axis=0)
    batch = make_batch([atomic_numbers], [centred], charges=[charge], dtype=torch.float64)
    with threads_for(batch):
        energies, forces = energies_and_forces(model.energy_fn(level), batch)
    return EngineLabel(float(energies[0]), forces[0].numpy(force=True))


@functools.lru_cache(maxsize=4)
def _loaded(checkpoint: str) -> LoadedModel:
    """Once for each process."""
    return load_model(checkpoint, dtype=torch.float64)


# ---- by name, and in batches


def engine_by_name(name: str, *, level: str | None = None) -> Engine:
    """The engine of a level of theory, or of a checkpoint.

    Args:
        name: a key of `TBLITE_METHODS`, `MOPAC_METHODS` or `PYSCF_LEVELS`, a shipped checkpoint or its folder.
        level: level of theory of a checkpoint.

    Raises:
        EngineError: the program is not installed, or a level was given for an engine that is one itself.
        CheckpointNotFoundError: the name is that of no engine and no checkpoint.
    """
    makers: tuple[tuple[Mapping[str, object], Callable[[str], Engine]], ...] = (
        (TBLITE_METHODS, tblite_engine),
        (MOPAC_METHODS, mopac_engine),
        (PYSCF_LEVELS, pyscf_engine),
    )
    for names, make in makers:
        if name in names:
            if level is not None:
                raise EngineError(f"engine {name!r} is a level itself; leave out the level {level!r}")
            return make(name)
    return checkpoint_engine(name, level=level)


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
                label = engine(numbers, places, charge, multiplicity)
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
        label = self.engine(self.atoms.numbers, self.atoms.positions, self.charge, self.multiplicity)
        self.results = {"energy": label.energy, "forces": label.forces}


def record_as_dict(record: EngineRecord) -> dict[str, Any]:
    """The record for a file."""
    return {**asdict(record), "settings": dict(record.settings)}


def _installed(package: str, remedy: str) -> str:
    """Version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise EngineError(f"{package} is not installed: {remedy}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
