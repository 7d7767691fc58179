"""The constant matrices against e3nn's generic operations, and their way through a checkpoint."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from e3nn import o3
from torch import Tensor

from physcon_ase.errors import CorruptCheckpointError
from physcon_ase.model.checkpoint import save_checkpoint
from physcon_ase.model.config import config_to_dict
from physcon_ase.model.couplings import make_couplings
from physcon_ase.model.pairs import monomials
from physcon_ase.model.physcon import PhysCon, load_model
from tests.model.harmonics import e3nn_harmonics, harmonics_from_monomials, random_directions
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, pack, tiny_model

ROUNDING = 1e-12
"""float64 rounding of short sums of numbers of order 1; e3nn's constants are exact to 1e-15."""


@pytest.fixture
def directions() -> Tensor:
    return random_directions()


def symmetric_matrices() -> Tensor:
    return math.sqrt(5) * o3.wigner_3j(1, 1, 2, dtype=torch.float64).reshape(9, 5)


# ---- against e3nn


def test_harmonics_are_those_of_e3nn(directions: Tensor) -> None:
    matrices = make_couplings().forms @ monomials(directions.T)[4:]
    # the symbols are orthonormal: what comes back are the harmonics that the matrices were made from
    harmonics = symmetric_matrices().T @ matrices
    torch.testing.assert_close(harmonics.T, e3nn_harmonics(2, directions), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(monomials(directions.T)[1:4].T, e3nn_harmonics(1, directions), rtol=0, atol=ROUNDING)


def test_forms_are_the_wigner_symbol_112() -> None:
    expected = symmetric_matrices() @ harmonics_from_monomials()
    torch.testing.assert_close(make_couplings().forms, expected, rtol=0, atol=ROUNDING)


def test_forms_make_the_traceless_square_of_a_direction(directions: Tensor) -> None:
    matrices = (make_couplings().forms @ monomials(directions.T)[4:]).T.unflatten(1, (3, 3))
    squares = directions[:, :, None] * directions[:, None] - torch.eye(3, dtype=torch.float64) / 3
    torch.testing.assert_close(matrices, math.sqrt(1.5) * squares, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(matrices.flatten(1).norm(dim=1), torch.ones(20).double(), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("rows", "l_in", "l_out"), [(slice(0, 1), 1, 0), (slice(1, 4), 0, 1), (slice(4, 9), 1, 2), (slice(9, 12), 2, 1)]
)
def test_vector_couplings_are_wigner_symbols(directions: Tensor, rows: slice, l_in: int, l_out: int) -> None:
    vectors = directions.flip(0)
    products = (monomials(directions.T).T[:, :, None] * vectors[:, None]).flatten(1)
    coupling = make_couplings().vectors[rows]
    if l_out == 2:  # stored as coefficients of monomials
        coupling = harmonics_from_monomials() @ coupling
    found = products @ coupling.T
    symbol = o3.wigner_3j(l_in, 1, l_out, dtype=torch.float64)
    expected = torch.einsum("na,nb,abc->nc", e3nn_harmonics(l_in, directions), vectors, symbol)
    scale = (found * expected).sum() / expected.square().sum()
    assert scale > 0.5
    torch.testing.assert_close(found, scale * expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 4), slice(4, 9)])
def test_rows_of_the_vector_couplings_have_unit_norm(rows: slice) -> None:
    coupling = make_couplings().vectors[rows]
    if len(coupling) == 5:
        coupling = harmonics_from_monomials() @ coupling
    torch.testing.assert_close(coupling.norm(dim=1), torch.ones(len(coupling)).double(), rtol=0, atol=ROUNDING)


# ---- in a checkpoint


def save(model: PhysCon, folder: Path, tensors: dict[str, Tensor]) -> Path:
    save_checkpoint(folder, tensors, config_to_dict(model.config))
    return folder


def test_the_constants_of_a_checkpoint_are_used_and_stay_float64(tmp_path: Path) -> None:
    model = tiny_model(4, torch.float32)
    stored = model.state_dict()
    assert {stored[f"couplings.{name}"].dtype for name in ("forms", "vectors")} == {torch.float64}
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    same = load_model(save(model, tmp_path / "same", stored)).model
    assert torch.equal(same.energies(batch, "dft"), model.energies(batch, "dft"))
    halved = {**stored, "couplings.forms": stored["couplings.forms"] / 2}
    other = load_model(save(model, tmp_path / "halved", halved)).model
    assert (other.energies(batch, "dft") - model.energies(batch, "dft")).abs() > 1e-3


@pytest.mark.parametrize("name", ["forms", "vectors"])
def test_a_checkpoint_without_the_constants_is_refused(tmp_path: Path, name: str) -> None:
    model = tiny_model(4)
    tensors = {key: value for key, value in model.state_dict().items() if key != f"couplings.{name}"}
    with pytest.raises(CorruptCheckpointError, match=rf"no couplings\.{name}, a matrix of .*; fetch"):
        load_model(save(model, tmp_path / "small", tensors))


def test_users_of_a_checkpoint_do_not_wait_for_e3nn(tmp_path: Path) -> None:
    model = tiny_model(4, torch.float32)
    folder = save(model, tmp_path / "small", model.state_dict())
    script = (
        "import sys, physcon_ase\n"
        "from physcon_ase.model.physcon import load_model\n"
        f"load_model({str(folder)!r})\n"
        "assert 'e3nn' not in sys.modules\n"
        "from physcon_ase.model.couplings import make_couplings\n"
        "make_couplings()\n"
        "assert 'e3nn' in sys.modules  # the question above was a good one\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
