"""Conformer ensembles as text and files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ase import Atoms

from physcon_ase.chem.files import sdf_block
from physcon_ase.errors import PhysConError
from physcon_ase.inference.ensembles.ensemble import Conformer, Ensemble
from physcon_ase.inference.files import XYZ_SUFFIXES, check_output, read_structures, write_structures
from physcon_ase.inference.formats.rows import fields_beside
from physcon_ase.inference.formats.summary import judgement, one_line
from physcon_ase.inference.formats.table import suffix_of
from physcon_ase.inference.formats.text import decoded, replacing
from physcon_ase.inference.run_records import LINES, RunRecord, format_run_record, write_run_table
from physcon_ase.plurals import counted

ENSEMBLE_SUFFIXES: Final = (*XYZ_SUFFIXES, ".sdf", ".json", ".jsonl")
"""Suffixes of files of conformers."""

ONE_SUFFIX: Final = ".json"
"""Suffix of files with one molecule, which can be a failure."""

RECORD_SUFFIX: Final = LINES
"""Suffix of files with one line per molecule, which can contain failures."""

LOST: Final = ("not converged", "not embedded in time", "not enough memory")
"""Reasons of `Ensemble.left_out` for which a conformer may be missing."""

COLUMNS: Final = (
    "smiles",
    "formula",
    "charge",
    "n_atoms",
    "n_conformers",
    "energy_eV",
    "energy_uncertainty_eV",
    "weight",
    "highest_kcal_per_mol",
    "window_kcal_per_mol",
    "temperature_K",
    "n_starts",
    "left_out",
    "undefined_stereo",
    "level",
    "model",
    "revision",
    "seed",
)
"""Columns of a table of ensembles; energy and weight: those of the lowest conformer."""


def format_ensemble(ensemble: Ensemble) -> str:
    """Ensemble as text for the terminal, with one line per conformer."""
    formula = ensemble.conformers[0].atoms.get_chemical_formula()
    start = "ETKDG, relaxed with MMFF94" if ensemble.prerelaxed else "ETKDG"
    lines = [
        f"{ensemble.smiles}  ({formula}, {counted(ensemble.graph.n_atoms, 'atom')})",
        f"  model      {ensemble.model} (revision {ensemble.revision[:12]}), level {ensemble.level}",
        f"  starts     {counted(ensemble.n_starts, 'geometry', 'geometries')} ({start}), seed {ensemble.seed}, "
        f"{ensemble.seconds:.1f} s",
        f"  left out   {_left_out(ensemble) or 'none'}",
        f"  energy     {ensemble.conformers[0].energy:.6f} eV (lowest conformer)",
        f"  ensemble   {counted(len(ensemble), 'conformer')} within {ensemble.window:g} kcal/mol",
    ]
    lines += [f"  undefined  {line}: decided by the seed" for line in ensemble.undefined_stereo]
    lines += [f"  uncertain  {line}" for line in ensemble.doubts]
    lines.append(f"  conformer  kcal/mol  weight ({ensemble.temperature:g} K)  RMSD/Å to the lowest  mirror image")
    for index, conformer in enumerate(ensemble.conformers):
        lines.append(
            f"  {index:9d}  {conformer.relative_energy:8.3f}  {conformer.weight:17.4f}  "
            f"{ensemble.rmsd[0, index]:20.3f}  {_mirror_image(conformer, index)}"
        )
    return "\n".join(lines)


def format_ensemble_record(record: RunRecord[Ensemble]) -> str:
    """Record as one line for the terminal."""
    summary = ""
    if record.result is not None:
        lowest = record.result.conformers[0]
        lost = [f"{number} {reason}" for reason, number in record.result.left_out.items() if reason in LOST]
        summary = ", ".join(
            [
                counted(len(record.result), "conformer"),
                f"lowest {lowest.energy:.6f} eV (weight {lowest.weight:.3f})",
                *lost,
                f"{record.seconds:.1f} s",
            ]
        )
    return format_run_record(record, summary)


def write_ensemble(
    ensemble: Ensemble, path: str | Path, *, append: bool = False, inputs: Iterable[str | Path] = ()
) -> None:
    """Writes all conformers, the lowest first.

    Args:
        ensemble: the conformers.
        path: output file: .xyz or .extxyz (extended XYZ), .sdf, .json (`Ensemble.to_dict`), or .jsonl (the same on one
            line); any of them may end in .gz.
        append: whether to keep the previous contents of the file; not possible for .json.
        inputs: input files, which must not be overwritten.

    Raises:
        PhysConError: see `check_output`; `append` for .json, which contains one molecule.
    """
    path = check_output(path, inputs, kinds=ENSEMBLE_SUFFIXES)
    suffix, is_kept = suffix_of(path), append and path.is_file()
    if append and suffix == ONE_SUFFIX:
        raise PhysConError(f"{path} can contain the conformers of one molecule; for several write {RECORD_SUFFIX}")
    if suffix in XYZ_SUFFIXES:
        before = read_structures(path) if is_kept else []
        write_structures([*before, *_frames(ensemble, {})], path)
        return
    text = decoded(path.read_bytes(), str(path)) if is_kept else ""
    text += _sdf_records(ensemble, {}, {}) if suffix == ".sdf" else _as_json(ensemble.to_dict(), suffix)
    with replacing(path) as file:
        file.write(text)


def write_ensemble_records(
    records: Sequence[RunRecord[Ensemble]], path: str | Path, *, inputs: Iterable[str | Path] = ()
) -> list[RunRecord[Ensemble]]:
    """Writes the conformers of all records with name, row and source; failures to .json and .jsonl, with the reason.

    Data fields of the input are fields of SD and JSON files.

    The file is replaced as a whole, and removed if there is nothing to write.

    Args:
        records: records of `ensemble_many`.
        path: output file, see `write_ensemble`; .json for a single record.
        inputs: input files, which must not be overwritten.

    Returns:
        The records that the format cannot represent.

    Raises:
        PhysConError: see `check_output`; several records for .json.
    """
    path = check_output(path, inputs, kinds=ENSEMBLE_SUFFIXES)
    suffix = suffix_of(path)
    if suffix == ONE_SUFFIX and len(records) > 1:
        raise PhysConError(f"{path} can contain one molecule, but there are {len(records)}: write {RECORD_SUFFIX}")
    if suffix in (ONE_SUFFIX, RECORD_SUFFIX):
        with replacing(path) as file:
            file.writelines(_as_json(record.to_dict(), suffix) for record in records)
        return []
    found = [(record.result, record) for record in records if record.result is not None]
    if not found:
        path.unlink(missing_ok=True)
    elif suffix == ".sdf":
        with replacing(path) as file:
            file.writelines(_sdf_records(ensemble, _origin(record), record.fields) for ensemble, record in found)
    else:
        write_structures([atoms for ensemble, record in found for atoms in _frames(ensemble, _origin(record))], path)
    return [record for record in records if record.result is None]


def _left_out(ensemble: Ensemble) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in ensemble.left_out.items())


def write_ensemble_table(
    records: Sequence[RunRecord[Ensemble]], path: str | Path, *, inputs: Iterable[str | Path] = ()
) -> None:
    """Writes a table (.csv, .tsv) with one row per molecule, failures included. Raises those of `write_run_table`."""
    write_run_table(records, path, COLUMNS, _values_of, inputs=inputs)


def _values_of(found: Ensemble) -> dict[str, Any]:
    lowest, highest = found.conformers[0], found.conformers[-1]
    return {
        "formula": lowest.atoms.get_chemical_formula(),
        "charge": found.graph.charge,
        "n_atoms": found.graph.n_atoms,
        "n_conformers": len(found),
        "energy_eV": lowest.energy,
        "energy_uncertainty_eV": lowest.energy_uncertainty,
        "weight": lowest.weight,
        "highest_kcal_per_mol": highest.relative_energy,
        "window_kcal_per_mol": found.window,
        "temperature_K": found.temperature,
        "left_out": _left_out(found),
        "undefined_stereo": "; ".join(found.undefined_stereo),
        **{name: getattr(found, name) for name in ("smiles", "n_starts", "level", "model", "revision", "seed")},
    }


def _origin(record: RunRecord[Ensemble]) -> dict[str, Any]:
    """Row, source and name, as far as known."""
    fields = {"row": record.row, "source": record.source, "name": record.name}
    return {name: value for name, value in fields.items() if value}


def _as_json(content: Mapping[str, Any], suffix: str) -> str:
    return json.dumps(content, indent=1 if suffix == ONE_SUFFIX else None) + "\n"


def _frames(ensemble: Ensemble, origin: Mapping[str, Any]) -> list[Atoms]:
    frames = []
    for conformer in ensemble.conformers:
        atoms = conformer.atoms.copy()
        atoms.calc = conformer.atoms.calc
        atoms.info.update(origin, **judgement(ensemble.doubts, ensemble.undefined_stereo))
        if conformer.energy_uncertainty is not None:
            atoms.info["energy_uncertainty"] = conformer.energy_uncertainty
        frames.append(atoms)
    return frames


def _sdf_records(ensemble: Ensemble, origin: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    return "".join(_sdf_record(ensemble, index, origin, fields) for index in range(len(ensemble)))


def _sdf_record(ensemble: Ensemble, index: int, origin: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    conformer = ensemble.conformers[index]
    properties = {name: one_line(value) for name, value in origin.items()}
    properties |= judgement(ensemble.doubts, ensemble.undefined_stereo)
    properties |= {
        "conformer": str(index),
        "energy_eV": f"{conformer.energy:.8f}",
        "relative_energy_kcal_per_mol": f"{conformer.relative_energy:.6f}",
        "weight": f"{conformer.weight:.6f}",
        "symmetry_number": str(conformer.symmetry_number),
        "temperature_K": f"{ensemble.temperature:g}",
        "fmax_eV_per_A": f"{conformer.fmax:.6f}",
    }
    if ensemble.left_out:
        properties["left_out"] = _left_out(ensemble)
    if conformer.energy_uncertainty is not None:
        properties["energy_uncertainty_eV"] = f"{conformer.energy_uncertainty:.6f}"
    if conformer.mirror_image is not None:
        properties["mirror_image"] = str(conformer.mirror_image)
    properties |= {name: str(getattr(ensemble, name)) for name in ("level", "model", "revision", "smiles", "seed")}
    title = properties.get("name", ensemble.smiles)
    properties |= {name: one_line(value) for name, value in fields_beside(fields, properties).items()}
    return sdf_block(ensemble.graph, conformer.atoms.positions, properties, title=title)


def _mirror_image(conformer: Conformer, index: int) -> str:
    if conformer.mirror_image is None:
        return "enantiomer"
    return "itself" if conformer.mirror_image == index else str(conformer.mirror_image)
