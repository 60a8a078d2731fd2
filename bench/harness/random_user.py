"""A user who uses a page for hours: one tab of a browser, and all that a hand does there, at random.

Knows the page by its element ids and words alone, and notes whatever a person would call broken.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

PROMPTS = ("Dear neighbour,", "The last train of the evening was", "My grandmother says that", "The young waiter")
FORMULAS = (
    "sliders",
    "1.5*sliders - 0.5*base",
    "base - 0.96*union(base, [rude])",
    "[0.7*formal + 0.3*polite]",
    "base + 2*([polite] - [rude])",
)
WRONG = ("base + 2*fromal", "1.5*", "union(base)", "base - base", "[0.7*formal", "((((")
KEYS = ("ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown", "Delete")
MODES = ("keep", "refill", "restart")
TIMEOUT = 20_000  # ms that any one thing may take
EXPECTED_FAILURES = ("net::ERR_ABORTED",)  # requests that end with their tab


class RandomUser:
    """One tab in a browser context of its own.

    Args:
        browser: playwright's.
        stays: never reloads the page and never leaves it.

    Attributes:
        problems: errors of the page's scripts, failed requests, toasts, things waited for in vain; in words.
        actions: how often each thing was done.
    """

    def __init__(self, browser: Any, url: str, rng: random.Random, stays: bool = False) -> None:
        self._browser, self._url, self._rng, self.stays = browser, url.rstrip("/"), rng, stays
        self.problems: list[str] = []
        self._leaving = False  # a tab that is left says that its requests break off
        self.actions: dict[str, int] = {}
        self.open()

    def open(self) -> None:
        """Open the page in a new tab, by its plain address or by a link."""
        self._leaving = False
        self._context = self._browser.new_context(viewport={"width": 1280, "height": 800})
        self.page = self._context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.page.on("pageerror", lambda error: self.problems.append(f"error in a script: {error}"))
        self.page.on("console", self._on_console)
        self.page.on("requestfailed", self._on_request_failed)
        self.page.on("response", self._on_response)
        rate = self._rng.choice([0, 15, 30])
        link = {"v": 1, "p": self._rng.choice(PROMPTS), "n": self._rng.choice([16, 60, 160, 400]), "rate": rate}
        self.page.goto(self._url + (f"/?{urlencode(link)}" if self.stays or self._rng.random() < 0.7 else "/"))
        self._wait_until_open()

    def leave(self) -> None:
        """Close the tab, whatever it is doing."""
        self._leaving = True
        self._context.close()

    def act(self) -> None:
        """Do one thing."""
        names = [name for name, often in ACTIONS.items() for _ in range(often[1])]
        name = self._rng.choice([name for name in names if not (self.stays and name in ("reload", "open again"))])
        self.actions[name] = self.actions.get(name, 0) + 1
        try:
            ACTIONS[name][0](self)
            toasts = self.page.locator(".toast-body").all_inner_texts()
        except Exception as error:  # playwright's own kinds; whatever it is, the trial goes on
            self.problems.append(f"{name}: {str(error).splitlines()[0]}")
            return
        if toasts:
            self.problems += [f"toast after {name}: {text}" for text in toasts]
            self.page.evaluate("document.querySelectorAll('.toast-close').forEach((button) => button.click())")

    def metrics(self) -> dict[str, float]:
        """Megabytes of the page's scripts after their garbage was collected; nodes and listeners of the document."""
        session = self._context.new_cdp_session(self.page)
        session.send("HeapProfiler.collectGarbage")
        session.send("Performance.enable")
        found = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
        session.detach()
        return {
            "heap_mb": found["JSHeapUsedSize"] / 1e6,
            "nodes": found["Nodes"],
            "listeners": found["JSEventListeners"],
        }

    def _wait_until_open(self) -> None:
        self.page.wait_for_selector("html[data-opened] .fader")

    def _on_console(self, message: Any) -> None:
        if message.type == "error" and not self._leaving:
            self.problems.append(f"console: {message.text}")

    def _on_request_failed(self, request: Any) -> None:
        if request.failure not in EXPECTED_FAILURES and not self._leaving:
            self.problems.append(f"no answer: {request.url} {request.failure}")

    def _on_response(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"refused: {response.url} {response.status}")

    def _fader(self) -> Any:
        faders = self.page.locator("#deck .fader:visible")
        return faders.nth(self._rng.randrange(faders.count()))

    # What a hand does.

    def generate(self) -> None:
        self.page.click("#generate")
        self.wait()

    def stop(self) -> None:
        self.page.click("#stop")

    def wait(self) -> None:
        self.page.wait_for_timeout(self._rng.uniform(100, 1500))

    def drag(self) -> None:
        fader = self._fader()
        fader.scroll_into_view_if_needed()
        box = fader.bounding_box()
        middle = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + box["width"] / 2, middle)
        self.page.mouse.down()
        for _ in range(self._rng.randint(1, 3)):
            at = box["x"] + box["width"] * self._rng.uniform(0.02, 0.98)
            self.page.mouse.move(at, middle, steps=self._rng.randint(2, 20))
        self.page.mouse.up()

    def keys(self) -> None:
        self._fader().focus()
        for _ in range(self._rng.randint(1, 12)):
            self.page.keyboard.press(self._rng.choice(KEYS))

    def preset(self) -> None:
        menu = self.page.locator(".presets")
        menu.select_option(index=self._rng.randrange(1, menu.locator("option").count()))

    def undo(self) -> None:
        for _ in range(self._rng.randint(1, 4)):
            button = self.page.locator(self._rng.choice([".undo", ".undo", ".redo"]))
            if button.is_enabled():
                button.click()

    def formula(self) -> None:
        text = self._rng.choice(FORMULAS if self._rng.random() < 0.6 else WRONG)
        self.page.locator("#formula textarea").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text, delay=5)
        self.wait()

    def mode(self) -> None:
        options = self.page.get_by_role("button", name="Options")
        options.click()
        self.page.get_by_role("radio", name=self._rng.choice(MODES), exact=True).check()
        options.click()

    def reset(self) -> None:
        button = self.page.locator("#deck .reset")
        if button.is_enabled():
            button.click()

    def share(self) -> None:
        self.page.click(".tools .share")
        self.page.wait_for_selector("#share-sheet:popover-open textarea")
        self.page.keyboard.press("Escape")

    def history(self) -> None:
        self.page.click(".tools .history")
        entries = self.page.locator("#history-sheet:popover-open li button")
        if count := entries.count():
            entries.nth(self._rng.randrange(count)).click()
        else:
            self.page.keyboard.press("Escape")

    def shelf(self) -> None:
        tabs = self.page.locator("#shelf-tabs [role=tab]")
        tabs.nth(self._rng.randrange(tabs.count())).click()
        self.wait()

    def sweep(self) -> None:
        if self.page.locator("html").get_attribute("data-shelf") != "sweep":
            self.page.click("#tab-sweep")
        button = self.page.locator(".sweep .run" if self._rng.random() < 0.6 else ".sweep .cancel")
        if button.is_enabled():
            button.click()
        self.wait()

    def reload(self) -> None:
        self._leaving = True
        self.page.reload()
        self._leaving = False
        self._wait_until_open()

    def come_again(self) -> None:
        self.leave()
        self.open()


# Each with how often it is done, beside the others.
ACTIONS: dict[str, tuple[Callable[[RandomUser], None], int]] = {
    "generate": (RandomUser.generate, 8),
    "wait": (RandomUser.wait, 6),
    "drag": (RandomUser.drag, 8),
    "keys": (RandomUser.keys, 6),
    "stop": (RandomUser.stop, 2),
    "preset": (RandomUser.preset, 2),
    "undo": (RandomUser.undo, 3),
    "formula": (RandomUser.formula, 3),
    "mode": (RandomUser.mode, 1),
    "reset": (RandomUser.reset, 1),
    "share": (RandomUser.share, 1),
    "history": (RandomUser.history, 2),
    "shelf": (RandomUser.shelf, 2),
    "sweep": (RandomUser.sweep, 1),
    "reload": (RandomUser.reload, 1),
    "open again": (RandomUser.come_again, 1),
}
