"""Small molecules, and stores and archives made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from ase.build import molecule

from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.chem.smiles import canonical_key, canonical_smiles
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Geometries, LevelLabels, Store, pack_molecules
from physcon_ase.units import COVALENT_RADII


@dataclass(frozen=True)
class Example:
    """A molecule with single bonds only."""

    smiles: str
    atomic_numbers: np.ndarray
    positions: np.ndarray
    bonds: np.ndarray


def _from_ase(name: str, smiles: str) -> Example:
    atoms = molecule(name)
    radii = np.array([COVALENT_RADII[z] for z in atoms.numbers.tolist()])
    distances = atoms.get_all_distances()
    first, second = np.triu_indices(len(atoms), k=1)
    bonded = distances[first, second] < 1.25 * (radii[first] + radii[second])
    return Example(smiles, atoms.numbers, atoms.positions, np.stack([first[bonded], second[bonded]], axis=1))


def _halomethane() -> Example:
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    lengths = np.array([1.09, 1.36, 1.76, 1.94])
    positions = np.concatenate([np.zeros((1, 3)), corners * lengths[:, None]])
    return Example("F[C@H](Cl)Br", np.array([6, 1, 9, 17, 35]), positions, np.array([[0, 1], [0, 2], [0, 3], [0, 4]]))


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Water (3 atoms), methane (5), methanol (6), ethane (8), ethanol (9) and a chiral halomethane (5)."""
    names = [("H2O", "O"), ("CH4", "C"), ("CH3OH", "CO"), ("C2H6", "CC"), ("CH3CH2OH", "CCO")]
    return [*(_from_ase(name, smiles) for name, smiles in names), _halomethane()]


@pytest.fixture(scope="session")
def graphs(examples: list[Example]) -> list[MolGraph]:
    bare = [make_graph(e.atomic_numbers, e.bonds, np.ones(len(e.bonds))) for e in examples[:-1]]
    chiral = examples[-1]
    return [*bare, make_graph(chiral.atomic_numbers, chiral.bonds, np.ones(4), tetrahedra=np.array([[1, 2, 3, 4]]))]


def bare_store(
    graphs: Sequence[MolGraph], places: Sequence[np.ndarray], *, kind: str, minimum_of: str, names: Sequence[str]
) -> Store:
    """One geometry of each molecule, without labels."""
    return Store(
        molecules=pack_molecules(
            graphs,
            smiles=[canonical_smiles(graph) for graph in graphs],
            names=names,
            key_hashes=[key_hash(canonical_key(graph)) for graph in graphs],
        ),
        geometries=Geometries(
            molecule=np.arange(len(graphs), dtype=np.int32),
            kind=np.full(len(graphs), kind),
            minimum_of=np.full(len(graphs), minimum_of),
            positions=np.concatenate(places).astype(np.float32),
        ),
        labels={},
        source=f"{len(graphs)} molecules",
    )


@pytest.fixture
def make_store(examples: list[Example], graphs: list[MolGraph]) -> Callable[..., Store]:
    """Makes a store of two geometries per molecule.

    The first is a minimum of "dft" with an energy at "dft" for every second molecule; the second is hot. Both have
    energies and forces at "cheap", the last hot one apart, which has an energy only.
    """

    def make(*, copies: int = 1, source: str = "small", hashes: list[int] | None = None, seed: int = 0) -> Store:
        generator = np.random.default_rng(seed)
        chosen, members = graphs * copies, examples * copies
        n, n_atoms = len(chosen), sum(graph.n_atoms for graph in chosen)
        keys = [key_hash(f"{canonical_key(e.smiles)} {row // len(examples)}") for row, e in enumerate(members)]
        rest = np.concatenate([e.positions for e in members])
        positions = np.concatenate([rest, rest + generator.normal(scale=0.1, size=rest.shape)]).astype(np.float32)
        forces = generator.normal(size=(2 * n_atoms, 3)).astype(np.float32)
        forces[-chosen[-1].n_atoms :] = np.nan
        dft = np.where(np.arange(2 * n) < n, generator.normal(size=2 * n), np.nan)
        dft[1:n:2] = np.nan
        return Store(
            molecules=pack_molecules(
                chosen,
                smiles=[e.smiles for e in members],
                names=[f"{source}-{row}" for row in range(n)],
                key_hashes=hashes or keys,
            ),
            geometries=Geometries(
                molecule=np.tile(np.arange(n, dtype=np.int32), 2),
                kind=np.repeat(["minimum", "thermal"], n),
                minimum_of=np.repeat(["dft", ""], n),
                positions=positions,
            ),
            labels={"cheap": LevelLabels(generator.normal(size=2 * n), forces), "dft": LevelLabels(dft)},
            source=source,
            licence="CC0",
            doi="10.0000/example",
            provenance="made by the tests",
        )

    return make


@pytest.fixture
def make_archive(examples: list[Example]) -> Callable[..., dict[str, np.ndarray]]:
    """Makes the fields that all archives share, and `positions`."""

    def make() -> dict[str, np.ndarray]:
        return {
            "n_atoms": np.array([len(e.atomic_numbers) for e in examples], dtype=np.int16),
            "n_bonds": np.array([len(e.bonds) for e in examples], dtype=np.int16),
            "atomic_numbers": np.concatenate([e.atomic_numbers for e in examples]).astype(np.uint8),
            "bonds": np.concatenate([e.bonds for e in examples]).astype(np.uint8),
            "bond_orders": np.ones(sum(len(e.bonds) for e in examples), dtype=np.uint8),
            "formal_charges": np.zeros(sum(len(e.atomic_numbers) for e in examples), dtype=np.int8),
            "smiles": np.array([e.smiles for e in examples]),
            "positions": np.concatenate([e.positions for e in examples]).astype(np.float32),
        }

    return make
