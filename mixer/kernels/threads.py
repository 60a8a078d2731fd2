"""Threads that share the work of one compiled function: the caller's thread and helpers.

A call is a sequence of phases, each cut into parts. A free thread takes the next part, and waits only until all parts
of earlier phases are done. A helper that sleeps, or that the system does not run, holds no part: nobody waits for it,
and the caller alone can finish the call. Helpers stay awake for a moment after a call, since the next token's call
comes soon.

Knows nothing of what the parts compute.
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

# Indices of the shared counters in `signals`, 64 bytes apart, one cache line each. Parts have numbers that go on from
# call to call. NEXT: the next part to take. DONE: how many are done. START, END: the first part of the present call,
# and the number after its last. LEAVE: whether helpers are to return.
NEXT, DONE, START, END, LEAVE = 0, 8, 16, 24, 32
SIGNALS = 40  # the length of `signals`
SLEEP_AFTER = 20_000  # polls until a helper goes to sleep: 0.5 ms, or more where processors pause for longer
YIELD_AFTER = 2_000  # polls for unfinished parts until the thread yields its processor

_X86 = llvm.get_process_triple().startswith("x86_64")
_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def _add(typing, array, index, value):
    """Add atomically; returns the new value."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        before = builder.atomic_rmw("add", builder.gep(data, [arguments[1]]), arguments[2], "seq_cst")
        return builder.add(before, arguments[2])

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def _swap(typing, array, index, expected, value):
    """Write a value atomically if the expected one is there; returns whether it was."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        return builder.extract_value(builder.cmpxchg(place, arguments[2], arguments[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(array, types.int64, types.int64, types.int64), generate


@intrinsic
def _load(typing, array, index):
    """Read atomically."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "seq_cst", 8)

    return types.int64(array, types.int64), generate


@intrinsic
def _pause(typing):
    """Tell the processor that this loop waits."""

    def generate(context, builder, signature, arguments):
        if _X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@inner
def open_call(signals, parts):
    """Open a call of so many parts; returns the number of its first part."""
    start = _load(signals, END)
    signals[START] = start
    _add(signals, END, parts)
    return start


@inner
def current_call(signals):
    """Number of the first part of the present call, and the number after its last."""
    end = _load(signals, END)
    return _load(signals, START), end


@inner
def is_open(signals, end):
    """Whether the call that ends at `end` has parts left to take: then its arguments cannot have changed yet."""
    return _load(signals, END) == end and _load(signals, NEXT) < end


@inner
def wait_until_done(signals, number):
    """Return when all parts before `number` are done."""
    polls = 0
    while _load(signals, DONE) < number:
        _pause()
        polls += 1
        if polls > YIELD_AFTER:
            _yield()


@inner
def take_part(signals, first, count):
    """Take a part of the phase `first` to `first + count`, once all earlier parts are done; -1 when none is left."""
    while True:
        number = _load(signals, NEXT)
        if number >= first + count:
            return -1
        if _swap(signals, NEXT, number, number + 1):
            wait_until_done(signals, first)
            return number - first


@inner
def finish_part(signals):
    """Count a part as done."""
    _add(signals, DONE, 1)


@inner
def await_call(signals):
    """Wait for parts to take; False after `SLEEP_AFTER` polls, or where helpers are to return."""
    for _ in range(SLEEP_AFTER):
        if _load(signals, LEAVE):
            return False
        if _load(signals, NEXT) < _load(signals, END):
            return True
        _pause()
    return False


class _TeamState:
    """What helpers refer to. It does not refer to the team, which can be garbage collected while helpers live."""

    def __init__(self, threads: int) -> None:
        self.lock = threading.Lock()
        self.signals = np.zeros(SIGNALS, np.int64)
        self.wakes = [threading.Event() for _ in range(threads - 1)]
        self.arguments: tuple | None = None
        self.running = 0
        self.closed = False

    def close(self) -> None:
        self.closed, self.arguments = True, None
        self.signals[LEAVE] = 1
        for wake in self.wakes:
            wake.set()


class ThreadTeam:
    """Threads that work on the same arrays.

    Args:
        threads: how many, the caller's included.
        run: called as `run(signals, helping, *arguments)`. The caller of `ThreadTeam.run` opens a call with it, and it
            returns when the call is done; helpers take parts of all calls with it, until none comes for a while.
    """

    def __init__(self, threads: int, run: Callable[..., None]) -> None:
        self._run = run
        self._shared = _TeamState(threads)
        for wake in self._shared.wakes:
            threading.Thread(target=_helper, args=(self._shared, wake, run), daemon=True).start()
        weakref.finalize(self, self._shared.close)

    def run(self, arguments: tuple[Any, ...]) -> None:
        """Make one call; one caller at a time. Helpers know the arrays by the tuple: the same one, the same arrays."""
        shared = self._shared
        if shared.arguments is not arguments:
            self._hand_out(arguments)
        for wake in shared.wakes:
            wake.set()
        self._run(shared.signals, False, *arguments)

    def release(self) -> None:
        """Refer to no arrays until the next call."""
        self._hand_out(None)

    def _hand_out(self, arguments: tuple[Any, ...] | None) -> None:
        """Wait until no helper uses its arrays, then give all helpers these."""
        shared = self._shared
        shared.signals[LEAVE] = 1
        while True:
            with shared.lock:
                if shared.running == 0:
                    shared.arguments = arguments
                    break
            time.sleep(0)
        shared.signals[LEAVE] = 0


def _helper(shared: _TeamState, wake: threading.Event, run: Callable[..., None]) -> None:
    while True:
        wake.wait()
        wake.clear()
        with shared.lock:
            if shared.closed:
                return
            arguments = shared.arguments
            shared.running += 1
        try:
            if arguments is not None:
                run(shared.signals, True, *arguments)
        finally:
            del arguments
            with shared.lock:
                shared.running -= 1
