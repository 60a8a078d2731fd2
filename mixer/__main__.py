"""`python -m mixer`: the command line."""

import sys

from mixer.cli import main
from mixer.process import keep_pages

if sys.argv[1:2] == ["train"]:
    keep_pages()
sys.exit(main())
