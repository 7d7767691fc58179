import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from physcon_ase.interrupts import interruptible, uninterrupted

EMBEDDING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # parallel test processes ignore the signal
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
graph = graph_from_smiles("c1ccccc1CCO")
embed(graph)
for _ in range(6):
    try:
        print("ready", flush=True)
        for seed in range(100000):
            embed(graph, seed=seed)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_no_interruption_of_an_embedding_is_lost() -> None:
    command = [sys.executable, "-c", EMBEDDING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(120, process.kill)  # the lines below are then empty
        watchdog.start()
        for number in range(6):
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(0.03 + 0.05 * number)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
        watchdog.cancel()


def raise_and_go_on(seen: list[str]) -> None:
    with uninterrupted():
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        seen.append("after the signal")


@pytest.fixture
def interrupts() -> Iterator[None]:
    """KeyboardInterrupt as in a program; parallel test processes ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interruption_is_delayed_or_raised_and_the_mask_is_restored() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    seen = []
    with pytest.raises(KeyboardInterrupt):
        raise_and_go_on(seen)
    assert seen == ["after the signal"]
    with interruptible(), interruptible():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before
