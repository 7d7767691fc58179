"""Scripts of benchmarks and studies, run in this process, and the stores that they are run on."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from physcon_ase.batch import make_batch
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.store import Geometries, LevelLabels, Store, pack_molecules, write_store
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import load_model

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS, STUDIES = ROOT / "benchmarks", ROOT / "studies"

SMILES = ("CO", "CCO", "COC")
"""The held-out molecules of the stores; ethanol and dimethyl ether are isomers."""

TRAINING_SMILES = "CC"
"""In every store as a molecule of the training split with absurd labels: one that is used shows in every mean."""

ENERGY_SHIFTS = (0.010, 0.040, -0.020)
"""What the energy labels lie above the model [eV]: MAE 23.33 meV, and 60 meV for the pair of isomers."""

FORCE_SHIFT = 0.020
"""What each Cartesian force label lies above the model [eV/Å]."""

FLOAT32_MEV = 0.05
"""Rounding of labels and model in float32 [meV, meV/Å]; labels differ by 20 and more."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Imports a benchmark by name as Python does when it is started, its folder first on the path; others by path."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)

    def load(name: str | Path) -> ModuleType:
        if isinstance(name, str):
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name.parent.name, name)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name.parent.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    # Names as short as theirs must not be left lying about.
    for name in {path.stem for path in (*BENCHMARKS.glob("*.py"), *STUDIES.iterdir())} & (set(sys.modules) - before):
        del sys.modules[name]


def run(script: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: object, json_path: Path) -> dict:
    script.main([*map(str, arguments), "--json", str(json_path)])
    assert "|" in capsys.readouterr().out
    return json.loads(json_path.read_text())


def rows_of(results: dict, table: int = 0) -> list[dict]:
    return results["tables"][table]["rows"]


@pytest.fixture(scope="module")
def benchmark_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of three held-out molecules and one of the training split, labelled with the model itself and a shift."""
    folder = tmp_path_factory.mktemp("stores")
    graphs = [graph_from_smiles(smiles) for smiles in (*SMILES, TRAINING_SMILES)]
    layouts = {
        "gfn2_qm9": (("minimum", "b3lyp"), ("minimum", "gfn2"), ("thermal", ""), ("conformer", "")),
        "gfn2_dft8k": (("minimum", "m062x"), ("minimum", "gfn2"), ("thermal", ""), ("conformer", "")),
        "dft8k_m062x": (("minimum", "m062x"), ("minimum", "mmff94")),
        "qm9_b3lyp": (("minimum", "b3lyp"),),
        "c7h10o2_b3lyp": (("minimum", "b3lyp"),),
    }
    for name, kinds in layouts.items():
        level = "b3lyp" if name.endswith("b3lyp") else "gfn2"
        store = make_store(name, graphs, kinds, level, with_forces=name.startswith("gfn2"))
        if name == "c7h10o2_b3lyp":
            store = replace(store, labels={"b3lyp_c7h10o2": store.labels[level]})
        write_store(folder / f"{name}.h5", store)
    return folder


def make_store(
    source: str, graphs: list[MolGraph], kinds: tuple[tuple[str, str], ...], level: str, *, with_forces: bool
) -> Store:
    generator = np.random.default_rng(0)
    force_fn = load_model().model.energy_fn(level)
    positions, energies, forces = [], [], []
    for _ in kinds:
        for graph, shift in zip(graphs, (*ENERGY_SHIFTS, 1e3), strict=True):
            start = embed(graph)[0]
            place = (start + generator.normal(scale=0.05, size=start.shape)).astype(np.float32)
            energy, force = energies_and_forces(force_fn, make_batch([graph.atomic_numbers], [place]))
            positions.append(place)
            energies.append(energy.item() + shift)
            forces.append(force[0].numpy() + FORCE_SHIFT)
    labels = LevelLabels(np.array(energies), np.concatenate(forces).astype(np.float32) if with_forces else None)
    return Store(
        molecules=pack_molecules(
            graphs,
            smiles=[*SMILES, TRAINING_SMILES],
            names=[f"molecule-{row}" for row in range(len(graphs))],
            key_hashes=[0] * len(SMILES) + [2**63],
        ),
        geometries=Geometries(
            molecule=np.tile(np.arange(len(graphs), dtype=np.int32), len(kinds)),
            kind=np.repeat([kind for kind, _ in kinds], len(graphs)),
            minimum_of=np.repeat([level for _, level in kinds], len(graphs)),
            positions=np.concatenate(positions),
        ),
        labels={level: labels},
        source=source,
    )
