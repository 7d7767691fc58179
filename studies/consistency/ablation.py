"""Recipe with the stage `consistency-3` reduced to its multi-task terms: the same steps without optimality and score.

python studies/consistency/ablation.py recipes/physcon-2/recipe.toml without.toml
cp -r runs/p2 runs/without          # the earlier stages of the complete training are the same
physcon train without.toml --folder runs/without --stores stores
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

STAGE = "consistency-3"
"""Stage without its terms in the new recipe."""
TERMS = ("loss", "optimality", "score")
"""Entries of the stage that weight and define the terms."""


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="recipe with the stage")
    parser.add_argument("output", type=Path, help="recipe to write")
    arguments = parser.parse_args(argv)
    arguments.output.write_text(without_terms(arguments.recipe))


def without_terms(recipe: Path) -> str:
    """Text of the recipe with `STAGE` renamed to "without" and its `TERMS` removed.

    Raises:
        ValueError: the recipe has no such stage.
    """
    text = recipe.read_text().replace("{here}", str(recipe.resolve().parent))
    before, found, after = text.partition(f'[[stage]]\nname = "{STAGE}"\n')
    if not found:
        raise ValueError(f'{recipe} has no stage named "{STAGE}"')
    stage, later = re.split(r"(?=^\[)", after, maxsplit=1, flags=re.MULTILINE)
    stage = re.sub(rf"^({'|'.join(TERMS)}) = .*\n", "", stage, flags=re.MULTILINE)
    return f'{before}[[stage]]\nname = "without"\n{stage}{later}'


if __name__ == "__main__":
    main()
