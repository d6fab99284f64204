from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttcore.errors import TTValueError
from ttcore.factorise import auto_matrix_modes, auto_modes, near_equal_modes, prime_factors

sizes = st.integers(1, 10**6)


@given(sizes)
def test_prime_factors_multiply_to_the_number_and_have_no_divisor(n):
    factors = prime_factors(n)
    assert prod(factors) == n
    assert list(factors) == sorted(factors, reverse=True)
    assert all(p > 1 and all(p % q for q in range(2, int(p**0.5) + 1)) for p in factors)


@given(sizes, st.integers(1, 12))
def test_near_equal_modes_multiply_to_the_number_and_keep_primes_whole(n, count):
    modes = near_equal_modes(n, count)
    assert len(modes) == count
    assert prod(modes) == n
    assert sorted(p for m in modes for p in prime_factors(m)) == sorted(prime_factors(n))


@given(sizes)
def test_auto_modes_multiply_to_the_number_largest_first(n):
    modes = auto_modes(n)
    assert prod(modes) == n
    assert list(modes) == sorted(modes, reverse=True)


@given(st.integers(2, 60))
def test_powers_of_two_have_modes_of_four_or_eight(k):
    modes = auto_modes(2**k)
    assert set(modes) in ({4}, {8}, {4, 8})


@given(sizes, sizes)
def test_matrix_modes_are_equally_many_on_both_sides(rows, cols):
    row_modes, col_modes = auto_matrix_modes(rows, cols)
    assert (prod(row_modes), prod(col_modes)) == (rows, cols)
    assert len(row_modes) == len(col_modes)


@given(sizes)
def test_a_square_matrix_has_equal_row_and_column_modes(n):
    row_modes, col_modes = auto_matrix_modes(n, n)
    assert row_modes == col_modes == auto_modes(n)


@pytest.mark.parametrize(
    ("shape", "modes"),
    [
        ((4096, 25088), ((4,) * 6, (8, 7, 7, 4, 4, 4))),
        ((1024, 1024), ((4,) * 5, (4,) * 5)),
        ((262144, 3072), ((8,) * 6, (4, 4, 4, 4, 4, 3))),
        ((10, 784), ((5, 2, 1, 1), (7, 7, 4, 4))),
        ((101, 1), ((101,), (1,))),
        ((1, 1), ((1,), (1,))),
    ],
)
def test_modes_of_layers_known_from_papers_and_of_awkward_ones(shape, modes):
    assert auto_matrix_modes(*shape) == modes


def test_the_most_even_split_wins_then_the_longer_one():
    assert auto_modes(512) == (8, 8, 8)  # not (8, 4, 4, 4)
    assert auto_modes(64) == (4, 4, 4)  # not (8, 8)


@pytest.mark.parametrize("call", [prime_factors, auto_modes, lambda n: auto_matrix_modes(4, n)])
def test_numbers_below_one_are_refused(call):
    with pytest.raises(TTValueError, match="cannot factorise 0; expected an integer of at least 1"):
        call(0)


def test_a_count_below_one_is_refused():
    with pytest.raises(TTValueError, match="cannot split 4 into 0 modes"):
        near_equal_modes(4, 0)
