from pathlib import Path

import pytest

from physcon_ase.errors import RecipeError
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.staged_recipe import is_staged, read_staged_recipe
from physcon_ase.training.trainer import load_training_items
from tests.training.staged import write


def test_a_stage_is_that_before_it_with_what_it_changes(staged_file: Path) -> None:
    recipe = read_staged_recipe(staged_file)
    first, second = (stage.recipe for stage in recipe.stages)
    assert [stage.name for stage in recipe.stages] == ["energies", "structures"]
    assert (first.name, second.name) == ("small-energies", "small-structures")
    assert (first.start_from, second.start_from) == ((), ("energies",))
    assert (first.optim.steps, first.optim.train, first.optim.lr) == (40, ("energy",), 0.01)
    assert (second.optim.steps, second.optim.train, second.optim.lr) == (30, ("structure",), 0.01)
    assert (first.loss.energy, first.loss.forces, first.loss.structure) == (0.5, 1.0, 0.0)
    assert (second.loss.energy, second.loss.forces, second.loss.structure) == (0.0, 0.0, 0.1)
    assert (first.encoder, first.levels, first.seed) == (second.encoder, second.levels, 3)
    assert [(data.store, data.levels, data.repeat) for (data,) in (first.data, second.data)] == [
        ("small.h5", ("cheap", "dft"), 1.0),
        ("small.h5", ("cheap", "dft"), 2.0),
    ]
    assert recipe.data["labels"].licence == "CC0"
    assert is_staged(staged_file)


def test_starts_may_lie_beside_the_recipe(staged_text: str, staged_file: Path) -> None:
    write(
        staged_file,
        staged_text.replace('name = "energies"\n', 'name = "energies"\nfrom = ["{here}/start#structure"]\n'),
    )
    first, second = read_staged_recipe(staged_file).stages
    assert first.recipe.start_from == (f"{staged_file.parent}/start#structure",)
    assert second.recipe.start_from == ("energies",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "seed = ", "is not valid TOML"),
        ("seed = 3", "sed = 3", "has the unknown key 'sed'; did you mean 'seed'"),
        ('name = "small"', "", "lacks 'name'"),
        ('name = "small"', "name = 3", "has the name 3; a name is a string"),
        ("[data.labels]", "[[data]]", r"data must consist of named sections, \[data\.NAME\]"),
        ("[data.labels]", "[data]", r"data must consist of named sections, \[data\.NAME\]"),
        ("[data.labels]", "data = 3\n[datas]", "has the unknown key 'datas'"),
        ('licence = "CC0"', 'license = "CC0"', "data.labels has the unknown key 'license'; did you mean 'licence'"),
        ('licence = "CC0"', "licence = 0", "data.labels: licence is 0; a value of type str is needed"),
        ('store = "small.h5"', "", "data.labels lacks 'store'"),
        ("steps = 30", "stepps = 30", "stage 'structures' has the unknown key 'stepps'; did you mean 'steps'"),
        ("steps = 30", "", "stage 'structures' lacks 'steps'"),
        ("steps = 30", 'steps = "many"', "stage 'structures': optim: steps is 'many'; a value of type int is needed"),
        ("steps = 30", "steps = 0", r"stage 'structures' optim\.steps is 0"),
        ("steps = 30", "steps = 30\noptim = 3", "stage 'structures': optim is 3"),
        ('name = "structures"', 'name = "energies"', "stage 'energies' has the name of a stage before it"),
        ('name = "structures"', 'name = "small"', "stage 'small' has the name of a stage before it or of the recipe"),
        ('name = "structures"', 'name = "a/b"', "has the name 'a/b'; a name is a string without / and #"),
        ('name = "structures"', 'name = "x"\nfrom = "energies"', "from is 'energies'; a list of strings is needed"),
        ('name = "structures"', 'name = "x"\nfrom = ["{there}/y"]', "'{there}/y' has a place with another name than"),
        ('name = "structures"', 'name = "x"\nfrom = ["x#energy"]', "starts from 'x#energy', which is no stage before"),
        (
            'name = "energies"',
            'name = "x"\nfrom = ["structures"]',
            "starts from 'structures', which is no stage",
        ),
        ('data = "labels", repeat', 'data = "lables", repeat', r"uses data 'lables'; \[data\] has labels"),
        ('data = "labels", repeat', "data = [], repeat", r"uses data \[\]; \[data\] has labels"),
        ('{ data = "labels", repeat = 2.0 }', '"labels"', r"use is \['labels'\]; a list of tables is needed"),
        ("repeat = 2.0", "repeats = 2.0", "has the unknown key 'repeats'"),
        ("[scale.tiny]", "[scale]", r"scale must consist of named sections, \[scale\.NAME\]"),
        ("[scale.tiny]", "[scale.small]", "has no scale 'tiny'; it has small"),
        ("max_molecules = 1", "max_mols = 1", "scale.tiny has the unknown key 'max_mols'"),
        ("hidden = 4", "hiden = 4", r"scale\.tiny\.encoder has the unknown key 'hiden'; did you mean 'hidden'"),
        ("steps = 2\n", "steps = 0\n", r"scale\.tiny optim\.steps is 0"),
    ],
)
def test_a_wrong_recipe_is_one_clear_error(
    staged_text: str, staged_file: Path, old: str, new: str, message: str
) -> None:
    assert old in staged_text
    write(staged_file, staged_text.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        read_staged_recipe(staged_file, "tiny")


def test_a_missing_file_and_one_without_stages_are_named(staged_text: str, staged_file: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe at nowhere\.toml"):
        read_staged_recipe(Path("nowhere.toml"))
    assert not is_staged(Path("nowhere.toml"))
    without = staged_text[: staged_text.index("[[stage]]")]
    for stages, message in (("stage = []", "has no stage"), ("stage = 3", "stage is 3; a list of tables is needed")):
        write(staged_file, f"{stages}\n{without}")
        with pytest.raises(RecipeError, match=message):
            read_staged_recipe(staged_file)


def test_a_scale_replaces_steps_and_sizes_and_limits_molecules(staged_file: Path, stores: Path) -> None:
    whole, tiny = (
        [stage.recipe for stage in read_staged_recipe(staged_file, scale).stages] for scale in (None, "tiny")
    )
    assert [recipe.optim.steps for recipe in whole] == [40, 30]
    assert [recipe.optim.steps for recipe in tiny] == [2, 2]
    assert {recipe.encoder.hidden for recipe in whole} == {8}
    assert {recipe.encoder.hidden for recipe in tiny} == {4}
    assert {recipe.encoder.channels for recipe in tiny} == {8}

    def n_molecules(recipe: Recipe) -> int:
        items = load_training_items(recipe, stores, "train")
        return len({tuple(numbers.tolist()) for bucket in items.buckets for numbers in bucket.atomic_numbers})

    assert n_molecules(tiny[0]) == 1 < n_molecules(whole[0])


@pytest.mark.parametrize(("own", "of_scale", "limit"), [(3, 5, 3), (5, 3, 3), (3, 0, 3), (0, 3, 3), (0, 0, 0)])
def test_a_scale_never_takes_more_molecules(
    staged_text: str, staged_file: Path, own: int, of_scale: int, limit: int
) -> None:
    staged_text = staged_text.replace("max_molecules = 1", f"max_molecules = {of_scale}")
    write(
        staged_file,
        staged_text.replace('use = [{ data = "labels" }]', f'use = [{{ data = "labels", max_molecules = {own} }}]'),
    )
    assert read_staged_recipe(staged_file, "tiny").stages[0].recipe.data[0].max_molecules == limit
