"""Numbers beside trains: Python's are weak, NumPy's and 0-d arrays are strong (NEP 50)."""

import numbers
from typing import Any

import array_api_compat
import numpy as np

from ttcore.arrays import astype, compute_dtype, dtype_name, library
from ttcore.errors import TTTypeError, TTValueError
from ttcore.typing import Array


def is_number(value: Any) -> bool:
    """Whether the value is a Python number, a NumPy scalar or a 0-d array of numbers."""
    if isinstance(value, numbers.Complex | np.number | np.bool_):
        return True
    return (
        array_api_compat.is_array_api_obj(value)
        and value.ndim == 0
        and dtype_name(value.dtype) != "object"
    )


def as_number(value: Any, like: Array, what: str) -> tuple[Any, str]:
    """``(number, dtype)``: a Python float or complex, or a 0-d array of the library of ``like``.

    And the dtype of the result.

    Raises
    ------
    TTTypeError
        If it is no number, or a longdouble.
    TTValueError
        If it is a Python int beyond the range of a float.
    """
    if not is_number(value):
        raise TTTypeError(f"{what} {kind(value)}; expected a number or a train")
    own = np.dtype(dtype_name(like.dtype))
    if isinstance(value, np.generic) or array_api_compat.is_array_api_obj(value):
        name = dtype_name(value.dtype)
        what = f"the scalar in {what!r}"
        if name == "bfloat16":  # NumPy does not know it
            name = compute_dtype(name, what)
        result = compute_dtype(np.result_type(own, np.dtype(name)).name, what)
        same = not isinstance(value, np.generic | np.ndarray) and library(value) == library(like)
        return (astype(value, result) if same else _python(value)), result
    number = _python(value)
    return number, np.result_type(own, number).name


def _python(value: Any) -> float | complex:
    name = dtype_name(value.dtype) if hasattr(value, "dtype") else ""
    if name.startswith("complex") or (
        isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
    ):
        return complex(value)
    try:
        return float(value)
    except OverflowError as error:
        raise TTValueError(
            f"the integer {str(value)[:20]}… is beyond the range of a float"
        ) from error


def kind(value: Any) -> str:
    """What a value is, for messages: 'an ndarray of shape (3, 4)', 'a str'."""
    name = type(value).__name__
    article = "an" if name[:1].lower() in "aeiou" or name == "ndarray" else "a"
    shape = getattr(value, "shape", None)
    return f"{article} {name}" + (f" of shape {tuple(shape)}" if isinstance(shape, tuple) else "")
