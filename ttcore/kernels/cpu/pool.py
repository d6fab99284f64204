"""A pool of threads for compiled kernels that release the GIL; knows nothing of mathematics.

What a block computes must not depend on its bounds: then results do not depend on the number of
workers. The caller takes part and never waits inside a pool thread; only leaf tasks enter the pool.
It is made anew in a forked child.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

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
    """Call ``block(first, last)`` for ranges that cover range(count), of at least ``grain``.

    By at most ``workers`` threads, the caller's among them; the default is `usable_cpus`. Ranges
    begin long and become shorter, so that all end together. An exception in a block is raised here,
    after all others have ended.
    """
    if count <= grain:
        if count:
            block(0, count)
        return
    crew = min(workers or usable_cpus(), -(-count // grain))
    job = _Job(block, _ranges(count, grain, crew))
    if crew > 1:
        _start(job.work, crew - 1)
    job.work()
    job.finish()


class _Job:
    """Ranges that threads take until there are none, or one of them failed."""

    def __init__(
        self, block: Callable[[int, int], None], ranges: Iterator[tuple[int, int]]
    ) -> None:
        self._block, self._ranges = block, ranges
        self._changed = threading.Condition()
        self._open = 0  # blocks that are being computed
        self._error: BaseException | None = None

    def work(self) -> None:
        while (bounds := self._take()) is not None:
            error = None
            try:
                self._block(*bounds)
            except BaseException as caught:  # raised again by `finish`, in the caller's thread
                error = caught
            with self._changed:
                self._open -= 1
                self._error = self._error or error
                self._changed.notify_all()

    def _take(self) -> tuple[int, int] | None:
        with self._changed:
            bounds = None if self._error else next(self._ranges, None)
            self._open += bounds is not None
            return bounds

    def finish(self) -> None:
        """Wait for the blocks of others; one whose thread has not begun finds nothing to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0)
        if self._error is not None:
            raise self._error


def _ranges(count: int, grain: int, crew: int) -> Iterator[tuple[int, int]]:
    """A third of an equal share of what is left at a time, in multiples of ``grain``."""
    first = 0
    while first < count:
        size = grain * max(1, (count - first) // (3 * crew * grain))
        yield first, min(first + size, count)
        first += size


def _start(work: Callable[[], None], helpers: int) -> None:
    global _pool  # noqa: PLW0603 -- one pool for the process
    try:
        with _lock:
            if _pool is None:
                _pool = ThreadPoolExecutor(
                    max(usable_cpus() - 1, 1), "ttcore", initializer=_register
                )
            keep_apart(_natives)
            for _ in range(helpers):
                _pool.submit(work)
    except RuntimeError:  # no more threads, or the interpreter is shutting down: the caller works
        return


_natives: list[int] = []  # the system's numbers of the pool's threads


def _register() -> None:
    _natives.append(threading.get_native_id())


def keep_apart(threads: Iterable[int]) -> None:
    """Keep threads off the caller's CPU, by the system's numbers; Linux only.

    It often wakes them there, where they wait until the caller has done all the work.
    """
    if _current_cpu is None:
        return
    cpu = _current_cpu()
    others = None
    for thread in threads:
        if _kept_off.get(thread) == cpu:
            continue
        others = others or os.sched_getaffinity(0) - {cpu}
        if not others:
            return
        try:
            os.sched_setaffinity(thread, others)
        except OSError:  # it has ended, or may not be moved
            continue
        _kept_off[thread] = cpu


_kept_off: dict[int, int] = {}


def _find_current_cpu() -> Callable[[], int] | None:
    if not hasattr(os, "sched_setaffinity"):
        return None
    return getattr(ctypes.CDLL(None), "sched_getcpu", None)


_current_cpu = _find_current_cpu()


def _forget() -> None:
    """In a forked child the pool's threads do not exist, and its locks may be held by nobody."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()
    _natives.clear()
    _kept_off.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
