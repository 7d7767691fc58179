"""Conformer ensembles as text and files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import ase.io

from physcon_ase.chem.files import sdf_block
from physcon_ase.errors import PhysConError
from physcon_ase.inference.ensembles.ensemble import Conformer, Ensemble, EnsembleRecord, counted
from physcon_ase.inference.files import XYZ_SUFFIXES, check_output

ENSEMBLE_SUFFIXES: Final = (*XYZ_SUFFIXES, ".sdf", ".json", ".jsonl")
"""Suffixes of files of conformers."""

RECORD_SUFFIX: Final = ".jsonl"
"""Suffix of files with one line per molecule, which can contain failures."""


def format_ensemble(ensemble: Ensemble) -> str:
    """Ensemble as text for the terminal, with one line per conformer."""
    formula = ensemble.conformers[0].atoms.get_chemical_formula()
    start = "ETKDG, relaxed with MMFF94" if ensemble.prerelaxed else "ETKDG"
    left_out = ", ".join(f"{count} {reason}" for reason, count in ensemble.left_out.items()) or "none"
    lines = [
        f"{ensemble.smiles}  ({formula}, {ensemble.graph.n_atoms} atoms)",
        f"  model      {ensemble.model} (revision {ensemble.revision[:12]}), level {ensemble.level}",
        f"  starts     {ensemble.n_starts} geometries ({start}), seed {ensemble.seed}, {ensemble.seconds:.1f} s",
        f"  left out   {left_out}",
        f"  energy     {ensemble.conformers[0].energy:.6f} eV (lowest conformer)",
        f"  ensemble   {counted(len(ensemble))} within {ensemble.window:g} kcal/mol",
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


def format_ensemble_record(record: EnsembleRecord) -> str:
    """Record as one line for the terminal."""
    line = f"{record.index:5d}  {record.status:9s}  {record.name}  "
    if record.ensemble is None:
        return f"{line}{record.error}: {record.reason}"
    lowest = record.ensemble.conformers[0]
    return (
        f"{line}{counted(len(record.ensemble))}, lowest {lowest.energy:.6f} eV (weight {lowest.weight:.3f}), "
        f"{record.seconds:.1f} s{f', {record.reason}' if record.reason else ''}"
    )


def write_ensemble(
    ensemble: Ensemble, path: str | Path, *, append: bool = False, inputs: Iterable[str | Path] = ()
) -> None:
    """Writes all conformers, the lowest first.

    Args:
        ensemble: the conformers.
        path: output file: .xyz or .extxyz (extended XYZ), .sdf, .json (`Ensemble.to_dict`), or .jsonl (the same on one
            line).
        append: whether to keep the previous contents of the file; not possible for .json.
        inputs: input files, which must not be overwritten.

    Raises:
        PhysConError: see `check_output`; `append` for .json, which contains one molecule.
    """
    path = check_output(path, inputs, kinds=ENSEMBLE_SUFFIXES)
    if path.suffix == ".json":
        if append:
            raise PhysConError(f"{path} can contain the conformers of one molecule; for several write {RECORD_SUFFIX}")
        path.write_text(json.dumps(ensemble.to_dict(), indent=1) + "\n", encoding="utf-8")
    elif path.suffix == RECORD_SUFFIX:
        _write_line(ensemble.to_dict(), path, append)
    elif path.suffix == ".sdf":
        text = "".join(_sdf_record(ensemble, index) for index in range(len(ensemble)))
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    else:
        ase.io.write(path, [conformer.atoms for conformer in ensemble.conformers], format="extxyz", append=append)


def write_ensemble_record(record: EnsembleRecord, path: str | Path, *, append: bool = False) -> bool:
    """Writes the conformers of a record; a failed one to .jsonl only, with its reason.

    Args:
        record: record of `ensemble_many`.
        path: output file, see `write_ensemble`.
        append: whether to keep the previous contents of the file.

    Returns:
        Whether anything was written.
    """
    if Path(path).suffix == RECORD_SUFFIX:
        _write_line(record.to_dict(), check_output(path, kinds=ENSEMBLE_SUFFIXES), append)
    elif record.ensemble is not None:
        write_ensemble(record.ensemble, path, append=append)
    else:
        return False
    return True


def _write_line(content: dict[str, Any], path: Path, append: bool) -> None:
    with path.open("a" if append else "w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(content) + "\n")


def _sdf_record(ensemble: Ensemble, index: int) -> str:
    conformer = ensemble.conformers[index]
    properties = {
        "conformer": str(index),
        "energy_eV": f"{conformer.energy:.8f}",
        "relative_energy_kcal_per_mol": f"{conformer.relative_energy:.6f}",
        "weight": f"{conformer.weight:.6f}",
        "temperature_K": f"{ensemble.temperature:g}",
        "fmax_eV_per_A": f"{conformer.fmax:.6f}",
    }
    if conformer.mirror_image is not None:
        properties["mirror_image"] = str(conformer.mirror_image)
    properties |= {name: str(getattr(ensemble, name)) for name in ("level", "model", "revision", "smiles", "seed")}
    return sdf_block(ensemble.graph, conformer.atoms.positions, properties, title=ensemble.smiles)


def _mirror_image(conformer: Conformer, index: int) -> str:
    if conformer.mirror_image is None:
        return "enantiomer"
    return "itself" if conformer.mirror_image == index else str(conformer.mirror_image)
