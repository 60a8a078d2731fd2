"""The command that opens the page."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any

from mixer.cli.options import add_sources, command, read_sources
from mixer.errors import BadArtifact, InvalidValue, MixerError
from mixer.process import give_back_memory

LOADED_FROM = (
    "base",
    "anchors",
    "device",
    "dtype",
    "quantize",
    "device_map",
)  # arguments of Desk.load


def add(commands: Any) -> None:
    """Add this command to the parser."""
    page = command(commands, "page", serve, "open the desk in the browser", desk=True)
    page.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    page.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    page.add_argument("--share", action="store_true", help="also open a public link through Gradio's relay")


def serve(options: argparse.Namespace) -> dict:
    """Serve the page until the process is interrupted.

    Anchors and judges that cannot be used are left out, and the page names them. A folder of anchors without any
    usable anchor or reward is refused.

    Raises:
        MixerError: the base cannot be loaded, an option is wrong, or the address and port are not free.
    """
    if options.port is not None and not 1 <= options.port <= 65535:
        raise InvalidValue(f"--port {options.port} is no port.", "Give a number from 1 to 65535.")
    from mixer import Desk

    give_back_memory()
    load = {name: getattr(options, name) for name in LOADED_FROM}
    desk = Desk.load(**load, strict=False)
    for note in desk.notes:
        print(note, file=sys.stderr)
    add_sources(desk, options)
    if options.anchors is not None and not (desk.attributes or desk.rewards):
        raise BadArtifact(next(iter(desk.problems), f"There is no anchor in {options.anchors}."))

    from mixer.ui import DeskSource, build, launch
    from mixer.ui.live.zero_gpu import is_zero_gpu

    given = {name: value for name, value in load.items() if value not in (None, "auto")}
    page = build(desk, origin=DeskSource(given, read_sources(options)))
    if not is_zero_gpu():
        threading.Thread(target=desk.warm_up, daemon=True).start()
    try:
        launch(page, host=options.host, port=options.port, share=options.share)
    except OSError as error:
        raise MixerError(f"The page could not be served: {str(error).splitlines()[0]}") from error
    except KeyboardInterrupt:
        pass
    return {}
