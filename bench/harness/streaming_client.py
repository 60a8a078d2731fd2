"""A client without a browser: it streams one text after another through the page's own endpoint.

Knows the page by what every browser gets: its configuration, its queue, and the ids of its components.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from typing import Any

import httpx

from mixer.errors import Unsupported

TOKENS = 1000  # of a text at most; the context of the model is the limit
TIMEOUT = httpx.Timeout(60.0, read=120.0)


class StreamingClient:
    """Another user of a page at the same time; use it as a context.

    Args:
        url: of the page.
        number: chooses the mix, so that each client has another one.

    Attributes:
        tokens: number of tokens streamed so far. error: what went wrong; empty if nothing.
    """

    def __init__(self, url: str, number: int = 1) -> None:
        self._url, self._number = url.rstrip("/"), number
        self._session, self._left = secrets.token_hex(6), threading.Event()
        self.tokens, self.error = 0, ""
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> StreamingClient:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join(30)

    @property
    def tokens_per_second(self) -> float:
        """The mean rate since the client started."""
        return self.tokens / (time.monotonic() - self._begun)

    def wait(self, seconds: float = 60) -> None:
        """Return when the first token has come.

        Raises:
            Unsupported: no token came in time.
        """
        end = time.monotonic() + seconds
        while not self.tokens:
            if self.error or time.monotonic() > end:
                reason = self.error or "nothing came"
                raise Unsupported(f"A second user of {self._url} got no text: {reason}.", "Look at the server's log.")
            time.sleep(0.05)

    def _run(self) -> None:
        try:
            with (
                httpx.Client(base_url=self._url, timeout=TIMEOUT) as client,
                # A browser tab holds this stream too. When it ends, the server frees what it kept for the session.
                client.stream("GET", f"/gradio_api/heartbeat/{self._session}"),
            ):
                inputs = _inputs(client.get("/config").raise_for_status().json(), self._number)
                while not self._left.is_set():
                    self._stream(client, inputs)
        except (httpx.HTTPError, KeyError, ValueError, StopIteration) as error:
            self.error = f"{type(error).__name__} {error}".strip()

    def _stream(self, client: httpx.Client, inputs: dict[str, Any]) -> None:
        """Stream one text; stop early when this client leaves."""
        client.post("/gradio_api/queue/join", json={**inputs, "session_hash": self._session}).raise_for_status()
        before, streamed = self.tokens, 0
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self._session}) as lines:
            for line in lines.iter_lines():
                if self._left.is_set():
                    return
                if not line.startswith("data:"):
                    continue
                message = json.loads(line.removeprefix("data:"))
                streamed = max(streamed, _tokens_in(message))
                self.tokens = before + streamed
                if message["msg"] == "process_completed":
                    if not message["success"] or not streamed:
                        raise ValueError(json.dumps(message)[:300])
                    return


def _inputs(config: dict[str, Any], number: int) -> dict[str, Any]:
    """What the Generate button posts, with the mix of this client."""
    parts = {part["id"]: part["props"] for part in config["components"]}
    ids = {props["elem_id"]: key for key, props in parts.items() if props.get("elem_id")}
    press = next(one for one in config["dependencies"] if [ids["generate"], "click"] in one["targets"])
    values = {key: parts[key].get("value") for key in press["inputs"]}
    controls = [control["name"] for control in parts[ids["deck"]]["props"]["controls"] if control["anchors"]]
    positions = {name: round(0.2 + 0.13 * (number % 7), 2) for name in controls[number % 2 :: 2]}
    values |= {ids["deck"]: {"seq": 1, "positions": positions}, ids["formula"]: {"text": "sliders"}}
    values |= {ids["tokens"]: TOKENS, ids["seed"]: number}
    return {
        "data": [values[key] for key in press["inputs"]],
        "fn_index": press["id"],
        "trigger_id": ids["generate"],
        "event_data": None,
    }


def _tokens_in(message: dict[str, Any]) -> int:
    """The number of tokens that a message of the queue reports; 0 if it reports none."""
    frame = ((message.get("output") or {}).get("data") or [None])[0]
    if isinstance(frame, dict):  # a whole frame
        return int((frame.get("status") or {}).get("tokens") or 0)
    changes = frame if isinstance(frame, list) else []  # changes since the last frame
    return max((int(value) for _, path, value in changes if path == ["status", "tokens"]), default=0)
