import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from physcon_ase.cli import main
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph, open_store
from physcon_ase.errors import EngineError, PhysConError, StoreError
from physcon_ase.labelling.engines import Engine, EngineFunction, EngineLabel, EngineRecord, Molecule
from physcon_ase.labelling.pipeline import LabelReport, format_labelling_report, label
from physcon_ase.labelling.samplings import parse_samplings
from physcon_ase.labelling.selection import CommitteeSelection, committee_engine, force_disagreement, most_disputed
from tests.tiny import WATER, WATER_NUMBERS

MOLECULES = ["O", "CCO", "foo", "CCl", "CO"]
CANDIDATES = "conformer:1,thermal:3"


def springs(stiffness: float) -> EngineFunction:
    """The hotter a geometry, the more those of different stiffness disagree; chlorine is not covered."""

    def function(molecule: Molecule) -> EngineLabel:
        if 17 in molecule.atomic_numbers.tolist():
            raise EngineError("does not cover Cl")
        return EngineLabel(0.5 * stiffness * float((molecule.positions**2).sum()), -stiffness * molecule.positions)

    return function


def engine(name: str, stiffness: float) -> Engine:
    return Engine(EngineRecord(name, "tests", "1"), springs(stiffness))


ACCURATE = engine("accurate", 2.0)
COMMITTEE = (engine("one", 1.0), engine("other", 3.0))


def run(output: Path, n: int = 3, *, accurate: Engine = ACCURATE, committee=COMMITTEE, **options) -> LabelReport:
    selection = CommitteeSelection(n, committee, options.pop("per_molecule", None))
    samplings = parse_samplings(CANDIDATES)
    return label(
        MOLECULES, accurate, samplings, output, selection=selection, processes=0, progress_bar=False, **options
    )


def farthest_atoms(store: Store) -> dict[str, list[float]]:
    """Distance [Å] of the outermost atom in each geometry, by molecule: the disagreement of `COMMITTEE`."""
    found: dict[str, list[float]] = {}
    bounds = geometry_offsets(store)
    for row, molecule in enumerate(store.geometries.molecule.tolist()):
        places = store.geometries.positions[bounds[row] : bounds[row + 1]].astype(float)
        name = str(store.molecules.name[molecule])
        found.setdefault(name, []).append(float(np.linalg.norm(places, axis=1).max()))
    return found


def test_disagreement_is_the_largest_spread_of_the_force_on_an_atom() -> None:
    forces = np.zeros((2, 3, 3))
    forces[:, 1, 0] = 3.0, 9.0
    assert force_disagreement(forces) == 3.0  # from their mean
    judged = committee_engine(COMMITTEE)(Molecule(WATER_NUMBERS, WATER))
    assert judged.energy == pytest.approx(np.linalg.norm(WATER, axis=1).max())
    np.testing.assert_allclose(judged.forces, -2 * WATER)


def test_the_most_disputed_come_first_and_no_molecule_takes_all() -> None:
    scores, molecules = np.array([3.0, 1.0, 9.0, 9.0]), np.array([0, 1, 2, 2])
    assert most_disputed(scores, molecules, 9).tolist() == [2, 3, 0, 1]
    assert most_disputed(scores, molecules, 1).tolist() == [2]
    assert most_disputed(scores, molecules, 9, per_molecule=1).tolist() == [2, 0, 1]


def test_only_the_most_disputed_candidates_are_labelled_and_what_failed_is_told(tmp_path: Path) -> None:
    everything = label(
        ["O", "CCO", "CO"], ACCURATE, parse_samplings(CANDIDATES), tmp_path / "all.h5", processes=0, progress_bar=False
    )
    assert everything.disagreement is None
    report = run(tmp_path / "chosen.h5")
    store = open_store(tmp_path / "chosen.h5")
    assert report.n_labelled == len(store.geometries) == 3
    assert store.molecules.name.tolist() == ["CCO"], "ethanol is the largest"
    ethanol = sorted(farthest_atoms(store)["CCO"])
    assert report.disagreement is not None
    assert report.disagreement.n_candidates == 12
    assert report.disagreement.smallest_chosen == pytest.approx(ethanol[0])
    assert report.disagreement.largest == pytest.approx(ethanol[-1])
    assert report.disagreement.median < ethanol[0]
    failures = [(failure["name"], failure["kind"], failure["reason"]) for failure in report.failures]
    assert failures[0][:2] == ("foo", "")
    assert failures[1:] == [("CCl", kind, "does not cover Cl") for kind in ("conformer", *["thermal"] * 3)]
    assert "selected   from 12 candidates, disagreement" in format_labelling_report(report, ACCURATE)


def test_labels_of_a_selection_are_those_of_the_engine_and_the_store_tells_the_committee(tmp_path: Path) -> None:
    run(tmp_path / "out.h5", 6, per_molecule=2)
    store = open_store(tmp_path / "out.h5")
    assert {name: len(found) for name, found in farthest_atoms(store).items()} == {"O": 2, "CCO": 2, "CO": 2}
    bounds, labels = geometry_offsets(store), store.labels["accurate"]
    assert labels.forces is not None
    for row, molecule in enumerate(store.geometries.molecule.tolist()):
        places = store.geometries.positions[bounds[row] : bounds[row + 1]].astype(float)
        expected = ACCURATE(Molecule(molecule_graph(store, molecule).atomic_numbers, places))
        assert labels.energy[row] == expected.energy
        np.testing.assert_array_equal(labels.forces[bounds[row] : bounds[row + 1]], expected.forces.astype(np.float32))
    told = json.loads(store.provenance)["selection"]
    assert (told["n"], told["per_molecule"], told["n_candidates"]) == (6, 2, 12)
    assert [member["level"] for member in told["committee"]] == ["one", "other"]


@pytest.mark.parametrize("stop_in_judging", [True, False])
def test_an_interrupted_selection_goes_on_and_computes_nothing_twice(stop_in_judging: bool, tmp_path: Path) -> None:
    calls = {"judged": 0, "labelled": 0}

    def counted(name: str, function, last: int):
        def call(*arguments) -> EngineLabel:
            if calls[name] == last:
                raise KeyboardInterrupt
            calls[name] += 1
            return function(*arguments)

        return call

    def attempt(last_judged: int, last_labelled: int) -> LabelReport:
        committee = (replace(COMMITTEE[0], function=counted("judged", springs(1.0), last_judged)), COMMITTEE[1])
        accurate = replace(ACCURATE, function=counted("labelled", springs(2.0), last_labelled))
        return run(tmp_path / "out.h5", accurate=accurate, committee=committee)

    with pytest.raises(KeyboardInterrupt):
        attempt(*((6, -1) if stop_in_judging else (-1, 2)))
    assert not (tmp_path / "out.h5").exists()
    with pytest.raises(StoreError, match="different molecules, engine, geometries, selection or seed"):
        run(tmp_path / "out.h5", committee=COMMITTEE[::-1])
    report = attempt(-1, -1)
    # 16 candidates and 3 labels; what was judged or labelled in tasks of which nothing had come back is repeated, and
    # tasks end by time
    repeated = {"judged": 6, "labelled": 0} if stop_in_judging else {"judged": 0, "labelled": 2}
    assert 16 <= calls["judged"] <= 16 + repeated["judged"]
    assert 3 <= calls["labelled"] <= 3 + repeated["labelled"]
    run(tmp_path / "again.h5", source="out")
    first, second = (open_store(tmp_path / name) for name in ("out.h5", "again.h5"))
    np.testing.assert_array_equal(first.geometries.positions, second.geometries.positions)
    assert first.provenance == second.provenance
    assert report.n_labelled == 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "out.h5", "again.h5", "out.failed.jsonl", "again.failed.jsonl"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"committee": COMMITTEE[:1]}, "the committee has 1 member; give at least two"),
        ({"n": 0}, "select is 0; it must be 1 or larger"),
        ({"per_molecule": 0}, "per_molecule is 0; it must be 1 or larger"),
    ],
)
def test_a_selection_that_chooses_nothing_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(PhysConError, match=message):
        run(tmp_path / "out.h5", **change)


def test_the_command_selects_with_levels_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["label", "O", "CO", "-o", "out.h5", "--geometries", "thermal:3", "--jobs", "0", "--quiet"]
    assert main([*command, "--select", "2", "--committee", "physcon-2:wb97m", "physcon-2:b3lyp"]) == 0
    out = capsys.readouterr().out
    assert "2 molecules, 2 geometries labelled at gfn2" in out
    assert "selected   from 6 candidates" in out
    told = json.loads(open_store(tmp_path / "out.h5").provenance)["selection"]
    assert [member["level"] for member in told["committee"]] == ["physcon-2_wb97m", "physcon-2_b3lyp"]
    assert main([*command, "--committee", "physcon-2"]) == 2
    assert "give the number with --select" in capsys.readouterr().err
