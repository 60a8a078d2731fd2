"""What this program asks of its own process: how malloc keeps memory, and that other libraries stay quiet."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from contextlib import suppress

LARGE = 4 << 20  # bytes of an array that goes back to the system at once
M_MMAP_THRESHOLD = -3  # glibc's malloc.h
# glibc returns large blocks to the system, and the page faults of taking them back cost most of a training step.
KEEP_PAGES = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "500000000",
}


def keep_pages() -> None:
    """Restart this program under settings that keep large blocks; nothing where they are set, or not on Linux."""
    if sys.platform == "linux" and any(os.environ.get(name) != value for name, value in KEEP_PAGES.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | KEEP_PAGES)


def quiet_libraries() -> None:
    """No bars and notes of other libraries between ours."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def give_back_memory() -> None:
    """Have large arrays go back to the system as soon as they are let go; before the first of them is made.

    glibc puts off doing so once it saw one go, and keeps what each thread let go of apart: rooms for texts, made and
    let go by a server's many threads, came to hundreds of megabytes. Other systems stay as they are.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def prepare_page() -> None:
    """Settings of the environment for a process that serves the page; before Gradio or torch are imported."""
    settings = os.environ.setdefault
    settings("GRADIO_ANALYTICS_ENABLED", "False")  # the page asks no other machine for anything
    settings("HF_HUB_DISABLE_TELEMETRY", "1")
    settings("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # Gradio goes over all that it remembers after every run
    # One core stays free for the server and the browser. With all cores in the model's threads, a slider waits for a
    # core, and threads that wait for one another on a busy machine write a hundred times slower.
    settings("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
    # On a ZeroGPU Space this process has no GPU, and forks others that do (see mixer/ui/live/zero_gpu.py).
    if os.environ.get("SPACES_ZERO_GPU"):
        settings("HF_DEACTIVATE_ASYNC_LOAD", "1")  # what `spaces` makes of torch holds in this thread alone
        import spaces  # noqa: F401  # pyright: ignore[reportMissingImports]  (a Space has it)
