"""Malloc settings under which training keeps its memory; a restart of the program is the only way to set them.

Standard library only.
"""

from __future__ import annotations

import os
import sys

# glibc returns large blocks to the system, and the page faults of taking them back cost most of a training step.
KEEP_PAGES = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "500000000",
}


def keep_pages() -> None:
    """Restart this program under settings that keep large blocks; nothing where they are set, or not on Linux."""
    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in KEEP_PAGES.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_PAGES)
