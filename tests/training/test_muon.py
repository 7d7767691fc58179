import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from physcon_ase.training.muon import Muon, orthogonalized

NO_GROUP_LEFT = """
import weakref
import torch
from physcon_ase.training.muon import Muon
from physcon_ase.training.processes import processes
with processes():
    Muon([torch.nn.Parameter(torch.zeros(8, 8))], lr=0.1, momentum=0.95, weight_decay=0.0)
    group = weakref.ref(torch.distributed.group.WORLD)
assert group() is None
"""

ONE_STEP = """
import torch
from safetensors.torch import save_file
from physcon_ase.training.muon import Muon
from physcon_ase.training.processes import processes
torch.set_num_threads(1)
with processes() as (rank, world_size):
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(8, 12), (8, 12), (30, 9), (16, 16)]]
    for matrix in matrices[:-1]:
        matrix.grad = torch.randn(matrix.shape, generator=generator)
    Muon(matrices, lr=0.1, momentum=0.95, weight_decay=0.0).step()
    save_file({str(place): own.detach() for place, own in enumerate(matrices)}, f"{world_size}-{rank}.safetensors")
"""


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_singular_values_become_equal_and_vectors_stay(shape: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    found = orthogonalized(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3  # the smallest of a square matrix need more rounds
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    rotated = left.mT @ found @ right.mT
    torch.testing.assert_close(rotated, torch.diag_embed(rotated.diagonal(dim1=1, dim2=2)), atol=1e-9, rtol=0)


def test_zero_gradients_stay_zero():
    assert torch.equal(orthogonalized(torch.zeros(1, 8, 9)), torch.zeros(1, 8, 9))


def test_update_has_the_size_of_the_learning_rate_whatever_the_gradient():
    matrix = torch.nn.Parameter(torch.zeros(8, 32))
    for scale in (1e-6, 1e3):
        with torch.no_grad():
            matrix.zero_()
        matrix.grad = scale * torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
        Muon([matrix], lr=0.01, momentum=0.95, weight_decay=0.0).step()
        assert matrix.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.2)


def test_weights_decay_and_matrices_without_gradient_stay():
    moved, still = (torch.nn.Parameter(torch.ones(8, 8)) for _ in range(2))
    moved.grad = torch.zeros(8, 8)
    Muon([moved, still], lr=0.5, momentum=0.95, weight_decay=0.1).step()
    torch.testing.assert_close(moved.detach(), torch.full((8, 8), 0.95))
    assert torch.equal(still.detach(), torch.ones(8, 8))


def test_badly_scaled_problem_is_solved_faster_than_by_gradients():
    """A least-squares problem with a condition number of 10,000."""
    scales = torch.logspace(-2, 0, 16)
    target = torch.randn(16, 16, generator=torch.Generator().manual_seed(2))
    matrix = torch.nn.Parameter(torch.zeros(16, 16))
    muon = Muon([matrix], lr=0.1, momentum=0.95, weight_decay=0.0)
    for _ in range(200):
        matrix.grad = (matrix.detach() - target) * scales**2
        muon.step()
    after_gradients = target * (1 - scales**2) ** 200
    assert (matrix - target).norm() < 0.5 * after_gradients.norm()


def test_no_group_and_none_of_its_threads_outlive_the_processes(tmp_path: Path):
    """A thread that does makes the interpreter abort at its end, now and then."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", NO_GROUP_LEFT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_processes_share_the_work_and_make_the_same_step(tmp_path: Path):
    (tmp_path / "script.py").write_text(ONE_STEP)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    for launcher in ([], ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]):
        command = [sys.executable, *launcher, "script.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    expected = load_file(tmp_path / "1-0.safetensors")
    for rank in range(2):
        found = load_file(tmp_path / f"2-{rank}.safetensors")
        for name, matrix in expected.items():
            assert matrix.any() == (name != "3")
            torch.testing.assert_close(found[name], matrix, rtol=1e-5, atol=1e-7)
