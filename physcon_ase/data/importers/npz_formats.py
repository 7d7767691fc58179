"""Formats of the NumPy archives of docs/data.md and of earlier checkpoints, each recognised by its fields."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from physcon_ase.errors import StoreError

_GRAPH_FIELDS: Final = {"n_atoms", "n_bonds", "atomic_numbers", "bonds", "bond_orders", "formal_charges", "smiles"}
"""Fields of the molecular graph, common to all formats."""

_FREQUENCY_FIELDS: Final = {"gdb", "n_modes", "frequencies", "zpve", "dipole_debye"}
"""Fields of an archive that cannot be imported."""


@dataclass(frozen=True)
class ArchiveFormat:
    """Format of an archive."""

    name: str
    """Name of the data set."""
    fields: frozenset[str]
    """Fields of the archive, except those of the molecular graph."""
    identifier: str | None
    """Field with the name of each molecule; None if molecules are identified by their row."""
    minimum_of: str
    """Level of theory whose minima the (first) geometries are; empty if they are not minima."""
    energies: Mapping[str, str]
    """Level of theory by field, for the energies of these geometries."""
    licence: str
    """Licence of the data."""
    doi: str
    """DOI of the publication."""
    origin: str
    """Origin of structures and labels."""
    kind: str = "minimum"
    """Kind of the (first) geometries."""
    forces: Mapping[str, str] = field(default_factory=dict)
    """Level of theory by field, for the forces at these geometries."""
    rows_are_conformers: bool = False
    """Whether rows with identical graphs are conformers of one molecule, named after the first row."""


_QM9_DOI: Final = "10.1038/sdata.2014.22"

_OPENFF_LEVEL: Final = "b3lyp-d3"
"""Level of the OpenFF archives: B3LYP-D3(BJ)/DZVP."""

FORMATS: Final = (
    ArchiveFormat(
        name="qm9_b3lyp",
        fields=frozenset({"gdb", "positions", "energy_b3lyp", "energy_mp2", "energy_hf"}),
        identifier="gdb",
        minimum_of="b3lyp",
        energies={"energy_b3lyp": "b3lyp", "energy_mp2": "mp2", "energy_hf": "hf"},
        licence="CC0",
        doi=_QM9_DOI,
        origin="QM9 minima at B3LYP/6-31G(2df,p); energies B3LYP (U0 - ZPVE), RI-MP2/def2-TZVP and HF/def2-TZVP",
    ),
    ArchiveFormat(
        name="c7h10o2_b3lyp",
        fields=frozenset({"positions", "energy_b3lyp"}),
        identifier=None,
        minimum_of="b3lyp",
        # Not "b3lyp": the energies of the 218 molecules that are also in QM9 are higher by 12.81 ± 0.13 eV, about three
        # times their zero-point energy. The two energy scales must not be mixed at one level.
        energies={"energy_b3lyp": "b3lyp_c7h10o2"},
        licence="CC0",
        doi=_QM9_DOI,
        origin="C7H10O2 isomers, minima at B3LYP/6-31G(2df,p); energies on another scale than those of QM9",
    ),
    ArchiveFormat(
        name="gfn2_qm9",
        fields=frozenset({"gdb", "positions_q", "energy", "forces", "converged"}),
        identifier="gdb",
        minimum_of="b3lyp",
        energies={},
        licence="CC0",
        doi=_QM9_DOI,
        origin="QM9 molecules: B3LYP minimum, GFN2-xTB minimum, thermal displacements; GFN2-xTB labels (tblite)",
    ),
    ArchiveFormat(
        name="gfn2_dft8k",
        fields=frozenset({"id", "positions_q", "energy", "forces", "converged"}),
        identifier="id",
        minimum_of="m062x",
        energies={},
        licence="MIT",
        doi="10.1039/D1SC03343C",
        origin="DFT8K molecules: M06-2X minimum, GFN2-xTB minimum, thermal displacements; GFN2-xTB labels (tblite)",
    ),
    ArchiveFormat(
        name="dft8k_m062x",
        fields=frozenset({"id", "positions", "positions_mmff94"}),
        identifier="id",
        minimum_of="m062x",
        energies={},
        licence="MIT",
        doi="10.1039/D1SC03343C",
        origin="DFT8K minima at M06-2X/def2-TZVP, and MMFF94 minima of the same conformers",
    ),
    ArchiveFormat(
        name="qm7_pbe0",
        fields=frozenset({"positions", "atomization_energy_pbe0"}),
        identifier=None,
        minimum_of="pbe0",
        # Atomisation energies have a different zero from total energies and therefore a separate level.
        energies={"atomization_energy_pbe0": "pbe0_atomization"},
        licence="MIT",
        doi="10.1103/PhysRevLett.108.058301",
        origin="QM7 minima at PBE0/def2-TZVP; atomisation energies PBE0",
    ),
    ArchiveFormat(
        name="b3lyp_thermal",
        fields=frozenset({"name", "positions", "energy_b3lyp_pyscf", "forces_b3lyp_pyscf"}),
        identifier="name",
        kind="thermal",
        minimum_of="",
        # Energies differ from those of QM9 by 0.1 to 0.25 eV (spherical instead of Cartesian d functions). Only one of
        # the two sets of energies may be used at this level.
        energies={"energy_b3lyp_pyscf": "b3lyp"},
        forces={"forces_b3lyp_pyscf": "b3lyp"},
        licence="CC0",
        doi=_QM9_DOI,
        origin="thermal geometries of QM9 molecules; energies and forces B3LYP/6-31G(2df,p) (PySCF, "
        "recipes/b3lyp-thermal); energies on another scale than those of QM9",
    ),
    ArchiveFormat(
        name="openff_minima_dzvp",
        fields=frozenset({"positions", "energy", "charge", "record", "meta"}),
        identifier="record",
        minimum_of=_OPENFF_LEVEL,
        energies={"energy": _OPENFF_LEVEL},
        licence="MIT",
        doi="10.1021/acs.jcim.2c01185",
        origin="drug-like molecules of the OpenFF Industry Benchmark Season 1 v1.0; minima and energies "
        "B3LYP-D3(BJ)/DZVP (Psi4, geomeTRIC)",
        rows_are_conformers=True,
    ),
    ArchiveFormat(
        name="openff_torsions_dzvp",
        fields=frozenset({"positions", "energy", "forces", "charge", "drive", "angle", "dihedral", "meta"}),
        identifier="drive",
        kind="torsion-drive",
        minimum_of="",
        energies={"energy": _OPENFF_LEVEL},
        forces={"forces": _OPENFF_LEVEL},
        licence="MIT",
        doi="",
        origin="torsion drives of the Open Force Field Initiative; constrained minima with energies and forces "
        "B3LYP-D3(BJ)/DZVP (Psi4, geomeTRIC)",
        rows_are_conformers=True,
    ),
)
"""Supported archives."""


def format_with(fields: Collection[str], path: str | Path) -> ArchiveFormat:
    """The format with these fields; `path` names the archive in errors.

    Raises:
        StoreError: no format has exactly these fields.
    """
    for layout in FORMATS:
        if set(fields) == layout.fields | _GRAPH_FIELDS:
            return layout
    if set(fields) == _FREQUENCY_FIELDS:
        raise StoreError(
            f"{path} contains frequencies without structures and cannot be converted to a store; "
            "benchmarks/frequencies.py reads it together with the minima of QM9"
        )
    known = "; ".join(f"{layout.name}: {', '.join(sorted(layout.fields))}" for layout in FORMATS)
    raise StoreError(
        f"{path} has the fields {', '.join(sorted(fields))}, which match no known archive; "
        f"allowed are, in addition to {', '.join(sorted(_GRAPH_FIELDS))}: {known}"
    )
