"""The shipped desk for the page's tests; MIXER_BASE and MIXER_ANCHORS name another one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from mixer import Desk

T = TypeVar("T")


@pytest.fixture(scope="session")
def desk() -> Desk:
    return Desk.load(os.environ.get("MIXER_BASE"), anchors=os.environ.get("MIXER_ANCHORS"), strict=False)


def in_loop(make: Callable[[], T]) -> T:
    """`make()` inside a running event loop: outside of one, Gradio opens new loops and never closes them.

    In a thread of its own, since a browser may have left a loop running in this one.
    """

    async def run() -> T:
        return make()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(run())).result()
