"""Rounding of trains.

The same tensor to a given accuracy with smaller ranks, on three-way cores (r, n, r').

A train is rounded from the left. Before a bond is cut, the cores on its left are orthonormal, and
the part on its right enters through a small matrix R alone, R^H R being the Gram matrix of its
rows: the best truncation of M R^H is the best one of the whole unfolding. The methods differ in how
they come by R.

Sources: I. V. Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33(5), 2011; H. Al Daas,
G. Ballard, L. Manning, Parallel Tensor Train Rounding using Gram SVD, IPDPS 2022.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ttcore.arrays import adjoint, detached, in_double, namespace, rounding_unit
from ttcore.cores import ranks_of
from ttcore.errors import TTValueError
from ttcore.factorisations import svd, triangle
from ttcore.orthogonal import Factor, by_gram, norm, reversed_cores, right_factors, times_left
from ttcore.scaling import absorb, ldexp, unit, unit_cores
from ttcore.sketching import sketch
from ttcore.truncation import Info, check_eps, check_max_rank, choose_rank, noise, per_bond
from ttcore.typing import RNG, Array, Cores

METHODS = ("svd", "gram", "randomized")
OVERSAMPLING = 10
CONFIDENCE = 3.0  # times the estimated error of a sketch must fit the budget


def round_cores(
    cores: Cores,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    atol: float = 0.0,
    method: str = "svd",
    rng: RNG = None,
    center: int | None = None,
) -> tuple[Cores, Info, int | None]:
    """A train of smaller ranks close to the given one; the options are those of `TTTensor.round`.

    Parameters
    ----------
    cores : tuple of arrays (r, n, r')
    center : int, optional
        The orthogonality centre of ``cores`` where one is known; saves work.

    Returns
    -------
    cores : tuple of arrays (r, n, r')
    info : Info
    center : int or None
        Orthogonality centre of the result; None where its norm is too far out of range for one
        core.
    """
    eps, atol = check_eps(eps), check_eps(atol, "atol")
    caps = check_max_rank(max_rank, len(cores))
    if method not in METHODS:
        raise TTValueError(
            f"method={method!r} is unknown; choose {', '.join(map(repr, METHODS[:-1]))} or "
            f"{METHODS[-1]!r}"
        )
    if method == "randomized":
        return _round_by_sketch(cores, eps, caps, atol, rng)
    if method == "svd":
        return _truncate(cores, eps, caps, atol, triangle, center, method)
    # relative errors of one Gram matrix for each bond add up along the sweep
    unseen = math.sqrt(sum(ranks_of(cores)) * rounding_unit(in_double(cores[0])))
    smallest = max(per_bond(eps, len(cores)), noise(1, rounding_unit(cores[0])))
    fine = smallest < 9.0 * unseen
    factor = partial(by_gram, fine=fine)
    return _truncate(cores, eps, caps, atol, factor, center, method, 0.0 if fine else unseen)


def _truncate(
    cores: Cores,
    eps: float,
    caps: tuple[float, ...],
    atol: float,
    factor: Factor,
    center: int | None,
    method: str,
    unseen: float = 0.0,
) -> tuple[Cores, Info, int | None]:
    """Round with factors R that miss at most ``unseen`` of the norm at each bond."""
    xp = namespace(*cores)
    d = len(cores)
    if center is not None and 2 * center >= d:
        turned = reversed_cores(cores)  # from that end more cores are known to be orthonormal
        found, info, new = _truncate(
            turned, eps, caps[::-1], atol, factor, d - 1 - center, method, unseen
        )
        info = replace(info, ranks=info.ranks[::-1], discarded=info.discarded[::-1])
        return reversed_cores(found), info, None if new is None else d - 1 - new
    loose = (
        d if center is None else center + 1
    )  # cores from here on are orthonormal: left as they are
    scaled, exponent = unit_cores(cores[:loose])
    scaled += cores[loose:]
    if d == 1:  # no factorisation makes this core ours
        scaled = [xp.asarray(scaled[0], copy=True)]
    # the bases are found out of autograd's reach: gradients flow through the projections alone,
    # and are those of the identity where nothing is discarded
    right = right_factors([detached(core) for core in scaled], factor, orthogonal_from=loose)
    done: list[Array] = []
    lost: list[tuple[float, int]] = []
    left = scaled[0]
    size, origin, budget = 0.0, 0, 0.0  # norm = size * 2**origin
    for k in range(d - 1):
        r, n, s = left.shape
        rows = xp.reshape(left, (r * n, s))
        root, shift = right[k + 1]
        u, values, _ = svd(detached(rows) @ adjoint(root), f"the unfolding at bond {k}")
        if k == 0:
            size, origin = float(xp.linalg.vector_norm(values)), exponent + shift
            budget = max(per_bond(eps, d) * size, ldexp(per_bond(atol, d), -origin))
            budget = min(budget, 2.0 * size)  # more than all there is
            budget = math.sqrt(max(budget**2 - (unseen * size) ** 2, 0.0))
        now = exponent + shift
        lost_in_noise = noise(int(values.shape[0]), rounding_unit(left)) * size
        rank, tail = choose_rank(values, ldexp(max(budget, lost_in_noise), origin - now), caps[k])
        lost.append((tail, now))
        u = u[:, :rank]
        done.append(xp.reshape(u, (r, n, rank)))
        left, step = unit(times_left(adjoint(u) @ rows, scaled[k + 1]))
        exponent += step
    rounded, new_center = absorb([*done, left], exponent, d - 1)
    error = math.hypot(*(ldexp(tail, now - origin) for tail, now in lost)) / size if size else 0.0
    discarded = tuple(ldexp(tail, now) for tail, now in lost)
    if unseen and size:
        error = math.hypot(error, unseen * math.sqrt(d - 1))
    kind = "bound" if unseen else "measured"
    return rounded, Info(error, kind, ranks_of(rounded), discarded, method), new_center


def _round_by_sketch(
    cores: Cores, eps: float, caps: tuple[float, ...], atol: float, rng: RNG
) -> tuple[Cores, Info, int | None]:
    """Half of the squared budget for the sketch, the rest for the truncation of what it found."""
    generator = np.random.default_rng(rng)
    scaled, exponent = unit_cores(cores)
    enough = min(max(ranks_of(cores)), max(caps, default=1) + OVERSAMPLING)
    size = int(min(16, enough))
    while True:
        found, shift, missed = sketch(scaled, size, generator)
        value, own = norm(tuple(found), len(found) - 1)
        absolute = ldexp(atol / value, -(own + shift + exponent)) if value else math.inf
        sought = max(eps, absolute, noise(size, rounding_unit(scaled[0])))
        if size >= enough or CONFIDENCE * missed <= sought * math.sqrt(0.5):
            break
        size = int(min(2 * size, enough))
    share = math.sqrt(0.5) if missed else 1.0
    sketched, center = absorb(found, shift + exponent, len(found) - 1)
    rounded, info, new = _truncate(
        sketched, share * eps, caps, share * atol, triangle, center, "randomized"
    )
    kind = "estimate" if missed else "measured"
    return (
        rounded,
        Info(math.hypot(info.error, missed), kind, info.ranks, info.discarded, "randomized"),
        new,
    )
