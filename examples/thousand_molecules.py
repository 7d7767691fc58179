"""Batched relaxation of a list of SMILES: one record per molecule, failures included.

python examples/thousand_molecules.py my_molecules.smi --output my_molecules.sdf
"""

import argparse
from pathlib import Path

from physcon_ase import optimize_many
from physcon_ase.inference.files import read_molecules
from physcon_ase.inference.report import format_record, format_summary, write_results

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("smiles", nargs="?", type=Path, default=Path(__file__).parent / "data" / "molecules.smi")
parser.add_argument("--output", default="molecules.sdf", help=".xyz or .sdf")
parser.add_argument("--checkpoint", default="physcon-2", help="name or folder")
parser.add_argument("--budget", choices=("small", "full"), default="full", help="small: four molecules, a few steps")
options = parser.parse_args()
small = options.budget == "small"

molecules = read_molecules(options.smiles)[: 4 if small else None]
records = optimize_many(
    molecules, checkpoint=options.checkpoint, max_steps=5 if small else 500, n_attempts=1 if small else 2
)
for record in records:
    if record.status != "ok":
        print(format_record(record))
print(format_summary(records))

results = [record.result for record in records if record.result is not None]
print(f"{write_results(results, options.output, inputs=[options.smiles])} structures in {options.output}")
