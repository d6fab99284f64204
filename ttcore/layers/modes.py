"""Modes of a layer: checked, and chosen with padding where a size has no good factors."""

import math
from collections.abc import Sequence
from typing import Any

from ttcore.cores import check_modes, short
from ttcore.errors import TTShapeError
from ttcore.factorise import near_equal_modes

GOOD = 8  # a mode up to this is never too large
UNEVEN = 2.0  # and beyond, one up to so many times the even one
PADDING = 1.25  # times the size, at most
EVEN = math.sqrt(4 * 8)  # middle of the band of modes that the TensorNet papers recommend


def check_layer_modes(in_modes: Any, out_modes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output modes as tuples of equal length.

    Raises
    ------
    TTShapeError, TTTypeError
        If they are not.
    """
    ins, outs = check_modes(in_modes, "in_modes"), check_modes(out_modes, "out_modes")
    if len(ins) != len(outs):
        raise TTShapeError(
            f"in_modes {ins} and out_modes {outs} have {len(ins)} and {len(outs)} modes; each core "
            "takes one of both: fill up the shorter with modes of 1"
        )
    return ins, outs


def check_size(name: str, size: int | None, modes: tuple[int, ...]) -> int:
    """Number of features where the modes may multiply to more; by default what they multiply to.

    Raises
    ------
    TTShapeError
        If the modes multiply to less, or the size is below 1.
    """
    most = math.prod(modes)
    size = most if size is None else int(size)
    if not 1 <= size <= most:
        raise TTShapeError(
            f"{name}={size} must be 1..{most}: the modes {short(modes)} multiply to {most}"
        )
    return size


def padded_modes(size: int, count: int) -> tuple[int, ...]:
    """Near-equal modes of ``size``, or of the next larger number that has some.

    No mode is above 8, or twice the even one where that is more. Where no number up to 1.25 times
    the size is so, the modes of the size itself.

    Examples
    --------
    >>> padded_modes(1000, 3), padded_modes(1009, 3), padded_modes(10, 4)
    ((10, 10, 10), (13, 13, 6), (5, 2, 1, 1))
    """
    for padded in range(size, math.floor(PADDING * size) + 1):
        modes = near_equal_modes(padded, count)
        if modes[0] <= max(GOOD, UNEVEN * padded ** (1 / count)):
            return modes
    return near_equal_modes(size, count)


def mode_choices(outputs: int, inputs: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(out_modes, in_modes) for every number of cores from 2 on whose modes are not trifles."""
    most = max(2, math.ceil(math.log2(max(outputs, inputs)) / 2))
    choices = [
        (padded_modes(outputs, count), padded_modes(inputs, count)) for count in range(2, most + 1)
    ]
    return list(dict.fromkeys(choices))


def oddness(modes: Sequence[int]) -> float:
    """How far modes are from the band of 4 to 8, by their geometric mean."""
    return abs(sum(math.log(n / EVEN) for n in modes)) / len(modes)


def usual_modes(outputs: int, inputs: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(out_modes, in_modes) where nothing is known but the sizes: the least odd choice.

    Examples
    --------
    >>> usual_modes(768, 3072), usual_modes(1009, 512)
    (((8, 6, 4, 4), (8, 8, 8, 6)), ((8, 8, 4, 4), (8, 4, 4, 4)))
    """
    choices = mode_choices(outputs, inputs)
    return min(choices, key=lambda modes: (oddness((*modes[0], *modes[1])), len(modes[0])))
