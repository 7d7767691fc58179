"""A run to be killed half-way, started by test_pipeline.py as a program of its own: its argument is the store."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from physcon_ase.labelling.engines import Engine, EngineLabel, Molecule, tblite_engine
from physcon_ase.labelling.pipeline import label
from physcon_ase.labelling.samplings import parse_samplings

MOLECULES = ["O", "N", "foo", "CO", "C"]
GEOMETRIES = "conformer:2,thermal:2"
SECONDS = 0.4


def slow_gfn2(molecule: Molecule) -> EngineLabel:
    time.sleep(SECONDS)
    return tblite_engine()(molecule)


def slow_engine() -> Engine:
    """As slow as a better level of theory, but with the record, and so the fingerprint, of GFN2."""
    return replace(tblite_engine(), function=slow_gfn2)


if __name__ == "__main__":
    label(MOLECULES, slow_engine(), parse_samplings(GEOMETRIES), Path(sys.argv[1]), seed=3, processes=1)
