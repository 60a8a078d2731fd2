"""Laws of the vector products: right within rounding, and the same bits however the rows and the sums are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from mixer.kernels import simd
from mixer.kernels.simd import LANES, PANEL, STRETCH

ROUNDING = 2.0**-24  # of one float32 operation, relative


# Only compiled code can call the products: these functions call them for Python.
@njit
def product(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth):
    simd.product(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth)


@njit
def accumulate(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth):
    simd.accumulate(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth)


@njit
def dots(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth, ranks):
    simd.dots(out, out_at, out_stride, x, x_at, x_stride, rows, w, w_at, depth, ranks)


@njit
def exp(x, out):
    for i in range(x.size):
        out[i] = simd.exp(x[i])


class Case:
    """Arrays that are larger than what a product works on: it begins at some offset, and there are gaps between rows.

    Args:
        width: outputs of a row.
        half: whether weights are bfloat16 as uint16.
    """

    def __init__(self, seed: int, rows: int, depth: int, width: int, half: bool) -> None:
        rng = np.random.default_rng(seed)
        self.rows, self.depth, self.width = rows, depth, width
        self.out_at, self.x_at, self.w_at = (int(n) for n in rng.integers(0, 40, 3))
        self.out_stride, self.x_stride = width + int(rng.integers(0, 30)), depth + int(rng.integers(0, 30))
        self.x = spread(rng, self.x_at + rows * self.x_stride)
        self.out = spread(rng, self.out_at + rows * self.out_stride)
        self.w = spread(rng, self.w_at + depth * width)
        if half:
            self.w = (self.w.view(np.uint32) >> 16).astype(np.uint16)

    def result(self, function, *pieces: tuple[int, int, int, int]) -> np.ndarray:
        """`out` after a call for each piece: start and stop of rows, and of the depth (for dots: of outputs)."""
        out = self.out.copy()
        for row, last_row, start, stop in pieces or [(0, self.rows, 0, self.width if function is dots else self.depth)]:
            to, source = self.out_at + row * self.out_stride, self.x_at + row * self.x_stride
            if function is dots:
                to, at, sizes = to + start, self.w_at + start * self.depth, (self.depth, stop - start)
            else:
                source, at, sizes = source + start, self.w_at + start * self.width, (stop - start,)
            if last_row > row and stop > start:
                function(out, to, self.out_stride, self.x, source, self.x_stride, last_row - row, self.w, at, *sizes)
        return out

    def rows_of(self, out: np.ndarray) -> np.ndarray:
        """`(rows, width)` in float64."""
        return np.stack([out[at : at + self.width] for at in self._starts()]).astype(np.float64)

    def around(self, out: np.ndarray) -> np.ndarray:
        """What no product may write to."""
        keep = np.ones(out.size, bool)
        for at in self._starts():
            keep[at : at + self.width] = False
        return out[keep]

    def inputs(self, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        """x `(rows, depth)`, and w in this shape, in float64."""
        x = np.stack([self.x[self.x_at + m * self.x_stride :][: self.depth] for m in range(self.rows)])
        w = self.w[self.w_at :].reshape(shape)
        wide = (w.astype(np.uint32) << 16).view(np.float32) if w.dtype == np.uint16 else w
        return x.astype(np.float64), wide.astype(np.float64)

    def _starts(self) -> list[int]:
        return [self.out_at + m * self.out_stride for m in range(self.rows)]


def spread(rng: np.random.Generator, size: int) -> np.ndarray:
    """Numbers of many magnitudes, so that the order of summation shows in the bits."""
    return (rng.standard_normal(size) * 10.0 ** rng.integers(-3, 4, size)).astype(np.float32)


seeds, counts, halves = st.integers(0, 2**32), st.integers(1, 9), st.booleans()
cases = st.builds(Case, seeds, counts, st.integers(1, 200), st.just(PANEL), halves)
dot_cases = st.builds(Case, seeds, counts, st.integers(1, 13).map(lambda n: n * LANES), counts, halves)


@pytest.mark.parametrize("function", [product, accumulate])
@settings(max_examples=60)
@given(case=cases)
def test_a_product_is_right_within_rounding_and_writes_nothing_else(function, case: Case):
    out, before = case.result(function), case.rows_of(case.out)
    x, w = case.inputs(case.depth, PANEL)
    size = np.abs(before) + np.abs(x) @ np.abs(w)
    longest = min(STRETCH, case.depth) + case.depth // STRETCH if function is product else case.depth
    assert np.all(np.abs(case.rows_of(out) - (before + x @ w)) <= 1.01 * ROUNDING * (longest + 2) * size)
    assert np.array_equal(case.around(out), case.around(case.out))


@settings(max_examples=60)
@given(case=dot_cases)
def test_dots_are_right_within_rounding_and_write_nothing_else(case: Case):
    out = case.result(dots)
    x, w = case.inputs(case.width, case.depth)
    allowed = 1.01 * ROUNDING * (case.depth // LANES + 5) * (np.abs(x) @ np.abs(w).T)
    assert np.all(np.abs(case.rows_of(out) - x @ w.T) <= allowed)
    assert np.array_equal(case.around(out), case.around(case.out))


@pytest.mark.parametrize("function", [product, accumulate, dots])
@settings(max_examples=40)
@given(data=st.data())
def test_a_row_s_bits_do_not_depend_on_the_rows_beside_it(function, data: st.DataObject):
    case = data.draw(dot_cases if function is dots else cases)
    cut, whole = data.draw(st.integers(0, case.rows)), (0, case.width if function is dots else case.depth)
    in_two = case.result(function, (0, cut, *whole), (cut, case.rows, *whole))
    alone = case.result(function, *[(m, m + 1, *whole) for m in range(case.rows)])
    assert case.result(function).tobytes() == in_two.tobytes() == alone.tobytes()


@settings(max_examples=40)
@given(case=dot_cases, data=st.data())
def test_a_dot_s_bits_do_not_depend_on_the_dots_beside_it(case: Case, data: st.DataObject):
    cut = data.draw(st.integers(0, case.width))
    in_two = case.result(dots, (0, case.rows, 0, cut), (0, case.rows, cut, case.width))
    alone = case.result(dots, *[(0, case.rows, j, j + 1) for j in range(case.width)])
    assert case.result(dots).tobytes() == in_two.tobytes() == alone.tobytes()


@settings(max_examples=60)
@given(case=cases, data=st.data())
def test_a_sum_that_is_appended_to_in_two_calls_has_the_bits_of_one(case: Case, data: st.DataObject):
    cut = data.draw(st.integers(1, case.depth))
    in_two = case.result(accumulate, (0, case.rows, 0, cut), (0, case.rows, cut, case.depth))
    assert case.result(accumulate).tobytes() == in_two.tobytes()


@settings(max_examples=30)
@given(case=cases, data=st.data())
def test_factors_of_zero_leave_no_trace_in_a_sum(case: Case, data: st.DataObject):
    """Columns that are live because of other rows change no bit of a row at rest."""
    first = data.draw(st.integers(0, case.depth - 1))
    for m in range(case.rows):
        case.x[case.x_at + m * case.x_stride + first :][: case.depth - first] = 0
    assert np.array_equal(case.result(accumulate), case.result(accumulate, (0, case.rows, 0, first)))


@settings(max_examples=60)
@given(st.lists(st.floats(-87, 88, width=32), min_size=1, max_size=70))
def test_exp_is_right_to_two_units_in_the_last_place(values: list[float]):
    x = np.array(values, np.float32)
    out = np.empty_like(x)
    exp(x, out)
    exact = np.exp(x.astype(np.float64))
    assert np.all(np.abs(out - exact) <= 2 * np.spacing(exact.astype(np.float32)))


def test_exp_over_its_whole_range():
    x = np.linspace(-87, 88, 1_000_003, dtype=np.float32)
    out = np.empty_like(x)
    exp(x, out)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(out - exact) / np.spacing(exact.astype(np.float32))) <= 2
    assert np.all(np.diff(out) >= -np.spacing(out[1:]))


@given(st.floats(-87, 88, width=32), st.integers(0, 40), st.integers(0, 40))
def test_exp_has_the_same_bits_in_any_place_of_a_loop(value: float, before: int, after: int):
    long, alone = np.full(before + 1 + after, 0.5, np.float32), np.array([value], np.float32)
    long[before] = value
    outs = np.empty_like(long), np.empty_like(alone)
    exp(long, outs[0])
    exp(alone, outs[1])
    assert outs[0][before].tobytes() == outs[1].tobytes()


def test_exp_at_its_edges():
    x = np.array([0.0, -0.0, -np.inf, -1000.0, 1000.0, np.inf], np.float32)
    out = np.empty_like(x)
    exp(x, out)
    assert out[:2].tolist() == [1, 1], "the likeliest has no error"
    assert np.all((out[2:4] >= 0) & (out[2:4] < 1e-37)), "as good as nothing"
    assert np.all(np.isfinite(out[4:]) & (out[4:] > 1e38)), "never infinite"
