"""What of Gradio's server this page has no use for is shut, and nobody may post more than the page ever would.

An ASGI layer in front of all else. Knows addresses and sizes; what a request says is checked by those whom it is for.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 4 * 2**20  # of one request
# Fetching from other machines for a stranger, and keeping files, states and recordings of theirs.
SHUT = re.compile(
    r"/(gradio_api/(file=\s*\w+:|proxy=|upload|deep_link|process_recording|run-history|runs|stream/)|monitoring)", re.I
)


class Guard:
    """Answers 404 for what is shut, and 413 for what is too long."""

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
    """Raises for a body that grows too long without having said so."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MOST_BYTES:
            raise HTTPException(413, "That is too long.")
        return message

    return counted
