import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from physcon_ase.model.checkpoint import save_checkpoint, write_manifest

ROOT = Path(__file__).resolve().parents[1]

PROBE = """
import json, socket, sys

def no_network(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError(f"no network here: {event} {args[1:]}")

sys.addaudithook(no_network)
import physcon_ase
from physcon_ase.model.checkpoint import read_checkpoint, shipped_names
if "physcon-2" in shipped_names():
    from ase.build import molecule
    from physcon_ase import PhysConCalculator
    water = molecule("H2O")
    water.calc = PhysConCalculator()
    assert water.get_forces().shape == (3, 3)
print(json.dumps({
    "package": physcon_ase.__file__,
    "checkpoints": {name: read_checkpoint(name).revision for name in shipped_names()},
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    completed = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=300)
    assert completed.returncode == 0, f"{command}\n{completed.stdout}\n{completed.stderr}"
    return completed.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a build reads, and one more shipped checkpoint: the test must not depend on which there are."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("physcon_ase", "checkpoints"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    save_checkpoint(copy / "checkpoints" / "probe", {"w": torch.arange(3.0)}, {}, recipe="steps = 1\n")
    write_manifest(copy / "checkpoints")
    return copy


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Python of a new virtual environment that sees the dependencies of this one, but not its packages in edit mode."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    (site,) = json.loads(
        run(python, "-c", "import json, sysconfig; print(json.dumps([sysconfig.get_path('purelib')]))", cwd=tmp_path)
    )
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    return python


def expected_checkpoints(source: Path) -> dict[str, str]:
    manifest = json.loads((source / "checkpoints" / "manifest.json").read_text())
    return {name: files["model.safetensors"]["sha256"] for name, files in manifest.items()}


def test_the_wheel_of_the_source_distribution_carries_everything_and_works_without_network(
    source: Path, environment: Path, tmp_path: Path
) -> None:
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", build, cwd=source)
    (distribution,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(distribution) as archive:
        assert not [name for name in archive.getnames() if "/tests" in name]
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, distribution, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = [archive.read(name) for name in archive.namelist() if name.endswith("entry_points.txt")]
    in_source = {
        path.relative_to(source).as_posix()
        for path in (source / "physcon_ase").rglob("*")
        if path.is_file()
        and path.suffix in (".py", ".typed", ".toml", ".smi", ".html", ".css", ".js")
        and "__pycache__" not in path.parts
    }
    shipped = {
        f"physcon_ase/{path.relative_to(source).as_posix()}"
        for path in (source / "checkpoints").rglob("*")
        if path.is_file()
    }
    assert carried == in_source | shipped
    assert b"physcon = physcon_ase.cli:main" in entry_points

    pip("--python", environment, "install", "--no-deps", wheel, cwd=tmp_path)
    away = tmp_path / "away"
    away.mkdir()
    found = json.loads(run(environment, "-c", PROBE, cwd=away))
    assert found["package"].startswith(str(tmp_path / "venv"))
    assert found["checkpoints"] == expected_checkpoints(source)


def test_an_editable_installation_finds_the_checkpoints_of_the_source(
    source: Path, environment: Path, tmp_path: Path
) -> None:
    pip("--python", environment, "install", "--no-deps", "--no-build-isolation", "--editable", source, cwd=tmp_path)
    found = json.loads(run(environment, "-c", PROBE, cwd=tmp_path))
    assert found["package"] == str(source / "physcon_ase" / "__init__.py")
    assert found["checkpoints"] == expected_checkpoints(source)
