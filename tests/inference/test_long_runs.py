import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixInternals

from physcon_ase.errors import PhysConError, StoreError
from physcon_ase.inference import many
from physcon_ase.inference.encoding import decoded, encoded
from physcon_ase.inference.formats.rows import Row
from physcon_ase.inference.long_runs import run_each
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.results import Record, Result
from physcon_ase.model.physcon import LoadedModel

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600
"""Seconds until a program on a busy machine counts as hanging."""

QUICK = {"max_steps": 2, "n_attempts": 1, "atoms_per_batch": 12}
"""Two steps for a molecule, and no more than two small molecules together."""

MOLECULES = ["O", "CCO", "foo", Row("C", "methane", 7, "list.smi"), r"F/C=C\F", molecule("H2CO"), "N"]


def assert_same(one: Any, other: Any, path: str = "") -> None:
    """Equality to the last bit, times excepted."""
    if path.endswith(".seconds"):
        return
    assert type(one) is type(other), path
    if isinstance(one, Atoms):
        assert one.arrays.keys() == other.arrays.keys()
        assert_same({**one.arrays, **one.info, "pbc": one.pbc}, {**other.arrays, **other.info, "pbc": other.pbc}, path)
        assert [c.todict() for c in one.constraints] == [c.todict() for c in other.constraints]
        assert (one.calc is None) == (other.calc is None)
        assert one.calc is None or assert_same(one.calc.results, other.calc.results, path) is None
    elif is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key, value in one.items():
            assert_same(value, other[key], f"{path}.{key}")
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, path
        np.testing.assert_array_equal(one, other, err_msg=path)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for place, (value, again) in enumerate(zip(one, other, strict=True)):
            assert_same(value, again, f"{path}[{place}]")
    else:
        assert one == other, path


def test_a_record_is_kept_to_the_last_bit(double: LoadedModel) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.set_array("labels", np.array([f"A{n}" for n in range(9)]))
    atoms.info |= {"name": r"F\C", "charge": 0, "weights": np.array([1.5, 2.5]), "nested": {"a": [1, None]}}
    records = optimize_many([atoms, "C[C@H](O)F", "foo"], checkpoint=double, **QUICK | {"start": None})
    assert records[0].result is not None
    fixed = records[0].result.atoms.copy()
    fixed.calc = records[0].result.atoms.calc
    fixed.set_constraint(FixInternals(bonds=[[1.4, [0, 1]]]))
    records.append(replace(records[0], result=replace(records[0].result, atoms=fixed, energy_uncertainty=None)))
    for record in records:
        text = json.dumps(encoded(record))
        again = decoded(Record, json.loads(text))
        assert_same(record, again)
        assert again.seconds == record.seconds
        assert again.result is None or isinstance(again.result, Result)


def test_what_json_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(StoreError, match=r"<object .*> cannot be kept in a journal"):
        encoded(Atoms("O", info={"x": object()}))


def test_an_interrupted_run_goes_on_where_it_stopped(
    double: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, chunks = tmp_path / "out.journal", []
    whole = optimize_many(MOLECULES, checkpoint=double, **QUICK)
    relax_chunk = many._relax_chunk
    monkeypatch.setattr(many, "_relax_chunk", lambda plan, chunk: chunks.append(chunk) or relax_chunk(plan, chunk))

    def interrupt(done: int, total: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize_many(MOLECULES, checkpoint=double, journal=journal, on_progress=interrupt, **QUICK)
    n_before, lines = len(chunks), journal.read_text().splitlines()
    assert 4 <= len(lines) < len(MOLECULES) + 1
    journal.write_text("\n".join([*lines[:-1], lines[-1][:50]]))  # killed while the last line was written
    records = optimize_many(MOLECULES, checkpoint=double, journal=journal, **QUICK)
    assert_same(records, whole)
    n_saved = len(lines) - 2
    assert 0 < len(chunks) - n_before < len(MOLECULES)
    assert sum(len(chunk) for chunk in chunks[n_before:]) >= len(MOLECULES) - n_saved
    assert_same(optimize_many(MOLECULES, checkpoint=double, journal=journal, **QUICK), whole)
    for other in ({"seed": 1}, {"fmax": 0.1}, {"molecules": MOLECULES[1:]}):
        options = {"molecules": MOLECULES, "checkpoint": double, "journal": journal, **QUICK, **other}
        with pytest.raises(StoreError, match="a run with different molecules or settings"):
            optimize_many(options.pop("molecules"), **options)


def test_names_rows_and_sources_survive_and_unreadable_rows_are_failures(double: LoadedModel) -> None:
    bad = Row(StoreError("frame 2 is torn"), "two", 2, "in.xyz")
    named, failed = optimize_many([Row("O", "water", 3, "in.smi"), bad], checkpoint=double, **QUICK)
    assert (named.name, named.smiles, named.row, named.source) == ("water", "O", 3, "in.smi")
    assert (failed.name, failed.row, failed.status, failed.error) == ("two", 2, "failed", "StoreError")
    assert failed.reason == "frame 2 is torn"


def test_rows_of_the_same_molecule_have_different_seeds(double: LoadedModel) -> None:
    options = {**QUICK, "max_steps": 0, "n_attempts": 2, "start": "etkdg"}
    records = optimize_many(["CCO", "O", "OCC", "CCO"], checkpoint=double, seed=5, **options)
    assert [record.seed for record in records] == [5, 5, 7, 9]
    starts = [record.result.atoms.positions for record in records if record.result is not None and record.name != "O"]
    assert len({round(float(np.linalg.norm(place[:, None] - place[None]).sum()), 6) for place in starts}) == 3


def test_one_molecule_is_not_taken_for_many(double: LoadedModel) -> None:
    for one in ("CO", molecule("CH3OH")):
        (record,) = optimize_many(one, checkpoint=double, **QUICK | {"start": None})
        assert record.result is not None
        assert record.result.atoms.get_chemical_formula() == "CH4O"


@dataclass(frozen=True)
class Count:
    n: int
    squares: np.ndarray
    parts: tuple[str, ...]


def count(smiles: str, seed: int, *, factor: int) -> Count:
    if smiles == "bad":
        raise PhysConError("cannot count 'bad'")
    if smiles == "worse":
        raise ValueError("torn\nin two")
    return Count(len(smiles) * factor + seed, np.arange(len(smiles)) ** 2.0, tuple(smiles))


def test_any_function_of_a_molecule_can_be_run(tmp_path: Path) -> None:
    options = {"result_type": Count, "settings": {"factor": 2}, "seed": 1, "journal": tmp_path / "journal"}
    for _ in range(2):  # the second time from the journal
        outcomes = run_each(partial(count, factor=2), ["CCO", "bad", Row("C", "methane", 4), "worse"], **options)
        assert_same(outcomes[0].result, Count(7, np.array([0.0, 1.0, 4.0]), ("C", "C", "O")))
        assert (outcomes[1].error, outcomes[1].reason) == ("PhysConError", "cannot count 'bad'")
        assert (outcomes[2].row.name, outcomes[2].result.n) == ("methane", 3)
        assert (outcomes[3].error, outcomes[3].reason) == ("ValueError", "unexpected error: torn in two")


def test_dask_workers_give_the_same_outcomes() -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    options |= {"host": "127.0.0.1", "protocol": "tcp://"}
    run_count = partial(run_each, partial(count, factor=1), ["CCO", "bad", "C"], result_type=Count, settings={})
    with distributed.LocalCluster(**options) as cluster:
        outcomes = run_count(scheduler=cluster.scheduler_address)
    assert_same(outcomes, run_count())


LIST = "O\nCC\nCCO\nfoo\nN\nCO\nC=C\nOCC\nC#N\nCC=O\nCF\nNC=O\n"


def command(folder: Path, *options: str) -> list[str]:
    files = [str(folder / "list.smi"), "-o", str(folder / "out.csv"), "-o", str(folder / "out.xyz")]
    return [sys.executable, "-m", "physcon_ase.cli", "optimize", *files, "--fmax", ".05", *options]


def tables(folder: Path) -> list[list[str]]:
    """The output without times."""
    lines = [line.split(",") for line in (folder / "out.csv").read_text().splitlines()]
    seconds = lines[0].index("seconds")
    return [[cell for place, cell in enumerate(line) if place != seconds] for line in lines]


@pytest.mark.slow
def test_killed_and_interrupted_commands_go_on_and_processes_change_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("one", "two", "killed", "stopped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.smi").write_text(LIST * 4)
    for name, jobs in (("one", "1"), ("two", "2")):
        assert subprocess.run(command(tmp_path / name, "--jobs", jobs), env=environment, check=False).returncode == 1
    for name, signals in (("killed", signal.SIGKILL), ("stopped", signal.SIGINT)):
        folder = tmp_path / name
        journal = folder / "out.csv.journal"
        options = {"env": environment, "start_new_session": True, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command(folder, "--jobs", "2"), **options) as process:
            deadline = time.monotonic() + PATIENCE
            while (journal.read_text().count("\n") if journal.exists() else 0) < 5:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.killpg(process.pid, signals)
            code = process.wait(PATIENCE)
        assert code == (130 if signals is signal.SIGINT else -9)
        assert not (folder / "out.csv").exists()
        assert subprocess.run(command(folder, "--jobs", "2"), env=environment, check=False).returncode == 1
    expected = tables(tmp_path / "one")
    assert len(expected) == 49
    for name in ("two", "killed", "stopped"):
        assert tables(tmp_path / name) == expected
        assert (tmp_path / name / "out.xyz").read_text() == (tmp_path / "one" / "out.xyz").read_text()
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "list.smi", "out.csv", "out.failed.csv", "out.xyz"]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.set_constraint(FixAtoms([0])),
        lambda atoms: atoms.set_constraint(FixInternals(bonds=[[1.4, [0, 1]]])),
        lambda atoms: atoms.set_masses([2.014 if number == 1 else None for number in atoms.numbers]),
        lambda atoms: atoms.rattle(1e-6),
        lambda atoms: atoms.info.update(charge=1),
        lambda atoms: atoms.info.update(name="another"),
        lambda atoms: atoms.set_array("labels", np.array(["C1", "O1", "H1", "H2", "H3", "H4"])),
    ],
)
def test_a_journal_of_other_structures_is_refused(change: Callable[[Atoms], object], tmp_path: Path) -> None:
    atoms = molecule("CH3OH")
    options = {"result_type": Count, "settings": {}, "journal": tmp_path / "run.journal"}
    run_each(count_atoms, [atoms], **options)
    run_each(count_atoms, [atoms.copy()], **options)
    change(atoms)
    with pytest.raises(StoreError, match="molecules or settings"):
        run_each(count_atoms, [atoms], **options)


def test_a_journal_of_other_data_fields_is_refused(tmp_path: Path) -> None:
    options = {"result_type": Count, "settings": {"factor": 2}, "journal": tmp_path / "run.journal"}
    for _ in range(2):
        run_each(partial(count, factor=2), [Row("C", fields={"IC50": "1"})], **options)
    with pytest.raises(StoreError, match="molecules or settings"):
        run_each(partial(count, factor=2), [Row("C", fields={"IC50": "2"})], **options)


def count_atoms(atoms: Atoms, seed: int) -> Count:
    return Count(len(atoms), np.zeros(1), ())
