"""Writes diatomics.h5: pairs of atoms at many distances with GFN2-xTB labels, which no other data set has.

    python recipes/physcon-1/diatomics.py stores/diatomics.h5
    python recipes/physcon-1/diatomics.py stores/radicals.h5 --radicals

Without them a network knows nothing of H2 or N2 and makes holes where cores begin to overlap. Left out are geometries
without a converged field, and those more than 10 eV above the lowest of their pair. All belong to the training split.

Pairs with an odd number of electrons (CH, NO) are in a store of their own, computed as doublets, and only at distances
below .8 sums of covalent radii: there cores repel each other whatever the spin, so a network of closed shells may learn
them as if they were singlets.
"""

from argparse import ArgumentParser
from itertools import combinations_with_replacement, count

import numpy as np

from physcon_ase.chem.graph import make_graph
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.data.store import Geometries, LevelLabels, Store, pack_molecules, write_store
from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines import Engine, EngineLabel, Molecule, tblite_engine
from physcon_ase.units import ATOMIC_NUMBERS, CHEMICAL_SYMBOLS, COVALENT_RADII

ELEMENTS = [ATOMIC_NUMBERS[symbol] for symbol in ("H", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I")]
FRACTIONS = np.linspace(0.5, 2.2, 69)
"""Distances in sums of covalent radii."""
HIGHEST = 10.0
"""Energy [eV] above the lowest of a pair."""
CORES = 0.8
"""Fraction below which the spin does not matter."""


def label_of(engine: Engine, numbers: np.ndarray, positions: np.ndarray, multiplicity: int) -> EngineLabel | None:
    """The label, or None where the self-consistent field does not converge."""
    try:
        return engine(Molecule(numbers, positions, multiplicity=multiplicity))
    except EngineError:
        return None


def main(path: str, radicals: bool) -> None:
    """Computes the labels and writes the store."""
    engine, graphs, names, hashes, geometries, labels = tblite_engine("gfn2"), [], [], [], [], []
    for first, second in combinations_with_replacement(ELEMENTS, 2):
        if (first + second) % 2 != radicals:
            continue
        numbers = np.array([first, second])
        reach = COVALENT_RADII[first] + COVALENT_RADII[second]
        places = [np.array([[0, 0, 0], [0, 0, fraction * reach]]) for fraction in FRACTIONS]
        labelled = [(place, label_of(engine, numbers, place, 1 + radicals)) for place in places]
        found = [(place, label) for place, label in labelled if label is not None]
        lowest = min(label.energy for _, label in found)
        kept = [(place, label) for place, label in found if label.energy < lowest + HIGHEST]
        if radicals:
            kept = [(place, label) for place, label in kept if place[1, 2] < CORES * reach]
        name = CHEMICAL_SYMBOLS[first] + CHEMICAL_SYMBOLS[second]
        graphs.append(make_graph(numbers, np.array([[0, 1]]), np.ones(1)))
        names.append(name)
        hashes.append(next(h for h in (key_hash(f"{name} {i}") for i in count()) if split_of(h) == "train"))
        geometries.append([p for p, _ in kept])
        labels.append([label for _, label in kept])
    flat = [label for own in labels for label in own]
    store = Store(
        molecules=pack_molecules(graphs, smiles=[""] * len(graphs), names=names, key_hashes=hashes),
        geometries=Geometries(
            molecule=np.repeat(np.arange(len(graphs), dtype=np.int32), [len(own) for own in geometries]),
            kind=np.full(len(flat), "diatomic"),
            minimum_of=np.full(len(flat), ""),
            positions=np.concatenate([p for own in geometries for p in own]).astype(np.float32),
        ),
        labels={
            "gfn2": LevelLabels(
                np.array([label.energy for label in flat]),
                np.concatenate([label.forces for label in flat]).astype(np.float32),
            )
        },
        source="radicals" if radicals else "diatomics",
        licence="CC0",
        doi="10.1021/acs.jctc.8b01176",
        provenance=f"GFN2-xTB (tblite){', doublets' if radicals else ''}, recipes/physcon-1/diatomics.py",
    )
    write_store(path, store)
    print(f"{len(flat)} geometries of {len(graphs)} pairs")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--radicals", action="store_true", help="pairs with an odd number of electrons")
    arguments = parser.parse_args()
    main(arguments.store, arguments.radicals)
