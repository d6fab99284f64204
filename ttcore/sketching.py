"""Random sketches of a train: an orthonormal train of given ranks whose range holds most of it.

Source: H. Al Daas, G. Ballard, P. Cazeaux, E. Hallman, A. Międlar, M. Pasha, T. W. Reid, A. K.
Saibaba, Randomized Algorithms for Rounding in the Tensor-Train Format, SIAM J. Sci. Comput. 45(1),
2023: randomise, then orthogonalise. The error is estimated by probes that the sketch has not seen.
"""

import math
from collections.abc import Sequence

import numpy as np

from ttcore.arrays import adjoint, default_device_like, detached, from_numpy, namespace
from ttcore.factorisations import qr
from ttcore.orthogonal import times_left, times_right
from ttcore.scaling import ldexp, unit
from ttcore.typing import Array

PROBES = 10


def sketch(
    cores: Sequence[Array], size: int, generator: np.random.Generator
) -> tuple[list[Array], int, float]:
    """Left-orthogonal cores of ranks <= ``size`` near a train of unit cores.

    Returns
    -------
    cores : list of arrays (r, n, r')
        The last one carries the norm.
    exponent : int
        The result is ``cores * 2**exponent``.
    missed : float
        Estimated Frobenius norm of the difference, relative to the norm of the result; inf where
        that is zero and the difference is not.
    """
    xp = namespace(*cores)
    fixed = [detached(core) for core in cores]
    sketches = _right_products(fixed, size, generator)
    probes = _right_products(fixed, PROBES, generator)
    done: list[Array] = []
    exponent = 0
    missed: list[tuple[float, int]] = []
    left = cores[0]
    for k in range(len(cores) - 1):
        r, n, s = left.shape
        rows = xp.reshape(left, (r * n, s))
        right, _ = sketches[k + 1]
        # a sketch no narrower than the bond spans all of it
        q, _ = qr(detached(rows) if right.shape[1] >= s else detached(rows) @ right)
        seen = adjoint(q) @ rows
        probe, shift = probes[k + 1]
        residual = detached(rows - q @ seen) @ probe if q.shape[1] < min(r * n, s) else None
        if residual is not None:
            value = float(xp.linalg.matrix_norm(residual)) / math.sqrt(PROBES)
            missed.append((value, exponent + shift))
        done.append(xp.reshape(q, (r, n, q.shape[1])))
        left, step = unit(times_left(seen, cores[k + 1]))
        exponent += step
    done.append(left)
    size_of_result = float(xp.linalg.vector_norm(detached(left)))
    error = math.hypot(*(ldexp(value, shift - exponent) for value, shift in missed))
    relative = error / size_of_result if size_of_result else (math.inf if error else 0.0)
    return done, exponent, relative


def _right_products(
    cores: Sequence[Array], size: int, generator: np.random.Generator
) -> dict[int, tuple[Array, int]]:
    """For each bond k: (W, e), the rows right of it times ``size`` random vectors being ``2**e W``.

    The vectors are the columns of a Gaussian train of ranks ``size``, scaled so that E‖x w‖² = ‖x‖²
    for each.
    """
    xp = namespace(*cores)
    place = {"dtype": cores[0].dtype, **default_device_like(cores[0])}
    found = {len(cores): (xp.ones((1, 1), **place), 0)}
    for k in range(len(cores) - 1, 0, -1):
        right, exponent = found[k + 1]
        r, n, _ = cores[k].shape
        columns = right.shape[1]
        random = generator.standard_normal((n * columns, size)) / math.sqrt(columns)
        rows = xp.reshape(times_right(cores[k], right), (r, n * columns))
        product, shift = unit(rows @ from_numpy(random, cores[k]))
        found[k] = product, exponent + shift
    return found
