import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import CompilationError
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.model import compiled
from physcon_ase.model.pairs import DENSE_SLOTS
from physcon_ase.model.physcon import LoadedModel, load_model

ROOT = Path(__file__).parents[2]

FLOAT32 = 1e-5
"""Difference [eV, eV/Å] of the same sums in another order, relative to values of about 1."""


@pytest.fixture(scope="module")
def single() -> LoadedModel:
    return load_model()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Programs run as they are, without being compiled; the list has an entry for each."""
    made: list[str] = []
    monkeypatch.setattr(compiled.torch, "compile", lambda function, **options: made.append("") or function)
    return made


def structure(smiles: str) -> Atoms:
    graph = graph_from_smiles(smiles)
    return Atoms(graph.atomic_numbers, embed(graph, seed=0)[0], info={"charge": graph.charge})


def assert_same_results(atoms: Atoms, eager: PhysConCalculator, fast: PhysConCalculator) -> None:
    for calculator in (eager, fast):
        calculator.warns = False
        calculator.calculate(atoms)
    assert eager.results.keys() == fast.results.keys()
    for name, value in eager.results.items():
        np.testing.assert_allclose(fast.results[name], value, rtol=1e-6, atol=10 * FLOAT32, err_msg=name)


def test_results_are_those_of_the_model(single: LoadedModel, uncompiled: list[str]) -> None:
    eager, fast = PhysConCalculator(single), PhysConCalculator(single, compile=True)
    large = structure("CCCCCCCCCCCCCCC")
    assert len(large) > DENSE_SLOTS
    for atoms in (structure("CC(=O)[O-]"), large, molecule("H2O")):
        assert_same_results(atoms, eager, fast)
    assert len(uncompiled) == 3
    large.rattle(0.03, seed=1)
    assert_same_results(large, eager, fast)
    assert len(uncompiled) == 3, "the neighbours of similar geometries fit into the same program"


def test_overlapping_cores_are_left_to_the_model(single: LoadedModel, uncompiled: list[str]) -> None:
    atoms = Atoms("OH2", [[0, 0, 0], [0.3, 0, 0], [-0.2, 0.9, 0]])
    assert_same_results(atoms, PhysConCalculator(single), PhysConCalculator(single, compile=True))
    assert abs(PhysConCalculator(single, compile=True).get_forces(atoms)).max() > 10


def test_separate_fragments_are_left_to_the_model(single: LoadedModel, uncompiled: list[str]) -> None:
    atoms, water = structure("CC(=O)[O-]"), molecule("H2O")
    for gap in (6.0, 12.0):
        water.positions += [gap, 0, 0]
        both = atoms + water
        both.info["charge"] = -1
        assert_same_results(both, PhysConCalculator(single), PhysConCalculator(single, compile=True))


def test_several_structures_are_left_to_the_model(single: LoadedModel, uncompiled: list[str]) -> None:
    fast = PhysConCalculator(single, compile=True)
    assert [found.error for found in fast.predict([molecule("H2O"), molecule("CH4")])] == [None, None]
    assert not uncompiled


def test_a_compiled_calculator_can_be_sent_to_other_processes(single: LoadedModel, uncompiled: list[str]) -> None:
    fast = PhysConCalculator(single, compile=True)
    before = fast.get_forces(molecule("H2O"))
    np.testing.assert_allclose(pickle.loads(pickle.dumps(fast)).get_forces(molecule("H2O")), before, atol=FLOAT32)


def test_what_cannot_be_compiled_is_one_error(single: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(CompilationError, match=r"needs a C\+\+ compiler"):
        PhysConCalculator(single, compile=True)
    monkeypatch.undo()

    def broken(*arguments: object) -> None:
        raise torch._dynamo.exc.Unsupported("no program")

    monkeypatch.setattr(compiled.torch, "compile", lambda function, **options: broken)
    with pytest.raises(CompilationError, match="could not be compiled: no program; omit compile=True"):
        PhysConCalculator(single, compile=True).get_forces(molecule("H2O"))


@pytest.mark.slow
def test_a_compiled_program_agrees_with_the_model(tmp_path: Path) -> None:
    """In a process of its own, where no types are checked: such checks cannot be compiled."""
    script = """
import numpy as np
from ase.build import molecule
from physcon_ase import PhysConCalculator
atoms = molecule("CH3CH2OH")
fast, eager = PhysConCalculator(compile=True), PhysConCalculator()
for calculator in (fast, eager):
    calculator.calculate(atoms)
for name, value in eager.results.items():
    np.testing.assert_allclose(fast.results[name], value, rtol=1e-6, atol=1e-4, err_msg=name)
"""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=ROOT)
