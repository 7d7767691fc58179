"""Import of data files into stores."""

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
    """Imports a file into a new store.

    Args:
        path: a NumPy archive of `npz_formats.FORMATS`, an extended XYZ file (.xyz, .extxyz), or an ASE database (.db,
            .json).
        output: path of the store.
        level: level of theory of the labels of extended XYZ files and ASE databases; archives define their own.
        on_progress: called periodically with the number of processed molecules or frames and their total.
        options: options of `ase_files.structure_from_atoms`, for extended XYZ files and ASE databases.

    Raises:
        StoreError: the file is missing, damaged or of unknown format, or is also the output.
        LabelError: labels are not finite or do not match the atoms.
    """
    path, output = Path(path), Path(output)
    if not path.is_file():
        raise StoreError(f"there is no file {path}; give an archive (.npz), an extended XYZ file or an ASE database")
    if output.resolve() == path.resolve():
        raise StoreError(f"input and output are both {path}, which would overwrite the data; choose another output")
    if path.suffix == ".npz":
        if level is not None or options:
            raise StoreError(f"{path} defines its own levels of theory; omit {', '.join(['level', *options])}")
        store, report = read_archive(path, on_progress=on_progress)
    elif path.suffix in XYZ_SUFFIXES + DATABASE_SUFFIXES:
        if level is None:
            raise StoreError(f"{path} does not specify its level of theory; give one, for instance level='b3lyp'")
        read = read_extxyz if path.suffix in XYZ_SUFFIXES else read_ase_database
        store, report = read(path, level, on_progress=on_progress, **options)
    elif is_smiles_list(path):
        raise StoreError(f"{path} is a list of SMILES without structures; read it with `smiles_list.read_smiles_list`")
    else:
        allowed = ", ".join((".npz", *XYZ_SUFFIXES, *DATABASE_SUFFIXES))
        raise StoreError(f"{path} has an unknown file format; allowed are {allowed}")
    write_store(output, store)
    return report


def import_files(
    paths: Sequence[Path], folder: Path, *, level: str | None = None, **options: Any
) -> Iterator[tuple[Path, ImportReport]]:
    """Imports files into stores of the same name; yields the path and the report of each store once it is written.

    Args:
        paths: the files.
        folder: folder of the stores; created if it does not exist.
        level: see `import_file`.
        options: see `import_file`.

    Raises:
        StoreError: two files have the same name; also see `import_file`.
        LabelError: see `import_file`.
    """
    stems = [path.stem for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise StoreError(f"several files would be written to {twice[0]}.h5: import them into different folders")
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        output = folder / f"{path.stem}.h5"
        yield output, import_file(path, output, level=level, **options)
