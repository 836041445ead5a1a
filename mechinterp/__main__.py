"""``python -m mechinterp`` is the command line."""

import sys

from mechinterp.cli import main

sys.exit(main())
