from pathlib import Path

import numpy as np
import pytest

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.cli import main
from physcon_ase.data.rows import GeometryRow, Label, molecule_row, store_from_rows
from physcon_ase.data.split import split_of
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph, open_store, write_store
from physcon_ase.errors import LabelError
from physcon_ase.labelling.separated import DISTANCES, separated
from physcon_ase.units import COULOMB_EV_ANGSTROM

SMILES = ("[NH4+]", "[OH-]", "O", "C", "CCO", "c1ccccc1")


def stock(*, with_charges: bool = True) -> Store:
    """Molecules with random labels; partial charges sum to the total charge."""
    generator = np.random.default_rng(0)
    graphs = [graph_from_smiles(smiles) for smiles in SMILES]
    rows = []
    for number, graph in enumerate(graphs):
        shape = (graph.n_atoms, 3)
        charges = generator.normal(size=graph.n_atoms)
        charges += (graph.charge - charges.sum()) / graph.n_atoms
        label = Label(-100.0 - number, generator.normal(size=shape), charges if with_charges else None)
        rows.append(GeometryRow(number, generator.normal(size=shape), "start", labels={"high": label}))
    return store_from_rows([molecule_row(graph, "") for graph in graphs], rows, source="stock")


@pytest.mark.parametrize("with_charges", [True, False])
def test_labels_of_a_pair_are_those_of_its_members_and_their_coulomb_interaction(with_charges: bool) -> None:
    alone = stock(with_charges=with_charges)
    energies = dict(zip(SMILES, alone.labels["high"].energy.tolist(), strict=True))
    found = separated([alone], "high", n=30, seed=1)
    labels, offsets = found.labels["high"], geometry_offsets(found)
    assert labels.forces is not None
    assert (labels.charges is None) != with_charges
    assert set(found.molecules.charges.tolist()) == set(alone.molecules.charges.tolist()), "no wider coverage"
    for row in range(len(found.geometries)):
        graph = molecule_graph(found, row)
        first, second = found.molecules.smiles[row].split(".")
        assert graph.formal_charges.any(), "one of both is an ion"
        atoms = slice(offsets[row], offsets[row + 1])
        positions, forces = found.geometries.positions[atoms].astype(float), labels.forces[atoms].astype(float)
        excess = labels.energy[row] - energies[first] - energies[second]
        charge = COULOMB_EV_ANGSTROM * graph_from_smiles(first).charge * graph_from_smiles(second).charge
        gaps = np.linalg.norm(positions[:, None] - positions, axis=-1)
        farthest = gaps.max()
        assert farthest > DISTANCES[0]
        assert excess == pytest.approx(charge / farthest, abs=0.05)
        total = forces.sum(axis=0) - sum(_forces_of(alone, smiles).sum(axis=0) for smiles in (first, second))
        np.testing.assert_allclose(total, 0, atol=1e-5)
        assert (split_of(int(found.molecules.key_hash[row])) == "test") == any(
            split_of(int(alone.molecules.key_hash[SMILES.index(smiles)])) == "test" for smiles in (first, second)
        )


def test_pairs_smaller_than_the_smallest_molecules_are_refused() -> None:
    assert len(separated([stock()], "high", n=2, max_atoms=5).geometries) == 2  # hydroxide and water
    with pytest.raises(LabelError, match="5 atoms together, but max_atoms is 4"):
        separated([stock()], "high", n=2, max_atoms=4)


@pytest.mark.parametrize("numbers", [{"n": 0}, {"n": 1, "seed": -1}])
def test_no_pairs_and_negative_seeds_are_refused(numbers: dict) -> None:
    with pytest.raises(LabelError, match="the number must be 1 or larger, the seed 0 or larger"):
        separated([stock()], "high", **numbers)


def _forces_of(store: Store, smiles: str) -> np.ndarray:
    offsets, row = geometry_offsets(store), SMILES.index(smiles)
    forces = store.labels["high"].forces
    assert forces is not None
    return forces[offsets[row] : offsets[row + 1]]


def test_stores_without_ions_are_refused_and_the_command_writes_a_store(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"0 ions and 0 neutral molecules .* of 'low'"):
        separated([stock()], "low", n=1)
    write_store(tmp_path / "stock.h5", stock())
    arguments = [str(tmp_path / "stock.h5"), "--level", "high", "-n", "5", "-o"]
    assert main(["data", "separate", *arguments, str(tmp_path / "apart.h5")]) == 0
    assert set(open_store(tmp_path / "apart.h5").geometries.kind.tolist()) == {"separated"}
    assert main(["data", "separate", *arguments, str(tmp_path / "stock.h5")]) == 2
