"""Vector products with a fixed order of summation, as LLVM instructions for numba. Knows nothing of models.

Weights are in panels of 64 outputs, `(panels, depth, 64)`. A product walks the depth once and keeps 64 sums in
registers, one lane an output, so that no sum depends on what else is computed. bfloat16 weights are uint16 arrays,
widened to float32 as they are loaded; sums are float32. A long sum is cut into stretches of 64 terms. Offsets and
strides count elements from an array's start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import caching, cgutils

LANES, PANEL, STRETCH = 16, 64, 64  # numbers in a register, outputs in a panel, terms in a stretch
# How many weights ahead to prefetch where several rows share a walk: without it a step of 8 rows took a sixth longer.
PREFETCH_AHEAD = STRETCH * PANEL
VECTORS = PANEL // LANES
# Rows that share one walk over a panel: as many as the registers hold. It changes the speed and no result.
ROW_BLOCK = 4 if llvm.get_host_cpu_features().get("avx512f") else 1

SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()

F32, I64, I32, I16 = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(16)
VECTOR = ir.VectorType(F32, LANES)
ZERO = ir.Constant(VECTOR, [0.0] * LANES)


# numba's decorators change signatures in ways that type checkers do not follow, hence Any. `inner` functions are called
# by compiled code alone: without wrappers for Python and C they compile a fifth faster.
intrinsic: Any = extending.intrinsic
inner: Any = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # pyright: ignore


class _KernelCache(caching.FunctionCache):
    """Compiled code on disk, valid until any file of this folder changes.

    numba's own cache looks only at the file of the function itself. And it fails where the index on disk cannot be
    read: here such an index counts as empty, and the next `save` replaces it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = SOURCES

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            self.flush()
            return None


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, on its first call, and cache the code on disk."""
    compiled: Any = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)  # pyright: ignore
    compiled._cache = _KernelCache(function)
    return compiled


class _Emitter:
    """Emits the instructions that all products need."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self._fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fma.v{LANES}f32"
        )

    def at(self, base: Any, elements: Any, kind: Any, size: int) -> Any:
        return self.builder.inttoptr(
            self.builder.add(base, self.builder.mul(elements, I64(size))), ir.PointerType(kind)
        )

    def weights(self, base: Any, elements: Any, half: bool) -> Any:
        """16 neighboring weights as float32."""
        if not half:
            return self.builder.load(self.at(base, elements, VECTOR, 4), align=4)
        short = self.builder.load(self.at(base, elements, ir.VectorType(I16, LANES), 2), align=2)
        wide = ir.VectorType(I32, LANES)
        shifted = self.builder.shl(self.builder.zext(short, wide), ir.Constant(wide, [16] * LANES))
        return self.builder.bitcast(shifted, VECTOR)

    def prefetch(self, base: Any, elements: Any, size: int) -> None:
        """Prefetch the weights of one step into the processor's cache."""
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(ir.IntType(8)), I32, I32, I32])
        ask = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        for line in range(0, PANEL * size, 64):
            place = self.at(base, self.builder.add(elements, I64(line // size)), ir.IntType(8), size)
            self.builder.call(ask, [place, I32(0), I32(2), I32(1)])

    def broadcast(self, scalar: Any) -> Any:
        undefined = ir.Constant(VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, I32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.call(self._fma, [a, b, c])

    def totals(self, vectors: list[Any]) -> list[Any]:
        """The sum of each vector's lanes, added by halves: l and l + 8, then 4, 2, 1 apart; 1, 4 or 16 vectors."""
        count, width = len(vectors), LANES  # `width` lanes belong to one sum
        while width > 1:
            width //= 2
            starts = range(0, LANES, 2 * width)
            # Two vectors become one as long as there are two; after that, some lanes are unused.
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True)) if len(vectors) > 1 else [(vectors[0],) * 2]
            halves = []
            for half in (0, width):
                lanes = [start + half + lane + own for own in (0, LANES) for start in starts for lane in range(width)]
                kind = ir.VectorType(I32, LANES)
                halves.append([self.builder.shuffle_vector(a, b, ir.Constant(kind, lanes)) for a, b in pairs])
            vectors = [self.builder.fadd(low, high) for low, high in zip(*halves, strict=True)]
        return [self.builder.extract_element(vectors[0], I32(i)) for i in range(count)]

    def loop(self, count: Any, step: int, start: list[Any], body: Any) -> list[Any]:
        """`values = body(i, values)` for i in range(0, count, step), at least once; returns the last values."""
        builder = self.builder
        before, inside, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(inside)
        builder.position_at_end(inside)
        i = builder.phi(I64)
        i.add_incoming(I64(0), before)
        values = []
        for first in start:
            value = builder.phi(first.type)
            value.add_incoming(first, before)
            values.append(value)
        results = body(i, values)
        following = builder.add(i, I64(step))
        i.add_incoming(following, builder.block)
        for value, result in zip(values, results, strict=True):
            value.add_incoming(result, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
        builder.position_at_end(after)
        return results


def _kernel(name: str, body: Any):
    """A function for compiled code, called as `(out, out_at, out_stride, x, x_at, x_stride, w, w_at, depth)`.

    It is a machine function of its own, compiled once however often it is used.
    `body(code, half, to, out_stride, source, x_stride, weights, depth)` emits its instructions, for bfloat16 weights
    where `half` is true; `to`, `source` and `weights` are addresses.
    """

    def address(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, offset: Any) -> Any:
        data = context.make_array(kind)(context, builder, array).data
        return builder.add(builder.ptrtoint(data, I64), builder.mul(offset, I64(kind.dtype.bitwidth // 8)))

    @intrinsic
    def kernel(typing, out, out_at, out_stride, x, x_at, x_stride, w, w_at, depth):
        half = w.dtype == types.uint16

        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.VoidType(), [I64] * 6)
            function = cgutils.get_or_insert_function(builder.module, kind, f"mixer_{name}_{half}")
            if function.is_declaration:
                function.linkage = "linkonce_odr"
                function.attributes.add("noinline")
                own = ir.IRBuilder(function.append_basic_block())
                body(_Emitter(own), half, *function.args)
                own.ret_void()
            places = zip((out, x, w), arguments[::3], arguments[1::3], strict=True)
            to, source, weights = (address(context, builder, *place) for place in places)
            out_stride, x_stride, depth = arguments[2::3]
            builder.call(function, [to, out_stride, source, x_stride, weights, depth])
            return context.get_dummy_value()

        return types.void(out, *[types.int64] * 2, x, *[types.int64] * 2, w, *[types.int64] * 2), generate

    return kernel


def _product(rows: int, fresh: bool):
    """`out[m, :64] += x[m, :depth] @ w[:depth, :64]` for `rows` rows m; depth at least 1.

    Fresh sums begin at zero and are added to `out` at the end; others begin with `out`.
    """

    def body(code, half, to, out_stride, source, x_stride, panel, depth):
        builder = code.builder
        sums = [
            code.at(to, builder.add(builder.mul(out_stride, I64(m)), I64(v * LANES)), VECTOR, 4)
            for m in range(rows)
            for v in range(VECTORS)
        ]

        def walk(k, values):
            first = builder.mul(k, I64(PANEL))
            if rows > 1:
                code.prefetch(panel, builder.add(first, I64(PREFETCH_AHEAD)), 2 if half else 4)
            weights = [code.weights(panel, builder.add(first, I64(v * LANES)), half) for v in range(VECTORS)]
            results = []
            for m in range(rows):
                element = code.at(source, builder.add(builder.mul(x_stride, I64(m)), k), F32, 4)
                factor = code.broadcast(builder.load(element, align=4))
                results += [code.fma(factor, weights[v], values[m * VECTORS + v]) for v in range(VECTORS)]
            return results

        start = [ZERO if fresh else builder.load(pointer, align=4) for pointer in sums]
        for pointer, value in zip(sums, code.loop(depth, 1, start, walk), strict=True):
            total = builder.fadd(builder.load(pointer, align=4), value) if fresh else value
            builder.store(total, pointer, align=4)

    return _kernel(f"product_{rows}_{fresh}", body)


def _dot(rows: int, ranks: int):
    """`out[m, j] = x[m, :depth] @ w[j, :depth]`, rows m and ranks j: sums of 16 lanes, which are added by halves."""

    def body(code, half, to, out_stride, source, x_stride, weights, depth):
        builder = code.builder
        pairs = [(m, j) for m in range(rows) for j in range(ranks)]

        def walk(k, values):
            own = [code.weights(weights, builder.add(builder.mul(depth, I64(j)), k), half) for j in range(ranks)]
            inputs = [
                builder.load(code.at(source, builder.add(builder.mul(x_stride, I64(m)), k), VECTOR, 4), align=4)
                for m in range(rows)
            ]
            return [code.fma(inputs[m], own[j], value) for (m, j), value in zip(pairs, values, strict=True)]

        sums = code.loop(depth, LANES, [ZERO] * len(pairs), walk)
        for (m, j), total in zip(pairs, code.totals(sums), strict=True):
            place = code.at(to, builder.add(builder.mul(out_stride, I64(m)), I64(j)), F32, 4)
            builder.store(total, place, align=4)

    return _kernel(f"dot_{rows}_{ranks}", body)


_product_1, _product_block = _product(1, fresh=True), _product(ROW_BLOCK, fresh=True)
_accumulate_1, _accumulate_block = _product(1, fresh=False), _product(ROW_BLOCK, fresh=False)
_dot_1_1, _dot_1_4, _dot_4_1, _dot_4_4 = _dot(1, 1), _dot(1, 4), _dot(4, 1), _dot(4, 4)


@inner
def product(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth):
    """`out[m, :64] += x[m, :depth] @ w[:depth, :64]` for all `rows` rows m.

    Summed in stretches of 64 terms, so that rounding errors grow less with the depth.
    """
    for k in range(0, depth, STRETCH):
        part = min(STRETCH, depth - k)
        m = 0
        while m + ROW_BLOCK <= rows:
            to, source = out_at + m * out_stride, x_at + m * x_stride + k
            _product_block(out, to, out_stride, x, source, x_stride, w, w_at + k * PANEL, part)
            m += ROW_BLOCK
        while m < rows:
            to, source = out_at + m * out_stride, x_at + m * x_stride + k
            _product_1(out, to, out_stride, x, source, x_stride, w, w_at + k * PANEL, part)
            m += 1


@inner
def last_stretch(out, out_at, x, x_at, w, w_at, depth):
    """What `product` does with the last stretch of one row. Zeros in x, however many, change no bit of the sum."""
    _product_1(out, out_at, 0, x, x_at, 0, w, w_at, depth)


@inner
def accumulate(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth):
    """As `product`, but one long sum that begins with `out`: two calls for parts of the depth give the same bits."""
    m = 0
    while m + ROW_BLOCK <= rows:
        to, source = out_at + m * out_stride, x_at + m * x_stride
        _accumulate_block(out, to, out_stride, x, source, x_stride, w, w_at, depth)
        m += ROW_BLOCK
    while m < rows:
        _accumulate_1(out, out_at + m * out_stride, out_stride, x, x_at + m * x_stride, x_stride, w, w_at, depth)
        m += 1


@inner
def dots(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth, ranks):
    """`out[m, j] = x[m, :depth] @ w[j, :depth]` for all `rows` rows m and `ranks` rows j; depth a multiple of 16."""
    for j in range(0, ranks, 4):
        few = min(4, ranks - j)
        m = 0
        while m + 4 <= rows:
            to, source = out_at + m * out_stride + j, x_at + m * x_stride
            if few == 4:
                _dot_4_4(out, to, out_stride, x, source, x_stride, w, w_at + j * depth, depth)
            else:
                for i in range(few):
                    _dot_4_1(out, to + i, out_stride, x, source, x_stride, w, w_at + (j + i) * depth, depth)
            m += 4
        while m < rows:
            to, source = out_at + m * out_stride + j, x_at + m * x_stride
            if few == 4:
                _dot_1_4(out, to, out_stride, x, source, x_stride, w, w_at + j * depth, depth)
            else:
                for i in range(few):
                    _dot_1_1(out, to + i, out_stride, x, source, x_stride, w, w_at + (j + i) * depth, depth)
            m += 1


@intrinsic
def _as_float(typing, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], F32)

    return types.float32(types.int32), generate


ONE, HALF, LOG2E = np.float32(1.0), np.float32(0.5), np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LEAST, MOST = np.float32(-87.0), np.float32(88.0)
# Coefficients of the Taylor series of exp(r), from the seventh power down to the second; |r| <= ln(2) / 2.
TERMS = tuple(np.float32(1 / f) for f in (5040, 720, 120, 24, 6, 2))


@inner
def exp(x):
    """exp(x) in float32 to two units in the last place, in instructions that LLVM can compute in 16 lanes at once."""
    x = min(max(x, LEAST), MOST)
    whole = np.floor(x * LOG2E + HALF)
    rest = x - whole * LN2_HIGH - whole * LN2_LOW
    result = TERMS[0]
    result = result * rest + TERMS[1]
    result = result * rest + TERMS[2]
    result = result * rest + TERMS[3]
    result = result * rest + TERMS[4]
    result = result * rest + TERMS[5]
    result = result * rest * rest + rest + ONE
    return result * _as_float(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))
