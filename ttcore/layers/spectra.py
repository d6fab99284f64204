"""Singular values of the unfoldings of a dense weight, and what ranks they allow."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

SEEN = 1e-7  # least relative singular value that a Gram matrix in float64 shows
COUNT = 4096  # levels that are tried, of all there are

#: Singular values at each bond, descending, relative to the norm.
Spectra = tuple[np.ndarray[Any, Any], ...]


def unfolding_spectra(
    weight: np.ndarray[Any, Any], outs: Sequence[int], ins: Sequence[int]
) -> Spectra:
    """Spectra of the interleaved tensor of a weight (out, in), padded to what the modes make.

    By Gram matrices of the shorter side of each unfolding: right to about `SEEN`.
    """
    padded = np.zeros((math.prod(outs), math.prod(ins)), np.result_type(weight, np.float64))
    padded[: weight.shape[0], : weight.shape[1]] = weight
    return tuple(_at_bond(padded, outs, ins, k) for k in range(1, len(ins)))


def _at_bond(
    a: np.ndarray[Any, Any], outs: Sequence[int], ins: Sequence[int], k: int
) -> np.ndarray[Any, Any]:
    p, m, q, n = (math.prod(part) for part in (outs[:k], outs[k:], ins[:k], ins[k:]))
    rows = a.reshape(p, m, q, n).transpose(0, 2, 1, 3).reshape(p * q, m * n)
    rows = rows if p * q <= m * n else rows.T
    squares = np.linalg.eigvalsh(rows @ rows.conj().T)[::-1]
    values = np.sqrt(np.clip(squares, 0.0, None))
    size = float(np.linalg.norm(values))
    return np.asarray(values / size if size else values)


def error_bound(spectra: Spectra, ranks: Sequence[int]) -> float:
    """Bound on the relative error of TT-SVD with these ranks; it projects, so 1 is one too."""
    squares = (float((s[r:] ** 2).sum()) for s, r in zip(spectra, ranks, strict=True))
    return min(1.0, math.sqrt(sum(squares)))


def levels(spectra: Spectra) -> list[tuple[int, ...]]:
    """Ranks as more and more of the largest singular values are kept, at least one at each bond."""
    found = dict[tuple[int, ...], None]()
    kept = np.unique(np.concatenate(spectra))[::-1]
    for threshold in kept[:: max(1, len(kept) // COUNT)]:
        counts = (int(np.searchsorted(-s, -threshold, side="right")) for s in spectra)
        found[1, *(max(1, count) for count in counts), 1] = None
    return list(found)
