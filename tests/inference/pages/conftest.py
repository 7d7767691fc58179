"""Result files as the commands write them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from physcon_ase.inference.ensembles.ensemble import Ensemble
from physcon_ase.inference.ensembles.report import write_ensemble
from physcon_ase.inference.ensembles.search import ensemble
from physcon_ase.inference.files import write_records
from physcon_ase.inference.formats.rows import Row
from physcon_ase.inference.interactions.energies import interaction
from physcon_ase.inference.interactions.interaction import Interaction
from physcon_ase.inference.interactions.report import write_interaction
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.results import Record
from physcon_ase.inference.run_records import RunRecord, write_lines
from physcon_ase.inference.scans.report import write_scan
from physcon_ase.inference.scans.scan import Scan
from physcon_ase.inference.scans.search import scan
from physcon_ase.inference.strains.search import strain_many
from physcon_ase.inference.strains.strain import Strain
from physcon_ase.inference.vibrations.harmonic import Vibrations, vibrations
from physcon_ase.inference.vibrations.spectra import write_vibrations
from physcon_ase.model.physcon import LoadedModel, load_model

MALICIOUS = "</script><b>bold</b> & \"quoted\" 'name'"
"""A name that would end a script or open an element, if it were not escaped."""


@dataclass(frozen=True)
class Results:
    """One result of each kind."""

    records: list[Record]
    ensemble: Ensemble
    scan: Scan
    map: Scan
    vibrations: Vibrations
    interaction: Interaction
    strains: list[RunRecord[Strain]]


@pytest.fixture(scope="session")
def results() -> Results:
    model: LoadedModel = load_model(dtype="float64")
    rows = [
        Row("CCO", name="ethanol", number=1, source="list.smi"),
        Row("C1=CC", name="not a ring", number=2, source="list.smi"),
        Row("O", name=MALICIOUS, number=3, source="list.smi"),
        Row("[Na+].[Cl-]", name="salt", number=4, source="list.smi"),
    ]
    conformers = ensemble("CCO", n=6, checkpoint=model, progress_bar=False)
    return Results(
        records=optimize_many(rows, checkpoint=model, progress_bar=False),
        ensemble=conformers,
        scan=scan("CO", (3, 0, 1, 5), step=60.0, n_conformers=1, checkpoint=model, progress_bar=False),
        map=scan("OCO", [(3, 0, 1, 2), (0, 1, 2, 6)], step=120.0, n_conformers=1, checkpoint=model, progress_bar=False),
        vibrations=vibrations("O", checkpoint=model),
        interaction=interaction("O.O", checkpoint=model, distances=[2.0, 3.0, 5.0]),
        strains=strain_many([conformers.conformers[0].atoms], n=6, checkpoint=model, progress_bar=False),
    )


@pytest.fixture(scope="session")
def folder(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a result file of each kind."""
    path = tmp_path_factory.mktemp("results")
    write_records(results.records, path / "minima.jsonl")
    write_ensemble(results.ensemble, path / "ensemble.json")
    write_scan(results.scan, path / "scan.json")
    write_scan(results.map, path / "map.json")
    write_vibrations(results.vibrations, path / "vibrations.json")
    write_interaction(results.interaction, path / "interaction.json")
    write_lines(results.strains, path / "strain.jsonl")
    (path / "other.txt").write_text("files of other kinds may be beside them")
    return path
