"""The structure network of physcon-1 (format 2) as a checkpoint that a recipe can start from.

    git show c4598ab:checkpoints/physcon-1/model.safetensors > physcon-1.safetensors
    python structure_of_physcon_1.py physcon-1.safetensors stores/physcon-1-structure

Structure networks have not changed between the formats; energy networks have.
"""

import argparse
from pathlib import Path

import safetensors.torch

from physcon_ase.model.checkpoint import save_checkpoint


def main() -> None:
    """Writes the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="model.safetensors of physcon-1")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    arguments = parser.parse_args()
    tensors = safetensors.torch.load_file(arguments.weights)
    save_checkpoint(
        arguments.folder, {name: value for name, value in tensors.items() if name.startswith("structure.")}, {}
    )


if __name__ == "__main__":
    main()
