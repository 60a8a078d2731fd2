"""What processes take of this machine, as Linux tells in /proc: processor seconds, memory, threads, open files.

Knows nothing of what runs in them. Other systems tell nothing here, and are answered with `Unsupported` or None.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mixer.errors import Unsupported

PROC = Path("/proc")
LISTENING = "0A"  # a socket's state in /proc/net/tcp


@dataclass(frozen=True)
class ProcessUsage:
    """What one process holds.

    Attributes:
        megabytes: of resident memory.
        threads, files: how many; files are all descriptors, sockets too.
    """

    megabytes: float
    threads: int
    files: int


def held(pid: int) -> ProcessUsage:
    """What a process holds now.

    Raises:
        Unsupported: this system does not say, or there is no such process.
    """
    try:
        lines = (PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines()
        entries = dict(line.split(":", 1) for line in lines if ":" in line)
        megabytes = int(entries["VmRSS"].split()[0]) * 1024 / 1e6
        return ProcessUsage(megabytes, int(entries["Threads"]), len(list((PROC / str(pid) / "fd").iterdir())))
    except (OSError, KeyError, ValueError):
        raise Unsupported(
            f"Nothing is to be known of a process {pid}.", "Give one of this user, on this machine, on Linux."
        ) from None


def listener(port: int) -> int | None:
    """The process of this machine that listens on a port; None where it is not to be found."""
    sockets = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / name).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for _, local, _, state, *rest in map(str.split, lines):
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{rest[5]}]")
    for folder in PROC.glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) in sockets for link in folder.iterdir()):
                return int(folder.parent.name)
        except OSError:
            continue  # another user's, or gone
    return None


def family(*pids: int) -> set[int]:
    """These processes and all below them."""
    parents = {}
    for folder in PROC.glob("[0-9]*"):
        if (fields := _stat(int(folder.name))) is not None:
            parents[int(folder.name)] = int(fields[1])
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def seconds(pids: set[int]) -> float:
    """Processor seconds that these processes took, and those of their children that have ended."""
    return sum(sum(map(int, fields[11:15])) for pid in pids if (fields := _stat(pid)) is not None) / _ticks()


def busy() -> float:
    """Seconds that all processors have worked, or were taken away by a hypervisor; 0 where the system does not say."""
    try:
        user, nice, system, _, _, irq, softirq, steal, *_ = (PROC / "stat").read_text("ascii").split()[1:11]
    except (OSError, ValueError):
        return 0.0
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / _ticks()


class Share:
    """What share of the processors other programs took while processes of ours worked.

    Args:
        pids: of ours, with all below them; this very process is one of them.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = {os.getpid(), *pids}
        self._seen: dict[int, float] = {}
        self._all, self._clock = busy(), os.times().elapsed
        self._own = self._sum()

    def of_others(self) -> float:
        """Since this was made; 0 where the system does not say."""
        elapsed = os.times().elapsed - self._clock
        others = busy() - self._all - (self._sum() - self._own)
        return max(0.0, others / elapsed / (os.cpu_count() or 1)) if elapsed else 0.0

    def _sum(self) -> float:
        # Who was seen once counts as it was seen last: a child that ends is not always inherited by its parent's sum.
        for pid in family(*self._pids):
            self._seen[pid] = max(self._seen.get(pid, 0.0), seconds({pid}))
        return sum(self._seen.values())


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name; None where there is no such process."""
    try:
        return (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")
