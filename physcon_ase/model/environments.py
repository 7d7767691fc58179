"""Table of the environments of atoms that occur in the training molecules."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn


class EnvironmentTable(nn.Module):
    """Number of training molecules with each environment (`chem.environments`); training does not change it."""

    hashes: Tensor
    counts: Tensor

    def __init__(self, n_environments: int):
        super().__init__()
        self.register_buffer("hashes", torch.zeros(n_environments, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(n_environments, dtype=torch.int32))

    def n_molecules(self, hashes: Int[np.ndarray, " atoms"]) -> Int[np.ndarray, " atoms"]:
        """Number of training molecules with each of these environments."""
        known, counts = self.hashes.numpy(force=True), self.counts.numpy(force=True)
        places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
        return np.where(known[places] == hashes, counts[places], 0)


def environment_tensors(counts: dict[int, int]) -> dict[str, Tensor]:
    """The buffers of an `EnvironmentTable` from the number of molecules with each hash."""
    hashes = sorted(counts)
    return {
        "hashes": torch.tensor(hashes, dtype=torch.int64),
        "counts": torch.tensor([counts[value] for value in hashes], dtype=torch.int32),
    }
