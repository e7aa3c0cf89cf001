"""`python -m vlcompare`: hands the arguments to the command line."""

import sys

from vlcompare.cli import main

sys.exit(main())
