"""The exceptions of ttcore: one class per kind of mistake.

Each derives from `TTError` and from what NumPy or Python would raise for the same mistake, so code
that already catches ``ValueError`` or ``IndexError`` keeps working.
"""

import numpy as np


class TTError(Exception):
    """Root of all errors that ttcore raises on purpose."""


class TTValueError(TTError, ValueError):
    """An argument has the right type but a value that cannot be used."""


class TTShapeError(TTValueError):
    """Shapes, modes or ranks do not fit together."""


class TTSizeError(TTValueError):
    """A dense array would be larger than the caller allowed."""


class TTFormatError(TTValueError):
    """A file is damaged or is not in the expected format."""


class TTTypeError(TTError, TypeError):
    """An argument has a type or dtype that ttcore does not take."""


class TTIndexError(TTError, IndexError):
    """An index or axis is out of range or malformed."""


class TTConvergenceError(TTError, np.linalg.LinAlgError):
    """A factorisation or an iteration did not converge."""
