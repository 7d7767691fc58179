"""Harmonic frequencies B3LYP/6-31G(2df,p) of small held-out molecules, the reference of benchmarks/frequencies.py.

    python recipes/b3lyp-frequencies/compute.py stores/qm9_b3lyp.h5 benchmarks/frequencies.json

The smallest molecules of the test and validation splits of QM9 (used in no training), at QM9's B3LYP minima, with
PySCF's analytic Hessian (density fitting, grid level 2). Finished molecules are kept, and an interrupted run continues.
"""

import json
import sys
from pathlib import Path

import numpy as np
from pyscf import dft, gto, lib
from pyscf.hessian import thermo

from physcon_ase.data.split import split_mask
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph, open_store
from physcon_ase.units import CHEMICAL_SYMBOLS

MOLECULES = 20
FEWEST_ATOMS = 4


def smallest(store: Store) -> list[int]:
    """Rows of the held-out molecules, those with the fewest heavy atoms first."""
    sizes = np.array([(np.sum(numbers > 1), len(numbers)) for numbers in per_molecule(store)])
    held_out = np.flatnonzero(~split_mask(store, "train") & (sizes[:, 1] >= FEWEST_ATOMS))
    return held_out[np.lexsort(sizes[held_out].T[::-1])].tolist()


def per_molecule(store: Store) -> list[np.ndarray]:
    """Atomic numbers of each molecule."""
    return np.split(store.molecules.atomic_numbers, np.cumsum(store.molecules.n_atoms)[:-1])


def frequencies(symbols: list[str], positions: np.ndarray) -> list[float]:
    """Harmonic frequencies [1/cm] without translation and rotation; imaginary ones negative."""
    molecule = gto.M(atom=list(zip(symbols, positions.tolist(), strict=True)), basis="6-31G(2df,p)", verbose=0)
    method = dft.RKS(molecule, xc="b3lypg").density_fit()
    method.conv_tol, method.grids.level = 1e-9, 2
    method.kernel()
    found = thermo.harmonic_analysis(molecule, method.Hessian().kernel(), imaginary_freq=False)
    return [round(float(value), 2) for value in found["freq_wavenumber"]]


def main(path: str, output: Path) -> None:
    """Computes what is missing."""
    lib.num_threads(1)
    store = open_store(path)
    records = json.loads(output.read_text()) if output.exists() else []
    offsets = geometry_offsets(store)
    done = {record["smiles"] for record in records}
    for row in smallest(store)[:MOLECULES]:
        if str(store.molecules.smiles[row]) in done:
            continue
        geometry = int(np.flatnonzero(store.geometries.molecule == row)[0])
        positions = store.geometries.positions[offsets[geometry] : offsets[geometry + 1]].astype(float)
        numbers = molecule_graph(store, row).atomic_numbers.tolist()
        records.append(
            {
                "smiles": str(store.molecules.smiles[row]),
                "atomic_numbers": numbers,
                "positions": positions.round(6).tolist(),
                "frequencies": frequencies([CHEMICAL_SYMBOLS[number] for number in numbers], positions),
            }
        )
        output.write_text(json.dumps(records, indent=None) + "\n", encoding="utf-8")
        print(len(records), records[-1]["smiles"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
