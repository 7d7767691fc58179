"""Agreement of all devices of this machine with the CPU in float64, and their rates.

    python devices.py

Differences are those of energies and forces of molecules of 9 to 99 atoms, relative to the largest energy without
atomic references and to the largest force. Rates are of batches of aspirin (energies and forces) and of training steps
on molecules of 19 atoms, by the wall clock. The exit code is 1 if a device deviates by more than 1e-5.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from rates import MOLECULES, geometry, jittered, n_labelled, training_step
from reporting import Row, Table, finish, make_parser, start
from torch import Tensor

from physcon_ase.batch import Batch, make_batch, to
from physcon_ase.chem.graph import MolGraph
from physcon_ase.model.physcon import PhysCon, load_model
from physcon_ase.training.recipe import LossRecipe

TOLERANCE = 1e-5
"""Largest relative difference between float32 on a device and float64 on the CPU."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--slots", type=int, default=16384, help="atoms per batch for the rates (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=20, help="timed calls (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    generator = np.random.default_rng(arguments.seed)
    molecules = [geometry(smiles) for smiles in MOLECULES.values()]
    molecules = [(graph, jittered(positions, generator)) for graph, positions in molecules for _ in range(4)]
    exact = load_model(arguments.checkpoint, dtype=torch.float64).model
    reference = _energies_and_forces(exact, _batch(molecules, torch.float64))
    rows: list[Row] = []
    for device in devices():
        model = load_model(arguments.checkpoint, device=device).model
        found = _energies_and_forces(model, to(_batch(molecules, torch.float32), device=device))
        energy, force = (
            float((one.cpu().double() - other).abs().max() / other.abs().max())
            for one, other in zip(found, reference, strict=True)
        )
        aspirin = geometry(MOLECULES["aspirin"])
        count = max(1, arguments.slots // aspirin[0].n_atoms)
        batch = to(
            _batch([(aspirin[0], jittered(aspirin[1], generator)) for _ in range(count)], torch.float32), device=device
        )
        step = training_step(
            model.config, LossRecipe(energy=0.2, forces=1.0), atoms_per_batch=arguments.slots, device=device
        )
        rows.append(
            {
                "device": _name(device),
                "energy difference": energy,
                "force difference": force,
                "agrees": "yes" if max(energy, force) <= TOLERANCE else "no",
                "aspirin per second": count
                / _seconds(functools.partial(_energies_and_forces, model, batch), device, arguments.calls),
                "trained molecules per second": n_labelled(arguments.slots) / _seconds(step, device, arguments.calls),
            }
        )
    finish("devices", arguments, clock, [Table("Devices", rows)], loaded)
    return int(any(row["agrees"] == "no" for row in rows))


def devices() -> Iterator[torch.device]:
    """The CPU, then each accelerator that PyTorch finds."""
    yield torch.device("cpu")
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None
        yield from (torch.device(kind.type, index) for index in range(torch.accelerator.device_count()))


def _energies_and_forces(model: PhysCon, batch: Batch) -> tuple[Tensor, Tensor]:
    """Energies without atomic references [eV] and forces [eV/Å] at the first level."""
    level = model.level_names[0]
    found = model.evaluate(batch, level, forces=True)
    assert found.forces is not None
    return (found.atomic_energies - model.references[level](batch)).sum(dim=1).detach(), found.forces.detach()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _batch(molecules: Sequence[tuple[MolGraph, np.ndarray]], dtype: torch.dtype) -> Batch:
    graphs, positions = zip(*molecules, strict=True)
    return make_batch([graph.atomic_numbers for graph in graphs], list(positions), dtype=dtype)


def _seconds(call: Callable[[], object], device: torch.device, n_calls: int) -> float:
    """Mean wall time [s] of a call, after three to warm up."""

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - began

    run(3)
    return run(n_calls) / n_calls


if __name__ == "__main__":
    sys.exit(main())
