"""`python -m frostline` is the command `frostline`."""

import sys

from frostline.cli import main

sys.exit(main())
