"""`python -m bench`: the command line of the benchmarks."""

import sys

from bench.cli import main

sys.exit(main())
