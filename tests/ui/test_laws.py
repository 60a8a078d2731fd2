"""Importing the page does not load torch."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_page_does_not_load_torch() -> None:
    code = "import sys, mixer.ui; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
