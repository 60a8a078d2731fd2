"""How fast the page answers under a real hand: a running page, a real Chromium, times taken inside the page.

    python -m mixer.evals.page http://127.0.0.1:7860

Needs `playwright` and a Chromium on the machine. Knows the page by its element ids and events alone.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from typing import Any

FLAGS = ("--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update")

# Notes when a move left the deck's sliders and when the first text written under it was painted.
WATCH = """() => {
    const moved = new Map();
    window.timed = {latencies: [], frames: 0, first: null, clicked: null};
    document.querySelector("#generate").addEventListener("pointerdown", () => {
        timed.clicked = performance.now(); timed.first = null; timed.frames = 0; moved.clear();
    }, true);
    document.addEventListener("input", () => { window.pending ??= performance.now(); }, true);
    document.addEventListener("desk:steer", (event) => {
        moved.set(event.detail.seq, window.pending ?? performance.now()); window.pending = null;
    });
    document.addEventListener("desk:frame", (event) => {
        const {seq, mix, state} = event.detail;
        if (state === "error" || !mix.length) return;
        timed.frames += 1;
        requestAnimationFrame(() => {
            const now = performance.now();
            timed.first ??= now - timed.clicked;
            for (const [move, at] of moved) if (move <= seq) {
                if (move === seq) timed.latencies.push(now - at);
                moved.delete(move);
            }
        });
    });
}"""


def measure(url: str, takes: int = 20, moves: int = 12) -> dict[str, Any]:
    """Figures of the page at `url`, all in milliseconds.

    Returns:
        load_ms: from opening the page to a deck that can be moved; first_token_ms: median from the press of Generate
        to painted text; steer_p50_ms, steer_p95_ms: from the browser's input event on a slider to painted text that
        was written under the new mix; moves: how many were timed.
    """
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.wait_for_selector(".fader")
        load = page.evaluate("performance.now()")
        page.wait_for_timeout(700)
        page.evaluate(WATCH)
        page.get_by_role("button", name="Options").click()
        page.wait_for_timeout(700)
        page.locator("#tokens input[type=number]").fill("400")
        page.get_by_role("button", name="Options").click()
        latencies: list[float] = []
        first: list[float] = []
        for _ in range(takes):
            page.click("#generate")
            page.wait_for_function("timed.first !== null")
            fader = page.locator(".fader").first
            fader.focus()
            for move in range(moves):
                page.keyboard.press("ArrowRight" if move % 2 else "ArrowLeft")
                page.wait_for_timeout(170 + 13 * (move % 7))
            timed = page.evaluate("timed")
            first.append(timed["first"])
            latencies = timed["latencies"]
            page.click("#stop")
            page.wait_for_function("document.documentElement.dataset.desk !== 'running'")
        browser.close()
    cuts = statistics.quantiles(latencies, n=20, method="inclusive")
    return {
        "load_ms": round(load),
        "first_token_ms": round(statistics.median(first)),
        "steer_p50_ms": round(statistics.median(latencies)),
        "steer_p95_ms": round(cuts[18]),
        "moves": len(latencies),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
