"""A real server with the shipped desk, and a real Chromium that may reach this server only."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from mixer import Desk
from mixer.ui import build, launch
from mixer.ui.live.browsers import BrowserSessions
from mixer.ui.page import OPENING
from tests.ui.conftest import desk, in_loop

__all__ = ["desk"]

FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass
class Server:
    url: str
    browsers: BrowserSessions


def serve(desk: Desk, opening: str | None) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # as app.py does: a core for the server and the browser
    browsers = BrowserSessions()
    page = in_loop(lambda: build(desk, browsers, opening))
    yield Server(in_loop(lambda: launch(page, "127.0.0.1", port, block=False)), browsers)
    page.close()


@pytest.fixture(scope="session")
def server(desk: Desk) -> Iterator[Server]:
    """A page that opens with everything at rest."""
    yield from serve(desk, None)


@pytest.fixture(scope="session")
def greeter(desk: Desk) -> Iterator[Server]:
    """The page as it opens for people, with a preset."""
    yield from serve(desk, OPENING)


@pytest.fixture(scope="session")
def chromium(server: Server, greeter: Server) -> Iterator[Browser]:  # after them: playwright keeps a loop running
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None and not Path("/usr/bin/chromium").exists():
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path or "/usr/bin/chromium", args=list(FLAGS))
        yield browser
        browser.close()


# A stream that a page cuts off by leaving is a fault to Gradio's client, which logs it; nobody is left to read it.
LEAVING = "addEventListener('beforeunload', () => { console.error = () => {}; })"


class Visit:
    """Opens tabs, each in its own browser context; records console errors and requests to other servers."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser, self._url = browser, url
        self._contexts: list[BrowserContext] = []
        self.trouble: list[str] = []

    def __call__(
        self, width: int = 1280, height: int = 800, dark: bool = False, touch: bool = False, query: str = ""
    ) -> Page:
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", has_touch=touch
        )
        self._contexts.append(context)
        context.route("**/*", self._guard)
        context.add_init_script(LEAVING)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.trouble.append(f"pageerror: {error}"))
        page.on("console", lambda m: self.trouble.append(f"console: {m.text}") if m.type == "error" else None)
        page.goto(self._url + query)
        page.wait_for_selector("html[data-opened] .fader")
        page.wait_for_timeout(500)
        return page

    def _guard(self, route: Route) -> None:
        if route.request.url.startswith((self._url, "data:", "blob:")):
            route.continue_()
        else:
            self.trouble.append(f"request: {route.request.url}")
            route.abort()

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def first_visit(chromium: Browser, greeter: Server) -> Iterator[Visit]:
    visit = Visit(chromium, greeter.url)
    yield visit
    visit.close()
    assert visit.trouble == []


@pytest.fixture
def visit(chromium: Browser, server: Server) -> Iterator[Visit]:
    visit = Visit(chromium, server.url)
    yield visit
    visit.close()
    assert visit.trouble == []
