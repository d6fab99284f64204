"""Which library an array belongs to, which dtype the numerics use, and values on the host.

Everything that differs between array libraries stands here; the other modules speak array-API.
"""

import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import array_api_compat
import numpy as np

from ttcore.errors import TTTypeError
from ttcore.typing import Array

#: dtype that a name is computed in; what is not listed is refused.
_COMPUTED_IN = {
    **dict.fromkeys(["float16", "bfloat16", "float32"], "float32"),
    "float64": "float64",
    "complex64": "complex64",
    "complex128": "complex128",
    **dict.fromkeys(
        ["bool", *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))], "float64"
    ),
}
#: dtypes of NumPy that are taken as they are
NATIVE = {np.dtype(name) for name in ("float32", "float64", "complex64", "complex128")}
_LONG = {np.dtype(np.longdouble).name, np.dtype(np.clongdouble).name} - {"float64", "complex128"}


def namespace(*arrays: Array) -> Any:
    """Array-API namespace of the arrays."""
    for x in arrays:
        if not isinstance(x, np.ndarray):
            return array_api_compat.array_namespace(*arrays)
    return np  # since 2.1 itself a namespace of the standard; the one of compat is slow to load


def reshaped(x: Array, shape: tuple[int, ...]) -> Array:
    """The array in another shape; the namespace's function costs small calls more than a method."""
    return x.reshape(shape) if type(x) is np.ndarray else namespace(x).reshape(x, shape)


def dtype_name(dtype: Any) -> str:
    """Name of a dtype of any library: 'float32', 'complex128'."""
    if isinstance(dtype, np.dtype):
        return _numpy_name(dtype)
    return str(dtype).rsplit(".", maxsplit=1)[-1]


@lru_cache  # NumPy composes the name anew at each call
def _numpy_name(dtype: np.dtype[Any]) -> str:
    return dtype.name


def compute_dtype(name: str, what: str) -> str:
    """Name of the dtype that arrays of dtype ``name`` are computed in.

    Raises
    ------
    TTTypeError
        For longdouble and for anything that is no number.
    """
    if name in _LONG:
        raise TTTypeError(
            f"{what} has dtype {name}; ttcore computes in float32, float64, complex64 and "
            "complex128: "
            "convert it with .astype(float) or .astype(complex)"
        )
    try:
        return _COMPUTED_IN[name]
    except KeyError:
        raise TTTypeError(
            f"{what} has dtype {name}; expected floating, complex, integer or boolean numbers: "
            "convert it with .astype(float)"
        ) from None


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """NumPy dtype for a ``dtype=`` argument: one of the four that trains have.

    Raises
    ------
    TTTypeError
        For any other.
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = dtype_name(dtype)  # a dtype of torch, say
    if name not in _COMPUTED_IN.values():
        raise TTTypeError(
            f"dtype={name} is not supported; choose float32, float64, complex64 or complex128"
        )
    found: np.dtype[Any] = np.dtype(name)
    return found


def as_array(value: Any, what: str) -> Array:
    """``value`` as a native-endian array of one of the four dtypes, copied only if it must be.

    Arrays of other libraries stay what and where they are; anything else goes through NumPy.

    Raises
    ------
    TTTypeError
        If it is no array of numbers.
    """
    if type(value) is np.ndarray and value.dtype in NATIVE:  # the usual case, answered quickly
        return value
    if hasattr(value, "cores") and hasattr(value, "to_dense"):
        raise TTTypeError(
            f"{what} is a {type(value).__name__}, expected a dense array; expand it with "
            ".to_dense()"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise TTTypeError(
            f"{what} is a masked array, whose mask would be lost; fill it first with .filled(…)"
        )
    if isinstance(value, np.ndarray) or not array_api_compat.is_array_api_obj(value):
        value = _numpy_array(value, what)
        name = (
            value.dtype.name
            if value.dtype.kind in "biufc"
            else f"{value.dtype} ({value.dtype.name})"
        )
        # asking for the dtype also makes byte-swapped data native
        return np.asarray(value, dtype=compute_dtype(name, what))
    return astype(value, compute_dtype(dtype_name(value.dtype), what))


def _numpy_array(value: Any, what: str) -> np.ndarray[Any, Any]:
    if type(value).__module__.startswith("scipy.sparse"):
        raise TTTypeError(
            f"{what} is a sparse {type(value).__name__}, expected a dense array; convert it "
            "with .toarray()"
        )
    try:
        return np.asarray(value)
    except ValueError as error:  # a ragged list
        raise TTTypeError(f"{what} is no array: {error}") from error


def astype(x: Array, name: str) -> Array:
    """``x`` in the dtype called ``name`` of its own library; a copy only where it changes."""
    if dtype_name(x.dtype) == name:
        return x
    xp = namespace(x)
    return xp.astype(x, getattr(xp, name))


def copied(x: Array) -> Array:
    """A copy of its own; torch's autograd follows it, as it does not follow ``asarray``."""
    return namespace(x).astype(x, x.dtype, copy=True)


def in_double(x: Array) -> Array:
    """The array in double precision; in single where JAX was told to have no other."""
    if array_api_compat.is_jax_array(x) and not sys.modules["jax"].config.jax_enable_x64:
        return x
    return astype(x, "complex128" if is_complex(x) else "float64")


def is_complex(x: Array) -> bool:
    """Whether the dtype is complex."""
    if isinstance(x, np.ndarray):
        return bool(x.dtype.kind == "c")
    return dtype_name(x.dtype).startswith("complex")


def common(arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The arrays in their common dtype."""
    names = {dtype_name(a.dtype) for a in arrays}
    if len(names) == 1:
        return tuple(arrays)
    name = np.result_type(*names).name
    return tuple(astype(a, name) for a in arrays)


def are_alike(arrays: Sequence[Array]) -> bool:
    """Whether all are NumPy arrays of one dtype; the usual case, answered quickly."""
    dtype = getattr(arrays[0], "dtype", None)
    return all(type(a) is np.ndarray and a.dtype == dtype for a in arrays)


def library(x: Array) -> str:
    """Name of the library that the array belongs to, for messages and comparison."""
    return type(x).__module__.split(".", maxsplit=1)[0]


def check_same_library(arrays: Sequence[Array], what: str) -> None:
    """Raise TTTypeError unless all arrays belong to one library."""
    names = {library(a) for a in arrays}
    names = {"jax" if n == "jaxlib" else n for n in names}
    if len(names) > 1:
        raise TTTypeError(
            f"{what} mix arrays of {', '.join(sorted(names))}; convert them to one library first"
        )


def conj(x: Array) -> Array:
    """Complex conjugate; a real array is returned as it is, not copied."""
    return namespace(x).conj(x) if is_complex(x) else x


def adjoint(x: Array) -> Array:
    """Conjugate transpose of the last two axes; a view for real arrays."""
    return conj(x).mT


def rounding_unit(x: Array) -> float:
    """Unit roundoff of the array's dtype: half the machine epsilon."""
    return 2.0**-24 if dtype_name(x.dtype) in {"float32", "complex64"} else 2.0**-53


def detached(x: Array) -> Array:
    """``x`` out of reach of torch's autograd, for decisions that depend on values."""
    return x.detach() if hasattr(x, "detach") else x


def host(x: Array) -> np.ndarray[Any, Any]:
    """The values as a NumPy array, for decisions about ranks; small arrays only."""
    if isinstance(x, np.ndarray):
        return x
    x = detached(x)
    if array_api_compat.is_torch_array(x):
        return np.asarray(x.cpu().numpy())
    if array_api_compat.is_cupy_array(x):
        return np.asarray(x.get())
    return np.asarray(x)


def largest(x: Array) -> float:
    """Largest modulus of a real or imaginary part; NaN if there is one, 0.0 for an empty array."""
    if math.prod(x.shape) == 0:
        return 0.0
    xp = namespace(x)
    x = detached(x)
    if is_complex(x):
        parts = largest(xp.real(x)), largest(xp.imag(x))
        return math.nan if math.isnan(sum(parts)) else max(parts)
    return max(float(xp.max(x)), -float(xp.min(x)))  # NaN propagates into both


def default_device_like(x: Array) -> dict[str, Any]:
    """Keyword arguments that make a new array in the place of ``x``."""
    return {} if isinstance(x, np.ndarray) else {"device": array_api_compat.device(x)}


def from_numpy(values: np.ndarray[Any, Any], like: Array) -> Array:
    """NumPy values as an array of the library, dtype and device of ``like``."""
    if isinstance(like, np.ndarray):
        return values.astype(like.dtype, copy=False)
    xp = namespace(like)
    return xp.asarray(values, dtype=like.dtype, **default_device_like(like))
