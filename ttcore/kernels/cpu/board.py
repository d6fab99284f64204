"""Steps whose shares threads take from a board: for many short ones in one compiled call.

Whoever takes a share first enters (INSIDE), then takes a number from NEXT. The board is closed
where NEXT is at least COUNT. Its owner writes on it only while it is closed and nobody is inside:
whoever enters later finds it closed, or open with everything written. Helpers look at it until all
is done; one who comes too late finds that it is, and touches nothing.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from ttcore.kernels.cpu.buffers import aligned_array
from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.memory import fetch_add, load, pause, store
from ttcore.kernels.cpu.pool import call_helpers

Board = np.ndarray[Any, Any]

# entries; those that threads fight for have cache lines of their own
NEXT, INSIDE, DONE, COUNT, STEP = 0, 16, 32, 48, 49
SIZE = 64
CLOSED = 2**40
PATIENCE = 100_000  # looks at a closed board before a helper goes, some milliseconds

_ready: set[Hashable] = set()  # for which the helpers' work is compiled


def new_board() -> Board:
    """A closed one."""
    board = aligned_array(SIZE, np.dtype(np.int64))
    board.fill(0)
    board[NEXT] = CLOSED
    return board


def together(
    key: Hashable, owner: Callable[[Board], Any], helper: Callable[[Board], None], helpers: int
) -> Any:
    """``owner(board)``, while at most so many threads of the pool do ``helper(board)``.

    The first time for a ``key`` the caller compiles what helpers do: a process ends without them.
    """
    if key not in _ready:
        end(over := new_board())
        helper(over)
        _ready.add(key)
    board = new_board()
    try:
        if helpers:
            call_helpers(lambda: helper(board), helpers)
        return owner(board)
    finally:  # an interrupt is raised on the way back
        end(board)


@compiled
def begin(board, step, shares):
    """Offer the shares of a step."""
    at = np.uintp(board.ctypes.data)
    board[STEP] = step
    store(np.uintp(at + 8 * COUNT), shares)
    store(np.uintp(at + 8 * NEXT), 0)


@compiled
def take(board):
    """The number of a share, or -1."""
    at = np.uintp(board.ctypes.data)
    number = fetch_add(np.uintp(at + 8 * NEXT), 1)
    return number if number < load(np.uintp(at + 8 * COUNT)) else -1


@compiled
def peek(board):
    """The number of the share that `take` would give now, or -1."""
    at = np.uintp(board.ctypes.data)
    number = load(np.uintp(at + 8 * NEXT))
    return number if number < load(np.uintp(at + 8 * COUNT)) else -1


@compiled
def finish(board):
    """Close it, and wait for those who are inside."""
    at = np.uintp(board.ctypes.data)
    store(np.uintp(at + 8 * NEXT), CLOSED)
    while load(np.uintp(at + 8 * INSIDE)) > 0:
        pause()


@compiled
def end(board):
    """All steps are done: helpers may go."""
    store(np.uintp(board.ctypes.data + 8 * DONE), 1)


@compiled
def enter(board):
    """Wait until there are shares to take, then `leave` it; False where that is in vain."""
    at = np.uintp(board.ctypes.data)
    for _ in range(PATIENCE):
        if load(np.uintp(at + 8 * DONE)) != 0:
            return False
        if load(np.uintp(at + 8 * NEXT)) < load(np.uintp(at + 8 * COUNT)):
            fetch_add(np.uintp(at + 8 * INSIDE), 1)
            return True
        pause()
    return False


@compiled
def leave(board):
    """No longer inside."""
    fetch_add(np.uintp(board.ctypes.data + 8 * INSIDE), -1)
