"""Labels of two molecules far apart, from the labels of each alone.

Molecules far apart interact only by the Coulomb energy of their charges, so that the labels of a pair follow from those
of its members without further computation. A model trained on them assigns each molecule its own total charge and
becomes size consistent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from physcon_ase.chem.fragments import joined
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.data.rows import GeometryRow, Label, MoleculeRow, store_from_rows
from physcon_ase.data.store import Store, check_other_file, geometry_offsets, molecule_graph, open_store, write_store
from physcon_ase.errors import LabelError
from physcon_ase.plurals import counted
from physcon_ase.units import COULOMB_EV_ANGSTROM

DISTANCES: Final = (50.0, 150.0)
"""Smallest and largest distance [Å] of the two centres, beyond the radii of the molecules."""

_IONIC: Final = 0.5
"""Share of pairs of two ions; the others are an ion and a neutral molecule."""


@dataclass(frozen=True)
class _Member:
    """A labelled geometry of one molecule."""

    graph: MolGraph
    """The molecule."""
    key_hash: int
    """`split.key_hash`."""
    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å] relative to their centre."""
    label: Label
    """Its labels."""

    @property
    def charges(self) -> Float[np.ndarray, " atoms"]:
        """Labelled partial charges [e]; the total charge divided equally if there are none."""
        n_atoms = len(self.positions)
        return np.full(n_atoms, self.graph.charge / n_atoms) if self.label.charges is None else self.label.charges


class _Source:
    """Labelled geometries of a store."""

    def __init__(self, store: Store, level: str, max_atoms: int):
        self._store, self._labels, self._offsets = store, store.labels.get(level), geometry_offsets(store)
        self.n_atoms: list[int] = store.molecules.n_atoms.tolist()
        """Number of atoms of each molecule."""
        self.charges: list[int] = store.molecules.charges.tolist()
        """Total charge [e] of each molecule."""
        self.rows: dict[int, list[int]] = {}
        """Rows of the geometries with energy and forces, by molecule."""
        if self._labels is None or self._labels.forces is None or not len(store.geometries):
            return
        is_labelled = np.isfinite(self._labels.forces[self._offsets[:-1], 0]) & np.isfinite(self._labels.energy)
        for row in np.flatnonzero(is_labelled & (np.diff(self._offsets) <= max_atoms)).tolist():
            self.rows.setdefault(int(store.geometries.molecule[row]), []).append(row)

    def member(self, molecule: int, row: int) -> _Member:
        """A geometry of a molecule."""
        atoms, labels = slice(int(self._offsets[row]), int(self._offsets[row + 1])), self._labels
        assert labels is not None
        assert labels.forces is not None
        positions = self._store.geometries.positions[atoms].astype(np.float64)
        charges = None if labels.charges is None else labels.charges[atoms].astype(np.float64)
        if charges is not None and not np.isfinite(charges).all():
            charges = None
        return _Member(
            molecule_graph(self._store, molecule),
            int(self._store.molecules.key_hash[molecule]),
            positions - positions.mean(axis=0),
            Label(float(labels.energy[row]), labels.forces[atoms].astype(np.float64), charges),
        )


def separated(
    stores: Sequence[Store],
    level: str,
    *,
    n: int,
    max_atoms: int = 60,
    seed: int = 0,
    source: str = "",
    licence: str = "",
) -> Store:
    """Store of pairs of an ion and another molecule 50 to 150 Å apart, with labels derived from those of each alone.

    Energies and forces are the sums of those of both, plus the Coulomb interaction of the partial charges, or of the
    total charges where there are none. The total charge of a pair equals that of a molecule in the stores, so that
    pairs do not extend the charges that a level covers. A pair with a test molecule is a test pair (`data.split`).

    Args:
        stores: stores with energies and forces at the level; all ions are drawn with equal probability, regardless of
            the number of their geometries.
        level: level of theory.
        n: number of pairs.
        max_atoms: maximum number of atoms of a pair.
        seed: random seed.
        source: `Store.source`.
        licence: `Store.licence`.

    Raises:
        LabelError: there are no ions, or no other molecules, with labels of the level, or none of a pair's size; or `n`
            is below 1 or the seed below 0.
    """
    if n < 1 or seed < 0:
        raise LabelError(f"{n} pairs with seed {seed}; the number must be 1 or larger, the seed 0 or larger")
    generator = np.random.default_rng(seed)
    sources = [_Source(store, level, max_atoms - 1) for store in stores]
    pool = [(source, molecule) for source in sources for molecule in source.rows]
    ions = [(source, molecule) for source, molecule in pool if source.charges[molecule]]
    others = [(source, molecule) for source, molecule in pool if not source.charges[molecule]]
    if not ions or not others:
        raise LabelError(
            f"the stores have {counted(len(ions), 'ion')} and {counted(len(others), 'neutral molecule')} of fewer than "
            f"{max_atoms} atoms with energies and forces of {level!r}; add a store that has some"
        )

    smallest = sum(min(source.n_atoms[molecule] for source, molecule in kind) for kind in (ions, others))
    if smallest > max_atoms:
        raise LabelError(
            f"the smallest ion and the smallest neutral molecule with labels of {level!r} have {smallest} atoms "
            f"together, but max_atoms is {max_atoms}; increase it"
        )
    charges = {source.charges[molecule] for source, molecule in pool}

    def drawn(candidates: list[tuple[_Source, int]]) -> _Member:
        source, molecule = candidates[int(generator.integers(len(candidates)))]
        return source.member(molecule, int(generator.choice(source.rows[molecule])))

    molecules, geometries = [], []
    while len(geometries) < n:
        first = drawn(ions)
        second = drawn(ions if generator.uniform() < _IONIC else others)
        if len(first.positions) + len(second.positions) > max_atoms:
            continue
        if first.graph.charge + second.graph.charge not in charges:
            continue
        # the spin is that of the labels, from which RDKit's count of unpaired electrons may differ
        multiplicity = first.graph.multiplicity + second.graph.multiplicity - 1
        graph = replace(joined([first.graph, second.graph]), multiplicity=multiplicity)
        smiles = canonical_smiles(graph)
        molecules.append(MoleculeRow(graph, smiles, smiles, min(first.key_hash, second.key_hash)))
        geometries.append(_apart(len(geometries), level, first, second, generator))
    return store_from_rows(
        molecules,
        geometries,
        levels=(level,),
        source=source,
        licence=licence,
        provenance=f"pairs of molecules apart, seed {seed}, from " + "; ".join(store.source for store in stores),
    )


def separate_files(
    paths: Sequence[str | Path], output: str | Path, *, level: str, n: int, max_atoms: int = 60, seed: int = 0
) -> Store:
    """Applies `separated` to store files, writes the result to another file and returns it.

    Raises:
        StoreError: a store cannot be read or written, or the output is one of the inputs.
        LabelError: see `separated`.
    """
    check_other_file(output, paths)
    stores = [open_store(path) for path in paths]
    licences = ", ".join(dict.fromkeys(store.licence for store in stores if store.licence))
    found = separated(stores, level, n=n, max_atoms=max_atoms, seed=seed, source=Path(output).stem, licence=licences)
    write_store(output, found)
    return found


def _apart(number: int, level: str, first: _Member, second: _Member, generator: np.random.Generator) -> GeometryRow:
    direction = generator.normal(size=3)
    radii = sum(np.linalg.norm(own.positions, axis=1).max() for own in (first, second))
    shift = (generator.uniform(*DISTANCES) + radii) * direction / np.linalg.norm(direction)
    lines = second.positions + shift - first.positions[:, None]  # (first, second, 3)
    lengths = np.linalg.norm(lines, axis=-1)
    energies = COULOMB_EV_ANGSTROM * first.charges[:, None] * second.charges / lengths
    forces = (energies / lengths**2)[:, :, None] * lines
    assert first.label.forces is not None
    assert second.label.forces is not None
    known = [own.label.charges for own in (first, second) if own.label.charges is not None]
    label = Label(
        first.label.energy + second.label.energy + float(energies.sum()),
        np.concatenate([first.label.forces - forces.sum(axis=1), second.label.forces + forces.sum(axis=0)]),
        np.concatenate(known) if len(known) == 2 else None,
    )
    positions = np.concatenate([first.positions, second.positions + shift])
    return GeometryRow(number, positions - positions.mean(axis=0), "separated", labels={level: label})
