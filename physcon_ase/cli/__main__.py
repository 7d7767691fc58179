"""``python -m physcon_ase.cli``, which torchrun starts."""

import sys

from physcon_ase.cli import main

sys.exit(main())
