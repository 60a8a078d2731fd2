"""What processes use of this machine: CPU seconds, memory, threads, open files. Read through psutil.

Knows nothing of what runs in the processes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

from mixer.errors import Unsupported

QUIET = 0.05  # share of the CPU time that other programs may use during a measurement


@dataclass(frozen=True)
class ProcessUsage:
    """What one process holds.

    Attributes:
        megabytes: resident memory, in units of 10^6 bytes.
        threads, files: counts; files are all open descriptors, sockets included.
    """

    megabytes: float
    threads: int
    files: int


def usage_of(pid: int) -> ProcessUsage:
    """What a process holds now.

    Raises:
        Unsupported: there is no such process, or it belongs to another user.
    """
    try:
        process = psutil.Process(pid)
        return ProcessUsage(process.memory_info().rss / 1e6, process.num_threads(), process.num_fds())
    except psutil.Error:
        raise Unsupported(
            f"The memory of process {pid} cannot be read.", "Give a process of this user on this machine."
        ) from None


def resident_bytes() -> int:
    """Resident memory of this process, in bytes."""
    return psutil.Process().memory_info().rss


def listener(port: int) -> int | None:
    """The process of this machine that listens on a TCP port; None if it is not found."""
    for process in psutil.process_iter():
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:  # of another user, or it has ended
            continue
        if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections):
            return process.pid
    return None


def family(*pids: int) -> set[int]:
    """These processes and all their descendants."""
    found = set(pids)
    for pid in pids:
        try:
            found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        except psutil.Error:
            continue
    return found


def cpu_seconds(pids: set[int]) -> float:
    """CPU seconds of these processes, and of their children that have ended."""
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def busy_seconds() -> float:
    """Seconds that all CPUs together have worked since the start of the system; time a hypervisor took counts."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


class OtherPrograms:
    """Measures how much CPU time programs other than ours use, from its creation on.

    Args:
        pids: our processes, beside this one; their descendants are ours too.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = {os.getpid(), *pids}
        self._seen: dict[int, float] = {}
        self._busy, self._begin = busy_seconds(), time.monotonic()
        self._own = self._own_total()

    def own_seconds(self) -> float:
        """CPU seconds of our processes so far."""
        return self._own_total() - self._own

    def share(self) -> float:
        """The share of the CPU time of this machine that other programs have used so far, from 0."""
        elapsed = time.monotonic() - self._begin
        others = busy_seconds() - self._busy - self.own_seconds()
        return max(0.0, others / elapsed / (os.cpu_count() or 1)) if elapsed else 0.0

    def _own_total(self) -> float:
        # A process keeps its last value after its end, because its parent does not always inherit it.
        for pid in family(*self._pids):
            self._seen[pid] = max(self._seen.get(pid, 0.0), cpu_seconds({pid}))
        return sum(self._seen.values())


def other_programs_lines(share: float) -> list[str]:
    """What a report says about the share of other programs."""
    lines = [f"Other programs took {100 * share:.0f} % of the processors."]
    if share > QUIET:
        lines.append("That is too much: run it again on an idle machine.")
    return lines
