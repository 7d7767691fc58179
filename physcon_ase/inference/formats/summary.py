"""Records as a table: one row per molecule, failures included."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from physcon_ase.inference.formats.rows import fields_beside
from physcon_ase.inference.formats.table import suffix_of
from physcon_ase.inference.formats.text import replaced, replacing
from physcon_ase.inference.results import Record

COLUMNS: Final[dict[str, type]] = {
    "row": int,
    "source": str,
    "name": str,
    "status": str,
    "reason": str,
    "error": str,
    "smiles": str,
    "input": str,
    "formula": str,
    "charge": int,
    "n_atoms": int,
    "energy_eV": float,
    "energy_uncertainty_eV": float,
    "fmax_eV_per_A": float,
    "converged": bool,
    "steps": int,
    "bonds_intact": bool,
    "stereo_intact": bool,
    "undefined_stereo": str,
    "start": str,
    "optimizer": str,
    "seed": int,
    "attempts": int,
    "seconds": float,
    "level": str,
    "model": str,
    "revision": str,
}
"""Names of the columns with the type of their values; None where a value is not known."""


def summary(record: Record) -> dict[str, Any]:
    """Values of `COLUMNS` of a record."""
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    result = record.result
    if result is not None:
        found |= {name: getattr(result, name) for name in COLUMNS if hasattr(result, name)}
        found |= {
            "formula": result.atoms.get_chemical_formula(),
            "charge": int(result.atoms.info.get("charge") or 0),
            "n_atoms": len(result.atoms),
            "energy_eV": result.energy,
            "energy_uncertainty_eV": result.energy_uncertainty,
            "fmax_eV_per_A": result.fmax,
            "undefined_stereo": "; ".join(result.undefined_stereo),
        }
    own = ("row", "source", "name", "status", "error", "seed", "attempts", "seconds")
    found |= {name: getattr(record, name) for name in own}
    return found | {"row": record.row or record.index + 1, "reason": one_line(record.reason), "input": record.smiles}


def own_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """Fields of the input beside `COLUMNS`."""
    return fields_beside(fields, COLUMNS)


def values_of(record: Record) -> dict[str, Any]:
    """The summary of a record and the other fields of its input."""
    return {**summary(record), **own_fields(record.fields)}


def _field_names(records: Sequence[Record]) -> list[str]:
    """Names of the fields of the input, in the order of their first occurrence."""
    return list(dict.fromkeys(name for record in records for name in own_fields(record.fields)))


def judgement(doubts: Sequence[str], undefined_stereo: Sequence[str]) -> dict[str, str]:
    """Status of several geometries of one molecule, with its reason and the undefined stereochemistry if any."""
    fields = {"status": "uncertain" if doubts else "ok", "reason": doubts, "undefined_stereo": undefined_stereo}
    texts = {name: value if isinstance(value, str) else "; ".join(value) for name, value in fields.items()}
    return {name: one_line(text) for name, text in texts.items() if text}


def one_line(value: object) -> str:
    """Value as text on one line."""
    return " ".join(str(value).split())


def write_csv(records: Sequence[Record], path: Path) -> None:
    """Writes the summary and the fields of the input as comma-separated values, or tab-separated ones (.tsv)."""
    write_table([*COLUMNS, *_field_names(records)], list(map(values_of, records)), path)


def write_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes rows as comma-separated values, or tab-separated ones (.tsv); missing values are empty."""
    is_tsv = suffix_of(path) == ".tsv"
    with replacing(path) as file:
        table = csv.DictWriter(file, columns, delimiter="\t" if is_tsv else ",", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def write_json_lines(records: Sequence[Record], path: Path) -> None:
    """Writes one line of JSON per molecule: summary, positions [Å], forces [eV/Å] and the course of the relaxation.

    The course is the energy [eV] and the largest force [eV/Å] of the start geometry and after each step.
    """
    with replacing(path) as file:
        for record in records:
            line = {"kind": "relaxation", **summary(record), "fields": own_fields(record.fields)}
            if record.result is not None:
                atoms = record.result.atoms
                line |= {"symbols": atoms.get_chemical_symbols(), "positions_A": atoms.positions.tolist()}
                line["forces_eV_per_A"] = atoms.get_forces(apply_constraint=False).tolist()
                line["energies_eV"] = record.result.energies.tolist()
                line["fmax_history_eV_per_A"] = record.result.fmax_history.tolist()
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """Writes the summary and the fields of the input as a Parquet table; needs pyarrow."""
    import pyarrow  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]

    types = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    columns = {**COLUMNS, **dict.fromkeys(_field_names(records), str)}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    table = pyarrow.Table.from_pylist([values_of(record) for record in records], schema=schema)
    with replaced(path) as part:
        pyarrow.parquet.write_table(table, part)
