"""Density functional theory with PySCF."""

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
"""Functional and basis set of each level in PySCF notation. "b3lypg" is the B3LYP of Gaussian (VWN3 correlation), used
for QM9; "b3lyp" is identical since PySCF 2.3 but used VWN5 before, which changes the energy of ethane by 1.7 eV. The
basis has spherical d functions, that of QM9 probably Cartesian ones: energies are higher than those of QM9 by 0.02 eV
for ethane, 0.18 eV for c1nnon1 and 0.25 eV for N#Cc1nnon1, and the largest forces at the QM9 minima are 0.03, 0.03 and
0.10 eV/Å (0.07 and 0.16 eV/Å for the first two if all functions are Cartesian).

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
    """Engine for density functional theory with PySCF and density fitting; uses GPU4PySCF if available.

    Sun et al. 2020, doi 10.1063/5.0006074; Wu et al. 2025, doi 10.1002/wcms.70008. The GPU code path has only been
    tested with a mock of GPU4PySCF.

    Args:
        level: a key of `PYSCF_LEVELS`, or any name if functional and basis are given.
        functional: functional in PySCF notation, with suffix "-d3bj" for dispersion (requires pyscf-dispersion).
        basis: basis set in PySCF notation.
        grid_level: level of the integration grid, 0 (coarse) to 9.
        convergence: convergence threshold of the total energy [hartree].
        gpu: whether to use GPU4PySCF; by default if a GPU is found in the current process. Set it explicitly if the
            workers run on other machines.

    Raises:
        EngineError: PySCF or a required package is not installed, or the level is unknown and functional or basis is
            missing.
    """
    if level not in PYSCF_LEVELS and (functional is None or basis is None):
        raise EngineError(
            f"unknown PySCF level {level!r}; choose one of {', '.join(PYSCF_LEVELS)}, or give functional and basis"
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
        raise EngineError("GPU4PySCF is not installed: pip install gpu4pyscf-cuda12x (or for your CUDA version)")
    if settings["functional"].lower().endswith(("-d3bj", "-d4")):
        installed_version("pyscf-dispersion", "pip install pyscf-dispersion")
    record = EngineRecord(level, "PySCF", found, {**settings, "density_fitting": True, "spherical": True})
    return Engine(record, functools.partial(_pyscf_label, **settings))


def pyscf_energy(engine: Engine, molecule: Molecule) -> float:
    """Energy [eV] of one geometry with an engine of `pyscf_engine`, without forces (about 40 % of the cost).

    Raises:
        EngineError: the calculation failed.
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
    """PySCF `Mole` of the molecule, with the effective core potentials of def2 basis sets beyond krypton."""
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
        parse_arg=False,  # do not parse the command line
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
        raise EngineError(f"SCF not converged within {_MAX_CYCLES} cycles ({functional}/{basis}); omit the geometry")
    return method
