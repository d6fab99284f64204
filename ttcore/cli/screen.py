"""What the commands say, and how: trains, names and sizes as text."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttcore.matrix import TTMatrix
    from ttcore.tensor import TTTensor


def kind_of(train: "TTTensor | TTMatrix") -> str:
    """Kind and shape."""
    return f"TT-{'matrix' if hasattr(train, 'row_modes') else 'tensor'} {tuple(train.shape)}"


def describe(train: "TTTensor | TTMatrix") -> list[str]:
    """Lines on modes, ranks and size, indented under a heading."""
    from ttcore.matrix import TTMatrix

    if isinstance(train, TTMatrix):
        modes = f"  row modes    {join(train.row_modes)}\n  column modes {join(train.col_modes)}"
    else:
        modes = f"  modes        {join(train.shape)}"
    return [
        modes,
        f"  ranks        {join(train.ranks)}",
        f"  numbers      {train.num_params:,} for {train.size:,}: compression "
        f"{train.compression:,.4g}",
        f"  bytes        {in_bytes(train.nbytes)}",
    ]


def quoted(name: str) -> str:
    """The name for the screen: quoted where characters in it could act on a terminal."""
    return name if name.isprintable() and name else repr(name)


def join(numbers: Sequence[int]) -> str:
    """Numbers with spaces between them."""
    return " ".join(map(str, numbers))


def in_bytes(n: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.4g} {unit}"
        n /= 1000
    return f"{n:,.4g} TB"


def say(text: str) -> None:
    """Write a line to stdout."""
    # names can have characters that the terminal's encoding lacks
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def note(text: str) -> None:
    """Write a remark to stderr."""
    sys.stderr.write(f"ttcore: note: {text}\n")


def complain(args: argparse.Namespace, text: str) -> None:
    """Write to stderr why the command failed."""
    sys.stderr.write(f"ttcore {args.command}: error: {text}\n")
