"""Labels thermal geometries of small molecules with B3LYP/6-31G(2df,p): energies and forces off equilibrium.

    python recipes/b3lyp-thermal/label.py stores --seed 0 --minutes 150

One geometry of every molecule of molecules.smi for each seed: its MMFF94 minimum, displaced as at 0 to 700 K. The
molecules are those of QM9 with up to six heavy atoms, 400 with seven, and 45 with fluorine. The work is divided into
stores of 50 molecules (<folder>/b3lyp-SEED-NUMBER.h5), each of which continues after an interruption. PySCF's grid
level is 1 instead of 3, which changes forces by at most 10 meV/Å and halves the time.
"""

import argparse
from pathlib import Path
from time import monotonic

from physcon_ase.labelling.engines import pyscf_engine
from physcon_ase.labelling.pipeline import label
from physcon_ase.labelling.samplers import thermal
from physcon_ase.labelling.samplings import Sampling

MOLECULES_PER_STORE = 50


def main() -> None:
    """Labels chunk after chunk until all are done or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no new store after so long")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    began = monotonic()
    smiles = (Path(__file__).parent / "molecules.smi").read_text(encoding="utf-8").split()
    for number, first in enumerate(range(0, len(smiles), MOLECULES_PER_STORE)):
        output = options.folder / f"b3lyp-{options.seed}-{number:02}.h5"
        if output.exists():
            continue
        if monotonic() - began > 60 * options.minutes:
            break
        label(
            smiles[first : first + MOLECULES_PER_STORE],
            pyscf_engine("b3lyp", grid_level=1, convergence=1e-7),
            [Sampling("thermal", 1, thermal)],
            output,
            seed=1000 * options.seed + number,
            processes=options.processes,
            source="b3lyp-thermal",
            licence="CC0",
        )
        print(f"{output}: {(monotonic() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
