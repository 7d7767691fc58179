import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from physcon_ase.chem.environments import environment_hashes, small_molecule_hashes
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import UncertainWarning
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.doubts import (
    FEWEST,
    cumulene,
    cyclobutadiene_ring,
    doubts_about,
    doubts_of,
    transferable_proton,
)
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.one import optimize
from physcon_ase.model.checkpoint import load_into
from physcon_ase.model.environments import environment_tensors
from physcon_ase.model.physcon import LoadedModel, PhysCon
from tests.tiny import ETHANOL, ETHANOL_BONDS, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, calibrated_model

WATER_BONDS = np.array([[0, 1], [0, 2]])


@pytest.fixture(scope="module")
def model() -> PhysCon:
    """The calibrated tiny model with the environments of ethanol and a limit that nothing reaches."""
    return with_environments(dict.fromkeys(environment_hashes(ETHANOL_NUMBERS, ETHANOL_BONDS).tolist(), FEWEST))


def with_environments(counts: dict[int, int]) -> PhysCon:
    calibrated = calibrated_model()
    with torch.random.fork_rng(devices=[]):
        found = PhysCon(replace(calibrated.config, n_environments=len(counts)), dtype=torch.float64)
    tensors = {**calibrated.state_dict()}
    tensors |= {f"environments.{name}": value for name, value in environment_tensors(counts).items()}
    tensors |= {name: torch.full_like(value, 1e9) for name, value in tensors.items() if name.endswith(".limit")}
    load_into(found, tensors)
    return found.eval().requires_grad_(False)


@pytest.fixture
def loaded(model: PhysCon) -> LoadedModel:
    return LoadedModel(model, "tiny", "0" * 64)


def test_molecules_of_known_environments_are_certain(model: PhysCon) -> None:
    assert doubts_of(model, "dft", ETHANOL_NUMBERS, ETHANOL_BONDS, 0.1) == ()


def test_an_unknown_environment_is_named(model: PhysCon) -> None:
    (doubt,) = doubts_of(model, "dft", WATER_NUMBERS, WATER_BONDS, None)
    assert f"fewer than {FEWEST} training molecules have O bonded to 2 H: compare" in doubt


def test_few_training_molecules_are_not_enough_unless_one_of_them_is_the_small_molecule_itself() -> None:
    counts = dict.fromkeys(environment_hashes(ETHANOL_NUMBERS, ETHANOL_BONDS).tolist(), FEWEST - 1)
    assert doubts_of(with_environments(counts), "dft", ETHANOL_NUMBERS, ETHANOL_BONDS, None)
    for level, is_known in (("other", False), ("dft", True)):
        counts |= dict.fromkeys(small_molecule_hashes(ETHANOL_NUMBERS, ETHANOL_BONDS, level).tolist(), 1)
        found = doubts_of(with_environments(counts), "dft", ETHANOL_NUMBERS, ETHANOL_BONDS, None)
        assert (not found) is is_known


def test_an_unusually_long_bond_of_a_minimum_is_a_doubt(model: PhysCon) -> None:
    assert doubts_of(model, "dft", ETHANOL_NUMBERS, ETHANOL_BONDS, 0.1, minimum=ETHANOL) == ()
    stretched = Atoms(ETHANOL_NUMBERS, ETHANOL)
    carbons = np.flatnonzero(ETHANOL_NUMBERS == 6)
    stretched.set_distance(*carbons, 1.9, fix=0)
    (doubt,) = doubts_of(model, "dft", ETHANOL_NUMBERS, ETHANOL_BONDS, 0.1, minimum=stretched.positions)
    assert f"unusually long bonds, C{carbons[0]}-C{carbons[1]} 1.90 Å: compare" in doubt


def test_a_large_uncertainty_is_a_doubt(model: PhysCon) -> None:
    (doubt,) = doubts_of(model, "dft", ETHANOL_NUMBERS, ETHANOL_BONDS, 1e10)
    assert "estimated error of the energy" in doubt


@pytest.mark.parametrize(
    ("smiles", "status"),
    [
        ("c1c[cH+]1", "uncertain"),
        ("C1=CN2N=CC=NN2C=C1", "uncertain"),
        ("O=C=O", "ok"),
        ("NC(N)=[NH2+]", "ok"),
        ("CC(=O)O", "ok"),
    ],
)
def test_energies_of_the_shipped_checkpoint_wrong_by_more_than_1_ev_are_uncertain(smiles: str, status: str) -> None:
    (record,) = optimize_many(smiles, n_attempts=1)
    assert record.status == status


def test_relaxations_are_uncertain_with_the_reason(loaded: LoadedModel) -> None:
    result = optimize(Atoms(WATER_NUMBERS, WATER), checkpoint=loaded, fmax=10.0)
    assert result.is_minimum
    assert not result.is_ok
    assert result.status.startswith("uncertain: fewer than 5 training molecules have")
    records = optimize_many(
        [Atoms(WATER_NUMBERS, WATER), Atoms(ETHANOL_NUMBERS, ETHANOL)], checkpoint=loaded, fmax=10.0, progress_bar=False
    )
    assert [record.status for record in records] == ["uncertain", "ok"]
    assert records[0].reason == result.status


def test_the_calculator_warns_once_for_each_molecule(loaded: LoadedModel) -> None:
    water, ethanol = Atoms(WATER_NUMBERS, WATER), Atoms(ETHANOL_NUMBERS, ETHANOL)
    water.calc = ethanol.calc = calculator = PhysConCalculator(loaded)
    with pytest.warns(UncertainWarning, match="H2O is uncertain: fewer than 5 training molecules"):
        water.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncertainWarning)
        ethanol.get_potential_energy()
        water.rattle(0.01)
        water.get_potential_energy()
    of_water, of_ethanol = calculator.predict([water, ethanol])
    assert of_water.doubts
    assert not of_ethanol.doubts


@pytest.mark.parametrize(
    ("smiles", "pair"),
    [
        ("[NH3+][C@@H](C)C(=O)[O-]", (0, 5)),
        ("[NH4+].[Cl-]", (0, 1)),
        ("C[NH3+].CC(=O)[O-]", (1, 5)),
        ("Oc1cc[nH+]cc1.[O-]S(=O)(=O)C", (4, 7)),
        ("NC(=[NH2+])NCC(=O)[O-]", (2, 7)),
        ("C[N+](=O)[O-]", None),
        ("C[N+](C)(C)CC(=O)[O-]", None),
        ("C[NH3+]", None),
        ("CC(=O)[O-]", None),
        ("[NH3+]CC[N+](=O)[O-]", None),
        ("C[S+](C)[O-]", None),
        ("[N-]=[N+]=NCC[NH3+]", None),
    ],
)
def test_protons_that_would_move_in_the_gas_phase_are_a_reason(smiles: str, pair: tuple[int, int] | None) -> None:
    assert transferable_proton(graph_from_smiles(smiles, allow_fragments=True)) == pair


def test_the_zwitterion_of_an_amino_acid_is_uncertain_and_its_neutral_form_is_not() -> None:
    assert "use the neutral form" in optimize("[NH3+][C@@H](C)C(=O)[O-]").status
    assert optimize("N[C@@H](C)C(=O)O").status == "converged"


@pytest.mark.parametrize(
    ("smiles", "ring"),
    [
        ("C1=CC=C1", (0, 1, 2, 3)),
        ("CC1=NC=C1", (1, 2, 3, 4)),
        ("C1=CCC1", None),
        ("C=C1C=CC1=C", None),  # two of the double bonds are outside the ring
        ("c1ccc2c(c1)c1ccccc12", None),
        ("C=CC=C", None),
        ("C1=CC=CC=C1", None),
    ],
)
def test_cyclobutadienes_are_antiaromatic(smiles: str, ring: tuple[int, ...] | None) -> None:
    found = cyclobutadiene_ring(graph_from_smiles(smiles))
    assert (found and set(found)) == (ring and set(ring))


def test_an_antiaromatic_ring_is_a_reason_for_doubt(model: PhysCon) -> None:
    graph = graph_from_smiles("C1=CC=C1")
    doubts = doubts_of(model, "b3lyp", graph.atomic_numbers, graph.bonds, None, graph)
    assert "the ring C0-C1-C2-C3 is antiaromatic: compare with another method" in doubts


@pytest.mark.parametrize(
    ("smiles", "chain"),
    [("C=C=C=C", (0, 1, 2, 3)), ("CC=C=C=CC", (1, 2, 3, 4)), ("C=C=C", None), ("O=C=O", None), ("C=CC=C", None)],
)
def test_three_cumulated_double_bonds_are_a_reason_for_doubt(smiles: str, chain: tuple | None) -> None:
    graph = graph_from_smiles(smiles)
    assert cumulene(graph) == chain
    assert any("is unreliable" in doubt for doubt in doubts_about(graph)) == (chain is not None)
