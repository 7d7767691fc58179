"""From any file that we can read to a store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from physcon_ase.data.importers.ase_files import DATABASE_SUFFIXES, XYZ_SUFFIXES, read_ase_database, read_extxyz
from physcon_ase.data.importers.npz_files import read_archive
from physcon_ase.data.importers.report import ImportReport
from physcon_ase.data.importers.smiles_list import is_smiles_list
from physcon_ase.data.store import write_store
from physcon_ase.errors import StoreError


def import_file(
    path: str | Path,
    output: str | Path,
    *,
    level: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ImportReport:
    """Reads a file and writes it as a store.

    Args:
        path: a NumPy archive of `npz_files.FORMATS`, an extended XYZ file (.xyz, .extxyz), or an ASE database (.db,
            .json).
        output: the store.
        level: level of theory of the labels, for extended XYZ files and ASE databases; an archive knows its own.
        on_progress: called now and then with the number of molecules or frames done and their total.
        options: for extended XYZ files and ASE databases those of `ase_files.structure_from_atoms`.

    Raises:
        StoreError: the file is missing, unknown or damaged, or is the output itself.
        LabelError: labels that are not finite or do not match the atoms.
    """
    path, output = Path(path), Path(output)
    if not path.is_file():
        raise StoreError(f"there is no file {path}; give an archive (.npz), an extended XYZ file or an ASE database")
    if output.resolve() == path.resolve():
        raise StoreError(
            f"input and output are both {path}; writing there would destroy the data: choose another output"
        )
    if path.suffix == ".npz":
        if level is not None or options:
            raise StoreError(f"{path} knows its own levels of theory; leave out {', '.join(['level', *options])}")
        store, report = read_archive(path, on_progress=on_progress)
    elif path.suffix in XYZ_SUFFIXES + DATABASE_SUFFIXES:
        if level is None:
            raise StoreError(f"{path} does not say its level of theory; give one, for instance level='b3lyp'")
        read = read_extxyz if path.suffix in XYZ_SUFFIXES else read_ase_database
        store, report = read(path, level, on_progress=on_progress, **options)
    elif is_smiles_list(path):
        raise StoreError(f"{path} is a list of SMILES without structures; read it with `smiles_list.read_smiles_list`")
    else:
        allowed = ", ".join((".npz", *XYZ_SUFFIXES, *DATABASE_SUFFIXES))
        raise StoreError(f"{path} is of no known kind; allowed are {allowed}")
    write_store(output, store)
    return report
