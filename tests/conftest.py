import os
import socket

import pytest

pytest_plugins = ["tests.small_stores", "tests.benchmark_scripts"]

# Before torch is imported: one thread per test process is faster for molecules, and `pytest -n` starts several.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# matplotlib must not look for a screen.
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections leave this machine only in tests marked `network`."""
    if "network" in request.keywords:
        return
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: tuple | str | bytes) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the tests may not connect to {address}; mark the test `network` if it must")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
