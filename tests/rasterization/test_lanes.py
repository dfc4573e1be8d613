"""Operations on the sixteen-lane type inside kernels."""

from __future__ import annotations

import numpy as np
from numba import njit

from difix3d_ns.rasterization.lanes import (
    absolute,
    bits,
    column_sums,
    fused,
    larger,
    load,
    lowest_bit,
    number,
    prefetch,
    smaller,
    spread,
    store,
    where,
)

RANDOM = np.random.default_rng(0)


def test_arithmetic_matches_numpy() -> None:
    @njit
    def work(values, results):  # type: ignore[no-untyped-def]
        a, b = load(values, 0), load(values, 16)
        store(results, 0, (a + b) * 2 - a / b)
        store(results, 16, fused(a, b, 0.5) - absolute(a))
        store(results, 32, larger(smaller(a, b), np.float32(-0.25)))
        store(results, 48, where((a < b) & (b <= 0.5), spread(3.0), b))

    values, results = RANDOM.normal(size=32).astype(np.float32), np.zeros(64, np.float32)
    work(values, results)
    a, b = values.reshape(2, 16)
    expected = [
        (a + b) * 2 - a / b,
        a * b + 0.5 - abs(a),
        np.maximum(np.minimum(a, b), -0.25),
        np.where((a < b) & (b <= 0.5), 3, b),
    ]
    np.testing.assert_allclose(results.reshape(4, 16), expected, rtol=1e-5, atol=1e-6)


def test_the_lowest_bit_of_a_mask_is_the_first_lane() -> None:
    @njit
    def work(values):  # type: ignore[no-untyped-def]
        lanes = load(values, 0)
        return bits(lanes > 0.0), bits(lanes >= 0.0), bits(lanes < 0.0)

    values = np.zeros(16, np.float32)
    values[[1, 15]], values[4] = 1, -1
    above, at_least, below = work(values)
    assert (above, at_least, below) == ((1 << 1) | (1 << 15), 0xFFFF ^ (1 << 4), 1 << 4)


def test_comparisons_with_nan_are_false() -> None:
    @njit
    def work(values):  # type: ignore[no-untyped-def]
        lanes = load(values, 0)
        return bits(lanes <= 1.0), bits(lanes > 1.0)

    assert work(np.full(16, np.nan, np.float32)) == (0, 0)


def test_lowest_bit_enumerates_a_mask() -> None:
    @njit
    def work(mask):  # type: ignore[no-untyped-def]
        found = []
        while mask != 0:
            found.append(lowest_bit(mask))
            mask &= mask - 1
        return found

    assert work(0b1000_0000_0010_1001) == [0, 3, 5, 15]


def test_column_sums_keep_their_order() -> None:
    @njit
    def work(values, results):  # type: ignore[no-untyped-def]
        prefetch(values, 16)
        store(results, 0, column_sums(values, 16))
        return number(values, 17)

    values, results = RANDOM.normal(size=16 * 17).astype(np.float32), np.zeros(16, np.float32)
    assert work(values, results) == values[17]
    np.testing.assert_allclose(results, values[16:].reshape(16, 16).sum(1), rtol=1e-5, atol=1e-6)
