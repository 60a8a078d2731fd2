"""A panel's job, beside the takes: the panel's value comes in, frames go out until the job is done or its flag is set.

The panel's `stop`, a newer job of the same name, and a browser that leaves set the flag. Knows no panel.
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
    """Lets a panel's component run `work` on `submit`, and end it on `stop`.

    A frame has the `seq` of the value that it answers. An error ends the job with a frame {state: "error", error}.

    Args:
        work: takes what a client posted, which may be anything, and the flag. Closing its iterator ends it.
        at_once: how many jobs may run side by side; more wait in the queue.
    """

    def submit(posted: Any, request: gr.Request) -> Iterator[dict[str, Any]]:
        seq = posted.get("seq") if isinstance(posted, Mapping) else None
        seq = seq if isinstance(seq, int) and abs(seq) <= MAX_SEQ else None  # anything else is not sent back
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
