"""What the issue calls bad input: one named error each, in the shell one line, in a batch one record."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physcon_ase import errors
from physcon_ase.cli import main
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.generator import StructureGenerator
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.one import optimize
from physcon_ase.inference.predictions import predict_structures
from physcon_ase.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, resolve
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, load_model

BAD_SMILES = {
    "C1CC": ("InvalidSmilesError", "invalid SMILES"),
    "": ("InvalidSmilesError", "empty SMILES"),
    "CC*": ("DummyAtomError", "dummy atom"),
    "C[Xx]": ("UnknownElementError", "unknown element"),
    "C[Te]C": ("UnsupportedElementError", "no level of this model covers Te, only H B C N O F Si P S Cl As Se Br I"),
    "[O-]P([O-])(=O)OP([O-])([O-])=O": ("UnsupportedChargeError", "does not cover charge -4"),
    "[CH3]": ("UnsupportedChargeError", "multiplicity 2"),
}

BAD_ATOMS: dict[str, tuple[Callable[[], Atoms], str, str]] = {
    "empty": (Atoms, "EmptyStructureError", "no atoms"),
    "periodic": (lambda: _changed(pbc=True, cell=[9, 9, 9]), "PeriodicCellError", "periodic"),
    "NaN": (lambda: _moved(np.nan), "NonFinitePositionsError", "finite"),
    "overlapping": (lambda: _moved(0.0), "OverlappingAtomsError", "apart"),
    "dummy": (lambda: Atoms("HX", [[0, 0, 0], [0, 0, 1]]), "UnknownElementError", "unknown atomic number"),
    "uncovered": (lambda: Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]]), "UnsupportedElementError", "does not cover Na"),
    "charged": (lambda: _changed(charge=1, spin=2), "UnsupportedChargeError", "charge"),
    "parity": (lambda: _changed(spin=2), "SpinParityError", "multiplicity 2"),
}


def _changed(*, pbc: bool = False, cell: list[float] | None = None, **info: int) -> Atoms:
    atoms = molecule("H2O")
    atoms.set_cell(cell)
    atoms.pbc = pbc
    atoms.info |= info
    return atoms


def _moved(place: float) -> Atoms:
    atoms = molecule("H2O")
    atoms.positions[1] = atoms.positions[0] + place
    return atoms


@pytest.fixture(scope="module")
def shipped() -> LoadedModel:
    return load_model()


@pytest.mark.parametrize("smiles", BAD_SMILES)
def test_a_bad_smiles_is_a_named_error_of_optimize_and_a_line_in_the_shell(
    smiles: str, shipped: LoadedModel, capsys: pytest.CaptureFixture
) -> None:
    name, message = BAD_SMILES[smiles]
    with pytest.raises(getattr(errors, name), match=message):
        optimize(smiles, checkpoint=shipped)
    assert main(["optimize", smiles]) == 2
    error = capsys.readouterr().err
    assert error.startswith("physcon: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("smiles", [smiles for smiles in BAD_SMILES if "." not in smiles])
def test_a_bad_smiles_is_a_named_error_of_the_generator(smiles: str, shipped: LoadedModel) -> None:
    with pytest.raises(getattr(errors, BAD_SMILES[smiles][0])):
        StructureGenerator(shipped)(smiles)


def test_in_a_batch_bad_smiles_are_records_and_stop_nobody(shipped: LoadedModel) -> None:
    molecules = ["O", *BAD_SMILES, "C"]
    records = optimize_many(molecules, checkpoint=shipped)
    assert [record.status for record in records] == ["ok", *["failed"] * len(BAD_SMILES), "ok"]
    for record, (name, message) in zip(records[1:-1], BAD_SMILES.values(), strict=True):
        assert record.error == name
        assert message in record.reason
        assert record.result is None


@pytest.mark.parametrize("kind", BAD_ATOMS)
def test_a_bad_structure_is_a_named_error_of_calculator_and_optimize(kind: str, shipped: LoadedModel) -> None:
    make, name, message = BAD_ATOMS[kind]
    atoms = make()
    with pytest.raises(getattr(errors, name), match=message):
        optimize(atoms, checkpoint=shipped)
    atoms.calc = PhysConCalculator(shipped)
    with pytest.raises(getattr(errors, name), match=message):
        atoms.get_potential_energy()


def test_in_a_batch_bad_structures_are_records_and_stop_nobody(shipped: LoadedModel) -> None:
    structures = [molecule("H2O"), *(make() for make, _, _ in BAD_ATOMS.values()), molecule("CH4")]
    names = [name for _, name, _ in BAD_ATOMS.values()]
    records = optimize_many(structures, checkpoint=shipped)
    assert [record.error for record in records] == ["", *names, ""]
    assert [record.status for record in (records[0], records[-1])] == ["ok", "ok"]
    outcomes = predict_structures(structures, checkpoint=shipped)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Atoms", *names, "Atoms"]


WRONG_TYPES = """
from ase.build import molecule
from physcon_ase import PhysConCalculator, StructureGenerator, optimize, optimize_many, vibrations
from physcon_ase.errors import PhysConError

for call in (
    lambda: optimize("O", seed=1.5),
    lambda: optimize("O", max_steps=2.5),
    lambda: StructureGenerator()("O", seed="1"),
    lambda: StructureGenerator(n_conformers=1.5),
    lambda: vibrations("O", symmetry_number=1.5),
    lambda: optimize_many(["O"], n_attempts=1.5),
    lambda: optimize_many(["O"], n_attempts=0),
):
    try:
        call()
    except PhysConError as error:
        print(error)
good, bad = PhysConCalculator().predict([molecule("H2O"), "O"])
print(good.error, bad.error)
"""


def test_arguments_of_wrong_types_are_named_errors() -> None:
    # in a process without the tests' check of types
    found = subprocess.run([sys.executable, "-c", WRONG_TYPES], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [
        "seed is 1.5; a whole number is needed",
        "max_steps is 2.5; a whole number is needed",
        "seed is '1'; a whole number is needed",
        "n_conformers is 1.5; a whole number is needed",
        "symmetry_number is 1.5; a whole number is needed",
        "n_attempts is 1.5; a whole number is needed",
        "n_attempts is 0; 1 or more is needed",
        "None a structure must be an ase.Atoms, received 'O': use optimize() for a SMILES",
    ]


@pytest.mark.parametrize("kind", ["periodic", "overlapping", "uncovered"])
def test_a_bad_structure_in_a_file_is_one_line_in_the_shell(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make, name, _ = BAD_ATOMS[kind]
    path = tmp_path / "bad.xyz"
    ase.io.write(path, make(), format="extxyz")
    assert main(["optimize", str(path)]) == 1
    assert f"  {name}: " in capsys.readouterr().out
    assert main(["energy", str(path)]) == 1
    assert f"failed  {name}: " in capsys.readouterr().out


def test_an_element_that_another_level_covers_is_answered_with_that_level(
    shipped: LoadedModel, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(errors.UnsupportedElementError, match=r"level 'b3lyp' does not cover S.*use level 'b3lyp-d3'"):
        optimize("CSC", level="b3lyp", checkpoint=shipped)
    assert main(["optimize", "CSC", "--level", "b3lyp"]) == 2
    assert "use level 'b3lyp-d3'" in capsys.readouterr().err


def test_an_unknown_level_is_answered_with_those_that_exist(shipped: LoadedModel) -> None:
    for attempt in (
        lambda: optimize("O", level="pbe", checkpoint=shipped),
        lambda: optimize_many(["O"], level="pbe", checkpoint=shipped),
        lambda: PhysConCalculator(shipped, level="pbe"),
    ):
        with pytest.raises(
            errors.UnknownLevelError, match="unknown level 'pbe'; this model has b3lyp-d3, wb97m, b3lyp"
        ):
            attempt()


def _truncated(folder: Path) -> None:
    weights = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(weights[: len(weights) // 2])


def _tampered(folder: Path) -> None:
    weights = bytearray((folder / WEIGHTS_FILE).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(bytes(weights))


def _pickled(folder: Path) -> None:
    # the code in it would make a file if it ran
    code = f"cposix\nsystem\n(S'touch {folder / 'executed'}'\ntR.".encode()
    (folder / WEIGHTS_FILE).write_bytes(b"\x80\x04" + code)


def _from_the_future(folder: Path) -> None:
    header = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**header, "format_version": 999}))


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (shutil.rmtree, "CheckpointNotFoundError", "does not exist"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "CheckpointNotFoundError", "has no model.safetensors"),
        (lambda folder: (folder / CONFIG_FILE).unlink(), "CorruptCheckpointError", "is missing"),
        (_truncated, "CorruptCheckpointError", "truncated or changed"),
        (_tampered, "CorruptCheckpointError", "truncated or changed"),
        (_pickled, "CorruptCheckpointError", "is a pickle"),
        (_from_the_future, "CheckpointVersionError", "newer than the package"),
    ],
)
def test_damaged_weights_are_a_named_error_everywhere(
    damage: Callable[[Path], object], name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(resolve(DEFAULT_CHECKPOINT), folder)
    damage(folder)
    for use in (
        lambda: PhysConCalculator(folder),
        lambda: StructureGenerator(folder),
        lambda: optimize("O", checkpoint=folder),
        lambda: optimize_many(["O"], checkpoint=folder),
    ):
        with pytest.raises(getattr(errors, name), match=message):
            use()
    assert main(["optimize", "O", "--checkpoint", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "executed").exists()


NUMPY = """
import json
import numpy as np
from ase.build import molecule
from physcon_ase import StructureGenerator, ensemble, optimize, optimize_many, scan, vibrations

seed = np.int64(3)
options = {"seed": seed, "progress_bar": False}
print(json.dumps(optimize("O", seed=seed).to_dict()["seed"]), optimize_many(["O"], **options)[0].seed)
print(ensemble("O", n=1, **options).seed, scan("OO", (2, 0, 1, 3), step=120, n_conformers=1, **options).seed)
print(StructureGenerator()("O", seed=seed).info["seed"])
number = np.float32(3)
found = ensemble("O", n=1, temperature=number, window=number, **options).to_dict()
print(json.loads(json.dumps(found))["temperature_kelvin"])
found = vibrations("O", temperature=number, pressure=number, scale=number, cutoff=number, symmetry_number=seed)
print(json.loads(json.dumps(found.to_dict()))["thermochemistry"]["symmetry_number"])
for mass in (0.0, np.nan):
    atoms = molecule("H2O")
    atoms.set_masses([16.0, mass, 1.0])
    try:
        vibrations(atoms)
    except ValueError as error:
        print(type(error).__name__)
"""


def test_numbers_may_be_those_of_numpy_and_masses_must_be_numbers() -> None:
    # in a process without the tests' check of types
    found = subprocess.run([sys.executable, "-c", NUMPY], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [*["3"] * 5, "3.0", "3", "PhysConError", "PhysConError"]
