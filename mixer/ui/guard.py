"""An ASGI layer in front of Gradio's server: it closes the routes that this page does not use, and limits body sizes.

Knows addresses and sizes; the handlers check the content of a request.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 4 * 2**20  # of one request
# Routes that fetch from other machines for a client, or keep files, states and recordings of a client.
SHUT = re.compile(
    r"/(gradio_api/(file=\s*\w+:|proxy=|upload|deep_link|process_recording|run-history|runs|stream/)|monitoring)", re.I
)


class Guard:
    """Answers 404 for a closed route, and 413 for a body that is too long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif SHUT.search(scope["path"]):
            await PlainTextResponse("This page has no use for it.", 404)(scope, receive, send)
        elif int(Headers(scope=scope).get("content-length", "0")) > MOST_BYTES:
            await PlainTextResponse("That is too long.", 413)(scope, receive, send)
        else:
            await self._app(scope, _counted(receive), send)


def _counted(receive: Receive) -> Receive:
    """`receive`, which raises once the body is too long: a request may have no content-length, or a wrong one."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MOST_BYTES:
            raise HTTPException(413, "That is too long.")
        return message

    return counted
