"""Types shared by all modules."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np

#: An array of any array-API library.
Array: TypeAlias = Any
#: The cores of a train: arrays (r, n, r') of a TT-tensor or (r, m, n, r') of a TT-matrix.
Cores: TypeAlias = tuple[Array, ...]
#: What `numpy.random.default_rng` takes (SPEC 7).
RNG: TypeAlias = int | np.random.Generator | np.random.BitGenerator | np.random.SeedSequence | None


class Stage(NamedTuple):
    """One step of a contraction.

    Cores ``first..last-1`` times the state, as ``outer`` products (rows, k) @ (k, inner).

    ``form`` names the axes of the supercore (r, m, n, r') in its matrix:

    == ========= ============ ======================================
    0  (r m)     (n r')       sweep from the right
    1  (m r')    (r n)        sweep from the left
    2  (m)       (r n r')     the last step of a sweep from the left
    == ========= ============ ======================================

    Sizes leave out the batch, which multiplies ``outer`` (rows) or ``inner`` (columns).
    """

    first: int
    last: int
    form: int
    outer: int
    rows: int
    k: int
    inner: int
