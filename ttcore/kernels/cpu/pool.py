"""A pool of threads for compiled kernels that release the GIL; knows nothing of mathematics.

Work is cut into blocks whose bounds depend on sizes alone, so results do not depend on the number
of workers. The caller takes part and never waits inside a pool thread; only leaf tasks enter the
pool. It is made anew in a forked child.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_blocks(
    block: Callable[[int, int], None], count: int, grain: int, workers: int | None = None
) -> None:
    """Call ``block(first, last)`` for ranges of at most ``grain`` that cover range(count).

    By at most ``workers`` threads, the caller's among them; the default is `usable_cpus`. An
    exception in a block is raised here, after all others have ended.
    """
    ranges = [(first, min(first + grain, count)) for first in range(0, count, grain)]
    if len(ranges) == 1:
        block(*ranges[0])
        return
    helpers = min(workers or usable_cpus(), len(ranges)) - 1
    rest = iter(ranges)

    def work() -> None:
        while (bounds := _next(rest)) is not None:
            block(*bounds)

    futures = _start(work, helpers) if helpers > 0 else []
    try:
        work()
    finally:
        for future in futures:
            future.cancel()  # one that has not begun finds nothing left to do
    for future in futures:
        if not future.cancelled():
            future.result()


_next_lock = threading.Lock()


def _next(rest: Iterator[tuple[int, int]]) -> tuple[int, int] | None:
    with _next_lock:
        return next(rest, None)


def _start(work: Callable[[], None], helpers: int) -> list[Future[None]]:
    global _pool  # noqa: PLW0603 -- one pool for the process
    try:
        with _lock:
            if _pool is None:
                _pool = ThreadPoolExecutor(max(usable_cpus() - 1, 1), "ttcore")
            return [_pool.submit(work) for _ in range(helpers)]
    except RuntimeError:  # the interpreter is shutting down: the caller works alone
        return []


def _forget() -> None:
    """In a forked child the pool's threads do not exist, and its locks may be held by nobody."""
    global _pool, _lock, _next_lock
    _pool, _lock, _next_lock = None, threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
