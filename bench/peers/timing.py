"""Contenders timed in turns, in one process and one run; peak memory of one call."""

import ctypes
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROUNDS = 7
SLICE = 0.03  # seconds of calls that one contender makes in a row
SETTLE = 0.15  # seconds after which the threads of OpenBLAS have stopped spinning (105 ms measured)
TICK = 0.01  # seconds: how finely the system counts
TOLERATED = 0.1  # of one core, that other processes may use meanwhile


class Timing(NamedTuple):
    """Seconds per call, one number a round, and in how many rounds other processes ran."""

    samples: list[float]
    disturbed: int = 0

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def mark(self) -> str:
        """A dagger where more than a third of the rounds were disturbed."""
        return " †" if 3 * self.disturbed > len(self.samples) else ""

    @property
    def best(self) -> float:
        return min(self.samples)


def in_turns(
    contenders: dict[str, Callable[[], Any]],
    *,
    check: Callable[[dict[str, Any]], None],
    always: Iterable[str] = ("ttcore",),
    keep: float = 3.0,
    rounds: int = ROUNDS,
) -> dict[str, Timing]:
    """Time all contenders in turns.

    A first call of each warms up, and its answer goes to ``check``. A peer whose call then takes
    more than ``keep`` times as long as the fastest peer's is left at that one call: it is not the
    best peer.
    """
    answers, first = {}, {}
    for name, call in contenders.items():
        start = time.perf_counter()
        answers[name] = call()
        first[name] = time.perf_counter() - start
    check(answers)
    answers.clear()
    gc.collect()
    gc.freeze()  # else searching what a compiler left behind is part of somebody's time
    for name, call in contenders.items():
        # a compiler may have taken part of a long one
        times = 3 if first[name] < 2.0 else 1
        first[name] = min(_slice(call, 1)[0] for _ in range(times))
    always = set(always)
    fastest = min((t for name, t in first.items() if name not in always), default=0.0)
    kept = [name for name, t in first.items() if name in always or t <= keep * fastest]
    found: dict[str, list[tuple[float, bool]]] = {name: [] for name in kept}
    for turn in range(rounds):
        for name in kept[turn % len(kept) :] + kept[: turn % len(kept)]:
            number = max(1, int(SLICE / first[name]))
            found[name].append(_slice(contenders[name], number))
    timed = {
        name: Timing([seconds for seconds, _ in slices], sum(bad for _, bad in slices))
        for name, slices in found.items()
    }
    return timed | {name: Timing([first[name]]) for name in contenders if name not in timed}


def _slice(call: Callable[[], Any], number: int) -> tuple[float, bool]:
    """Seconds per call, and whether other processes disturbed it: then again, if patience lasts."""
    while True:
        start, busy, own = time.perf_counter(), _busy(), time.process_time()
        if number > 1:
            call()  # wakes the threads of its own library
        begin = time.perf_counter()
        for _ in range(number):
            call()
        end = time.perf_counter()
        time.sleep(SETTLE)
        others = (_busy() - busy) - (time.process_time() - own)
        spent = time.perf_counter() - start
        disturbed = others >= TOLERATED * spent + 2 * TICK
        if patience.left <= 0 or not disturbed:
            return (end - begin) / number, disturbed
        patience.left -= spent + 0.2
        time.sleep(0.2)


class Patience:
    """Seconds that may still be spent on measuring again."""

    left = 0.0


patience = Patience()


def _busy() -> float:
    """Seconds that all cores have worked; 0 where the system does not say."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    ticks = [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]]
    return TICK * (sum(ticks) - ticks[3] - ticks[4])  # without idle and waiting for disks


def peak_bytes(call: Callable[[], Any]) -> tuple[int, Any]:
    """By how much resident memory rose during a call, at its peak, and the answer; Linux only."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls left free would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    answer = call()
    return _status("VmHWM") - before, answer


def in_fresh_process(script: str, *arguments: object) -> float:
    """The last number that a script prints, in a process where nothing was called before."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")
