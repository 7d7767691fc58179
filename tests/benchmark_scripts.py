"""Scripts of benchmarks and studies, run in this process, and the stores that they are run on."""

import functools
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from physcon_ase.batch import Batch, make_batch, unpad
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.store import Geometries, LevelLabels, Store, pack_molecules, write_store
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import load_model
from physcon_ase.relax.driver import relax

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS, STUDIES = ROOT / "benchmarks", ROOT / "studies"

SMILES = ("CO", "CCO", "COC")
"""The held-out molecules of the stores; ethanol and dimethyl ether are isomers."""

WITH_IONS = ("C[NH3+]", "CC(=O)[O-]", "CO")
"""Those of wb97m_families_6."""

TRAINING_SMILES = "CC"
"""In every store as a molecule of the training split with absurd labels: one that is used shows in every mean."""

ENERGY_SHIFTS = (0.010, 0.040, -0.020)
"""What the energy labels lie above the model [eV]: MAE 23.33 meV, and 60 meV for the pair of isomers."""

CONFORMER_SHIFT = 0.030
"""What the energy label of each further torsion-drive or OpenFF minimum of a molecule lies higher [eV]."""

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


@dataclass(frozen=True)
class Layout:
    """What a store holds."""

    kinds: tuple[tuple[str, str], ...]
    """Kind of each geometry of a molecule, and the level that it is a minimum of."""
    level: str
    """Level of the model that makes the labels."""
    with_forces: bool = True
    conformer_shift: float = 0.0
    named: str = ""
    """Level of the labels in the store, if it is another one."""
    smiles: tuple[str, ...] = SMILES


DISPLACED = (("thermal", ""), ("twist", ""))
LAYOUTS = {
    "gfn2_qm9": Layout(
        (("minimum", "b3lyp"), ("minimum", "gfn2"), ("thermal", ""), ("conformer", "")), "b3lyp-d3", named="gfn2"
    ),
    "qm9_b3lyp": Layout((("minimum", "b3lyp"),), "b3lyp", False),
    "c7h10o2_b3lyp": Layout((("minimum", "b3lyp"),), "b3lyp", False, named="b3lyp_c7h10o2"),
    "b3lyp_thermal": Layout((("thermal", ""),), "b3lyp"),
    "openff_minima_dzvp": Layout((("minimum", "b3lyp-d3"),) * 3, "b3lyp-d3", False, CONFORMER_SHIFT),
    "openff_torsions_dzvp": Layout((("torsion-drive", ""),) * 3, "b3lyp-d3", True, CONFORMER_SHIFT),
    "openff_torsions": Layout((("torsion-drive", ""),) * 3, "b3lyp-d3", True, CONFORMER_SHIFT),
    "anchored_openff_near": Layout((("start", "b3lyp-d3"), *DISPLACED), "b3lyp-d3"),
    "wb97m_openff_displaced": Layout((("start", "b3lyp-d3"), ("thermal", ""), *DISPLACED), "wb97m"),
    "b3lyp_d3_small": Layout((("start", ""),), "b3lyp-d3"),
    "b3lyp_d3_small_3": Layout((("start", ""),), "b3lyp-d3"),
    "wb97m_families_6": Layout((("thermal", ""),), "wb97m", smiles=WITH_IONS),
}


@pytest.fixture(scope="module")
def benchmark_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of three held-out molecules and one of the training split, labelled with the model itself and a shift.

    Minima of a level of the model are its own, other geometries are displaced at random by 0.05 Å per coordinate.
    """
    folder = tmp_path_factory.mktemp("stores")
    for name, layout in LAYOUTS.items():
        write_store(folder / f"{name}.h5", make_store(name, layout))
    return folder


def make_store(source: str, layout: Layout) -> Store:
    generator, model = np.random.default_rng(0), load_model().model
    smiles = (*layout.smiles, TRAINING_SMILES)
    graphs = [graph_from_smiles(own) for own in smiles]
    starts = [embed(graph)[0] for graph in graphs]
    positions, energies, forces = [], [], []
    for number, (_, minimum_of) in enumerate(layout.kinds):
        places = [own + generator.normal(scale=0.05, size=own.shape) for own in starts]
        if minimum_of in model.level_names:
            places = minima_of(smiles, minimum_of)
        batch = batch_of(graphs, places)
        energy, force = energies_and_forces(model.energy_fn(layout.level), batch)
        positions += unpad(batch, batch.positions)
        energies += (energy.numpy() + [*ENERGY_SHIFTS, 1e3] + number * layout.conformer_shift).tolist()
        forces += [own + FORCE_SHIFT for own in unpad(batch, force)]
    all_forces = np.concatenate(forces).astype(np.float32) if layout.with_forces else None
    return Store(
        molecules=pack_molecules(
            graphs,
            smiles=smiles,
            names=[f"molecule-{row}" for row in range(len(graphs))],
            key_hashes=[0] * len(layout.smiles) + [2**63],
        ),
        geometries=Geometries(
            molecule=np.tile(np.arange(len(graphs), dtype=np.int32), len(layout.kinds)),
            kind=np.repeat([kind for kind, _ in layout.kinds], len(graphs)),
            minimum_of=np.repeat([level for _, level in layout.kinds], len(graphs)),
            positions=np.concatenate(positions),
        ),
        labels={layout.named or layout.level: LevelLabels(np.array(energies), all_forces)},
        source=source,
    )


@functools.cache
def minima_of(smiles: tuple[str, ...], level: str) -> list[np.ndarray]:
    """Minima [Å] of molecules at a level of the shipped model."""
    graphs = [graph_from_smiles(own) for own in smiles]
    force_fn = functools.partial(energies_and_forces, load_model().model.energy_fn(level))
    batch = batch_of(graphs, [embed(graph)[0] for graph in graphs])
    return unpad(batch, relax(force_fn, batch, fmax=0.01, bonds=[graph.bonds for graph in graphs]).positions)


def batch_of(graphs: Sequence[MolGraph], places: Sequence[np.ndarray]) -> Batch:
    charges = [graph.charge for graph in graphs]
    return make_batch([graph.atomic_numbers for graph in graphs], places, charges=charges)
