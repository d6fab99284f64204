"""Random sketches of a train: an orthonormal train of given ranks whose range holds most of it.

Source: H. Al Daas, G. Ballard, P. Cazeaux, E. Hallman, A. Międlar, M. Pasha, T. W. Reid, A. K.
Saibaba, Randomized Algorithms for Rounding in the Tensor-Train Format, SIAM J. Sci. Comput. 45(1),
2023: randomise, then orthogonalise. The error is estimated by probes that the sketch has not seen.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeGuard

import numpy as np

from ttcore.arrays import (
    adjoint,
    detached,
    from_numpy,
    host,
    namespace,
    rounding_unit,
)
from ttcore.factorisations import qr
from ttcore.kernels import dispatch
from ttcore.operands import Formed, Operand, beginning_again, edge
from ttcore.scaling import moderate, shifted, unit
from ttcore.truncation import noise
from ttcore.typing import Array, Cores

PROBES = 10
OVERSAMPLING = 10
CONFIDENCE = 3.0  # times the estimated error of a sketch must fit the budget
FIRST = 22  # width of the first sketch: 32 columns with the probes, which fill whole registers
HOPELESS = 4.0  # times the allowed error, missed at one bond: a sketch is given up

#: (width, value, exponent) -> relative error allowed where the norm is ``value * 2**exponent``
Allowed = Callable[[int, float, int], float]
#: for each bond k: (W, e), the rows right of it times random vectors being ``2**e W``
Products = dict[int, tuple[Array, int]]


class Sketch(NamedTuple):
    """An approximation ``2**exponent cores`` of an operand, and what it misses."""

    cores: list[Array]
    exponent: int
    size: float  # its norm, times 2**-exponent
    missed: tuple[float, ...]  # estimated at each bond, relative to the norm of the operand


@beginning_again
def sketch(
    operand: Operand, most: float, allowed: Allowed, generator: np.random.Generator
) -> Sketch:
    """Left-orthogonal cores near ``operand``, of ranks that grow until the error is allowed.

    Parameters
    ----------
    most : float
        Rank beyond which none is of use to the caller.
    """
    enough = int(min(max(operand.ranks), most + OVERSAMPLING))
    size = min(FIRST, enough)
    probes, sketches = _right_products(operand, (PROBES, size), generator)
    while True:
        final = size >= enough
        found = _left_orthogonal(operand, sketches, probes, size, None if final else allowed)
        if found is not None and (
            final or math.hypot(*found.missed) <= allowed(size, found.size, found.exponent)
        ):
            return found
        grown = min(2 * size, enough)
        (more,) = _right_products(operand, (grown - size,), generator)
        xp, size = namespace(operand.like), grown
        sketches = {
            k: (xp.concat([w, more[k][0]], axis=1), 0) if k < len(operand.modes) else (w, 0)
            for k, (w, _) in sketches.items()
        }


def difference(operand: Operand, cores: Cores, generator: np.random.Generator) -> float:
    """Estimated Frobenius norm of ``operand - cores``, relative to the norm of the operand.

    Both are multiplied by the same random vectors. inf where the operand alone is zero.
    """
    state = generator.bit_generator.state
    both = []
    for one in (operand, Formed(cores)):
        generator.bit_generator.state = state
        (products,) = _right_products(one, (PROBES,), generator)
        right, exponent = products[1]
        both.append((detached(one.right(0, right)), exponent + one.exponent))
    (x, e), (y, f) = both
    value, rest = (float(namespace(x).linalg.vector_norm(z)) for z in (x, x - shifted(y, f - e)))
    return rest / value if value else (math.inf if rest else 0.0)


def _left_orthogonal(
    operand: Operand, sketches: Products, probes: Products, size: int, allowed: Allowed | None
) -> Sketch | None:
    """One sweep; None where it is hopeless.

    Norms seen by probes are right on average, and too small by as much as the square of a long
    random train varies: only their ratios at one bond are used.
    """
    d = len(operand.modes)
    done: list[Array] = []
    missed: list[float] = []
    compiled = _is_compiled(operand, PROBES + size)
    t, exponent = edge(operand.like), 0
    present, limit = 1.0, math.inf  # part of the norm that is left; what may be missed
    for k in range(d - 1):
        (right, _), (probe, shift) = sketches[k + 1], probes[k + 1]
        # the norm of the first core counts, and with it the scale, which compiled code keeps
        step = _range(operand, k, t, probe, right, compiled=compiled and k > 0)
        t, exponent = step.t, exponent + step.exponent
        if k == 0 and allowed is not None:
            total = exponent + operand.exponent + shift + step.scale
            limit = HOPELESS * allowed(size, step.norm / math.sqrt(PROBES), total)
        part = present * min(step.rest / step.norm, 1.0) if step.norm else 0.0
        if part > limit:
            return None
        missed.append(part)
        present = math.sqrt(max(present**2 - part**2, 0.0))
        done.append(namespace(t).reshape(step.q, (-1, operand.modes[k], t.shape[0])))
    left, last = moderate(operand.left(d - 1, t))
    value = float(namespace(left).linalg.vector_norm(detached(left)))
    return Sketch([*done, left], exponent + last + operand.exponent, value, tuple(missed))


class _Range(NamedTuple):
    """Of rows L (r n, s), 2**exponent times which is what is left of a bond."""

    q: Array  # orthonormal columns
    t: Array  # 2**exponent t is Q^H L
    exponent: int
    norm: float  # 2**-scale times that of the products with probes
    rest: float  # the same of what Q misses of them
    scale: int = 0


def _range(
    operand: Operand, k: int, t: Array, probe: Array, right: Array, *, compiled: bool
) -> _Range:
    """Of t times core k, from the products (s, width) of what is right of it."""
    xp = namespace(operand.like)
    # a sketch no narrower than the bond spans all of it
    whole = right.shape[1] >= right.shape[0]
    both = right if whole else xp.concat([probe, right], axis=1)
    if compiled and not whole and isinstance(operand, Formed):
        found = operand.ranged(k, t, both, PROBES)
        if found is not None:
            return _Range(*found)
    left, exponent = moderate(operand.left(k, t))
    m, n, s = left.shape
    rows = xp.reshape(left, (m * n, s))
    fixed = detached(rows)
    product, scale = moderate(fixed @ (probe if whole else both))
    q = qr(fixed)[0] if whole else _basis(product[:, PROBES:])
    seen = product[:, :PROBES]
    missed = not whole and q.shape[1] < m * n
    return _Range(
        q,
        adjoint(q) @ rows,
        exponent,
        float(xp.linalg.matrix_norm(seen)),
        float(xp.linalg.matrix_norm(seen - q @ (adjoint(q) @ seen))) if missed else 0.0,
        scale,
    )


def _is_compiled(operand: Operand, width: int) -> TypeGuard[Formed]:
    return isinstance(operand, Formed) and dispatch.is_sketched(operand.cores[1:], width)


def _basis(x: Array) -> Array:
    """Orthonormal columns that span those of x; trailing ones that only noise needs are left out.

    The columns of a sketch are random: once one depends on those before it, all later ones do.
    """
    q, r = qr(x)
    tails = np.cumsum(np.sum(np.abs(host(r)) ** 2, axis=1)[::-1])[::-1]  # without q[:, k:]
    least = noise(len(tails), rounding_unit(x)) ** 2 * tails[0]
    return q[:, : max(1, int((tails > least).sum()))]


def _right_products(
    operand: Operand, sizes: Sequence[int], generator: np.random.Generator
) -> list[Products]:
    """Products with independent sets of ``sizes`` random vectors, in one pass over the operand.

    The vectors of a set are the columns of a random train of ranks ``size``, scaled so that
    E‖x w‖² = ‖x‖² for each.
    """
    xp, like = namespace(operand.like), operand.like
    d = len(operand.modes)
    found: list[Products] = [{d: (edge(like), 0)} for _ in sizes]
    drawn = _drawn(operand, sizes, generator)
    done = 0
    if _is_compiled(operand, sum(sizes)):
        kept = list(drawn)
        done = _by_sweep(operand, kept, sizes, found)
        drawn = iter(kept[done:])
    for k in range(d - 1 - done, 0, -1):
        pieces = [products[k + 1][0] for products in found]
        both = detached(operand.right(k, xp.concat(pieces, axis=1)))
        r, n, _ = both.shape
        start = 0
        for products, random in zip(found, next(drawn), strict=True):
            right, exponent = products[k + 1]
            columns = right.shape[1]
            rows = xp.reshape(both[:, :, start : start + columns], (r, n * columns))
            # at unit size: sketches stand beside each other, whatever their exponents
            product, shift = unit(rows @ random)
            products[k] = product, exponent + shift
            start += columns
    return found


def _drawn(
    operand: Operand, sizes: Sequence[int], generator: np.random.Generator
) -> Iterator[list[Array]]:
    """Cores (n columns, size) of the random trains, from the last to the second."""
    widths = [1 for _ in sizes]
    for n in operand.modes[:0:-1]:
        # of variance 1 / columns; a third of the time of normal ones
        yield [
            from_numpy(
                (generator.random((n * columns, size)) - 0.5) * math.sqrt(12.0 / columns),
                operand.like,
            )
            for columns, size in zip(widths, sizes, strict=True)
        ]
        widths = list(sizes)


def _by_sweep(
    operand: Formed, drawn: list[list[Array]], sizes: Sequence[int], found: list[Products]
) -> int:
    """Of how many cores, from the last on, the compiled sweep put the products into ``found``."""
    products, exponents = operand.sketched(drawn, sizes)
    ends = np.cumsum([0, *sizes])
    total = np.cumsum(exponents, axis=0)
    for step, product in enumerate(products):
        for t, (first, last) in enumerate(pairwise(ends)):
            k = len(operand.modes) - 1 - step
            found[t][k] = product[:, first:last], int(total[step, t])
    return len(products)
