"""Entry point for ``python -m physcon_ase.cli``, e.g. with torchrun."""

import sys

from physcon_ase.cli import main

sys.exit(main())
