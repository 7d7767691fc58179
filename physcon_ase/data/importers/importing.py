"""From any file that we can read to a store."""

from collections.abc import Callable, Iterator, Sequence
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


def import_files(
    paths: Sequence[Path], folder: Path, *, level: str | None = None, **options: Any
) -> Iterator[tuple[Path, ImportReport]]:
    """Reads files and writes a store of the same name for each; yields the store and its report as soon as it is there.

    Args:
        paths: the files.
        folder: where the stores go; made if it is not there.
        level: see `import_file`.
        options: see `import_file`.

    Raises:
        StoreError, LabelError: two files of one name, or see `import_file`.
    """
    stems = [path.stem for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise StoreError(f"several files would be written to {twice[0]}.h5: import them into different folders")
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        output = folder / f"{path.stem}.h5"
        yield output, import_file(path, output, level=level, **options)
