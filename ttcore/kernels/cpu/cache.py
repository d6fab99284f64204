"""Numba's disk cache for the kernels, in a folder of their own.

Numba looks at the file of a function alone, and would serve stale code after an edit of the tiles
it inlines. The folder's name therefore holds a hash of all sources here, the versions of Numba and
llvmlite, and what is compiled for. Trouble with the folder means compiling anew, never an error.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import llvmlite
import numba
from numba.core import caching, config
from numba.core.runtime import rtsys
from numba.core.types import unliteral

from ttcore.kernels.cpu.target import features


@lru_cache
def folder() -> Path:
    """Where compiled kernels are kept: TTCORE_CACHE_DIR, NUMBA_CACHE_DIR, or the user's cache."""
    stamp = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        stamp.update(path.read_bytes())
    what = (
        numba.__version__,
        llvmlite.__version__,
        sys.version,
        config.CPU_NAME,
        *sorted(features()),
    )
    stamp.update(repr(what).encode())
    return _root() / f"kernels-{stamp.hexdigest()[:16]}"


def _root() -> Path:
    if chosen := os.environ.get("TTCORE_CACHE_DIR") or config.CACHE_DIR:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "ttcore"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ttcore"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ttcore"


class _Locator(caching._CacheLocator):
    """Numba's question where to keep a function, answered."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return folder().name  # the folder's name changes with the sources

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator | None":
        found = cls(py_func, py_file)
        try:
            found.ensure_cache_path()
        except OSError:  # no such folder, or not writable
            return None
        return found


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar = [_Locator]


class _Cache(caching.FunctionCache):
    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # Numba would first load all it knows of typing and lowering, SciPy included: a quarter of a
        # second. Machine code that is ready needs the runtime that allocates, no more; compiling
        # loads the rest when it must.
        rtsys.initialize(target_context)
        for load in (self._load_overload, super().load_overload):  # the second in Numba's own way
            try:
                return load(sig, target_context)
            except Exception:
                continue
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:  # the disk is full, or the folder is gone
            return


def compiled(function: Callable[..., Any], fastmath: Any = False) -> Any:
    """``numba.njit(nogil=True)`` with this cache; single-threaded.

    Compiled once for each type: Numba would compile the function anew for each number that a caller
    writes out, five times for the commonest kernel, and be twice as long about it.
    """
    dispatcher = numba.njit(nogil=True, fastmath=fastmath)(function)
    resolve = dispatcher.get_call_template
    dispatcher.get_call_template = lambda args, kws: resolve(
        tuple(map(unliteral, args)), {name: unliteral(kind) for name, kind in kws.items()}
    )
    try:
        dispatcher._cache = _Cache(function)
    except (RuntimeError, OSError):  # no place to keep it
        return dispatcher
    return dispatcher


def reordered(function: Callable[..., Any]) -> Any:
    """As `compiled`, but sums may be taken in lanes; NaN and Inf keep their meaning."""
    return compiled(function, {"reassoc"})
