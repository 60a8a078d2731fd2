"""A team of threads that share the work of one compiled function: the caller, and helpers that lend a hand.

A call is a row of phases, each cut into parts; whoever is free takes the next part, and waits only for the parts of
earlier phases. A helper that sleeps or was put aside by the system holds no part, so nobody waits for it: the caller
alone gets everything done. Helpers stay awake for a moment after a call, since the next token's comes soon.

Knows nothing of what the parts are.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from mixer.kernels.simd import inner, intrinsic

# Places in `signals`, 64 bytes apart. Parts are numbered through all calls: the next to take, how many are done, the
# first of the present call, the end of the present call; and whether helpers are to leave.
NEXT, DONE, START, END, LEAVE = 0, 8, 16, 24, 32
PLACES = 40
PATIENCE = 20_000  # looks before a helper goes to sleep: 0.5 ms, or more where processors pause for longer
POLITE = 2_000  # looks at unfinished work before the processor is offered to others

_X86 = llvm.get_process_triple().startswith("x86_64")
_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def _add(typing, array, index, value):
    """Atomic addition; the new value."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        before = builder.atomic_rmw("add", builder.gep(data, [arguments[1]]), arguments[2], "seq_cst")
        return builder.add(before, arguments[2])

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def _swap(typing, array, index, expected, value):
    """Atomically write a value where another is expected; whether it was there."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        return builder.extract_value(builder.cmpxchg(place, arguments[2], arguments[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(array, types.int64, types.int64, types.int64), generate


@intrinsic
def _load(typing, array, index):
    """Atomic read."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "seq_cst", 8)

    return types.int64(array, types.int64), generate


@intrinsic
def _pause(typing):
    """Tell the processor that this is a waiting loop."""

    def generate(context, builder, signature, arguments):
        if _X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@inner
def begin(signals, parts):
    """Open a call of so many parts; its first number."""
    start = _load(signals, END)
    signals[START] = start
    _add(signals, END, parts)
    return start


@inner
def current(signals):
    """First number and end of the present call."""
    end = _load(signals, END)
    return _load(signals, START), end


@inner
def still(signals, end):
    """Whether the call that ends there has parts to take, so that nothing of it can have changed yet."""
    return _load(signals, END) == end and _load(signals, NEXT) < end


@inner
def wait_until_done(signals, number):
    """Return when all parts before `number` are done."""
    looks = 0
    while _load(signals, DONE) < number:
        _pause()
        looks += 1
        if looks > POLITE:
            _yield()


@inner
def take(signals, first, count):
    """A part of the phase `first` to `first + count` whose turn has come; -1 when all are taken."""
    while True:
        number = _load(signals, NEXT)
        if number >= first + count:
            return -1
        if _swap(signals, NEXT, number, number + 1):
            wait_until_done(signals, first)
            return number - first


@inner
def finish(signals):
    """Say that a part is done."""
    _add(signals, DONE, 1)


@inner
def await_call(signals):
    """Whether there are parts to take, within a helper's patience."""
    for _ in range(PATIENCE):
        if _load(signals, LEAVE):
            return False
        if _load(signals, NEXT) < _load(signals, END):
            return True
        _pause()
    return False


class _Shared:
    """What helpers hold on to: not the team itself, so that it can go."""

    def __init__(self, threads: int) -> None:
        self.lock = threading.Lock()
        self.signals = np.zeros(PLACES, np.int64)
        self.wakes = [threading.Event() for _ in range(threads - 1)]
        self.arguments: tuple | None = None
        self.inside = 0
        self.closed = False

    def close(self) -> None:
        self.closed, self.arguments = True, None
        self.signals[LEAVE] = 1
        for wake in self.wakes:
            wake.set()


class ThreadTeam:
    """Threads that work on the same arrays.

    Args:
        threads: how many, the caller included.
        run: called as `run(signals, helping, *arguments)`: by the caller of `ThreadTeam.run` to make a call and see it
            through, by helpers to work at every call that is made until none comes for a while.
    """

    def __init__(self, threads: int, run: Callable[..., None]) -> None:
        self._run = run
        self._shared = _Shared(threads)
        for wake in self._shared.wakes:
            threading.Thread(target=_help, args=(self._shared, wake, run), daemon=True).start()
        weakref.finalize(self, self._shared.close)

    def run(self, arguments: tuple[Any, ...]) -> None:
        """Run once; one caller at a time. The same tuple as before means the same arrays."""
        shared = self._shared
        if shared.arguments is not arguments:
            self._hand_out(arguments)
        for wake in shared.wakes:
            wake.set()
        self._run(shared.signals, False, *arguments)

    def let_go(self) -> None:
        """Hold on to no arrays until the next call."""
        self._hand_out(None)

    def _hand_out(self, arguments: tuple[Any, ...] | None) -> None:
        """Call the helpers out of the arrays they know, and give them others."""
        shared = self._shared
        shared.signals[LEAVE] = 1
        while True:
            with shared.lock:
                if shared.inside == 0:
                    shared.arguments = arguments
                    break
            time.sleep(0)
        shared.signals[LEAVE] = 0


def _help(shared: _Shared, wake: threading.Event, run: Callable[..., None]) -> None:
    while True:
        wake.wait()
        wake.clear()
        with shared.lock:
            if shared.closed:
                return
            arguments = shared.arguments
            shared.inside += 1
        try:
            if arguments is not None:
                run(shared.signals, True, *arguments)
        finally:
            del arguments
            with shared.lock:
                shared.inside -= 1
