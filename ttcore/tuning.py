"""Orders of contraction chosen by the clock; written to files and read again."""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ttcore import planner
from ttcore.arrays import dtype_name, from_numpy
from ttcore.errors import TTFormatError, TTTypeError
from ttcore.kernels import dispatch
from ttcore.orders import Modes
from ttcore.planner import Order, Plan
from ttcore.scalars import kind
from ttcore.typing import Array, Cores, Stage

FORMAT = "ttcore plan 1"
DTYPES = ("float32", "float64", "complex64", "complex128")
TRIED = 12  # orders, the most promising ones
SLICE = 0.003  # seconds for one order in one round
ROUNDS = 5


def tune(cores: Cores, batch: int) -> Plan:
    """The fastest of the most promising orders for rows, measured; used from now on.

    In this process, for matrices of the same modes, ranks and dtype and batches of the same class.
    """
    dtype = dtype_name(cores[0].dtype)
    like = planner.batch_class(batch)
    native = dispatch.is_native(cores[0])
    shapes = tuple(tuple(g.shape) for g in cores)
    modes = planner.modes_of(shapes)
    compiled = planner.order(shapes, like, dtype, "rows", native).compiled
    found = planner.candidates(modes, like, dtype, "rows", compiled=compiled, keep=TRIED)
    vectors = np.random.default_rng(0).standard_normal((batch, math.prod(modes.cols)))
    x = from_numpy(vectors, cores[0])
    chain = dispatch.chain(compiled)
    seconds = measured([_call(chain, cores, x, stages) for _, stages in found])
    best = min(range(len(found)), key=seconds.__getitem__)
    order = Order(found[best][1], compiled, seconds[best])
    planner.remember(modes, like, dtype, order)
    return planner.planned(modes, batch, dtype, order)


def _call(chain: Any, cores: Cores, x: Array, stages: tuple[Stage, ...]) -> Callable[[], Any]:
    return lambda: chain.matvec(cores, x, stages)


def measured(calls: list[Callable[[], Any]]) -> list[float]:
    """The smallest time of each call over rounds in which all take turns."""
    numbers = []
    for call in calls:
        call()  # compiles, or loads
        start = time.perf_counter()
        call()
        numbers.append(max(1, int(SLICE / (time.perf_counter() - start))))
    best = [math.inf] * len(calls)
    for _ in range(ROUNDS):
        for i, (call, number) in enumerate(zip(calls, numbers, strict=True)):
            start = time.perf_counter()
            for _ in range(number):
                call()
            best[i] = min(best[i], (time.perf_counter() - start) / number)
    return best


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan to a JSON file, for `load_plan`; whole or not at all.

    Parameters
    ----------
    plan : Plan
        Of `TTMatrix.plan`.
    path : str or path

    Raises
    ------
    TTTypeError
        If it is no plan.
    OSError
        If the file cannot be written; an older one is kept then.
    """
    if not isinstance(plan, Plan):
        raise TTTypeError(f"plan is {kind(plan)}, expected a Plan, as W.plan() returns it")
    text = json.dumps(
        {
            "format": FORMAT,
            "row_modes": plan.row_modes,
            "col_modes": plan.col_modes,
            "ranks": plan.ranks,
            "batch": plan.batch,
            "dtype": plan.dtype,
            "compiled": plan.compiled,
            "seconds": plan.seconds,
            "stages": plan.stages,
        },
        indent=1,
    )
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan that `save_plan` wrote, and use it from now on.

    In this process, for matrices of its modes, ranks and dtype and batches of its class: their
    results then have the bits of the process that tuned it.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Plan

    Raises
    ------
    TTFormatError
        If the file holds no plan, or one that does not fit its own modes and ranks.
    OSError
        If there is no such file.

    Examples
    --------
    >>> import tempfile, os
    >>> import ttcore as tt
    >>> W = tt.random_matrix((4, 4), (4, 7), 3, rng=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "plan.json")
    >>> tt.save_plan(W.plan(batch=100, tune=True), path)
    >>> tt.load_plan(path).batch
    100
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise TTFormatError(f"{path} has format {data['format']!r}, expected {FORMAT!r}")
        modes = Modes(*(tuple(map(int, data[key])) for key in ("row_modes", "col_modes", "ranks")))
        stages = tuple(Stage(*map(int, stage)) for stage in data["stages"])
        batch, dtype = int(data["batch"]), str(data["dtype"])
        order = Order(stages, bool(data["compiled"]), float(data["seconds"]))
        if batch < 0 or dtype not in DTYPES:
            raise ValueError(f"batch {batch}, dtype {dtype}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, TTFormatError):
            raise
        raise TTFormatError(
            f"{path} holds no plan ({type(error).__name__}: {error}); write one with save_plan"
        ) from error
    if not planner.is_possible(modes, stages):
        raise TTFormatError(
            f"{path}: its stages do not contract a matrix of row_modes {modes.rows}, col_modes "
            f"{modes.cols} and ranks {modes.ranks}; tune again"
        )
    planner.remember(modes, planner.batch_class(batch), dtype, order)
    return planner.planned(modes, batch, dtype, order)
