"""A pool of threads for compiled kernels that release the GIL; knows nothing of mathematics.

What a block computes must not depend on its bounds: then results do not depend on the number of
workers. The caller takes part and never waits inside a pool thread; only leaf tasks enter the pool.
It is made anew in a forked child.

Whoever waits looks for a moment at a number that will change, before it sleeps: to be woken takes
tens of microseconds, and often goes with a move to the other CPU, whose caches hold something else.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue

import numpy as np

LOOKS = 10_000  # before one sleeps, about 150 us


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
        call_helpers(job.work, crew - 1)
    job.work()
    job.finish()


class _Job:
    """Ranges that threads take until there are none, or one of them failed."""

    def __init__(
        self, block: Callable[[int, int], None], ranges: Iterator[tuple[int, int]]
    ) -> None:
        self._block, self._ranges = block, ranges
        self._changed = threading.Condition()
        self._open = np.zeros(1, np.int64)  # blocks that are being computed
        self._error: BaseException | None = None

    def work(self) -> None:
        while (bounds := self._take()) is not None:
            error = None
            try:
                self._block(*bounds)
            except BaseException as caught:  # raised again by `finish`, in the caller's thread
                error = caught
            with self._changed:
                self._open[0] -= 1
                self._error = self._error or error
                self._changed.notify_all()

    def _take(self) -> tuple[int, int] | None:
        with self._changed:
            bounds = None if self._error else next(self._ranges, None)
            self._open[0] += bounds is not None
            return bounds

    def finish(self) -> None:
        """Wait for the blocks of others; one whose thread has not begun finds nothing to do."""
        while (left := self._open[0]) and _watch(self._open, left):
            pass
        with self._changed:
            self._changed.wait_for(lambda: self._open[0] == 0)
        if self._error is not None:
            raise self._error


def _ranges(count: int, grain: int, crew: int) -> Iterator[tuple[int, int]]:
    """A third of an equal share of what is left at a time, in multiples of ``grain``."""
    first = 0
    while first < count:
        size = grain * max(1, (count - first) // (3 * crew * grain))
        yield first, min(first + size, count)
        first += size


class _Helpers:
    """Threads that do what they are given, in any order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._given: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._posted = np.zeros(1, np.int64)  # how often something was given

    def give(self, work: Callable[[], None], times: int) -> None:
        """By as many threads as there are CPUs beside the caller's, at most."""
        times = min(times, max(usable_cpus() - 1, 1))
        _watch(self._posted, -1)  # compiles in the caller's thread
        with self._lock:
            try:
                while len(self._threads) < times:
                    thread = threading.Thread(target=self._help, name="ttcore", daemon=True)
                    thread.start()
                    self._threads.append(thread)
            except RuntimeError:  # no more threads, or the interpreter is shutting down
                times = len(self._threads)
            keep_apart(x.native_id for x in self._threads if x.native_id is not None)
            for _ in range(times):
                self._given.put(work)
            self._posted[0] += 1

    def _help(self) -> None:
        while True:
            seen = self._posted[0]
            try:
                work = self._given.get_nowait()
            except Empty:
                if _watch(self._posted, seen):
                    continue
                work = self._given.get()
            try:
                work()
            except Exception as error:  # shown as that of a thread that dies; this one goes on
                shown = type(error), error, error.__traceback__, threading.current_thread()
                threading.excepthook(threading.ExceptHookArgs(shown))
            del work  # and the arrays that it knows


_helpers = _Helpers()


def call_helpers(work: Callable[[], None], helpers: int) -> None:
    """Have so many threads do ``work``, at most, and soon or too late: nobody waits for them."""
    _helpers.give(work, helpers)


def _watch(place: np.ndarray, value: int) -> bool:
    """Whether a number is, or soon becomes, another than ``value``."""
    from ttcore.kernels.cpu.memory import watch  # this module is there before Numba

    return bool(watch(place, value, LOOKS))


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
    """In a forked child the helpers do not exist, and their locks may be held by nobody."""
    global _helpers  # noqa: PLW0603 -- one pool for the process
    _helpers = _Helpers()
    _kept_off.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
