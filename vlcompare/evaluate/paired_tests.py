"""Tests of many paired differences at once, over pictures, corrected together.

Takes numbers only. Rows of one picture are not independent, so what is exchanged under the hypothesis of no difference
is the two sides' answers to a whole picture:

    D_sc  left minus right, summed over the rows of slice s in picture c
    T_s   |sum_c D_sc| / sqrt(sum_c D_sc^2)
    e_c   signs, +1 or -1 with probability 1/2 each; T_s(e) has e_c D_sc in place of D_sc
    p_s   step-down maxT (Westfall and Young 1993, as Ge, Dudoit and Speed 2003 write it): the share of e for which the
          largest T(e) among s and all slices with a smaller T reaches T_s, never falling from one slice to the next

With probability .95 none of the slices below .05 is a chance find, whatever slices share of their rows: signs are the
same for all slices, so their dependence is kept. With one row a picture and one slice it is McNemar's exact test.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
DRAWS = 4999  # sets of signs; all of them where there are no more
SEED = 20240905
MAX_BLOCKS = 1000  # units that are flipped; more pictures are joined, which keeps the test valid and its time bounded
_NEAR = 1e-5  # T in float32 that differ by less are equal


def corrected_p(sums: ArrayLike) -> Floats:
    """p of each slice, corrected for all of them. `sums` is D, (slices, pictures); gives (slices,), 1 where all are 0.

    Where pictures are few every set of signs is tried, and p is exact; else DRAWS sets with a fixed seed, where the
    observed one counts as a further set.
    """
    blocks = _blocks(np.asarray(sums, dtype=np.float64))
    size = np.sqrt((blocks**2).sum(axis=1))
    p = np.ones(len(blocks))
    some = np.flatnonzero(size > 0)
    if not len(some):
        return p
    blocks = blocks[some] / size[some, None]
    observed = np.abs(blocks.sum(axis=1))
    order = np.argsort(-observed, kind="stable")
    signs, exact = _signs(blocks.shape[1])
    drawn = np.abs(signs @ blocks[order].T.astype(np.float32))  # (sets, slices)
    largest = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]  # among this slice and those after it
    reached = (largest >= observed[order] - _NEAR).sum(axis=0)
    shares = reached / len(signs) if exact else (1 + reached) / (1 + len(signs))
    p[some[order]] = np.maximum.accumulate(shares)
    return p


def _blocks(sums: Floats) -> Floats:
    """Pictures that differ anywhere, joined into MAX_BLOCKS where they are more."""
    sums = sums[:, (sums != 0).any(axis=0)]
    if sums.shape[1] <= MAX_BLOCKS:
        return sums
    starts = np.linspace(0, sums.shape[1], MAX_BLOCKS, endpoint=False).astype(np.int64)
    return np.add.reduceat(sums, starts, axis=1)


@functools.lru_cache(maxsize=4)
def _signs(count: int) -> tuple[NDArray[np.float32], bool]:
    """(sets of signs (sets, count), whether they are all there are)."""
    if 2**count <= DRAWS:
        numbers = np.arange(2**count)[:, None] >> np.arange(count)
        return np.where(numbers & 1, np.float32(1), np.float32(-1)), True
    draws = np.random.default_rng(SEED).integers(0, 2, size=(DRAWS, count), dtype=np.int8)
    return (2 * draws - 1).astype(np.float32), False
