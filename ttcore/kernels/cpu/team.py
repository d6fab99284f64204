"""One row shared by two threads: for calls too short to wake anybody.

Waking a thread costs as much as the whole product of one row. So a helper that has worked stays
awake for a moment, looking at a *board* for the next half of something; a call that comes meanwhile
finds it there, and one that comes later does both halves alone and wakes it for those that follow.

A sweep from the right begins with stages of several products. Each half takes half of them, through
all these stages, in scratch of its own: the threads exchange what they read and what they leave,
not the states between. The stages that remain are the caller's. Halves are the same whoever does
them: so are the bits.

The board is closed where NEXT is at least COUNT. Whoever takes a half first enters (INSIDE), then
takes a number from NEXT. The owner writes on the board only while it is closed and nobody is
inside: whoever enters later finds it closed, or open with everything written.

Where threads of others spin on the helper's CPU, as those of a BLAS and of OpenMP do for a while
after their work, the system stops the helper within a half for some milliseconds, and the caller
waits. After that has happened, calls are left to their caller for a while.
"""

import os
import threading
import time
from typing import Any

import numpy as np

from ttcore.kernels.cpu.buffers import aligned_array
from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.memory import acquire, fetch_add, load, pause, store
from ttcore.kernels.cpu.merging import COLUMNS, INNER, OUTER, ROWS, STATE, K
from ttcore.kernels.cpu.pool import keep_apart, usable_cpus
from ttcore.kernels.cpu.simd import entry_bytes
from ttcore.kernels.cpu.stages import advance, pull_back, retreat

# entries of the board; those that threads fight for have cache lines of their own
NEXT, INSIDE, OWNED, AWAKE, COUNT = 0, 16, 32, 48, 64
LATE = 56  # whether the other half was once not done when it should have been
KIND, STAGES, HALF, BASE, SOURCE, TARGET, SCRATCH, GRADIENTS, SPAN, STATES, INPUT = range(65, 76)
TABLE = 80
LONGEST = 12  # stages that are halved, at most
SIZE = TABLE + (LONGEST + 1) * COLUMNS
CLOSED = 2**40
FORWARD, AGAIN, BACK = range(3)  # a product; its states kept; gradients
PATIENCE = 20_000  # looks at the board before a helper sleeps, about 300 us
REST = 0.1  # seconds that the helper is not asked after it was late: so long OpenBLAS spins
RECENT = 1e-3  # seconds since the last call, beyond which the helper is not woken

Array = np.ndarray[Any, Any]


@compiled
def take_halves(zero, board):
    """Do halves until there are no more."""
    at = np.uintp(board.ctypes.data)
    while True:
        i = fetch_add(np.uintp(at + 8 * NEXT), 1)
        if i >= load(np.uintp(at + 8 * COUNT)):
            return
        if board[KIND] == BACK:
            _half_back(zero, board, i)
        else:
            _half(zero, board, i)


@compiled
def _part(board, stage, i):
    """First and last product of half i of a stage: those of the last stage, times their parts."""
    most = board[TABLE + (board[STAGES] - 1) * COLUMNS + OUTER]
    parts = stage[OUTER] // most
    middle = parts * ((most + 1) // 2)
    if i == 0:
        return 0, middle
    return middle, stage[OUTER]


@compiled
def _half(zero, board, i):
    """Half i of the halved stages; the last one into TARGET, or every state into STATES."""
    size = entry_bytes(zero)
    base, source = np.uintp(board[BASE]), np.uintp(board[SOURCE])
    place = np.uintp(board[SCRATCH] + 2 * i * board[HALF] * size)
    for t in range(board[STAGES]):
        stage = board[TABLE + t * COLUMNS : TABLE + (t + 1) * COLUMNS]
        first, last = _part(board, stage, i)
        if board[KIND] == AGAIN:
            state = board[TABLE + (t + 1) * COLUMNS + STATE]
            target = np.uintp(board[STATES] + state * size)
        elif t == board[STAGES] - 1:
            target = np.uintp(board[TARGET])
        else:  # the entry of product 0 would stand before this half's scratch
            before = first * stage[ROWS] * stage[INNER] * size
            target = np.uintp(place + (t % 2) * board[HALF] * size - before)
        advance(zero, stage, base, source, target, first, last)
        source = target


@compiled
def _half_back(zero, board, i):
    """Gradients through half i of the halved stages, from SOURCE into TARGET."""
    size = entry_bytes(zero)
    base = np.uintp(board[BASE])
    gbase = np.uintp(board[GRADIENTS] + i * board[SPAN] * size)
    place = np.uintp(board[SCRATCH] + 3 * i * board[HALF] * size)
    spare = np.uintp(place + 2 * board[HALF] * size)
    g = np.uintp(board[SOURCE])
    for t in range(board[STAGES] - 1, -1, -1):
        stage = board[TABLE + t * COLUMNS : TABLE + (t + 1) * COLUMNS]
        first, last = _part(board, stage, i)
        read, left = stage[K] * stage[INNER] * size, stage[ROWS] * stage[INNER] * size
        if t == board[STAGES] - 1:
            g = np.uintp(g + first * left)
        state = np.uintp(board[STATES] + stage[STATE] * size + first * read)
        new = np.uintp(place + (t % 2) * board[HALF] * size)
        if t == 0:
            state = np.uintp(board[INPUT] + first * read)
            new = np.uintp(board[TARGET] + first * read)
        pull_back(zero, stage, gbase, state, g, spare, last - first)
        retreat(zero, stage, base, g, new, last - first)
        g = new


@compiled
def serve(zero, board, patience):
    """Help until nothing was on the board for a while."""
    at = np.uintp(board.ctypes.data)
    looks = 0
    while looks < patience:
        if load(np.uintp(at + 8 * NEXT)) < load(np.uintp(at + 8 * COUNT)):
            fetch_add(np.uintp(at + 8 * INSIDE), 1)
            take_halves(zero, board)
            fetch_add(np.uintp(at + 8 * INSIDE), -1)
            looks = 0
        else:
            pause()
            looks += 1


@compiled
def publish(zero, board, kind, source, target):
    """Open the board, work with the other, and close it when both halves are done."""
    at = np.uintp(board.ctypes.data)
    board[KIND], board[SOURCE], board[TARGET] = kind, source, target
    store(np.uintp(at + 8 * COUNT), 2)
    store(np.uintp(at + 8 * NEXT), 0)
    take_halves(zero, board)
    store(np.uintp(at + 8 * NEXT), CLOSED)
    looks = 0
    while load(np.uintp(at + 8 * INSIDE)) > 0:
        pause()
        looks += 1
    if looks > PATIENCE:  # it took longer than a short call takes in all
        board[LATE] = 1


@compiled
def prepare(zero, board, table, halved, half, mats, scratch):
    """Write on the board what all halves of a call need; False if it is somebody else's."""
    if not acquire(np.uintp(board.ctypes.data + 8 * OWNED)):
        return False
    board[STAGES], board[HALF], board[SPAN] = halved, half, mats.size
    board[BASE], board[SCRATCH] = mats.ctypes.data, scratch.ctypes.data
    for t in range(halved):
        for c in range(COLUMNS):
            board[TABLE + t * COLUMNS + c] = table[t, c]
    board[TABLE + halved * COLUMNS + STATE] = table[halved, STATE]
    return True


@compiled
def release(board):
    """Leave the board to others."""
    store(np.uintp(board.ctypes.data + 8 * OWNED), 0)


@compiled
def forward(zero, board, table, halved, half, mats, x, y, scratch, largest):
    """``stages.forward`` of one row; False if the board is somebody else's.

    Contract
        halved   stages in halves; half: entries of the largest state of a half
        scratch  4 half + 2 largest
    """
    if not prepare(zero, board, table, halved, half, mats, scratch):
        return False
    size = entry_bytes(zero)
    base = np.uintp(mats.ctypes.data)
    place = np.uintp(scratch.ctypes.data + 4 * half * size)
    publish(zero, board, FORWARD, np.uintp(x.ctypes.data), place)
    source = place
    for t in range(halved, table.shape[0]):
        target = np.uintp(place + (t - halved + 1) % 2 * largest * size)
        if t == table.shape[0] - 1:
            target = np.uintp(y.ctypes.data)
        advance(zero, table[t], base, source, target, 0, table[t, OUTER])
        source = target
    release(board)
    return True


@compiled
def backward(zero, board, table, halved, half, mats, x, gy, gx, gmats, scratch, largest):
    """``stages.backward`` of one row; False if the board is somebody else's.

    Contract
        gmats    (2, entries of mats), added to
        scratch  6 half + 3 largest, and all states but the first
    """
    if not prepare(zero, board, table, halved, half, mats, scratch):
        return False
    size = entry_bytes(zero)
    stages = table.shape[0]
    base, gbase = np.uintp(mats.ctypes.data), np.uintp(gmats.ctypes.data)
    place = np.uintp(scratch.ctypes.data + 6 * half * size)
    spare = np.uintp(place + 2 * largest * size)
    states = np.uintp(spare + largest * size)
    board[STATES], board[INPUT], board[GRADIENTS] = states, x.ctypes.data, gbase
    publish(zero, board, AGAIN, np.uintp(x.ctypes.data), states)
    for t in range(halved, stages - 1):
        source = np.uintp(states + table[t, STATE] * size)
        target = np.uintp(states + table[t + 1, STATE] * size)
        advance(zero, table[t], base, source, target, 0, table[t, OUTER])
    g = np.uintp(gy.ctypes.data)
    for t in range(stages - 1, halved - 1, -1):
        state = np.uintp(states + table[t, STATE] * size)
        new = np.uintp(place + (t % 2) * largest * size)
        pull_back(zero, table[t], gbase, state, g, spare, table[t, OUTER])
        retreat(zero, table[t], base, g, new, table[t, OUTER])
        g = new
    publish(zero, board, BACK, g, np.uintp(gx.ctypes.data))
    release(board)
    return True


def new_board() -> Array:
    """A closed board, which nobody looks at yet."""
    board = aligned_array(SIZE, np.dtype(np.int64))
    board.fill(0)
    board[NEXT] = CLOSED
    return board


class Team:
    """A board and a helper for one dtype."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.board = new_board()
        self._zero = dtype.type(0)
        self._last = self._resting = 0.0
        self._bell = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self) -> Array:
        """The board to use; the helper is awake for the next calls, if calls come fast."""
        now = time.perf_counter()
        recent, self._last = now - self._last < RECENT, now
        if self.board[LATE]:
            self.board[LATE], self._resting = 0, now + REST
        if now < self._resting:
            return _alone
        if recent and not self.board[AWAKE] and self._lock.acquire(blocking=False):
            self._wake()
        return self.board

    def _wake(self) -> None:
        """By whoever has the lock."""
        try:
            if self._thread is None:
                serve(self._zero, new_board(), 0)  # compiles in the caller's thread
                thread = threading.Thread(target=self._help, name="ttcore", daemon=True)
                thread.start()
                self._thread = thread
            if self._thread.native_id is not None:
                keep_apart([self._thread.native_id])
            self.board[AWAKE] = 1
            self._bell.set()
        except RuntimeError:  # no more threads, or the interpreter is shutting down
            return
        finally:
            self._lock.release()

    def _help(self) -> None:
        while True:
            self._bell.wait()
            self._bell.clear()
            serve(self._zero, self.board, PATIENCE)
            self.board[AWAKE] = 0


_alone = new_board()  # which no helper sees
_teams: dict[Any, Team] = {}


def board_for(dtype: np.dtype[Any], workers: int | None) -> Array:
    """The board of a dtype, its helper called; for one worker a board that no helper sees."""
    cpus = usable_cpus()
    if min(workers or cpus, cpus) < 2:
        return new_board()
    team = _teams.get(dtype)
    if team is None:
        team = _teams.setdefault(dtype, Team(dtype))
    return team.call()


def _forget() -> None:
    """In a forked child the helpers do not exist, and nobody will release a board."""
    _teams.clear()
    _alone[OWNED] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
