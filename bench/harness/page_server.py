"""A server of the page, as app.py starts it, that also reports its internal counts to `bench.soak`.

    python -m bench.harness.page_server

Prints a JSON object with its address, then one JSON object with its counts for every line on stdin. Ends with stdin.
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
    desk, sessions = Desk.load(strict=False), BrowserSessions()
    desk.warm_up()
    answer({"url": launch(build(desk, sessions), block=False)})
    for _ in sys.stdin:
        answer(counts(desk, sessions))


def counts(desk: Desk, sessions: BrowserSessions) -> dict[str, int]:
    """What the server holds.

    Returns:
        sessions: known browser sessions. busy: sessions that write a text. rows: rows of the batch in use.
        objects: Python objects that the garbage collector tracks.
    """
    return {
        "sessions": len(sessions),
        "busy": sum(live.busy for live in sessions),
        "rows": desk.scheduler.rows_in_use,
        "objects": len(gc.get_objects()),
    }


def answer(values: dict[str, Any]) -> None:
    """Print one line of JSON on stdout."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
