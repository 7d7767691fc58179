import hashlib
from pathlib import Path

import pytest

from physcon_ase.errors import RecipeError
from physcon_ase.training.staged_recipe import read_staged_recipe
from physcon_ase.training.store_commands import make_stores
from tests.training.staged import write


def test_a_missing_store_is_made_once_whatever_its_path(making: Path, stores: Path, tmp_path: Path) -> None:
    recipe, folder = read_staged_recipe(making), tmp_path / "my stores"
    make_stores(recipe, folder)
    make_stores(recipe, folder)
    assert (folder / "small.h5").read_bytes() == (stores / "small.h5").read_bytes()
    assert (tmp_path / "made.txt").read_text() == f"small.h5 {folder}\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "there is no store .*small.h5, and the recipe has no command that makes it"),
        ("python -c 'raise SystemExit(3)'", "data.labels: the command .* failed with exit status 3"),
        ("python -c pass {store}", "data.labels: the command .* ended without making .*small.h5"),
        ("no-such-program {store}", "data.labels: the command 'no-such-program .* cannot be run"),
        ("python 'make.py", "cannot be run: No closing quotation"),
        ("python make.py {stoer}", "'python make.py {stoer}' has a place with another name than {store}"),
    ],
)
def test_a_store_that_is_not_made_is_an_error(
    making: Path, staged_text: str, tmp_path: Path, command: str, message: str
) -> None:
    write(making, staged_text.replace('licence = "CC0"', f'make = "{command}"'))
    with pytest.raises(RecipeError, match=message):
        make_stores(read_staged_recipe(making), tmp_path / "empty")


def test_the_sum_of_a_store_is_checked(staged_text: str, staged_file: Path, stores: Path) -> None:
    found = hashlib.sha256((stores / "small.h5").read_bytes()).hexdigest()
    write(staged_file, staged_text.replace('licence = "CC0"', f'sha256 = "{found}"'))
    make_stores(read_staged_recipe(staged_file), stores)
    write(staged_file, staged_text.replace('licence = "CC0"', f'sha256 = "{"0" * 64}"'))
    with pytest.raises(RecipeError, match=f"data.labels: .*small.h5 has sha256 {found} instead of 0000"):
        make_stores(read_staged_recipe(staged_file), stores)


DERIVED = """
[data.derived]
store = "derived.h5"
make = "python {here}/make.py {store} {stores}/small.h5"
levels = ["cheap"]
"""


def test_a_store_that_a_command_reads_is_made_first(making: Path, staged_text: str, tmp_path: Path) -> None:
    making.write_text(
        making.read_text()
        .replace("[data.labels]", f"{DERIVED}\n[data.labels]")
        .replace('data = "labels"', 'data = "derived"')
    )
    make_stores(read_staged_recipe(making), folder := tmp_path / "empty")
    assert [line.split()[0] for line in (tmp_path / "made.txt").read_text().splitlines()] == ["small.h5", "derived.h5"]
    assert sorted(path.name for path in folder.iterdir()) == ["derived.h5", "small.h5"]


def test_stores_that_need_each_other_are_an_error(making: Path, tmp_path: Path) -> None:
    text = making.read_text().replace("[data.labels]", f"{DERIVED}\n[data.labels]")
    making.write_text(text.replace('{store} {stores}"', '{store} {stores}/derived.h5"'))
    with pytest.raises(RecipeError, match=r"data\.labels: its command needs small\.h5, the store that it makes"):
        make_stores(read_staged_recipe(making), tmp_path / "empty")


def test_wildcards_in_a_command_stand_for_the_names_of_files(making: Path, tmp_path: Path) -> None:
    for name in ("b.smi", "a.smi"):
        write(tmp_path / name, "C\n")
    write(making, making.read_text().replace("{store} {stores}", "{store} {here}/*.smi"))
    make_stores(read_staged_recipe(making), tmp_path / "empty")
    assert (tmp_path / "made.txt").read_text() == f"small.h5 {tmp_path / 'a.smi'} {tmp_path / 'b.smi'}\n"


def test_a_store_that_needs_the_start_of_a_stage_is_made_when_it_is_known(
    making: Path, staged_text: str, tmp_path: Path
) -> None:
    further = DERIVED.replace("derived", "further").replace("{stores}/small.h5", "{stores}/derived.h5")
    text = making.read_text().replace("[data.labels]", f"{DERIVED}{further}\n[data.labels]")
    text = text.replace("{store} {stores}/small.h5", "{store} {stores}/small.h5 {start}")
    making.write_text(text.replace('{ data = "labels", repeat = 2.0 }', '{ data = "further" }'))
    recipe, folder, made = read_staged_recipe(making), tmp_path / "empty", tmp_path / "made.txt"
    make_stores(recipe, folder)
    assert [line.split()[0] for line in made.read_text().splitlines()] == ["small.h5"]
    make_stores(recipe, folder, start=tmp_path / "checkpoint")
    assert [line.split()[0] for line in made.read_text().splitlines()] == ["small.h5", "derived.h5", "further.h5"]
    assert f"small.h5 {tmp_path / 'checkpoint'}\n" in made.read_text()


def test_a_store_that_needs_a_start_is_refused_if_its_first_stage_has_none(making: Path, tmp_path: Path) -> None:
    making.write_text(making.read_text().replace("{store} {stores}", "{store} {start}"))
    found = r"data\.labels: its command needs \{start\}, but the first stage with this store starts from no checkpoint"
    with pytest.raises(RecipeError, match=found):
        make_stores(read_staged_recipe(making), tmp_path / "empty")
