"""What processes take, on real ones."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.harness.processes import OtherPrograms, busy_seconds, cpu_seconds, family, listener, usage_of
from mixer.errors import Unsupported

WORK = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass\nprint(flush=True); input()"


def worker() -> subprocess.Popen[str]:
    """A child that works for 0.4 seconds and then waits for its stdin to end."""
    child = subprocess.Popen(
        [sys.executable, "-c", WORK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_a_process_holds_what_it_took():
    before = usage_of(os.getpid())
    room = mmap.mmap(-1, 50_000_000)  # from the system itself: what a heap gives out may have been there before
    room.write(bytes(50_000_000))
    with Path(os.devnull).open(), socket.socket():
        now = usage_of(os.getpid())
    assert now.megabytes - before.megabytes > 40
    room.close()
    assert now.files == before.files + 2
    assert now.threads >= 1


def test_nothing_is_known_of_no_process():
    with pytest.raises(Unsupported, match="4194999"):
        usage_of(4_194_999)
    assert cpu_seconds({4_194_999}) == 0


def test_who_listens_is_found_by_the_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert listener(port) is None
        server.listen()
        assert listener(port) == os.getpid()


def test_work_of_ours_is_not_that_of_others():
    alone, everything, all_before = OtherPrograms(), OtherPrograms(), busy_seconds()
    with worker() as child:
        assert child.pid in family(os.getpid())
        assert 0.3 < cpu_seconds({child.pid}) < 2
        time.sleep(0.1)
        own = everything.own_seconds()
        child.communicate("\n")
    assert own > 0.3
    assert busy_seconds() - all_before > 0.3
    assert 0 <= alone.share() <= 1.1
    assert everything.own_seconds() >= own  # an ended child still counts
