"""Encoder and structure network of physcon-1 (format 2) as a checkpoint from which a recipe can start.

    git show c4598ab:checkpoints/physcon-1/model.safetensors > physcon-1.safetensors
    python parts_of_physcon_1.py physcon-1.safetensors recipes/physcon-2/physcon-1-parts

The recipe of physcon-2 uses the structure network only. The encoder is that of level gfn2. Interaction layers and
structure networks are the same in formats 2 and 3; the distribution of the total charge of format 2 is left out.
"""

import argparse
from pathlib import Path

import safetensors.torch
from torch import Tensor

from physcon_ase.model.checkpoint import save_checkpoint

LEVELS = ("b3lyp-d3", "wb97m", "b3lyp")


def main() -> None:
    """Writes the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="model.safetensors of physcon-1")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    arguments = parser.parse_args()
    save_checkpoint(arguments.folder, parts(safetensors.torch.load_file(arguments.weights)), {})


def parts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their names in format 3."""
    found = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part == "structure":
            found[name] = value
        elif part == "encoder" and not rest.startswith("charge_shares."):
            found[f"energy.{rest}"] = value
        elif name.startswith("heads.gfn2."):
            found |= {f"energy.heads.{level}.{name.removeprefix('heads.gfn2.')}": value for level in LEVELS}
    return found


if __name__ == "__main__":
    main()
