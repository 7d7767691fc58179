"""Writes a store of small molecules of QM9, thermally displaced, labelled with PySCF at B3LYP-D3(BJ)/DZVP.

    python recipes/physcon-2/qm9_sample.py stores/qm9_b3lyp.h5 stores/b3lyp_d3_qm9.h5 --molecules 400

Molecules are random ones of the training split with four to `--max-heavy` atoms other than hydrogen. Each has one
geometry, displaced from its minimum of level b3lyp at a random temperature of up to 300 K. Interrupted runs continue.
"""

import argparse
import os
from pathlib import Path
from typing import Final

import numpy as np

from physcon_ase.data.split import split_of
from physcon_ase.data.store import open_store
from physcon_ase.labelling.engines import pyscf_engine
from physcon_ase.labelling.inputs import known_geometries
from physcon_ase.labelling.pipeline import format_labelling_report, label
from physcon_ase.labelling.samplings import parse_samplings

SMALLEST: Final = 4
"""Heavy atoms; recipes/physcon-2/small_all.smi and small_3.smi contain the smaller molecules."""
MAX_KELVIN: Final = 300.0


def main() -> None:
    """Chooses the molecules and labels them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minima", type=Path, help="store with minima of level b3lyp")
    parser.add_argument("store", type=Path)
    parser.add_argument("--molecules", type=int, default=400)
    parser.add_argument("--max-heavy", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="worker processes (default: one per core)")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = [
        own
        for own in known_geometries(open_store(options.minima), minima_of="b3lyp")
        if SMALLEST <= (own.graph.atomic_numbers > 1).sum() <= options.max_heavy and split_of(own.key_hash) == "train"
    ]
    chosen = np.random.default_rng(options.seed).permutation(len(found))[: options.molecules].tolist()
    print(f"{len(chosen)} of {len(found)} molecules")
    report = label(
        [found[index] for index in chosen],
        engine := pyscf_engine("b3lyp-d3"),
        parse_samplings("thermal:1", max_kelvin=MAX_KELVIN),
        options.store,
        seed=options.seed,
        processes=options.jobs,
        source="small molecules of QM9, thermally displaced",
        licence="CC0",
    )
    print(format_labelling_report(report, engine))


if __name__ == "__main__":
    main()
