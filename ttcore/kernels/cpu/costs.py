"""How long the compiled kernels take, in a model: what plans are chosen by.

Fitted to tiles measured on one AVX-512 core in cache, float32 and float64; the median error of a
product is 6 %. Only proportions matter. Seconds.
"""

from ttcore.typing import Stage

REGISTER = 64  # bytes
STEP = 2.7e-10  # a multiply-add of two registers
LATENCY = 4  # of them are under way together: a smaller tile waits
TILE = 2.2e-9  # beginning a tile of up to 8 rows and 2 registers
STORE = 3.5e-10  # a register of the result
CALL = 3e-9  # a product
TURN = 1e-10  # an entry transposed
MOVE = 4e-10  # an entry copied into the order of a stage
START = 2e-6  # merging and planning look-ups of one more core
FAR = 8e-12  # a byte from or to the outer caches, of what exceeds the nearer
NEAR = 2**19  # bytes of the nearer caches
SUM = 1e-10  # a byte of a partial sum of the gradients: cleared, added up
SHARES = 16  # at most so many partial sums
SHARE_BYTES = 2**21  # and at most so much memory for them

GROUP = 64  # at most so many rows go through the stages together
GROUP_ENTRIES = 2**15  # and only while their states stay in the nearer caches

# for the rest of 8 rows, cut into tiles of 4, 2 and 1: tiles, and steps with two registers and one
_TILES = [bin(rest).count("1") for rest in range(8)]
_STEPS = {
    v: [sum(max(bit * v, LATENCY) for bit in (4, 2, 1) if rest & bit) for rest in range(8)]
    for v in (1, 2)
}


def group(state: int) -> int:
    """How many rows go through the stages together, by the entries of their largest state."""
    return max(1, min(GROUP, GROUP_ENTRIES // state))


def product(m: int, n: int, k: int, size: int) -> float:
    """C (m, n) = A (m, k) @ B (k, n), entries of ``size`` bytes."""
    lanes = REGISTER // size
    double, left = divmod(n, 2 * lanes)
    double += left > lanes
    single = 0 < left <= lanes
    eights, rest = m >> 3, m & 7
    steps = double * (16 * eights + _STEPS[2][rest]) + single * (8 * eights + _STEPS[1][rest])
    tiles = (double + single) * (eights + _TILES[rest])
    streamed = k * n * size * (eights + (rest > 0)) if k * n * size > NEAR else 0
    return (
        CALL + STEP * k * steps + TILE * tiles + STORE * m * (2 * double + single) + FAR * streamed
    )


def forward(s: Stage, rows: int, size: int) -> float:
    """A stage of ``rows`` rows of the batch."""
    moved = size * s.outer * s.inner * (s.rows + s.k)
    far = FAR * rows * moved if moved > NEAR else 0.0
    if s.inner == 1:
        return far + product(s.outer * rows, s.rows, s.k, size)
    return far + s.outer * rows * product(s.rows, s.inner, s.k, size)


def backward(s: Stage, rows: int, size: int) -> float:
    """Gradients through a stage of so many rows, the state computed again."""
    again = forward(s, rows, size)
    matrix = size * s.rows * s.k
    far = 4 * FAR * matrix if matrix > NEAR // 4 else 0.0  # the sum so far, read and written
    if s.inner == 1:
        outer = s.outer * rows
        state, own = product(outer, s.k, s.rows, size), product(s.k, s.rows, outer, size)
        return again + far + state + own
    state = product(s.k, s.inner, s.rows, size)
    return again + s.outer * rows * (far + state + min(gradient_ways(s, size)))


def shares(batch: int, size: int) -> int:
    """How many partial sums of gradients of so many bytes there are."""
    return max(1, min(SHARES, batch, SHARE_BYTES // size))


def gradient_ways(s: Stage, size: int) -> tuple[float, float, float]:
    """The gradient of A from one of the stage's products.

    By inner products, from the state transposed, from the gradient of the result transposed.
    """

    def turned(m: int, n: int) -> float:
        return TURN * n * s.inner + product(m, n, s.inner, size)

    lanes = REGISTER // size
    fours = -(-s.rows // 4) * -(-s.k // 4)
    steps = 16 * fours * -(-s.inner // lanes)
    dots = 1.3 * STEP * steps + 3e-9 * s.rows * s.k / s.outer
    return dots, turned(s.rows, s.k), turned(s.k, s.rows)


def merging(left: int, rank: int, right: int, size: int) -> float:
    """Two cores (left, rank) and (rank, right) into one, in the order that the next step reads."""
    return START + product(left, right, rank, size) + 2 * MOVE * left * right
