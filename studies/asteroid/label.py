"""Labels geometries of ethanol, toluene and aspirin: many at GFN2-xTB, few at B3LYP/6-31G(2df,p), and a test set.

    python studies/asteroid/label.py stores --molecules ethanol toluene aspirin

All geometries are frames of Langevin dynamics at 500 K with GFN2-xTB. Three stores for each molecule: <name>_gfn2.h5
and <name>_b3lyp.h5 are for training; <name>_b3lyp_test.h5 is from other trajectories and is used for tests only.
Existing stores are kept, interrupted ones are completed.
"""

import argparse
import functools
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from physcon_ase.labelling.engines import Engine, pyscf_engine, tblite_engine
from physcon_ase.labelling.geometries import Geometry
from physcon_ase.labelling.pipeline import label
from physcon_ase.labelling.samplers import Origin, md
from physcon_ase.labelling.samplings import Sampling

KELVIN: Final = 500.0
"""Temperature of all geometries."""

WARM_UP: Final = 200
"""Number of steps of 0.5 fs discarded at the beginning: four times the decay time of the velocities."""


@dataclass(frozen=True)
class Subject:
    """A molecule and the numbers of its labelled geometries."""

    smiles: str
    """The molecule."""
    cheap: int
    """Number of geometries at GFN2-xTB."""
    accurate: int
    """Number of training geometries at B3LYP."""
    test: int
    """Number of test geometries at B3LYP."""


SUBJECTS: Final = {
    "ethanol": Subject("CCO", cheap=1500, accurate=80, test=40),
    "toluene": Subject("Cc1ccccc1", cheap=1200, accurate=50, test=20),
    "aspirin": Subject("CC(=O)Oc1ccccc1C(=O)O", cheap=1000, accurate=20, test=12),
}


def warm(origin: Origin, seed: int, n: int, *, engine: Engine, steps: int) -> list[Geometry]:
    """Frames of one trajectory without the discarded steps; their kind is that of the trajectory."""
    left_out = WARM_UP // steps
    frames = md(origin, seed, left_out + n, engine=engine, kelvin=KELVIN, steps=steps)[left_out:]
    return [(f"{kind}-{seed}", positions) for kind, positions in frames]


def trajectories(subject: Subject, engine: Engine, output: Path, *, n: int, frames: int, steps: int, seed: int) -> None:
    """A store of `n` geometries from trajectories with the given number of frames."""
    if output.exists():
        return
    began = monotonic()
    sampler = functools.partial(warm, engine=tblite_engine(), steps=steps)
    label(
        [subject.smiles] * (n // frames),
        engine,
        [Sampling("md", frames, sampler)],
        output,
        seed=seed,
        processes=0,
        source=output.stem,
        licence="CC0",
        progress_bar=False,
    )
    print(f"{output}: {n} geometries in {(monotonic() - began) / 60:.1f} min", flush=True)


def main() -> None:
    """Writes the stores of the requested molecules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--molecules", nargs="+", choices=tuple(SUBJECTS), default=tuple(SUBJECTS))
    options = parser.parse_args()
    b3lyp = pyscf_engine("b3lyp", grid_level=1, convergence=1e-7)
    for name in options.molecules:
        subject, start = SUBJECTS[name], options.folder / name
        trajectories(
            subject, tblite_engine(), start.with_name(f"{name}_gfn2.h5"), n=subject.cheap, frames=100, steps=20, seed=0
        )
        for seed, n, kind in ((1, subject.accurate, "b3lyp"), (2, subject.test, "b3lyp_test")):
            output = start.with_name(f"{name}_{kind}.h5")
            trajectories(subject, b3lyp, output, n=n, frames=min(10, n // 4), steps=100, seed=seed)


if __name__ == "__main__":
    main()
