"""Counts of the stores that physcon-2 is trained on, as the table of docs/data.md.

Usage: python recipes/physcon-2/table.py stores/*.h5
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np

from physcon_ase.data.store import Store, n_with_forces, open_store

HEADER = ("store", "molecules", "geometries", "atoms, median", "labels", "left out")

_REASONS: Final = {
    "BondsChanged": "with a bond broken or formed",
    "EmbeddingError": "no start geometry",
    "FragmentsError": "several molecules",
}
"""Reasons by the name of the error."""


def row(path: Path) -> tuple[str, ...]:
    """Cells of one store."""
    store = open_store(path)
    n_atoms = store.molecules.n_atoms[store.geometries.molecule]
    n_molecules = len(np.unique(store.molecules.key_hash))
    levels = dict.fromkeys([*store.labels, *filter(None, store.geometries.minimum_of.tolist())])
    labels = "; ".join(_labels(store, level) for level in levels)
    return (
        f"`{path.stem}`",
        f"{n_molecules:,}",
        f"{len(store.geometries):,}",
        f"{np.median(n_atoms):.0f}",
        labels,
        _left_out(path),
    )


def _labels(store: Store, level: str) -> str:
    counts = []
    if level in store.labels:
        counts = [(int(np.isfinite(store.labels[level].energy).sum()), "energies")]
        counts.append((n_with_forces(store, level), "forces"))
    n_minima = int((store.geometries.minimum_of == level).sum())
    parts = [f"{count:,} {name}" for count, name in [*counts, (n_minima, "minima")] if count]
    return f"{level}: {', '.join(parts)}"


def _left_out(path: Path) -> str:
    """Geometries without a label, by reason, from the records that `physcon label` keeps beside the store."""
    records = path.with_name(f"{path.stem}.failed.jsonl")
    if not records.is_file():
        return "0"
    failures = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(map(_reason, failures)).most_common())


def _reason(failure: dict[str, str]) -> str:
    """Reason without what is special about the molecule."""
    if failure["error"] in _REASONS:
        return _REASONS[failure["error"]]
    if "only covers" in failure["reason"] or "does not cover" in failure["reason"]:
        return "an element or charge is not covered"
    return re.sub(r"[;:].*| by [\d.]+ eV/Å", "", failure["reason"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    rows = [HEADER, *(row(path) for path in parser.parse_args().stores)]
    print("\n".join("| " + " | ".join(cells) + " |" for cells in [rows[0], ["---"] * len(HEADER), *rows[1:]]))


if __name__ == "__main__":
    main()
