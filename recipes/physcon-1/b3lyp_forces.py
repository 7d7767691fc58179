"""The forces of b3lyp_thermal.h5 that `physcon calibrate` can use for level b3lyp of physcon-1.

    python recipes/physcon-1/b3lyp_forces.py stores

Writes b3lyp_forces.h5 beside it: without fluorine, which the level does not cover, and without the energies, which are
PySCF's while the level has learned those of QM9.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from physcon_ase.data.store import LevelLabels, open_store, select_geometries, write_store
from physcon_ase.units import ATOMIC_NUMBERS


def main(stores: Path) -> None:
    """Reads, leaves out, writes."""
    store = open_store(stores / "b3lyp_thermal.h5")
    has_fluorine = np.add.reduceat(
        store.molecules.atomic_numbers == ATOMIC_NUMBERS["F"], store.molecules.offsets["n_atoms"][:-1]
    )
    rows = np.flatnonzero(~has_fluorine.astype(bool)[store.geometries.molecule])
    kept = select_geometries(store, rows)
    labels = LevelLabels(np.full(len(kept.geometries), np.nan), kept.labels["b3lyp"].forces)
    write_store(stores / "b3lyp_forces.h5", replace(kept, labels={"b3lyp": labels}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
