import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.cli import main
from physcon_ase.data.store import Store, molecule_graph, open_store
from physcon_ase.errors import EngineError, PhysConError, StoreError
from physcon_ase.labelling.engines import Engine, EngineLabel, EngineRecord, Molecule, tblite_engine
from physcon_ase.labelling.inputs import KnownGeometry, known_geometries
from physcon_ase.labelling.pipeline import LabelReport, format_labelling_report, label
from physcon_ase.labelling.samplers import Origin
from physcon_ase.labelling.samplings import Sampling, parse_samplings
from tests.labelling import interrupted
from tests.tiny import WATER

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120
"""Seconds until a program on a busy machine counts as hanging."""


def harmonic(molecule: Molecule) -> EngineLabel:
    """A cheap stand-in for a program; chlorine does not converge."""
    if 17 in molecule.atomic_numbers.tolist():
        raise EngineError("SCF not converged within 100 cycles")
    energy = float((molecule.positions**2).sum()) + molecule.charge + 10 * molecule.multiplicity
    return EngineLabel(energy, -2 * molecule.positions)


HARMONIC = Engine(EngineRecord("harmonic", "tests", "1", {"stiffness": 2}), harmonic)


def run(molecules: list, output: Path, geometries: str = "conformer:1", **options) -> LabelReport:
    options = {"processes": 0, "progress_bar": False, **options}
    return label(molecules, options.pop("engine", HARMONIC), parse_samplings(geometries), output, **options)


def assert_same(a: Store, b: Store) -> None:
    assert list(a.labels) == list(b.labels)
    pairs = [(a.molecules, b.molecules), (a.geometries, b.geometries)]
    pairs += [(a.labels[level], b.labels[level]) for level in a.labels]
    for one, other in pairs:
        for name in one.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert a.provenance == b.provenance


def n_journal_lines(output: Path) -> int:
    journal = output.with_name(output.name + ".journal")
    return journal.read_text().count('"energy"') if journal.exists() else 0


def test_a_run_that_is_killed_goes_on_without_losing_or_doubling_a_label(tmp_path: Path) -> None:
    killed, whole = tmp_path / "labels.h5", tmp_path / "whole" / "labels.h5"
    whole.parent.mkdir()
    command = [sys.executable, "-m", "tests.labelling.interrupted", str(killed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE
        while n_journal_lines(killed) < 3 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        workers = children(process.pid)
        process.kill()
    assert workers
    n_saved = n_journal_lines(killed)
    assert 3 <= n_saved < 16
    assert not killed.exists()
    with killed.with_name("labels.h5.journal").open("a") as journal:
        journal.write('{"m": 3, "g": 1, "kind": "confor')  # what a crash leaves of a line
    calls = []

    def counted(molecule: Molecule) -> EngineLabel:
        calls.append(molecule)
        return tblite_engine()(molecule)

    engine = replace(tblite_engine(), function=counted)
    report = run(interrupted.MOLECULES, killed, interrupted.GEOMETRIES, engine=engine, seed=3)
    assert len(calls) == 16 - n_saved
    assert report.n_labelled == 16
    assert n_saved <= report.n_resumed <= n_saved + 1  # "foo" is finished as well
    run(interrupted.MOLECULES, whole, interrupted.GEOMETRIES, engine=tblite_engine(), seed=3)
    assert_same(open_store(killed), open_store(whole))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["labels.failed.jsonl", "labels.h5", "whole"]
    deadline = time.monotonic() + PATIENCE
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


def test_newton_steps_follow_the_labels_of_their_starts_also_after_an_interruption(tmp_path: Path) -> None:
    molecules, kinds = ["CO", "CCl", "foo"], "newton,start,thermal:1"
    run(molecules, tmp_path / "whole.h5", kinds)
    whole = open_store(tmp_path / "whole.h5")
    assert whole.geometries.kind.tolist() == ["newton", "start", "thermal"]
    assert whole.geometries.start is not None
    assert whole.geometries.start.tolist() == [1, -1, 1]
    failed = [json.loads(line) for line in (tmp_path / "whole.failed.jsonl").read_text().splitlines()]
    assert [f["reason"] for f in failed if f["kind"] == "newton"] == [
        "the start geometry has no label, so there are no forces to follow"
    ]
    calls = []

    def until_the_third(molecule: Molecule) -> EngineLabel:
        calls.append(molecule)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return harmonic(molecule)

    halted = tmp_path / "halted.h5"
    with pytest.raises(KeyboardInterrupt):
        run(molecules, halted, kinds, engine=replace(HARMONIC, function=until_the_third))
    run(molecules, halted, kinds)
    assert_same(open_store(halted), replace(whole, source="halted"))


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this system does not list the children of a process")
    return [int(word) for word in path.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_the_number_of_workers_changes_nothing_and_the_environment_is_left_alone(tmp_path: Path) -> None:
    molecules, before = ["CCO", "foo", "O", "CN", "CC", "C=O"], dict(os.environ)
    reports = [
        run(
            molecules, tmp_path / f"{n}.h5", "conformer:1,thermal:1", engine=tblite_engine(), processes=n, source="same"
        )
        for n in (0, 2)
    ]
    assert dict(os.environ) == before
    assert reports[0].failures == reports[1].failures
    assert_same(open_store(tmp_path / "0.h5"), open_store(tmp_path / "2.h5"))


def deadly(molecule: Molecule) -> EngineLabel:
    if 17 in molecule.atomic_numbers.tolist():
        os._exit(9)
    return harmonic(molecule)


@pytest.mark.slow
def test_a_molecule_that_kills_its_worker_is_a_record_and_stops_nobody(tmp_path: Path) -> None:
    engine = replace(HARMONIC, function=deadly)
    report = run(["O", "C", "CCl", "CC", "N"], tmp_path / "out.h5", engine=engine, processes=2)
    assert [(failure["name"], failure["error"]) for failure in report.failures] == [("CCl", "WorkerDied")]
    assert report.n_labelled == 4
    with pytest.raises(EngineError, match="worker processes crash repeatedly; finished results are kept"):
        run(["CCl"] * 4, tmp_path / "none.h5", engine=engine, processes=1)


def test_the_store_says_what_made_it(tmp_path: Path) -> None:
    report = run(["CCO"], tmp_path / "out.h5", "thermal:2", engine=tblite_engine(), seed=5, licence="CC0")
    assert (report.n_molecules, report.n_labelled, report.failures) == (1, 2, ())
    store = open_store(tmp_path / "out.h5")
    provenance = json.loads(store.provenance)
    assert provenance["engine"]["program"] == "tblite"
    assert provenance["engine"]["settings"] == {"method": "GFN2-xTB", "accuracy": 1.0}
    assert provenance["engine"]["version"][0].isdigit()
    assert provenance["seed"] == 5
    assert provenance["geometries"] == [{"kind": "thermal", "n": 2, "sampler": "thermal", "max_kelvin": 700.0}]
    assert (store.source, store.licence) == ("out", "CC0")
    assert main(["data", "describe", str(tmp_path / "out.h5")]) == 0


def test_labels_belong_to_the_rounded_geometries_of_the_store(tmp_path: Path) -> None:
    run(["CCO", "O"], tmp_path / "out.h5", "conformer:2")
    store, row = open_store(tmp_path / "out.h5"), 0
    for geometry, (which, energy) in enumerate(
        zip(store.geometries.molecule, store.labels["harmonic"].energy, strict=True)
    ):
        graph = molecule_graph(store, int(which))
        positions = store.geometries.positions[row : row + graph.n_atoms].astype(float)
        assert energy == harmonic(Molecule(graph.atomic_numbers, positions)).energy, geometry
        row += graph.n_atoms


def test_one_bad_molecule_among_many_is_a_record_and_stops_nobody(tmp_path: Path) -> None:
    many = ["C" * n for n in range(1, 8)]
    bad = {"foo": "InvalidSmilesError", "CCCl": "EngineError", "C.C": "FragmentsError", "*C": "DummyAtomError"}
    report = run([*many, *bad, "O"], tmp_path / "out.h5", "conformer:1,torsion:1")
    found = {failure["name"]: failure["error"] for failure in report.failures}
    assert found == {**bad, "C": "PhysConError", "O": "PhysConError"}  # methane and water cannot turn
    assert Counter(failure["kind"] for failure in report.failures) == {"": 3, "conformer": 1, "torsion": 3}
    assert report.n_labelled == 8 + 6
    path = tmp_path / "out.failed.jsonl"
    assert report.failures_path == path
    assert [json.loads(line) for line in path.read_text().splitlines()] == list(report.failures)
    chlorine = next(failure for failure in report.failures if failure["name"] == "CCCl")
    assert chlorine["reason"] == "SCF not converged within 100 cycles"
    assert open_store(tmp_path / "out.h5").molecules.name.tolist() == [*many, "O"]
    text = format_labelling_report(report, HARMONIC, n_shown=2)
    assert "12 molecules, 14 geometries labelled at harmonic of tests 1" in text
    assert text.count("failed  ") == 2
    assert "failures   7, all in" in text


@pytest.mark.parametrize("bad", ["CCl", "foo"])
def test_a_bad_molecule_among_a_hundred_costs_one_label(bad: str, tmp_path: Path) -> None:
    molecules = ["O", "N", "C", "CO", "F"] * 20
    molecules[57] = bad
    report = run(molecules, tmp_path / "out.h5")
    assert (report.n_molecules, report.n_labelled) == (100, 99)
    assert [(failure["molecule"], failure["name"]) for failure in report.failures] == [(57, bad)]
    store = open_store(tmp_path / "out.h5")
    assert store.molecules.name.tolist() == molecules[:5], "rows of one name and graph are one molecule"
    assert store.molecules.name[store.geometries.molecule].tolist() == molecules[:57] + molecules[58:]


def test_a_second_run_on_the_same_output_is_refused_and_the_first_one_goes_on(tmp_path: Path) -> None:
    refused = []

    def impatient(molecule: Molecule) -> EngineLabel:
        with pytest.raises(StoreError, match=r"another process is currently labelling .*out\.h5; wait"):
            run(["O", "C"], tmp_path / "out.h5")
        refused.append(True)
        return harmonic(molecule)

    report = run(["O", "C"], tmp_path / "out.h5", engine=replace(HARMONIC, function=impatient))
    assert (report.n_labelled, len(refused)) == (2, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def many_harmonic(molecules: list[Molecule]) -> list:
    sizes = [len(molecule.atomic_numbers) for molecule in molecules]
    BATCHES.append(([molecule.row % 2 for molecule in molecules], sizes))
    return [EngineError("SCF not converged") if 17 in m.atomic_numbers else harmonic(m) for m in molecules]


BATCHES: list[tuple[list[int], list[int]]] = []
TOGETHER = replace(HARMONIC, batched=many_harmonic, batch_slots=40, n_turns=2)


def test_geometries_of_like_size_and_the_same_turn_are_labelled_together(tmp_path: Path) -> None:
    BATCHES.clear()
    molecules = ["O", "CCO", "CCl", "CCC", "C", "foo", "OCCO", "N"]
    report = run(molecules, tmp_path / "together.h5", "thermal:4", engine=TOGETHER)
    alone = run(molecules, tmp_path / "alone.h5", "thermal:4", source="together")
    assert report.failures == tuple(
        {**failure, "reason": failure["reason"].replace(" within 100 cycles", "")} for failure in alone.failures
    )
    assert_same(open_store(tmp_path / "together.h5"), open_store(tmp_path / "alone.h5"))
    assert sum(len(turns) for turns, _ in BATCHES) == 28
    for turns, sizes in BATCHES:
        assert len(set(turns)) == 1
        assert len(sizes) * max(sizes) <= 40
        assert max(sizes) <= 1.25 * min(sizes)


def test_minima_of_a_store_are_labelled_without_perception_and_keep_what_is_known(make_store, tmp_path: Path) -> None:
    store = make_store()
    minima = known_geometries(store, minima_of="dft")
    assert len(minima) == (store.geometries.minimum_of == "dft").sum()
    run(minima, tmp_path / "out.h5", "start,thermal:1")
    found = open_store(tmp_path / "out.h5")
    rows = np.flatnonzero(store.geometries.minimum_of == "dft")[:-1]  # the last one has chlorine
    assert found.molecules.smiles.tolist() == store.molecules.smiles[store.geometries.molecule[rows]].tolist()
    assert found.geometries.kind.tolist()[:2] == ["start", "thermal"]
    assert found.geometries.start is not None
    assert found.geometries.start.tolist()[:4] == [-1, 0, -1, 2]
    assert found.geometries.minimum_of.tolist()[:4] == ["dft", "", "dft", ""]
    np.testing.assert_array_equal(found.labels["dft"].energy[::2], store.labels["dft"].energy[rows])
    assert np.isnan(found.labels["dft"].energy[1::2]).all()
    assert found.molecules.key_hash.tolist() == store.molecules.key_hash[: len(found.molecules)].tolist()
    with pytest.raises(StoreError, match="has no minima of 'gfn2'; available levels: "):
        known_geometries(store, minima_of="gfn2")


def test_structures_keep_their_geometry_charge_and_spin(tmp_path: Path) -> None:
    cation = Atoms("OH2", WATER + 5, info={"charge": 1, "spin": 2})
    hot = Atoms("OH2", WATER * 1.6)  # no bonds are found, so that none can be lost
    run([cation, molecule("CH3CH2OH"), hot], tmp_path / "out.h5", "start,thermal:1")
    store = open_store(tmp_path / "out.h5")
    assert store.molecules.multiplicity.tolist() == [2, 1, 1]
    assert molecule_graph(store, 0).charge == 1
    assert store.geometries.kind.tolist() == ["start", "thermal"] * 3
    np.testing.assert_allclose(store.geometries.positions[:3], WATER - WATER.mean(axis=0), atol=1e-6)
    places = store.geometries.positions[:3].astype(float)
    assert store.labels["harmonic"].energy[0] == (places**2).sum() + 1 + 20
    assert store.molecules.smiles[1] == "CCO"


def test_a_journal_of_another_run_and_a_finished_store_are_not_touched(tmp_path: Path) -> None:
    def stops(*_: object) -> EngineLabel:
        raise KeyboardInterrupt

    output = tmp_path / "out.h5"
    with pytest.raises(KeyboardInterrupt):
        run(["O", "C"], output, engine=replace(HARMONIC, function=stops))
    for change in ({"seed": 1}, {"geometries": "conformer:2"}, {"engine": tblite_engine()}, {"molecules": ["O"]}):
        with pytest.raises(StoreError, match="a run with different molecules, engine, geometries, selection or seed"):
            run(**{"molecules": ["O", "C"], "output": output, **change})
    assert run(["O", "C"], output).n_labelled == 2
    with pytest.raises(StoreError, match=r"out.h5 exists already; choose another output"):
        run(["O", "C"], output)
    junk = tmp_path / "junk.h5.journal"
    junk.write_text("not a journal\n")
    with pytest.raises(StoreError, match="is not a journal of physcon label"):
        run(["O"], tmp_path / "junk.h5")


@pytest.mark.parametrize(
    "change",
    [
        {"graph": {"bonds": np.zeros((0, 2), int), "bond_orders": np.zeros(0, np.uint8)}},
        {"graph": {"multiplicity": 3}},
        {"smiles": "[OH2]"},
        {"key_hash": 2},
        {"energy": -1.0},
    ],
)
def test_a_journal_of_known_geometries_with_other_properties_is_refused(change: dict, tmp_path: Path) -> None:
    def stops(*_: object) -> EngineLabel:
        raise KeyboardInterrupt

    known = KnownGeometry(graph_from_smiles("O"), WATER, key_hash=1, smiles="O", minimum_of="dft", energy=-2.0)
    with pytest.raises(KeyboardInterrupt):
        run([known], tmp_path / "out.h5", "start", engine=replace(HARMONIC, function=stops))
    other = replace(known, **{**change, "graph": replace(known.graph, **change.get("graph", {}))})
    with pytest.raises(StoreError, match="a run with different molecules"):
        run([other], tmp_path / "out.h5", "start")
    assert run([known], tmp_path / "out.h5", "start").n_labelled == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"molecules": []}, "no molecules to label"),
        ({"seed": -1}, "the seed is -1"),
        ({"processes": -2}, "processes is -2"),
        ({"engine": replace(HARMONIC, record=EngineRecord("b3lyp/6-31G*", "tests", "1"))}, "level name 'b3lyp/6-31G"),
        ({"output": Path("nowhere/out.h5")}, "there is no folder nowhere"),
        ({"molecules": ["foo", "bar"]}, "none of 2 molecules could be labelled; first failure: invalid SMILES 'foo'"),
    ],
)
def test_what_cannot_be_labelled_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(PhysConError, match=message):
        run(**{"molecules": ["O"], "output": tmp_path / "out.h5", **change})
    assert not (tmp_path / "out.h5").exists()
    assert not (tmp_path / "out.h5.journal").exists()


def test_no_sampling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PhysConError, match="no geometries requested"):
        label(["O"], HARMONIC, [], tmp_path / "out.h5")


def test_a_sampler_of_ones_own_is_named_in_the_provenance(tmp_path: Path) -> None:
    def squeezed(origin: Origin, seed: int, n: int) -> list:
        return [("squeezed", WATER * 0.95)]

    label(["O"], HARMONIC, [Sampling("squeezed", 1, squeezed)], tmp_path / "out.h5", processes=0, progress_bar=False)
    store = open_store(tmp_path / "out.h5")
    assert json.loads(store.provenance)["geometries"] == [{"kind": "squeezed", "n": 1, "sampler": "squeezed"}]
    assert store.geometries.kind.tolist() == ["squeezed"]


def test_dask_workers_give_the_same_store(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    molecules = ["CCO", "foo", "O", "CN"]
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    options |= {"host": "127.0.0.1", "protocol": "tcp://"}
    with distributed.LocalCluster(**options) as cluster:
        report = run(molecules, tmp_path / "dask.h5", "conformer:1,thermal:1", scheduler=cluster.scheduler_address)
    assert len(report.failures) == 1
    run(molecules, tmp_path / "here.h5", "conformer:1,thermal:1")
    assert_same(open_store(tmp_path / "dask.h5"), open_store(tmp_path / "here.h5"))


def test_the_command_writes_a_store_and_counts_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.smi").write_text("CCO ethanol\nfoo\n")
    command = ["label", "O", "list.smi", "-o", "out.h5", "--geometries", "thermal:1,conformer:1", "--jobs", "0"]
    assert main([*command, "--engine", "physcon-2", "--level", "b3lyp", "--seed", "2", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "3 molecules, 4 geometries labelled at physcon-2_b3lyp" in out
    assert "failed     2 foo (molecule): invalid SMILES 'foo'" in out
    assert "written to out.h5" in out
    assert main(["data", "describe", "out.h5"]) == 0
    assert "kinds      2 thermal, 2 conformer" in capsys.readouterr().out
    assert main([*command, "--quiet"]) == 2
    assert "out.h5 exists already" in capsys.readouterr().err
