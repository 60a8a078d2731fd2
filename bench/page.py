"""How fast the page answers a hand: a running page, a real Chromium, and times taken inside the page.

    python -m mixer bench page http://127.0.0.1:7860 --beside 1

The time of a move is from the browser's own stamp on the input event to the end of the paint that shows a token written
under a mix with that move in it. Moves that a later one overtakes count too, until text under the later one is painted.
Needs `playwright` and a Chromium on the machine. Knows the page by its element ids and events alone.
"""

from __future__ import annotations

import random
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from bench.harness.processes import OtherPrograms, listener
from bench.harness.streaming_client import StreamingClient
from bench.harness.tables import markdown, p50_p95
from mixer.errors import InvalidValue, Unsupported

FLAGS = ("--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update")
BAR = 100  # ms, that 95 of 100 moves may take at most while others stream
QUIET = 0.05  # share of the processors that other programs may take
TOKENS = 1000  # of a text at most, as far as the model's context goes
STATE = {"v": "1", "p": "The last train of the evening was", "n": TOKENS}  # everything else at rest
DRAG = 60  # moves of one drag, about one a frame
KEYS = 12  # of one take, some 200 ms apart
LOCAL = ("127.0.0.1", "localhost", "::1")

# Notes when a hand's move left the browser and when text under it was painted; `timed` is read back from here.
WATCH = """() => {
    window.timed = {moves: [], first: null, last: null, error: "", waiting: 0};
    const sent = new Map();
    let pressed = null, since = null;
    const painted = (act) => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => act(performance.now());
        channel.port2.postMessage(0);
    });
    document.querySelector("#generate").addEventListener("pointerdown", (event) => {
        pressed = event.timeStamp;
        Object.assign(timed, {moves: [], first: null, last: null, waiting: 0});
        sent.clear();
    }, true);
    document.addEventListener("input", (event) => {
        if (event.target.matches(".fader")) since ??= event.timeStamp;
    }, true);
    document.addEventListener("desk:steer", ({detail}) => {
        if (since !== null) sent.set(detail.seq, since);
        since = null;
        timed.asked = detail;
        timed.waiting = sent.size;
    });
    document.addEventListener("desk:frame", ({detail}) => {
        const {seq, mix, state, error} = detail;
        if (state === "error") timed.error = error;
        if (state === "error" || !mix.length) return;
        painted((now) => {
            timed.first ??= now - pressed;
            timed.last = {seq, label: mix.at(-1)[0]};
            for (const [move, at] of sent) if (move <= seq) {
                timed.moves.push(now - at);
                sent.delete(move);
            }
            timed.waiting = sent.size;
        });
    });
}"""


def bench_page(url: str, beside: int = 0, takes: int = 10, seed: int = 0) -> dict[str, Any]:
    """Figures of the page at `url`, times in milliseconds as [median, 95th percentile].

    Args:
        beside: how many others stream all the while, each under a mix of its own, without a browser.
        takes: texts; each is steered by twelve presses of a key, and by one drag of sixty moves.

    Returns:
        open, paint: from the request to a deck that can be moved, and to anything on the screen.
        first: from the press of Generate to painted text; key, drag: of moves, see above; moves: how many of each.
        lost: moves under which no text came. short: texts that ended before the hand did, and were written again.
        exact: drags whose last text was written under the very value that the deck ends at.
        within: whether 95 of 100 moves took less than 100 ms. others: the share of the processors that went to other
        programs; None if the page is served elsewhere.

    Raises:
        InvalidValue: a number is out of range, or nothing answers at the address. Unsupported: there is no Chromium
            or no playwright, a client gets no text, or the page shows an error.
    """
    if takes < 1 or beside < 0:
        raise InvalidValue(f"{takes} texts beside {beside} others cannot be timed.", "Give at least 1, and 0.")
    answered(url)
    own = [pid for pid in [_server(url)] if pid is not None]
    with ExitStack() as stack:
        share = OtherPrograms(*own)
        clients = [stack.enter_context(StreamingClient(url, number)) for number in range(1, beside + 1)]
        for client in clients:
            client.wait()
        chromium = stack.enter_context(Chromium())
        report = _takes(chromium, f"{url.rstrip('/')}/?{urlencode(STATE)}", takes, random.Random(seed))
        rates = [round(client.tokens_per_second, 1) for client in clients]
        if broken := [client.error for client in clients if client.error]:
            raise Unsupported(f"A client beside the hand broke off: {broken[0]}.", "Look at the server's log.")
        others = share.share() if own else None
    return {"url": url, "beside": beside, "beside_tokens_per_second": rates} | report | {"others": others}


def table(report: dict[str, Any]) -> str:
    """The report as a markdown table, and what a reader must know of the run."""
    names = {
        "open": "opening the page, to a deck that can be moved",
        "paint": "… to anything on the screen",
        "first": "Generate, to painted text",
        "key": "a key on a slider, to painted text under the new mix",
        "drag": "a drag on a slider, likewise",
    }
    rows = [(text, *map(float, report[key])) for key, text in names.items()]
    lines = [markdown((f"ms, {report['beside']} others streaming", "median", "p95"), rows), ""]
    key, drag = report["moves"]["key"], report["moves"]["drag"]
    lines.append(f"{key} presses and {drag} moves of drags; {report['lost']} without text.")
    lines.append(f"{report['exact']} of {report['takes']} drags ended exactly where the deck stands.")
    if report["beside"]:
        speeds = ", ".join(f"{rate:.1f}" for rate in report["beside_tokens_per_second"])
        lines.append(f"The others wrote {speeds} tokens a second each.")
    if report["others"] is not None:
        lines.append(f"Other programs took {100 * report['others']:.0f} % of the processors.")
        if report["others"] > QUIET:
            lines.append("That is too much: run it again on an idle machine.")
    return "\n".join(lines)


def answered(url: str) -> None:
    """Return if there is a page.

    Raises:
        InvalidValue: nothing answers there.
    """
    try:
        httpx.get(url, timeout=30).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidValue(f"No page answers at {url}: {error}.", "Start one: python app.py") from None


class Chromium:
    """A browser; use it as a context."""

    def __enter__(self) -> Chromium:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            path = None
        if path is None:
            raise Unsupported("The page needs a browser to be measured.", "Install Chromium, and `playwright` by pip.")
        self._playwright = sync_playwright().start()
        self.browser = self._playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        return self

    def __exit__(self, *_: object) -> None:
        self.browser.close()
        self._playwright.stop()

    def page(self, **options: Any) -> Any:
        """A tab of a browser context of its own."""
        return self.browser.new_context(viewport={"width": 1280, "height": 800}, **options).new_page()


def _server(url: str) -> int | None:
    """The process that serves the page; None where that is another machine's."""
    parts = urlsplit(url)
    return listener(parts.port or 80) if parts.hostname in LOCAL else None


def _takes(chromium: Chromium, link: str, takes: int, rng: random.Random) -> dict[str, Any]:
    times: dict[str, list[float]] = {"open": [], "paint": [], "first": [], "key": [], "drag": []}
    lost = exact = done = short = 0
    while done < takes:
        page = chromium.page()
        found = _take(page, link, rng)
        page.context.close()
        if found is None:
            short += 1
            if short > takes:
                raise Unsupported("Texts end before a hand has moved as often.", "Run it on an idle machine.")
            continue
        done, lost, exact = done + 1, lost + found.lost, exact + found.exact
        for name, own in found.times.items():
            times[name] += own
    moves = {kind: len(times[kind]) for kind in ("key", "drag")}
    figures = {name: [round(one, 1) for one in p50_p95(own, 1.0)] for name, own in times.items()}
    within = lost == 0 and max(figures["key"][1], figures["drag"][1]) < BAR
    return figures | {"takes": takes, "short": short, "moves": moves, "lost": lost, "exact": exact, "within": within}


@dataclass(frozen=True)
class _Take:
    """What one text gave; see `bench_page`."""

    times: dict[str, list[float]]
    lost: int
    exact: bool


def _take(page: Any, link: str, rng: random.Random) -> _Take | None:
    """One text, steered by keys and by a drag; None where it ended by itself before the hand was done."""
    page.goto(link)
    page.wait_for_selector("html[data-opened] .fader")
    opened = page.evaluate("[performance.now(), performance.getEntriesByName('first-contentful-paint')[0].startTime]")
    page.wait_for_timeout(700)
    page.evaluate(WATCH)
    page.click("#generate")
    page.wait_for_function("timed.first !== null || timed.error")
    if error := page.evaluate("timed.error"):
        raise Unsupported(f"The page answered: {error}", "Open it, and press Generate.")
    times, lost = {"open": opened[:1], "paint": opened[1:], "first": [page.evaluate("timed.first")]}, 0
    for kind, move in (("key", _keys), ("drag", _drag)):
        page.evaluate("timed.moves = []")
        move(page, rng)
        lost += _settled(page)
        times[kind] = page.evaluate("timed.moves")
    if page.evaluate("document.documentElement.dataset.desk") != "running":
        return None
    exact = _ends_where_the_deck_stands(page)
    page.click("#stop")
    page.wait_for_function("document.documentElement.dataset.desk !== 'running'")
    return _Take(times, lost, exact)


def _keys(page: Any, rng: random.Random) -> None:
    page.locator(".fader").first.focus()
    for move in range(KEYS):
        page.keyboard.press("ArrowRight" if move % 3 else "ArrowLeft")
        page.wait_for_timeout(rng.uniform(150, 250))


def _drag(page: Any, rng: random.Random) -> None:
    """To and fro, and to an end that is not the middle."""
    box = page.locator(".fader").first.bounding_box()
    middle = box["y"] + box["height"] / 2

    def x(at: float) -> float:
        return box["x"] + box["width"] * at

    at = 0.5
    page.mouse.move(x(at), middle)
    page.mouse.down()
    for _ in range(DRAG - 1):
        at = min(0.95, max(0.05, at + rng.uniform(-0.15, 0.15)))
        page.mouse.move(x(at), middle)
        page.wait_for_timeout(12)
    page.mouse.move(x(rng.choice([0.1, 0.2, 0.8, 0.9]) + rng.uniform(-0.05, 0.05)), middle)
    page.mouse.up()


def _settled(page: Any, patience: int = 5000) -> int:
    """Wait until text was painted under every move; how many are left without."""
    page.wait_for_timeout(100)  # the throttle's last move goes out
    end = patience
    running = "document.documentElement.dataset.desk === 'running'"
    while (left := page.evaluate("timed.waiting")) and end > 0 and page.evaluate(running):
        page.wait_for_timeout(50)
        end -= 50
    return left


def _ends_where_the_deck_stands(page: Any) -> bool:
    """Whether the last text was written under the newest move, and both stand where the slider does."""
    fader = page.locator(".fader").first
    name, value = fader.get_attribute("data-name"), float(fader.input_value())
    timed = page.evaluate("({last: timed.last, asked: timed.asked})")
    label = f"{name} {value:+.2f}".replace("-", "−")
    return (
        timed["last"] == {"seq": timed["asked"]["seq"], "label": label} and timed["asked"]["positions"][name] == value
    )
