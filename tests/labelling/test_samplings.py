import pickle

import numpy as np
import pytest

from physcon_ase.chem.compare import bonds_intact, rmsd
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import PhysConError
from physcon_ase.labelling.engines import tblite_engine
from physcon_ase.labelling.geometries import Rejected
from physcon_ase.labelling.samplers import Origin
from physcon_ase.labelling.samplings import Sampling, describe_samplings, parse_samplings, sample
from tests.tiny import WATER

EVERYTHING = "start,conformer:2,relaxing:1,thermal:2,torsion:2,twist:2,path:3,md:2"


def test_every_sampler_keeps_the_bonds_or_says_so_and_the_seed_decides() -> None:
    graph, samplings = graph_from_smiles("C[C@H](O)C=O"), parse_samplings(EVERYTHING, engine=tblite_engine())
    found, again = (sample(graph, pickle.loads(pickle.dumps(samplings)), 4) for _ in range(2))
    kinds = [item.kind if isinstance(item, Rejected) else item[0] for item in found]
    expected = {"start": 1, "conformer": 2, "relaxing": 1, "thermal": 2, "torsion": 2, "twist": 2, "path": 3, "md": 2}
    assert {kind: kinds.count(kind) for kind in kinds} == expected
    geometries = [item for item in found if not isinstance(item, Rejected)]
    assert len(geometries) >= len(found) - 2
    for kind, positions in geometries:
        assert bonds_intact(graph, positions).intact, kind
        assert np.abs(positions.mean(axis=0)).max() < 1e-6
        np.testing.assert_array_equal(positions, positions.astype(np.float32))
    for item, twin in zip(found, again, strict=True):
        assert isinstance(item, Rejected) or np.array_equal(item[1], twin[1])
    for first, (_, one) in enumerate(geometries):
        assert all(rmsd(one, other) > 1e-3 for _, other in geometries[:first])
    other = sample(graph, samplings[:2], 5)
    assert not np.array_equal(other[1][1], found[1][1])


def test_a_lost_bond_is_a_record_that_names_the_atoms() -> None:
    def apart(origin: Origin, seed: int, n: int) -> list:
        return [("mine", WATER * [1, 1, 3]), ("mine", WATER)]

    water = graph_from_smiles("O")
    broken, intact = sample(water, [Sampling("mine", 2, apart)], 0)
    assert broken == Rejected("mine", "BondsChanged", "bonds broken: O0-H1, O0-H2")
    assert intact[0] == "mine"
    assert sample(water, parse_samplings("start"), 0, WATER * 3)[0][0] == "start"  # a geometry that is given is kept


def test_a_sampler_that_fails_stops_no_other() -> None:
    turned, twisted, water = sample(graph_from_smiles("O"), parse_samplings("torsion:2,twist:1,thermal:1"), 0)
    for nothing, kind in ((turned, "torsion"), (twisted, "twist")):
        assert isinstance(nothing, Rejected)
        assert (nothing.kind, nothing.error) == (kind, "PhysConError")
        assert "no rotatable bond" in nothing.reason
    assert water[0] == "thermal"


def test_a_sampler_with_an_unexpected_error_stops_no_other() -> None:
    def broken(origin: Origin, seed: int, n: int) -> list:
        raise np.linalg.LinAlgError("Matrix is not positive definite")

    start, nothing = sample(graph_from_smiles("O"), [*parse_samplings("start"), Sampling("mine", 1, broken)], 0)
    assert start[0] == "start"
    assert nothing == Rejected("mine", "LinAlgError", "Matrix is not positive definite")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "magic:1",
            "'magic:1': write KIND:NUMBER with a kind of start, conformer, relaxing, thermal, torsion, twist, newton",
        ),
        ("thermal:0", "'thermal:0': write KIND:NUMBER"),
        ("thermal:-1", "'thermal:-1': write"),
        ("", "'': write"),
        ("md:1", "of kind 'md' require an engine: give one"),
        ("newton", "add the kind start"),
    ],
)
def test_texts_that_ask_for_nothing_known_are_refused(text: str, message: str) -> None:
    with pytest.raises(PhysConError, match=message):
        parse_samplings(text)


def test_samplings_describe_themselves() -> None:
    hot, dynamics = describe_samplings(parse_samplings("thermal:3,md", engine=tblite_engine(), max_kelvin=300.0))
    assert hot == {"kind": "thermal", "n": 3, "sampler": "thermal", "max_kelvin": 300.0}
    assert dynamics["engine"]["level"] == "gfn2"


@pytest.mark.parametrize("kelvin", [0.0, -100.0, float("nan"), float("inf")])
def test_a_temperature_is_positive_and_finite(kelvin: float) -> None:
    with pytest.raises(PhysConError, match=r"max_kelvin is .*; a temperature \[K\] larger than 0 is needed"):
        parse_samplings("thermal:1", max_kelvin=kelvin)
