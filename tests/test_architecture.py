import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import physcon_ase

PACKAGE = Path(__file__).resolve().parents[1] / "physcon_ase"

LAYERS = (
    "units errors memory interrupts plurals < chem jobs < batch < valence < model relax data < labelling training hub "
    "< inference checks < cli"
)
RANK = {part: rank for rank, layer in enumerate(LAYERS.split(" < ")) for part in layer.split()}
"""A part may import itself and parts of lower rank."""

NEVER = {("training", "relax"), ("inference", "training"), ("inference", "labelling")}
"""Pairs that the ranks would allow."""

ONLY_IN = {
    "rdkit": ("chem",),
    "ase": ("inference", "data.importers", "labelling", "checks"),
    **dict.fromkeys(("huggingface_hub", "httpx", "requests", "urllib", "http", "socket"), ("hub", "data.importers")),
}
"""Foreign packages that only these parts know."""


def modules() -> list[str]:
    names = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names if name != "__init__")


def imports(module: str) -> list[str]:
    path = PACKAGE.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    found = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    sources = [("." * n.level + (n.module or ""), n.names) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    # `from physcon_ase import batch` is an import of physcon_ase.batch.
    return found + [
        f"{name}.{alias.name}" if name == "physcon_ase" else name for name, names in sources for alias in names
    ]


@pytest.mark.parametrize("module", modules())
def test_imports_point_downwards_only(module: str) -> None:
    part = module.split(".")[0]
    assert part in RANK, f"give {part} a place in the layers"
    for name in imports(module):
        root, _, inner = name.partition(".")
        assert root, f"{module} imports {name}: name the defining module in full"
        if root == "physcon_ase":
            target = inner.split(".")[0]
            assert target in RANK, f"{module} imports {name}: name the defining module, not the top-level package"
            assert target == part or RANK[target] < RANK[part], f"{module} imports {name} upwards or sideways"
            assert (part, target) not in NEVER, f"{module} must not import {name}"
        allowed = ONLY_IN.get(root, (part,))
        assert f"{module}.".startswith(tuple(f"{home}." for home in allowed)), (
            f"{module} imports {root}: only {allowed}"
        )


def in_a_fresh_process(script: str) -> str:
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PATH": ""}
    command = [sys.executable, "-c", script]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "scipy", "rdkit", "ase", "e3nn", "h5py", "jaxtyping", "huggingface_hub"}
    loaded = in_a_fresh_process("import sys, physcon_ase; print(*sys.modules)").split()
    assert "physcon_ase" in loaded
    assert heavy.isdisjoint(loaded)


def test_every_public_name_is_found_whatever_was_imported_first_and_others_are_attribute_errors() -> None:
    in_a_fresh_process(
        "import physcon_ase.inference.one\n"  # a room of the name of a function would now hide it
        "from physcon_ase import *\n"
        "assert type(optimize).__name__ == type(optimize_many).__name__ == 'function'"
    )
    in_a_fresh_process(
        "import physcon_ase\n"
        "from physcon_ase import Result, optimize\n"
        "assert physcon_ase.optimize is optimize and 'optimize' in dir(physcon_ase)\n"
        "try: physcon_ase.nonsense\n"
        "except AttributeError as error: assert 'nonsense' in str(error)\n"
        "else: raise SystemExit('no error')"
    )


def test_no_public_name_is_that_of_a_module() -> None:
    assert "optimize" in physcon_ase.__all__
    assert {module.split(".")[0] for module in modules()}.isdisjoint(physcon_ase.__all__)


def test_the_picture_has_every_import_as_a_chain_of_arrows(tmp_path: Path) -> None:
    picture = runpy.run_path(str(PACKAGE.parent / "docs" / "architecture.py"))
    graph = picture["imported_parts"]()
    arrows = picture["reduced"](graph)
    assert ("cli", "inference") in arrows
    assert ("cli", "model") not in arrows
    closure = {part: {other for start, other in arrows if start == part} for part in graph}
    for _ in graph:
        closure = {part: others.union(*(closure[other] for other in others)) for part, others in closure.items()}
    assert all(others <= closure[part] for part, others in graph.items())
    picture["draw"](tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
