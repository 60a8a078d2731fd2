"""A long trial of the page: several browsers use it without a pause, and what server and browser hold is watched.

    python -m mixer bench soak --minutes 30

Serves the page itself, so that it can also ask what texts and rows the server has in hand; or takes a page that runs
already, and reads of it what the system tells.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bench.harness.processes import listener, usage_of
from bench.harness.random_user import RandomUser
from bench.harness.tables import markdown
from bench.page import LOCAL, Chromium, answered
from mixer.errors import InvalidValue, Unsupported

EVERY = 20.0  # seconds between two samples
STRETCHES = 10  # of the samples, see `growth`
WARM = 0.25  # share of the trial that is not counted: caches fill, and memory finds its size
CALM = 60.0  # seconds that the server has to come to rest in, after the last tab was closed
GROWTH = 60.0  # megabytes an hour that a server may grow by in a trial, as much as half an hour's noise comes to
SERVER = [sys.executable, "-m", "bench.harness.page_server"]
GRADIO = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_ANALYTICS_MAX_EVENTS": "100"}  # as app.py has it
FIGURES = {
    "megabytes": "the server's memory, MB",
    "threads": "its threads",
    "files": "its open files",
    "objects": "its Python objects",
    "heap_mb": "scripts' memory in a page that stays, MB",
    "nodes": "its nodes",
    "listeners": "its listeners",
}


class Server:
    """The page to be tried: one that is started here and answers questions, or a running one; use it as a context.

    Attributes:
        url, pid: where and what it is.
    """

    def __init__(self, url: str | None = None, pid: int | None = None) -> None:
        self._child: subprocess.Popen[str] | None = None
        if url is None:
            threads = str(max(1, (os.cpu_count() or 2) - 1))  # likewise
            environment = {"OMP_NUM_THREADS": threads} | GRADIO | os.environ
            self._child = subprocess.Popen(
                SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            self.url, self.pid = str(self._read()["url"]), self._child.pid
            return
        answered(url)
        parts = urlsplit(url)
        found = pid or (listener(parts.port or 80) if parts.hostname in LOCAL else None)
        if found is None:
            raise InvalidValue(f"No process of this machine serves {url}.", "Give its number: --pid.")
        self.url, self.pid = url, found

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
            try:
                self._child.wait(30)
            except subprocess.TimeoutExpired:
                self._child.kill()

    def sample(self) -> dict[str, float]:
        """What it holds now."""
        return asdict(usage_of(self.pid)) | self.ask()

    def ask(self) -> dict[str, float]:
        """What it says itself; nothing if it was not started here."""
        if self._child is None or self._child.stdin is None:
            return {}
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        """Its next answer; other libraries write there too."""
        assert self._child is not None and self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise Unsupported("The server ended by itself.", "Look at what it wrote above.")


def bench_soak(
    url: str | None = None, minutes: float = 30, pages: int = 4, pid: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Use the page that long, in so many tabs at once, of which one stays open all the while.

    Args:
        url: of a running page; one is served for the trial if None. pid: its process, where it is not to be found.

    Returns:
        an_hour: by how much each figure grew in an hour, after the first quarter. first, last: the figures then and at
        the end. rest: what the server still had in hand after all tabs were closed. trouble: what went wrong, and how
        often. did: how often each thing was done. samples: all of them. sound: whether nothing went wrong, nothing was
        left, and the server's memory stayed.

    Raises:
        InvalidValue: a number is out of range, or there is no such page. Unsupported: there is no browser.
    """
    if minutes <= 0 or pages < 1:
        raise InvalidValue(f"{minutes} minutes in {pages} tabs are no trial.", "Give more than none of both.")
    rng = random.Random(seed)
    with ExitStack() as stack:
        server = stack.enter_context(Server(url, pid))
        chromium = stack.enter_context(Chromium())
        users = [RandomUser(chromium.browser, server.url, rng, stays=number == 0) for number in range(pages)]
        begin, samples = time.monotonic(), []
        while (now := time.monotonic() - begin) < 60 * minutes:
            if now >= len(samples) * EVERY:
                samples.append({"seconds": now} | server.sample() | users[0].metrics())
                _show(samples[-1], users)
            rng.choice(users).act()
        for user in users:
            user.leave()
        rest = _rest(server)
    trouble = Counter(text for user in users for text in user.problems)
    warm = [sample for sample in samples if sample["seconds"] >= WARM * 60 * minutes]
    an_hour = {name: growth(warm, name) for name in FIGURES if name in samples[0]}
    left = any(rest.get(name) for name in ("sessions", "busy", "rows"))
    return {
        "minutes": minutes,
        "pages": pages,
        "an_hour": an_hour,
        "first": warm[0] if warm else {},
        "last": samples[-1],
        "rest": rest,
        "trouble": dict(trouble.most_common()),
        "did": dict(sum((Counter(user.actions) for user in users), Counter())),
        "samples": samples,
        "sound": not trouble and not left and an_hour["megabytes"] < GROWTH,
    }


def growth(samples: Sequence[dict[str, float]], name: str) -> float:
    """By how much a figure grows in an hour: the slope of the line nearest to its least values, one of each stretch.

    Texts under way and garbage not yet collected come and go; what is never given back raises the least values too.
    """
    stretches = min(STRETCHES, len(samples) // 5)
    if stretches < 3:
        return 0.0
    least = []
    for part in range(stretches):
        own = samples[part * len(samples) // stretches : (part + 1) * len(samples) // stretches]
        least.append(min(own, key=lambda sample: sample[name]))
    hours = [sample["seconds"] / 3600 for sample in least]
    return float(np.polyfit(hours, [sample[name] for sample in least], 1)[0])


def table(report: dict[str, Any]) -> str:
    """The report in markdown."""
    rows = [
        (text, float(report["first"][name]), float(report["last"][name]), float(report["an_hour"][name]))
        for name, text in FIGURES.items()
        if name in report["an_hour"]
    ]
    head = (f"{report['minutes']:g} minutes in {report['pages']} tabs", "warm", "at the end", "more in an hour")
    lines = [markdown(head, rows), ""]
    lines.append(f"{sum(report['did'].values())} things done: {_listed(report['did'])}.")
    lines.append(f"After the last tab: {_listed(report['rest'])}.")
    lines += [f"{times} times: {text}" for text, times in report["trouble"].items()]
    lines.append("Sound." if report["sound"] else "Not sound.")
    return "\n".join(lines)


def _rest(server: Server) -> dict[str, float]:
    """What the server has in hand once all have left, as soon as that is nothing, or when it had time enough."""
    end = time.monotonic() + CALM
    while any((rest := server.ask()).get(name) for name in ("sessions", "busy", "rows")) and time.monotonic() < end:
        time.sleep(1)
    return server.sample() | rest


def _show(sample: dict[str, float], users: Sequence[RandomUser]) -> None:
    """A line on stderr."""
    figures = ", ".join(f"{name} {value:.0f}" for name, value in sample.items())
    print(f"{figures}, trouble {sum(len(user.problems) for user in users)}", file=sys.stderr, flush=True)


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in figures.items())
