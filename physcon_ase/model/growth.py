"""Weights of a wider energy network that computes exactly what a narrower one does.

After Net2Net (Chen, Goodfellow and Shlens 2016, doi 10.48550/arXiv.1511.05641), with new units that start at random and
that no unit of the narrower network reads until training lets it.
"""

from collections.abc import Hashable
from itertools import product
from typing import Final

import torch
from torch import Tensor

from physcon_ase.model.config import EncoderConfig

_INVARIANTS: Final = 5
"""Invariants of each mixed channel that the update network of an `Interaction` reads."""
_WIDTHS: Final = (
    "n_radial", "channels", "mixed_channels", "source_scalars", "source_vectors", "hidden", "output_vectors"
)  # fmt: skip
_OTHERS: Final = ("cutoff", "n_layers", "charged", "long_range")


def can_grow(narrow: EncoderConfig, wide: EncoderConfig) -> bool:
    """Whether the second network is like the first and nowhere narrower."""
    return (
        all(getattr(narrow, key) == getattr(wide, key) for key in _OTHERS)
        and all(getattr(narrow, key) <= getattr(wide, key) for key in _WIDTHS)
        and narrow.scalars_sent(0) <= wide.scalars_sent(0)
    )


def grown(name: str, weights: Tensor, fresh: Tensor, narrow: EncoderConfig, wide: EncoderConfig) -> Tensor:
    """A parameter of the wider network.

    Args:
        name: its name in `energy.EnergyNetwork`.
        weights: the parameter of the narrower network.
        fresh: the parameter of the wider network with random weights.
        narrow: sizes of the narrower network.
        wide: sizes of the wider network; `can_grow` holds.

    Returns:
        `fresh` with `weights` in the places of the units of the narrower network, and zeros where these would read new
        units.
    """
    result, inputs = fresh.clone(), 0 if ".mix" in name else weights.ndim - 1
    places = [torch.arange(size) for size in weights.shape]
    own, others = _inputs(name, narrow), _inputs(name, wide)
    if own:
        places[inputs] = torch.tensor([others.index(unit) for unit in own])
    if weights.ndim == 2:
        result.index_fill_(1 - inputs, places[1 - inputs], 0.0)
    result[torch.meshgrid(places, indexing="ij")] = weights
    return result


def _inputs(name: str, config: EncoderConfig) -> list[Hashable]:
    """What a matrix reads, where that is made of several parts; empty where the new units follow the old ones."""
    channels, mixed = range(config.channels), range(config.mixed_channels)
    if ".mix_vectors." in name:
        return list(product(range(config.n_radial), range(config.source_vectors)))
    if ".mix." in name:
        return list(product(range(config.n_radial), range(config.scalars_sent(layer=_layer(name)))))
    if name.endswith("update.0.weight"):
        return [*channels, *product(range(_INVARIANTS), mixed)]
    if name.endswith("send_vectors.weight"):
        return list(product(range(2), mixed))
    return []


def _layer(name: str) -> int:
    return int(name.partition("interactions.")[2].partition(".")[0])
