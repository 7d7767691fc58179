import dataclasses
import functools
import pickle
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.lj import LennardJones
from tblite.ase import TBLite

from physcon_ase.batch import make_batch
from physcon_ase.data.store import check_level_name
from physcon_ase.errors import CheckpointNotFoundError, EngineError, UnknownLevelError, UnsupportedElementError
from physcon_ase.labelling.engines import (
    Engine,
    EngineCalculator,
    EngineLabel,
    EngineRecord,
    Molecule,
    ase_engine,
    checkpoint,
    checkpoint_engine,
    engine_by_name,
    engine_forces,
    mopac_engine,
    pyscf_energy,
    pyscf_engine,
    tblite_engine,
)
from physcon_ase.model.physcon import load_model
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS

SAME_PROGRAM = 1e-5
"""Two ways to call the same program: its convergence, and constants of an older CODATA in its calculator [eV, eV/Å]."""

GRID = 3e-3
"""What the gradient of a density functional leaves out: the motion of the integration grid [eV/Å]."""

PRINTED = 1e-3
"""Digits in MOPAC's output, and its loose convergence [eV/Å]."""

needs_pyscf = pytest.mark.skipif(find_spec("pyscf") is None, reason="PySCF is not installed")
needs_mopac = pytest.mark.skipif(shutil.which("mopac") is None, reason="MOPAC is not installed")


def assert_forces_are_slopes(engine: Engine, tolerance: float) -> None:
    """Of the energy of water, along the coordinate of the oxygen on its axis."""
    step = np.zeros_like(WATER)
    step[0, 2] = 1e-3
    up, down = (engine(Molecule(WATER_NUMBERS, WATER + sign * step, 0, 1)).energy for sign in (1, -1))
    force = engine(Molecule(WATER_NUMBERS, WATER)).forces[0, 2]
    assert abs(force) > 100 * tolerance
    assert force == pytest.approx((down - up) / 2e-3, abs=tolerance)


def assert_cation_costs_the_ionisation_energy(engine: Engine) -> None:
    neutral, cation = (engine(Molecule(WATER_NUMBERS, WATER, charge, spin)).energy for charge, spin in ((0, 1), (1, 2)))
    assert 8 < cation - neutral < 20  # the ionisation energy of water is 12.6 eV


@pytest.mark.parametrize(("level", "method"), [("gfn2", "GFN2-xTB"), ("gfn1", "GFN1-xTB")])
def test_labels_are_those_of_tblites_own_calculator_in_ev_and_angstrom(level: str, method: str) -> None:
    atoms = Atoms(ETHANOL_NUMBERS, ETHANOL, calculator=TBLite(method=method, verbosity=0))
    label = tblite_engine(level)(Molecule(ETHANOL_NUMBERS, ETHANOL, 0, 1))
    assert label.energy == pytest.approx(atoms.get_potential_energy(), abs=SAME_PROGRAM)
    np.testing.assert_allclose(label.forces, atoms.get_forces(), atol=SAME_PROGRAM)


def test_charge_and_spin_reach_tblite() -> None:
    assert_cation_costs_the_ionisation_energy(tblite_engine())


@needs_pyscf
def test_pyscf_has_charge_spin_and_forces_and_the_b3lyp_of_gaussian() -> None:
    small = pyscf_engine("small", functional="b3lypg", basis="sto-3g", grid_level=2)
    assert_forces_are_slopes(small, GRID)
    assert_cation_costs_the_ionisation_energy(small)
    assert engine_by_name("b3lyp").record.settings["functional"] == "b3lypg"
    from pyscf.dft.libxc import parse_xc

    hybrid_b3lyp_vwn3 = 402  # XC_HYB_GGA_XC_B3LYP of libxc; the one with VWN5 is 475
    assert parse_xc("b3lypg")[1][0][0] == hybrid_b3lyp_vwn3


@needs_pyscf
def test_iodine_has_the_core_potential_of_a_def2_basis_and_all_electrons_in_others() -> None:
    from physcon_ase.labelling.engines.pyscf import built_molecule

    hi = Molecule(np.array([1, 53]), np.array([[0, 0, 0], [0, 0, 1.609]]))
    assert built_molecule(hi, "def2-TZVP").nelectron == 1 + 53 - 28
    assert built_molecule(hi, "dzvp").nelectron == 54
    assert built_molecule(Molecule(WATER_NUMBERS, WATER), "def2-TZVP").nelectron == 10


@needs_pyscf
def test_an_energy_alone_is_that_of_the_label() -> None:
    small = pyscf_engine("small", functional="lda", basis="sto-3g", grid_level=0)
    label = small(Molecule(WATER_NUMBERS, WATER))
    assert pyscf_energy(small, Molecule(WATER_NUMBERS, WATER)) == pytest.approx(label.energy, abs=SAME_PROGRAM)
    with pytest.raises(EngineError, match="PySCF failed"):
        pyscf_energy(small, Molecule(WATER_NUMBERS, WATER, multiplicity=2))


@needs_pyscf
def test_an_scf_that_does_not_converge_is_an_error() -> None:
    with pytest.raises(EngineError, match="SCF not converged within 100 cycles"):
        pyscf_engine("tight", functional="lda", basis="sto-3g", grid_level=0, convergence=1e-300)(
            Molecule(WATER_NUMBERS, WATER)
        )
    with pytest.raises(EngineError, match="PySCF failed"):  # ten electrons are no doublet
        pyscf_engine("small", functional="lda", basis="sto-3g")(Molecule(WATER_NUMBERS, WATER, multiplicity=2))


@needs_pyscf
@pytest.mark.parametrize(
    ("n_devices", "computes_there"),
    [("return 1", True), ("return 0", False), ("raise CUDARuntimeError('no driver')", False)],
)
def test_gpu4pyscf_computes_where_it_finds_a_device(
    n_devices: str, computes_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pyscf_engine("r2scan").record.settings["gpu"] is False
    if find_spec("gpu4pyscf") is None:
        with pytest.raises(EngineError, match="GPU4PySCF is not installed: pip install gpu4pyscf"):
            pyscf_engine("r2scan", gpu=True)
    runtime = f"class CUDARuntimeError(RuntimeError): pass\ndef getDeviceCount(): {n_devices}\n"
    for file, text in {"gpu4pyscf/__init__.py": "", "cupy/__init__.py": "", "cupy/cuda/runtime.py": runtime}.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("cupy", "cupy.cuda", "cupy.cuda.runtime"):
        monkeypatch.setitem(sys.modules, name, sys)  # so that what is imported here is forgotten afterwards
        del sys.modules[name]
    sent: list[str] = []
    monkeypatch.setattr("pyscf.df.df_jk._DFHF.to_gpu", lambda method: sent.append("gpu") or method)
    engine = pyscf_engine("small", functional="lda", basis="sto-3g", grid_level=0)
    assert engine.record.settings["gpu"] is computes_there
    engine(Molecule(WATER_NUMBERS, WATER))
    assert sent == ["gpu"] * computes_there
    assert pyscf_engine("r2scan", gpu=False).record.settings["gpu"] is False


@needs_mopac
def test_mopac_has_charge_spin_and_forces(capfd: pytest.CaptureFixture) -> None:
    pm6 = mopac_engine("pm6")
    assert_forces_are_slopes(pm6, PRINTED)
    assert_cation_costs_the_ionisation_energy(pm6)
    assert pm6.record.version[0].isdigit()
    with pytest.raises(EngineError, match="MOPAC failed"):
        pm6(Molecule(np.array([92, 1]), WATER[:2], 0, 1))
    assert capfd.readouterr().out == ""


def test_a_missing_program_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match="apt install mopac"):
        engine_by_name("pm7")
    if find_spec("pyscf") is None:
        with pytest.raises(EngineError, match="pyscf is not installed: pip install"):
            engine_by_name("b3lyp")
    elif find_spec("pyscf.dispersion") is None:
        with pytest.raises(EngineError, match="pip install pyscf-dispersion"):
            engine_by_name("wb97x-d3bj")


def lennard_jones(charge: int, multiplicity: int) -> Calculator:
    return LennardJones(epsilon=0.01, sigma=1.0)


class Broken(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        raise CalculationFailed("no licence today")


def test_any_ase_calculator_is_an_engine_and_its_failure_an_error() -> None:
    engine = pickle.loads(pickle.dumps(ase_engine(lennard_jones, level="lj", program="ASE")))
    atoms = Atoms(WATER_NUMBERS, WATER, calculator=lennard_jones(0, 1))
    label = engine(Molecule(WATER_NUMBERS, WATER))
    assert label.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(label.forces, atoms.get_forces())
    with pytest.raises(EngineError, match="ASE failed: CalculationFailed: no licence today"):
        ase_engine(lambda *_: Broken(), level="none")(Molecule(WATER_NUMBERS, WATER))


def test_the_record_of_an_ase_engine_has_the_arguments_of_its_calculator() -> None:
    """It is part of the fingerprint of a labelling, which does not go on with another one."""
    inner = functools.partial(lennard_jones, 0)
    record = ase_engine(functools.partial(inner, multiplicity=3), level="lj", settings={"cutoff": 4.0}).record
    assert record.settings == {"calculator": lennard_jones, "argument 0": 0, "multiplicity": 3, "cutoff": 4.0}
    other = ase_engine(functools.partial(inner, multiplicity=1), level="lj").record
    assert other.settings != ase_engine(functools.partial(inner, multiplicity=3), level="lj").record.settings


def test_a_checkpoint_is_an_engine_with_its_own_level_name() -> None:
    engine = pickle.loads(pickle.dumps(checkpoint_engine("physcon-2")))
    loaded = load_model("physcon-2")
    assert engine.record == EngineRecord(
        "physcon-2_b3lyp-d3", "physcon_ase", loaded.revision, {"level": "b3lyp-d3", "dtype": "float64"}
    )
    check_level_name(engine.record.level)
    torch.nn.ModuleDict({engine.record.level: torch.nn.Identity()})  # as of a model that is trained on the labels
    assert_forces_are_slopes(engine, 1e-4)
    with pytest.raises(EngineError, match="does not cover U; use another engine"):
        engine(Molecule(np.array([92, 1]), WATER[:2], 0, 1))
    with pytest.raises(EngineError, match=r"only covers closed shells of charge .*, received charge \+1"):
        engine(Molecule(WATER_NUMBERS, WATER, 1, 2))
    with pytest.raises(UnknownLevelError):
        checkpoint_engine("physcon-2", level="magic")
    with pytest.raises(CheckpointNotFoundError):
        engine_by_name("magic")
    with pytest.raises(EngineError, match="is itself a level"):
        engine_by_name("gfn2", level="gfn1")


def test_a_checkpoint_of_any_name_has_a_level_that_can_be_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = dataclasses.replace(load_model("physcon-2"), name="my run 1.5")
    monkeypatch.setattr(checkpoint, "_loaded", lambda _: renamed)
    assert checkpoint_engine("folder", level="b3lyp").record.level == "my_run_1_5_b3lyp"


def test_every_engine_says_where_its_labels_come_from() -> None:
    record = tblite_engine("gfn1", accuracy=0.1).record
    assert (record.level, record.program) == ("gfn1", "tblite")
    assert record.version[0].isdigit()
    assert record.settings == {"method": "GFN1-xTB", "accuracy": 0.1}


def test_what_the_program_refuses_is_one_error() -> None:
    with pytest.raises(EngineError, match="tblite failed"):
        tblite_engine()(Molecule(np.array([0, 1]), np.zeros((2, 3)), 0, 1))
    with pytest.raises(EngineError, match="has no level 'pm7'; choose one of gfn2, gfn1"):
        tblite_engine("pm7")


def test_labels_that_are_not_finite_are_errors() -> None:
    def infinite(molecule: Molecule) -> EngineLabel:
        return EngineLabel(1.0, np.full_like(molecule.positions, np.nan))

    def without_charges(molecule: Molecule) -> EngineLabel:
        return EngineLabel(1.0, np.zeros_like(molecule.positions), np.array([np.nan, 0, 0]))

    for function in (infinite, without_charges):
        with pytest.raises(EngineError, match="Nonsense returned an energy, forces or charges that are not finite"):
            Engine(EngineRecord("none", "Nonsense", "0"), function)(Molecule(WATER_NUMBERS, WATER))


@pytest.mark.parametrize("error", [MemoryError("9 GiB are too much"), UnsupportedElementError("9 GiB are too much")])
def test_any_error_of_a_program_is_that_of_one_geometry(error: Exception) -> None:
    def small(molecule: Molecule) -> EngineLabel:
        if len(molecule.atomic_numbers) > 3:
            raise error
        return EngineLabel(1.5, np.ones_like(molecule.positions))

    def many(molecules: Sequence[Molecule]) -> list[EngineLabel | EngineError]:
        return [small(own) for own in molecules]

    molecules = [Molecule(WATER_NUMBERS, WATER), Molecule(ETHANOL_NUMBERS, ETHANOL)]
    for batched in (None, many):
        engine = Engine(EngineRecord("none", "Small", "0"), small, batched=batched, batch_slots=100)
        water, ethanol = engine.label_many(molecules)
        assert isinstance(water, EngineLabel)
        assert str(ethanol) == f"Small failed: {type(error).__name__}: 9 GiB are too much; omit the geometry"


def test_a_geometry_without_label_is_nan_among_the_others() -> None:
    def engine(molecule: Molecule) -> EngineLabel:
        if len(molecule.atomic_numbers) == 3:
            raise EngineError("no water today")
        return EngineLabel(1.5, np.ones_like(molecule.positions))

    batch = make_batch([WATER_NUMBERS, ETHANOL_NUMBERS], [WATER, ETHANOL])
    energies, forces = engine_forces(engine)(batch)
    assert energies.isnan().tolist() == [True, False]
    assert energies[1] == 1.5
    torch.testing.assert_close(forces[1], torch.ones(9, 3))


def test_an_engine_works_as_an_ase_calculator() -> None:
    engine = tblite_engine()
    atoms = Atoms(WATER_NUMBERS, WATER, calculator=EngineCalculator(engine, charge=1, multiplicity=2))
    assert atoms.get_potential_energy() == engine(Molecule(WATER_NUMBERS, WATER, 1, 2)).energy
