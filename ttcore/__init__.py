"""Tensor-train numerics: big arrays kept as chains of small ones.

The public names are loaded when they are first used, so that ``import ttcore`` is quick.
"""

from importlib import import_module

__version__ = "0.1.0"

_NAMES = {
    "ttcore.errors": (
        "TTConvergenceError",
        "TTError",
        "TTFormatError",
        "TTIndexError",
        "TTShapeError",
        "TTSizeError",
        "TTTypeError",
        "TTValueError",
    ),
    "ttcore.functions": (
        "allclose",
        "bilinear_form",
        "concatenate",
        "diag",
        "distance",
        "kron",
        "log_vdot",
        "stack",
        "vdot",
    ),
    "ttcore.making": (
        "eye",
        "from_cp",
        "from_dense",
        "from_tucker",
        "matrix_from_dense",
        "ones",
        "random",
        "random_matrix",
        "rank_one",
        "zeros",
    ),
    "ttcore.matrix": ("TTMatrix",),
    "ttcore.rounded": ("matmul", "multiply", "round_sum"),
    "ttcore.tensor": ("TTTensor",),
    "ttcore.tuning": ("load_plan", "save_plan"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_SUBMODULES = ("indexing", "layers", "linear", "rows", "testing")

__all__ = sorted([*_HOME, *_SUBMODULES])  # noqa: PLE0605 -- the stub is literal


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return import_module(f"ttcore.{name}")  # which also binds the name here
    if name not in _HOME:
        raise AttributeError(f"module 'ttcore' has no attribute {name!r}; {_hint(name)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _hint(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, __all__, n=1)
    return f"did you mean {close[0]!r}?" if close else "dir(ttcore) lists the public names"
