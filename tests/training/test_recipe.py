from dataclasses import replace
from pathlib import Path

import pytest

from physcon_ase.errors import RecipeError
from physcon_ase.training.preflight import check_recipe
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import format_recipe, parse_recipe, read_recipe
from physcon_ase.training.start import added_to
from tests.tiny import STRUCTURE, tiny_model


@pytest.fixture
def recipe(recipe_text: str) -> Recipe:
    return parse_recipe(recipe_text)


def test_recipe_survives_being_written_and_read(recipe: Recipe):
    changed = replace(recipe, start_from=("a", "b"), name='with "quotes"')
    assert parse_recipe(format_recipe(changed)) == changed


@pytest.mark.parametrize(
    "text",
    [
        "B3LYP\nDZVP",
        "a\r\nb\tc",
        "\\ and \"quotes\" and 'quotes'",
        "ωB97X-D 𝛼\x85\u2028",
        "\x7f\x00\x1f\b",
        "\\u007f",
        "",
    ],
)
def test_any_text_survives_being_written_and_read(recipe: Recipe, text: str):
    changed = replace(
        recipe, start_from=(text,), levels=tuple(replace(level, description=text) for level in recipe.levels)
    )
    assert parse_recipe(format_recipe(changed)) == changed


def test_recipe_without_structure_survives_too(recipe: Recipe):
    plain = replace(recipe, structure=None, loss=replace(recipe.loss, structure=0.0))
    assert parse_recipe(format_recipe(plain)) == plain


def test_mistyped_key_gets_a_suggestion(recipe_text: str):
    with pytest.raises(RecipeError, match=r"unknown key 'fores'; did you mean 'forces'"):
        parse_recipe(recipe_text.replace("forces = 1.0", "fores = 1.0"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 40", "", "lacks 'steps'"),
        ("steps = 40", 'steps = "many"', "a value of type int is needed"),
        ("steps = 40", "steps = 0", "optim.steps is 0"),
        ("forces = 1.0", "forces = -1.0", "loss weight forces is -1.0"),
        ('levels = ["cheap", "dft"]', 'levels = ["ccsd"]', r"uses levels \['ccsd'\]"),
        ('name = "dft"', 'name = "cheap"', "names a level twice"),
        ('name = "dft"', 'name = "physcon-2.dft"', r"names levels physcon-2\.dft; a name must not contain '\.'"),
        ("[structure]", "[unstructured]", "unknown key 'unstructured'"),
        ("seed = 3", "seed = ", "is not valid TOML"),
        ("seed = 3", "seed = -3", "has seed -3; give 0 or more"),
        ('name = "small"', 'name = "runs/small"', "has the name 'runs/small'; the checkpoint is a folder"),
        ('name = "small"', 'name = ""', "has the name ''; the checkpoint is a folder"),
        ('name = "dft"', 'name = "d f t"', r"names levels \['d f t'\]; a name has only letters"),
        ('levels = ["cheap", "dft"]', "levels = []", r"small\.h5 uses no levels"),
        ('levels = ["cheap", "dft"]', 'levels = ["dft", "dft"]', r"small\.h5 uses a level twice: dft, dft"),
        ('levels = ["cheap", "dft"]', 'levels = ["dft"]\nweight = -1.0', r"has data\.weight -1\.0; give 0 or more"),
        ('levels = ["cheap", "dft"]', 'levels = ["dft"]\nmax_atoms = -1', r"has data\.max_atoms -1; give 0 or more"),
        ("forces = 1.0", "forces = inf", r"has loss\.forces inf; give a finite number"),
        ("n_layers = 2", "n_layers = 0", r"has encoder\.n_layers 0; give 1 or more"),
        ("n_layers = 2", "n_layers = 2\ncutoff = 0.0", r"encoder\.cutoff is 0\.0; give a positive distance"),
        ("n_layers = 1", "n_layers = 1\nsigma_min = 0.0", r"structure noise from 0\.0 to 5\.0 Å"),
        ("atoms_per_batch = 40", "atoms_per_batch = 0", r"has optim\.atoms_per_batch 0; give 1 or more"),
        ("lr = 0.01", "lr = nan", r"has optim\.lr nan; give a finite number"),
        ("lr = 0.01", "lr = 0.01\nema = 1.5", r"optim\.ema is 1\.5"),
        ("lr = 0.01", "lr = 0.01\nclip = 0.0", r"optim\.clip is 0\.0"),
        ("warmup = 5", "warmup = -5", r"has optim\.warmup -5; give 0 or more"),
    ],
)
def test_wrong_recipe_is_one_clear_error(recipe_text: str, old: str, new: str, message: str):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe_text.replace(old, new, 1))


@pytest.mark.parametrize("term", ["structure", "refinement"])
def test_structure_loss_needs_a_structure_head(recipe: Recipe, term: str):
    loss = replace(recipe.loss, **{"structure": 0.0, term: 1.0})
    with pytest.raises(RecipeError, match=r"without a \[structure\] section"):
        check_recipe(replace(recipe, structure=None, loss=loss))


def test_direct_forces_need_vector_features(recipe: Recipe):
    with pytest.raises(RecipeError, match=r"trains direct forces with encoder\.output_vectors = 0"):
        check_recipe(replace(recipe, loss=replace(recipe.loss, direct_forces=1.0)))


CONSISTENT = """
[optimality]
level = "dft"
variant = "newton"

[score]
level = "dft"
"""


@pytest.fixture
def consistent_text(recipe_text: str) -> str:
    return recipe_text.replace("structure = 0.1", "structure = 0.1\noptimality = 0.5\nscore = 0.5") + CONSISTENT


def test_consistent_recipe_survives_being_written_and_read(consistent_text: str):
    recipe = parse_recipe(consistent_text)
    assert recipe.optimality is not None
    assert recipe.optimality.variant == "newton"
    assert parse_recipe(format_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('level = "dft"\nvariant', 'level = "ccsd"\nvariant', r"level 'ccsd' as teacher in \[optimality\]"),
        ('variant = "newton"', 'variant = "bfgs"', "optimality.variant 'bfgs'; choose one of hinge, newton"),
        ('variant = "newton"', "sigma_max = 9.0", r"noise from 0\.3 to 9\.0 Å, outside the noise schedule"),
        ('variant = "newton"', "sigma_min = 4.0", r"noise from 4\.0 to 3\.0 Å, outside the noise schedule"),
        ('variant = "newton"', "width = 0.0", r"optimality\.width or max_force that is not positive"),
        ("[score]", "[score]\nkt = 0.0", r"score\.kt 0\.0"),
        ("[score]", "[score]\nsigma_min = 0.001", r"score noise from 0\.001 to 0\.1 Å, outside"),
        ("[score]\nlevel", "[score]\nname", "unknown key 'name'"),
        ('[score]\nlevel = "dft"', "", r"weights loss\.score without a \[score\] section"),
        ("optimality = 0.5", "optimality = -0.5", "loss weight optimality is -0.5"),
    ],
)
def test_wrong_consistency_is_one_clear_error(consistent_text: str, old: str, new: str, message: str):
    assert old in consistent_text
    with pytest.raises(RecipeError, match=message):
        parse_recipe(consistent_text.replace(old, new, 1))


def test_consistency_needs_a_structure_head(consistent_text: str):
    recipe = parse_recipe(consistent_text)
    with pytest.raises(RecipeError, match=r"without a \[structure\]"):
        check_recipe(replace(recipe, structure=None))


def test_recipe_that_trains_nothing_is_refused(recipe: Recipe):
    idle = replace(recipe.loss, energy=0.0, forces=0.0, structure=0.0)
    with pytest.raises(RecipeError, match="only loss weights of 0"):
        check_recipe(replace(recipe, loss=idle))


NEW_LEVEL = """
[[levels]]
name = "better"
description = "a level like one of the checkpoint"
like = "cheap"

[[data]]
store = "small.h5"
levels = ["better"]
"""


def test_a_level_is_added_to_a_checkpoint_of_which_nothing_else_is_trained(recipe_text: str):
    text = 'name = "more"\n' + NEW_LEVEL + "[optim]" + recipe_text.split("[optim]")[1]
    config = tiny_model(structure=STRUCTURE).config
    added = added_to(parse_recipe(text), "tiny", config)
    assert [level.name for level in added.levels] == ["cheap", "dft", "better"]
    assert added.start_from == ("tiny",)
    assert (added.encoder, added.structure) == (config.encoder, config.structure)
    assert added.optim.train == ("energy.rows.better.", "energy.heads.better.")
    assert added_to(parse_recipe(text), "tiny", config, frozen=False).optim.train == ()
    with pytest.raises(RecipeError, match=r"level 'better' begin like 'cheep', .* named before it: \['cheap', 'dft'\]"):
        added_to(parse_recipe(text.replace('like = "cheap"', 'like = "cheep"')), "tiny", config)


def test_the_direct_head_of_an_added_level_is_trained(recipe_text: str):
    text = 'name = "more"\n' + NEW_LEVEL + "[optim]" + recipe_text.split("[optim]")[1]
    config = tiny_model().config
    config = replace(config, encoder=replace(config.encoder, output_vectors=2))
    trained = added_to(parse_recipe(text), "tiny", config).optim.train
    assert trained == ("energy.rows.better.", "energy.heads.better.", "direct_heads.better.")


def test_a_file_in_another_encoding_is_one_clear_error(recipe_text: str, tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text.replace("random numbers", "Å", 1), encoding="utf-8")
    assert read_recipe(path).levels[0].description == "Å"
    path.write_text(recipe_text.replace("random numbers", "Å", 1), encoding="latin-1")
    with pytest.raises(RecipeError, match=r"recipe\.toml is not UTF-8 text"):
        read_recipe(path)


def test_a_level_that_is_there_already_is_not_added(recipe: Recipe):
    with pytest.raises(RecipeError, match="tiny has level cheap, dft already"):
        added_to(recipe, "tiny", tiny_model().config)


def test_missing_file_is_named():
    with pytest.raises(RecipeError, match=r"no recipe at nowhere\.toml"):
        read_recipe("nowhere.toml")
