"""Serves the page: its queue, the content of its HTML head, and the guard in front of it."""

from __future__ import annotations

from importlib.util import find_spec

import gradio as gr
from starlette.middleware import Middleware

from mixer.resources import FAVICON
from mixer.ui import translations
from mixer.ui.guard import Guard
from mixer.ui.live.browsers import CAPACITY
from mixer.ui.theme import theme
from mixer.ui.web import head


def launch(
    page: gr.Blocks, host: str | None = None, port: int | None = None, share: bool = False, block: bool = True
) -> str:
    """Serves the page and gives its address; with `block`, returns only when the server ends."""
    page.queue(max_size=64, api_open=False)  # outside the queue a stream is never closed
    _, local, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=theme(),
        head=head() + translations.head(),
        pwa=True,
        favicon_path=FAVICON,
        footer_links=[],
        ssr_mode=False,
        max_file_size="1mb",
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=CAPACITY,
        app_kwargs={"middleware": [Middleware(Guard)]},
        mcp_server=find_spec("mcp") is not None,
        quiet=True,
        prevent_thread_lock=True,
    )
    url = public or local
    if block:
        print(f"Mixing desk is ready: {url}", flush=True)
        page.block_thread()
    return url
