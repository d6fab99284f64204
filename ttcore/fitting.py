"""Quick approximations of sums and products of trains whose error is estimated, not guaranteed.

Zip-up truncates on the way, as if what is still to come were orthonormal: E. M. Stoudenmire, S. R.
White, Minimally entangled typical thermal state algorithms, New J. Phys. 12, 055026, 2010.
Alternating least squares improves one core after the other: S. Holtz, T. Rohwedder, R. Schneider,
The alternating linear scheme for tensor optimization in the tensor train format, SIAM J. Sci.
Comput. 34(2), 2012.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttcore.arrays import adjoint, detached, namespace, rounding_unit
from ttcore.cores import ranks_of
from ttcore.factorisations import qr
from ttcore.leading import leading
from ttcore.operands import Operand, edge, first_core
from ttcore.orthogonal import orthogonal_cores
from ttcore.rounding import Rounded, round_cores
from ttcore.scaling import absorb, ldexp, unit
from ttcore.sketching import difference
from ttcore.truncation import Info, check_eps, check_max_rank, per_bond
from ttcore.typing import RNG, Array, Cores

TIGHTER = 0.1  # of eps, and
WIDER = 2  # times the cap: what zip-up works with before the result is rounded
SWEEPS = 8  # to and fro, at most
GAIN = 0.01  # part of the squared error that a sweep must remove to be followed by another


def zip_up(operand: Operand, *, eps: float | None, max_rank: Any, rng: RNG) -> Rounded:
    """One sweep of truncations, then rounding.

    The right parts of ``operand`` should be near orthonormal, as those of products of
    right-orthogonal trains are.
    """
    eps = check_eps(eps)
    caps = check_max_rank(max_rank, len(operand.modes))
    cores, exponent = _zipped(operand, eps, caps)
    rough, center = absorb(cores, exponent, len(cores) - 1)
    rounded, _, center = round_cores(rough, eps=eps, max_rank=max_rank, center=center)
    return rounded, _estimated(operand, rounded, "zipup", rng), center


def _zipped(operand: Operand, eps: float, caps: Sequence[float]) -> tuple[list[Array], int]:
    xp = namespace(operand.like)
    d = len(operand.modes)
    left, exponent = first_core(operand)
    done: list[Array] = []
    for k in range(d - 1):
        r, n, s = left.shape
        rows = xp.reshape(left, (r * n, s))
        size = float(xp.linalg.vector_norm(detached(rows)))
        budget = TIGHTER * per_bond(eps, d) * size
        u = leading(rows, budget, WIDER * caps[k], f"the unfolding at bond {k}").vectors
        done.append(xp.reshape(u, (r, n, u.shape[1])))
        left, step = unit(operand.left(k + 1, adjoint(u) @ rows))
        exponent += step
    return [*done, left], exponent


def als(operand: Operand, *, eps: float | None, max_rank: Any, rng: RNG) -> Rounded:
    """Zip-up, then sweeps to and fro that make each core the best one beside the others."""
    start, info, _ = zip_up(operand, eps=eps, max_rank=max_rank, rng=rng)
    cores, exponent = orthogonal_cores(start, 0)
    square = max(GAIN * info.error**2, 4 * len(cores) * rounding_unit(cores[0]))
    size, origin = 0.0, 0  # the norm of the fit, which grows as the error shrinks
    rights = _environments(operand, cores)
    for _ in range(SWEEPS):
        cores, lefts = _to_the_right(operand, cores, rights)
        cores, rights, exponent = _to_the_left(operand, cores, lefts)
        before = ldexp(size, origin - exponent)
        size, origin = float(namespace(*cores).linalg.vector_norm(detached(cores[0]))), exponent
        if size**2 - before**2 <= square * size**2:
            break
    fitted, center = absorb(cores, exponent, 0)
    return fitted, _estimated(operand, fitted, "als", rng), center


def _estimated(operand: Operand, cores: Cores, method: str, rng: RNG) -> Info:
    """The report of an approximation whose bonds were not cut one by one."""
    error = difference(operand, cores, np.random.default_rng(rng))
    unknown = (math.nan,) * (len(cores) - 1)
    return Info(error, "estimate", ranks_of(cores), unknown, method)


def _environments(operand: Operand, cores: Sequence[Array]) -> list[Array]:
    """For each bond: the rows of ``operand`` right of it times those of the fit, (r_k, p_k).

    Of unit size: a factor changes no subspace that is sought. Nothing is right of core 0's left.
    """
    found = [edge(operand.like)]
    for k in range(len(cores) - 1, 0, -1):
        found.insert(0, _further(operand.right(k, found[0]), cores[k])[0])
    return [edge(operand.like), *found]


def _further(product: Array, core: Array) -> tuple[Array, int]:
    """``product`` (r, n, p') times the adjoint of the core (p, n, p'): (r, p), and its exponent."""
    xp = namespace(product)
    rows = xp.reshape(product, (product.shape[0], -1))
    return unit(rows @ adjoint(xp.reshape(core, (core.shape[0], -1))))


def _to_the_right(
    operand: Operand, cores: Sequence[Array], rights: Sequence[Array]
) -> tuple[list[Array], list[Array]]:
    """Left-orthogonal cores, and the left environments (p_k, r_k) of all bonds but the last."""
    xp = namespace(operand.like)
    lefts = [edge(operand.like)]
    done: list[Array] = []
    for k in range(len(cores) - 1):
        q, n, s = (state := operand.left(k, lefts[k])).shape
        rows = xp.reshape(state, (q * n, s))
        basis, _ = qr(rows @ rights[k + 1])
        done.append(xp.reshape(basis, (q, n, basis.shape[1])))
        lefts.append(unit(adjoint(basis) @ rows)[0])
    return [*done, cores[-1]], lefts


def _to_the_left(
    operand: Operand, cores: Sequence[Array], lefts: Sequence[Array]
) -> tuple[list[Array], list[Array], int]:
    """Right-orthogonal cores but for the first, the right environments, and the exponent."""
    xp = namespace(operand.like)
    rights = [edge(operand.like)]
    done: list[Array] = []
    exponent = operand.exponent
    for k in range(len(cores) - 1, 0, -1):
        r, n, p = (state := operand.right(k, rights[0])).shape
        basis, _ = qr(adjoint(lefts[k] @ xp.reshape(state, (r, n * p))))
        core = xp.reshape(adjoint(basis), (basis.shape[1], n, p))
        done.insert(0, core)
        right, shift = _further(state, core)
        rights.insert(0, right)
        exponent += shift
    first, shift = unit(operand.right(0, rights[0]))
    return [first, *done], [edge(operand.like), *rights], exponent + shift
