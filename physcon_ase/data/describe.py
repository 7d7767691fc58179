"""Summary of the content of a store."""

from collections.abc import Iterator
from pathlib import Path

from physcon_ase.data.labels import format_label_report, label_report
from physcon_ase.data.loader import load_items
from physcon_ase.data.selection import DataSet
from physcon_ase.data.store import open_store
from physcon_ase.plurals import counted


def describe_store(path: Path) -> Iterator[str]:
    """Summary of molecules, geometries, origin and labels of a store, line by line.

    Raises:
        StoreError: the store cannot be read.
        LabelError: the store has no level of theory.
    """
    store = open_store(path)
    n_molecules = counted(len(store.molecules), "molecule")
    yield f"{store.source}: {n_molecules}, {counted(len(store.geometries), 'geometry', 'geometries')}"
    for name in ("licence", "doi", "provenance"):
        if getattr(store, name):
            yield f"  {name:10s} {getattr(store, name)}"
    kinds = store.geometries.kind.tolist()
    yield "  kinds      " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    levels = tuple(dict.fromkeys([*store.labels, *filter(None, store.geometries.minimum_of.tolist())]))
    everything = DataSet(str(path), levels, assign_to="train")
    yield format_label_report(label_report(load_items([everything], levels, "train")))
