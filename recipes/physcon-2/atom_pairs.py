"""Writes atom_pairs.h5: isolated pairs of atoms, labelled with the mean of the four AIMNet2 networks.

    PHYSCON_AIMNET2=WHEEL python recipes/physcon-2/atom_pairs.py stores/atom_pairs.h5 --table atom_pairs.tsv

All pairs of the 14 elements are computed as closed shells: neutral where the number of electrons is even, else as a
cation and as an anion. AIMNet2 was trained on few diatomics and on no geometry with overlapping cores: below 0.6 to
0.85 sums of covalent radii most of its curves become attractive. A geometry is therefore left out

* if the forces of the four networks differ by more than `MAX_SPREAD`,
* at distances shorter than that of the largest repulsive force,
* if the atoms repel each other by more than `MAX_REPULSION` far outside the minimum, where some curves have a maximum,
* if its energy is more than `HIGHEST` above that of the minimum.

All pairs belong to the training split.
"""

import argparse
import math
from dataclasses import dataclass
from itertools import combinations_with_replacement, count
from pathlib import Path
from typing import Final

import numpy as np
from rdkit import Chem

from physcon_ase.chem.graph import make_graph
from physcon_ase.data.rows import GeometryRow, Label, MoleculeRow, store_from_rows
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.data.store import Store, write_store
from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines import Engine, EngineLabel, Molecule, aimnet2_engine
from physcon_ase.labelling.engines.aimnet2 import ELEMENTS
from physcon_ase.units import CHEMICAL_SYMBOLS

DISTANCES: Final = np.concatenate([np.arange(0.4, 1.2, 0.02), np.arange(1.2, 3.0, 0.04), np.arange(3.0, 6.01, 0.1)])
"""Distances [Å]."""
BONDED: Final = (0.7, 1.7)
"""Where the minimum is looked for, in sums of covalent radii."""
MAX_SPREAD: Final = 1.0
"""Largest `EngineLabel.force_spread` [eV/Å]."""
MAX_REPULSION: Final = 0.3
"""Largest repulsive force [eV/Å] beyond `OUTSIDE` times the distance of the minimum."""
OUTSIDE: Final = 1.25
HIGHEST: Final = 15.0
"""Energy [eV] above the minimum."""

_TABLE: Final = Chem.GetPeriodicTable()


@dataclass(frozen=True)
class Curve:
    """A pair of atoms of one charge at all distances."""

    numbers: tuple[int, int]
    """Atomic numbers."""
    charge: int
    """Total charge [e]."""
    labels: tuple[EngineLabel, ...]
    """Labels at `DISTANCES`."""

    @property
    def name(self) -> str:
        """Symbols and charge, such as "HO-"."""
        return "".join(CHEMICAL_SYMBOLS[number] for number in self.numbers) + {-1: "-", 0: "", 1: "+"}[self.charge]

    @property
    def reach(self) -> float:
        """Sum of the covalent radii [Å]."""
        return sum(_TABLE.GetRcovalent(number) for number in self.numbers)


@dataclass(frozen=True)
class Judged:
    """What is right and wrong with a curve, one value for each distance."""

    uncertain: np.ndarray
    """Whether the networks differ."""
    inside: np.ndarray
    """Whether the distance is inside the turning point of the wall."""
    hill: np.ndarray
    """Whether the atoms repel each other outside the minimum."""
    high: np.ndarray
    """Whether the energy is too high."""
    minimum: int
    """Index of the minimum."""

    @property
    def kept(self) -> np.ndarray:
        """What is written."""
        return ~(self.uncertain | self.inside | self.hill | self.high)


def curve(engine: Engine, numbers: tuple[int, int], charge: int) -> Curve:
    """The labels of a pair.

    Raises:
        EngineError: the engine refuses the pair.
    """
    atoms = np.array(numbers)
    found = engine.label_many([Molecule(atoms, np.array([[0, 0, 0], [0, 0, r]]), charge, 1) for r in DISTANCES])
    labels = []
    for label in found:
        if isinstance(label, EngineError):
            raise label
        labels.append(label)
    return Curve(numbers, charge, tuple(labels))


def judged(own: Curve) -> Judged:
    """Which geometries of a curve are kept."""
    energies = np.array([label.energy for label in own.labels])
    repulsion = np.array([float(label.forces[1, 2]) for label in own.labels])
    spread = np.array([label.force_spread for label in own.labels])
    bonded = np.flatnonzero((BONDED[0] * own.reach < DISTANCES) & (BONDED[1] * own.reach > DISTANCES))
    minimum = int(bonded[energies[bonded].argmin()])
    turn = minimum
    while turn > 0 and repulsion[turn - 1] > repulsion[turn]:
        turn -= 1
    return Judged(
        uncertain=~(spread <= MAX_SPREAD),
        inside=np.arange(len(DISTANCES)) < turn,
        hill=(OUTSIDE * DISTANCES[minimum] < DISTANCES) & (repulsion > MAX_REPULSION),
        high=energies > energies[minimum] + HIGHEST,
        minimum=minimum,
    )


def row(own: Curve, found: Judged) -> str:
    """One line of the table."""
    energies = np.array([label.energy for label in own.labels])
    repulsion = np.array([float(label.forces[1, 2]) for label in own.labels])
    holes = DISTANCES[(np.arange(len(DISTANCES)) < found.minimum) & (repulsion < 0)]
    kept = DISTANCES[found.kept]
    inner = int(np.flatnonzero(~found.inside)[0])
    cells = [
        own.name, f"{own.reach:.2f}", f"{DISTANCES[found.minimum]:.2f}", f"{DISTANCES[inner]:.2f}",
        f"{energies[inner] - energies[found.minimum]:.2f}",
        f"{holes.min():.2f}-{holes.max():.2f}" if len(holes) else "-", str(int(found.uncertain.sum())),
        str(len(kept)), f"{kept.min():.2f}" if len(kept) else "-", f"{kept.max():.2f}" if len(kept) else "-",
    ]  # fmt: skip
    return "\t".join(cells) + "\n"


def store_of(engine: Engine, curves: list[Curve], verdicts: list[Judged]) -> Store:
    """The geometries that are kept, as a store."""
    molecules, rows = [], []
    for own, found in zip(curves, verdicts, strict=True):
        graph = make_graph(own.numbers, [(0, 1)], [1], [own.charge, 0])
        hashed = next(h for h in (key_hash(f"{own.name} {i}") for i in count()) if split_of(h) == "train")
        for place in np.flatnonzero(found.kept).tolist():
            label, half = own.labels[place], DISTANCES[place] / 2
            labels = {engine.record.level: Label(label.energy, label.forces, label.charges, label.force_spread)}
            rows.append(GeometryRow(len(molecules), np.array([[0, 0, -half], [0, 0, half]]), "diatomic", "", labels))
        molecules.append(MoleculeRow(graph, "", own.name, hashed))
    provenance = "mean of the four AIMNet2 networks, recipes/physcon-2/atom_pairs.py"
    return store_from_rows(molecules, rows, source="atom_pairs", licence="CC0", provenance=provenance)


def main() -> None:
    """Computes, judges and writes all curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--table", type=Path, help="one line for each curve: where it turns, what is kept")
    options = parser.parse_args()
    engine = aimnet2_engine(mean=True, max_spread=math.inf)  # curves are judged as a whole
    curves = [
        curve(engine, pair, charge)
        for pair in combinations_with_replacement(ELEMENTS, 2)
        for charge in ((0,) if sum(pair) % 2 == 0 else (1, -1))
    ]
    verdicts = [judged(own) for own in curves]
    total = len(curves) * len(DISTANCES)
    told = {
        "networks differ": sum(int(v.uncertain.sum()) for v in verdicts),
        "inside the turning point": sum(int((v.inside & ~v.uncertain).sum()) for v in verdicts),
        "hill outside the minimum": sum(int((v.hill & ~v.uncertain).sum()) for v in verdicts),
        "high energy": sum(int((v.high & ~v.inside & ~v.uncertain).sum()) for v in verdicts),
    }
    if options.table:
        header = "pair\treach\tminimum\tturn\tenergy_at_turn\tattractive_inside\tuncertain\tkept\tfrom\tto\n"
        options.table.write_text(header + "".join(map(row, curves, verdicts)))
    write_store(options.store, store_of(engine, curves, verdicts))
    print(
        f"{len(curves)} curves, {total} geometries, {sum(int(v.kept.sum()) for v in verdicts)} kept; left out: {told}"
    )


if __name__ == "__main__":
    main()
