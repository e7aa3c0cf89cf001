"""`python -m vlcompare`: hands the arguments to the command line; no logic."""

import sys

from vlcompare.cli import main

sys.exit(main())
