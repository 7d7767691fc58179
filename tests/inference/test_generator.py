import numpy as np
import pytest
import torch
from ase import Atoms

from physcon_ase.chem.canonical import Reordered, canonical_order
from physcon_ase.chem.compare import bonds_intact, rmsd, stereo_intact, symmetric_rmsd
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.hydrogens import hydrogen_order
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import (
    DummyAtomError,
    FragmentsError,
    InvalidSmilesError,
    MissingHeadError,
    NotEnoughMemoryError,
    PhysConError,
    UnknownLevelError,
    UnsupportedChargeError,
    UnsupportedElementError,
)
from physcon_ase.inference import generator as generator_module
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.generator import N_ATTEMPTS, N_REFINED, N_STEPS, StructureGenerator
from physcon_ase.inference.results import Guess
from physcon_ase.model.config import EncoderConfig, LevelConfig, ModelConfig, StructureConfig
from physcon_ase.model.physcon import LoadedModel, PhysCon, load_model

SINGLE = 1e-4
"""Tolerance [Å] of float32 computed in another batch."""

LACTIC_ACID = "C[C@H](O)C(=O)O"


def untrained(*, with_structure: bool = True) -> LoadedModel:
    levels = (LevelConfig("cheap", "none", (1, 6, 7, 8), (0.0, 0.0, 0.0, 0.0)),)
    encoder = EncoderConfig(channels=8, mixed_channels=8, source_scalars=4, hidden=8)
    structure = StructureConfig(n_layers=1, channels=8, mixed_channels=8, source_scalars=4, source_vectors=2, hidden=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PhysCon(ModelConfig(levels, encoder, structure if with_structure else None))
    return LoadedModel(model.eval().requires_grad_(False), "untrained", "0" * 64)


@pytest.fixture(scope="module")
def shipped() -> LoadedModel:
    return load_model()


def test_a_guess_has_the_atoms_of_the_graph_and_says_where_it_comes_from(shipped: LoadedModel) -> None:
    graph = graph_from_smiles(LACTIC_ACID)
    atoms = StructureGenerator(shipped)(LACTIC_ACID, seed=3)
    assert isinstance(atoms, Atoms)
    assert atoms.numbers.tolist() == graph.atomic_numbers.tolist()
    assert atoms.info == {
        "smiles": LACTIC_ACID, "model": "physcon-2", "revision": shipped.revision, "mode": "refine", "seed": 3,
        "bonds_intact": True, "stereo_intact": True,
    }  # fmt: skip


@pytest.mark.parametrize("smiles", ["C[C@H](O)C(=O)O", "C[C@@H](O)C(=O)O", r"F/C=C\F", "F/C=C/F"])
@pytest.mark.parametrize("mode", ["refine", "ddim"])
def test_every_guess_has_the_bonds_and_the_stereo_asked_for(shipped: LoadedModel, smiles: str, mode) -> None:
    graph = graph_from_smiles(smiles)
    for atoms in StructureGenerator(shipped, mode=mode)(graph, n_samples=2):
        assert bonds_intact(graph, atoms.positions).intact
        assert stereo_intact(graph, atoms.positions).intact


@pytest.mark.parametrize("mode", ["refine", "ddim"])
def test_the_seed_alone_decides_and_no_global_state_changes(mode) -> None:
    generator = StructureGenerator(untrained(), mode=mode, n_attempts=1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = generator("CCO", seed=5), generator("CCO", seed=5), generator("CCO", seed=6)
    assert np.array_equal(first.positions, again.positions)
    assert rmsd(first.positions, other.positions) > 0.01
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize("mode", ["refine", "ddim"])
def test_the_spelling_of_a_smiles_does_not_change_the_guess(shipped: LoadedModel, mode: str) -> None:
    generator = StructureGenerator(shipped, mode=mode)
    graphs = [graph_from_smiles(smiles) for smiles in ("CCC(=O)NC", "N(C)C(CC)=O")]
    first, second = (generator(graph, seed=2).positions for graph in graphs)
    places = canonical_order(graphs[1]).places
    mapped = second[np.argsort(places)][canonical_order(graphs[0]).places]
    assert symmetric_rmsd(graphs[0], mapped, first, heavy_only=False) < SINGLE
    for graph, positions in zip(graphs, (first, second), strict=True):
        assert (hydrogen_order(graph, positions) == np.arange(graph.n_atoms)).all()


def test_sample_i_is_what_seed_plus_i_gives_alone() -> None:
    generator = StructureGenerator(untrained())
    samples = generator("CCO", n_samples=3, seed=10)
    assert [atoms.info["seed"] for atoms in samples] == [10, 11, 12]
    assert np.allclose(samples[2].positions, generator("CCO", seed=12).positions, atol=SINGLE)


def test_a_guess_does_not_depend_on_its_company_and_errors_stay_in_their_place() -> None:
    generator = StructureGenerator(untrained())
    outcomes = generator.generate_many(["CCO", "not a smiles", "C*", "[NH3+]CC[NH3+]", "C[Se]C", "c1ccccc1CCO"])
    errors = [InvalidSmilesError, DummyAtomError, UnsupportedChargeError, UnsupportedElementError]
    assert [type(outcome) for outcome in outcomes] == [Guess, *errors, Guess]
    for outcome, smiles in ((outcomes[0], "CCO"), (outcomes[-1], "c1ccccc1CCO")):
        assert isinstance(outcome, Guess)
        assert np.allclose(outcome.positions, generator(smiles).positions, atol=SINGLE)


def test_broken_guesses_end_in_the_etkdg_geometry_and_say_so() -> None:
    generator = StructureGenerator(untrained(), mode="ddim")
    (guess,) = generator.generate_many(["CCO"], seed=4)
    assert isinstance(guess, Guess)
    assert guess.attempts == N_ATTEMPTS
    (positions,) = embed(guess.graph, seed=4)
    assert np.array_equal(guess.positions, positions[hydrogen_order(guess.graph, positions)])
    assert generator.to_atoms(guess).info["fallback"] == "ETKDG geometry: 4 guesses had wrong bonds or stereo"


def test_a_broken_guess_is_tried_again_with_other_noise() -> None:
    generator = StructureGenerator(untrained(), mode="ddim")
    goal = embed(graph_from_smiles("CCO"), seed=1)[0]
    seen = []
    n_steps = N_STEPS["ddim"] + N_REFINED

    def denoiser(batch, sigma):
        seen.append(batch.positions.clone())
        return batch.positions if len(seen) <= 2 * n_steps else torch.tensor(goal, dtype=torch.float32)[None]

    generator.model.denoiser_at = lambda index: denoiser
    (guess,) = generator.generate_many(["CCO"])
    assert isinstance(guess, Guess)
    assert (guess.attempts, guess.fallback) == (3, "")
    assert not torch.equal(seen[0], seen[n_steps])


def test_the_canonical_order_of_the_atoms_is_found_once_for_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted_order(graph: MolGraph) -> Reordered:
        asked.append(graph)
        return canonical_order(graph)

    monkeypatch.setattr(generator_module, "canonical_order", counted_order)
    (guess,) = StructureGenerator(untrained(), mode="ddim").generate_many(["CCO"])
    assert isinstance(guess, Guess)
    assert guess.attempts == N_ATTEMPTS
    assert len(asked) == 1


def test_a_model_without_structure_head_is_refused_and_the_message_names_those_with_one() -> None:
    with pytest.raises(MissingHeadError, match=r"'untrained' has no structure network.*one: physcon-2"):
        StructureGenerator(untrained(with_structure=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "magic"}, "unknown mode 'magic'.*refine, ddim"),
        ({"n_steps": 0}, "n_steps is 0; 1 or more"),
        ({"start_sigma": 50.0}, r"start_sigma is 50.0 Å.*from 0.01 to 5.0 Å"),
        ({"n_attempts": 0}, "n_attempts is 0; 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(PhysConError, match=message):
        StructureGenerator(untrained(), **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seed": -1}, "seed must be 0 or more, received -1"), ({"n_samples": 0}, "n_samples is 0; 1 or more")],
)
def test_seeds_and_sample_numbers_below_their_range_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(PhysConError, match=message):
        StructureGenerator(untrained())("C", **arguments)


def test_a_lone_atom_and_h2_are_molecules_too(shipped: LoadedModel) -> None:
    generator = StructureGenerator(shipped)
    assert len(generator("[H][H]")) == 2
    assert np.isfinite(generator("O").positions).all()


def test_a_guess_is_near_the_minimum_of_the_level_that_is_asked_for(shipped: LoadedModel) -> None:
    graphs = [graph_from_smiles(smiles) for smiles in ("CC(=O)NC", "C1CC1C#N", "OCC=O", "Nc1ccccc1")]

    def energy(level: str, guided_by: str) -> float:
        """Sum of the energies [eV] of the guesses for another level."""
        guesses = StructureGenerator(shipped, level=guided_by).generate_many(graphs)
        total = 0.0
        for guess in guesses:
            assert isinstance(guess, Guess)
            atoms = Atoms(guess.graph.atomic_numbers, guess.positions, calculator=PhysConCalculator(level=level))
            total += atoms.get_potential_energy()
        return total

    assert energy("b3lyp-d3", "b3lyp-d3") < energy("b3lyp-d3", "wb97m") - 0.01
    assert energy("wb97m", "wb97m") < energy("wb97m", "b3lyp-d3") - 0.01
    with pytest.raises(UnknownLevelError, match="pm6"):
        StructureGenerator(shipped, level="pm6")


def test_several_molecules_are_refused_with_what_accepts_them() -> None:
    with pytest.raises(FragmentsError, match=r"'O.O' has 2 disconnected fragments.*use optimize"):
        StructureGenerator()("O.O")


def test_a_guess_without_enough_memory_is_an_error_and_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self, orders, *_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(StructureGenerator, "_draw", draw)
    (outcome,) = StructureGenerator(untrained(), mode="ddim").generate_many(["CCO"])
    assert isinstance(outcome, NotEnoughMemoryError)
    assert "not enough memory for 9 atoms" in str(outcome)
