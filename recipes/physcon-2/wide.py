"""Labels at level wb97m of the molecules of a list of SMILES, in parts.

    python recipes/physcon-2/wide.py smiles_union.tsv.xz stores --parts 12 --part 0

Each part is a random share of the list, ions included, as a store of its own (`wb97m_wide_00.h5` and so on): six
geometries per molecule, on the way from an ETKDG conformer to its relaxation with MMFF94, thermal to 800 K and turned
about single bonds. SMILES of several fragments are left out and counted. AIMNet2 is found as the documentation of
`physcon label` says.
"""

import argparse
from pathlib import Path

import numpy as np

from physcon_ase.data.importers.smiles_list import read_smiles_list
from physcon_ase.labelling.engines import aimnet2_engine
from physcon_ase.labelling.geometries import parse_samplings
from physcon_ase.labelling.pipeline import format_labelling_report, label

GEOMETRIES = "relaxing:1,thermal:3,torsion:2"
MAX_KELVIN = 800.0
SEED = 20
"""Of the order of the list; the geometries of part k have the seed `SEED` + k."""


def main() -> None:
    """Labels one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("smiles", help="tab-separated list with the columns smiles, heavy, charge, allowed and sets")
    parser.add_argument("folder", type=Path, help="folder of the stores")
    parser.add_argument("--parts", type=int, default=12, help="number of parts (default: %(default)s)")
    parser.add_argument("--part", type=int, required=True, help="which of them, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes (default: %(default)s)")
    options = parser.parse_args()
    rows, _ = read_smiles_list(options.smiles, allowed_only=False)
    single = [row.smiles for row in rows if "." not in row.smiles]
    order = np.random.default_rng(SEED).permutation(len(single))[options.part :: options.parts]
    print(f"{len(rows)} SMILES, {len(rows) - len(single)} of several fragments; part {options.part}: {len(order)}")
    engine = aimnet2_engine()
    report = label(
        [single[index] for index in order],
        engine,
        parse_samplings(GEOMETRIES, max_kelvin=MAX_KELVIN),
        options.folder / f"wb97m_wide_{options.part:02d}.h5",
        seed=SEED + options.part,
        processes=options.jobs,
        licence="MIT",
    )
    print(format_labelling_report(report, engine, n_shown=0))


if __name__ == "__main__":
    main()
