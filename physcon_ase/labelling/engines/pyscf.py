"""Density functionals by PySCF."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines.engine import (
    Engine,
    EngineLabel,
    EngineRecord,
    Molecule,
    installed_version,
    one_line,
)
from physcon_ase.units import ANGSTROM_PER_BOHR, CHEMICAL_SYMBOLS, EV_PER_HARTREE

PYSCF_LEVELS: Final = {
    "b3lyp": ("b3lypg", "6-31G(2df,p)"),
    "b3lyp-d3": ("b3lyp-d3bj", "dzvp"),
    "wb97x-d3bj": ("wb97x-d3bj", "def2-TZVP"),
    "r2scan": ("r2scan", "def2-TZVP"),
    "m062x": ("m062x", "def2-TZVP"),
}
"""Functional and basis of each level in PySCF. "b3lypg" is Gaussian's B3LYP (VWN3 correlation), with which QM9 was
made; PySCF's plain "b3lyp" has meant the same since its version 2.3, and VWN5 before, which is 1.7 eV off for ethane.
The basis has spherical d functions, that of Gaussian probably six Cartesian ones: energies lie above those of QM9 by
0.02 eV for ethane, 0.18 eV for c1nnon1 and 0.25 eV for N#Cc1nnon1, and the largest forces at their QM9 minima are 0.03,
0.03 and 0.10 eV/Å (with Cartesian functions throughout 0.07 and 0.16 for the first two).

"b3lyp-d3" is the level of the OpenFF data sets (Psi4, B3LYP-D3(BJ)/DZVP); docs/data.md compares the two programs."""

_PYSCF_SETTINGS: Final = ("functional", "basis", "grid_level", "convergence", "gpu")

_MAX_CYCLES: Final = 100

_KRYPTON: Final = 36


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
    found = installed_version("pyscf", "pip install 'physcon-ase[label]'")
    if gpu and find_spec("gpu4pyscf") is None:
        raise EngineError("GPU4PySCF is not installed: pip install gpu4pyscf-cuda12x (or that of your CUDA version)")
    if settings["functional"].lower().endswith(("-d3bj", "-d4")):
        installed_version("pyscf-dispersion", "pip install pyscf-dispersion")
    record = EngineRecord(level, "PySCF", found, {**settings, "density_fitting": True, "spherical": True})
    return Engine(record, functools.partial(_pyscf_label, **settings))


def pyscf_energy(engine: Engine, molecule: Molecule) -> float:
    """Energy [eV] of one geometry by an engine of `pyscf_engine`, without the forces, which are two fifths of the work.

    Raises:
        EngineError: as the engine.
    """
    settings = {name: engine.record.settings[name] for name in _PYSCF_SETTINGS}
    with _pyscf_errors():
        method = _solved(molecule, **settings)
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


def _pyscf_label(molecule: Molecule, **settings: Any) -> EngineLabel:
    with _pyscf_errors():
        method = _solved(molecule, **settings)
        gradient = np.asarray(method.nuc_grad_method().kernel())
    return EngineLabel(float(method.e_tot) * EV_PER_HARTREE, -gradient * (EV_PER_HARTREE / ANGSTROM_PER_BOHR))


@contextmanager
def _pyscf_errors() -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except (RuntimeError, ValueError, KeyError, ImportError, np.linalg.LinAlgError) as error:
        raise EngineError(f"PySCF failed: {one_line(error)}") from error


def built_molecule(molecule: Molecule, basis: str) -> Any:
    """The molecule as PySCF's `Mole`, with the core potentials that belong to a def2 basis beyond krypton."""
    from pyscf import gto

    symbols = [CHEMICAL_SYMBOLS.get(number, "?") for number in molecule.atomic_numbers.tolist()]
    positions_bohr = (molecule.positions / ANGSTROM_PER_BOHR).tolist()
    has_potentials = basis.lower().startswith("def2") and molecule.atomic_numbers.max() > _KRYPTON
    return gto.M(
        atom=list(zip(symbols, positions_bohr, strict=True)),
        unit="Bohr",
        basis=basis,
        ecp=basis if has_potentials else {},
        charge=molecule.charge,
        spin=molecule.multiplicity - 1,
        verbose=0,
        parse_arg=False,  # or PySCF would read the command line of this process
    )


def _solved(
    molecule: Molecule,
    *,
    functional: str,
    basis: str,
    grid_level: int,
    convergence: float,
    gpu: bool,
) -> Any:
    """The converged Kohn-Sham method of PySCF."""
    from pyscf import dft

    kohn_sham = dft.RKS if molecule.multiplicity == 1 else dft.UKS
    method: Any = kohn_sham(built_molecule(molecule, basis), xc=functional).density_fit()
    method.grids.level, method.conv_tol, method.max_cycle = grid_level, convergence, _MAX_CYCLES
    if gpu:
        method = method.to_gpu()
    method.kernel()
    if not method.converged:
        raise EngineError(
            f"SCF not converged within {_MAX_CYCLES} cycles ({functional}/{basis}); leave the geometry out"
        )
    return method
