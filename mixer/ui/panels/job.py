"""Longer work of a panel, beside the takes: its value comes in, frames go out until it is done or its flag is set.

The flag is set by the panel's `stop`, by newer work of the same name, and when the browser goes away. Knows no panel.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr

from mixer.errors import MixerError
from mixer.ui.live.browsers import BrowserSessions
from mixer.ui.live.stream import FAULT
from mixer.ui.state.controls import MAX_SEQ

FRAMES = 10.0  # a second
Work = Callable[[Any, threading.Event], Iterator[dict[str, Any]]]

log = logging.getLogger(__name__)


def wire(box: gr.HTML, browsers: BrowserSessions, name: str, work: Work, at_once: int) -> None:
    """Has a panel's component run `work` on `submit`, and end it on `stop`.

    Frames bear the `seq` of the value that they answer; errors end in a frame {state: "error", error}.

    Args:
        work: given what a client posted, which may be anything, and the flag; closing what it yields ends it.
        at_once: how many may run side by side; more wait in the queue.
    """

    def submit(posted: Any, request: gr.Request) -> Iterator[dict[str, Any]]:
        seq = posted.get("seq") if isinstance(posted, Mapping) else None
        seq = seq if isinstance(seq, int) and abs(seq) <= MAX_SEQ else None  # what is no number is not sent back
        flag = browsers.open(str(request.session_hash)).job(name)
        try:
            for frame in work(posted, flag):
                yield {"seq": seq, **frame}
        except MixerError as error:
            yield {"seq": seq, "state": "error", "error": str(error)}
        except Exception:
            log.exception("The %s ended with a fault.", name)
            yield {"seq": seq, "state": "error", "error": FAULT}

    def stop(request: gr.Request) -> None:
        browsers.open(str(request.session_hash)).cancel(name)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    box.submit(submit, box, box, trigger_mode="multiple", concurrency_limit=at_once, **quiet)
    box.stop(stop, None, None, queue=False, **quiet)
