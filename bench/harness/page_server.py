"""The page as app.py serves it, which also says what it holds: for long trials, see mixer/evals/soak.py.

    python -m bench.harness.page_server

Prints a JSON object with its address, and another for every line on stdin; ends with stdin.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

from mixer.desk import Desk
from mixer.process import give_back_memory, quiet_libraries
from mixer.ui.live.browsers import BrowserSessions
from mixer.ui.page import build
from mixer.ui.server import launch


def main() -> None:
    """Serve until stdin ends."""
    quiet_libraries()
    give_back_memory()
    desk, registry = Desk.load(strict=False), BrowserSessions()
    desk.warm_up()
    tell({"url": launch(build(desk, registry), block=False)})
    for _ in sys.stdin:
        tell(held(desk, registry))


def held(desk: Desk, registry: BrowserSessions) -> dict[str, int]:
    """What the server has in hand.

    Returns:
        sessions: browser sessions that it knows. busy: those with a text being written. rows: of the batch, in use.
        objects: that Python's garbage collector follows.
    """
    return {
        "sessions": len(registry),
        "busy": sum(live.busy for live in registry),
        "rows": desk.scheduler.rows_in_use,
        "objects": len(gc.get_objects()),
    }


def tell(answer: dict[str, Any]) -> None:
    """One line on stdout."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
