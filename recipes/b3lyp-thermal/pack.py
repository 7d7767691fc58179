"""Packs the stores that label.py has finished into one archive, and writes its card beside it.

    python recipes/b3lyp-thermal/pack.py stores data/b3lyp_thermal
    physcon data import data/b3lyp_thermal/b3lyp_thermal.npz -o stores

One row for each geometry of the finished stores.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physcon_ase.data.split import split_mask
from physcon_ase.data.store import Store, molecule_graph, open_store

CARD = """# b3lyp_thermal

Energies and forces B3LYP/6-31G(2df,p) of {n_geometries} geometries off equilibrium of {n_molecules} small molecules
of QM9 (up to seven heavy atoms of C, N, O, F). Licence: CC0.

* Geometries: MMFF94 minimum of an ETKDG conformer, displaced as at 0 to 700 K of a valence force field.
* Labels: {engine}. Total energies [eV], forces [eV/Å].
* Energies differ by 0.1 to 0.25 eV from those of QM9 (Gaussian, Cartesian d functions): do not train one level on both.
* {n_train} geometries are of training molecules, {n_test} of test and validation molecules (`physcon_ase.data.split`).
* Molecules: QM9, doi 10.1038/sdata.2014.22. Made by `recipes/b3lyp-thermal/label.py` and `pack.py`.

Fields of the archive, row i owning `n_atoms[i]` entries of every array of atoms and `n_bonds[i]` of every array of
bonds: `name` (store and geometry), `smiles`, `n_atoms`, `n_bonds`, `atomic_numbers`, `formal_charges`, `bonds`,
`bond_orders` (Kekulé; + 10 if aromatic), `positions` [Å], `energy_b3lyp_pyscf` [eV], `forces_b3lyp_pyscf` [eV/Å].

    physcon data import data/b3lyp_thermal/b3lyp_thermal.npz -o stores
"""


def pack(stores: Sequence[Store], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of the archive, geometry by geometry; `names` begin the names of the rows."""
    graphs, smiles, labelled, rows = [], [], [], []
    for name, store in zip(names, stores, strict=True):
        rows += [f"{name}-{row}" for row in range(len(store.geometries))]
        for molecule in store.geometries.molecule.tolist():
            graphs.append(molecule_graph(store, molecule))
            smiles.append(str(store.molecules.smiles[molecule]))
        forces = store.labels["b3lyp"].forces
        if forces is None or not np.isfinite(forces).all():
            raise SystemExit(f"{store.source}: a geometry has no forces; label it anew")
        labelled.append((store.geometries.positions, forces, store.labels["b3lyp"].energy))
    positions, forces, energy = (np.concatenate(column) for column in zip(*labelled, strict=True))
    return {
        "name": np.array(rows),
        "smiles": np.array(smiles),
        "n_atoms": np.array([graph.n_atoms for graph in graphs], dtype=np.int16),
        "n_bonds": np.array([len(graph.bonds) for graph in graphs], dtype=np.int16),
        "atomic_numbers": np.concatenate([graph.atomic_numbers for graph in graphs]).astype(np.uint8),
        "formal_charges": np.concatenate([graph.formal_charges for graph in graphs]).astype(np.int8),
        "bonds": np.concatenate([graph.bonds for graph in graphs]).astype(np.uint8),
        "bond_orders": np.concatenate([graph.bond_orders for graph in graphs]).astype(np.uint8),
        "positions": positions,
        "energy_b3lyp_pyscf": energy,
        "forces_b3lyp_pyscf": forces,
    }


def card(stores: Sequence[Store]) -> str:
    """What the data set is and how large."""
    engines = {_engine(store) for store in stores}
    if len(engines) > 1:
        raise SystemExit(f"the stores were labelled in different ways, pack them apart: {'; '.join(sorted(engines))}")
    train = sum(int(split_mask(store, "train")[store.geometries.molecule].sum()) for store in stores)
    total = sum(len(store.geometries) for store in stores)
    keys = {key for store in stores for key in store.molecules.key_hash.tolist()}
    return CARD.format(
        n_geometries=total, n_molecules=len(keys), engine=engines.pop(), n_train=train, n_test=total - train
    )


def _engine(store: Store) -> str:
    engine = json.loads(store.provenance)["engine"]
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in engine["settings"].items())
    return f"{engine['program']} {engine['version']} ({settings})"


def main() -> None:
    """Packs the stores and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, help="folder with the stores of label.py")
    parser.add_argument("output", type=Path, help="folder of archive and card")
    options = parser.parse_args()
    paths = sorted(options.stores.glob("b3lyp-*-*.h5"))
    if not paths:
        raise SystemExit(f"{options.stores} has no finished store b3lyp-SEED-NUMBER.h5; run label.py first")
    stores = [open_store(path) for path in paths]
    options.output.mkdir(parents=True, exist_ok=True)
    archive = options.output / "b3lyp_thermal.npz"
    arrays: dict[str, Any] = pack(stores, [path.stem.removeprefix("b3lyp-") for path in paths])
    np.savez_compressed(archive, **arrays)
    (options.output / "README.md").write_text(card(stores), encoding="utf-8")
    count = sum(len(store.geometries) for store in stores)
    print(f"{archive}: {count} geometries of {len(paths)} stores, {archive.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
