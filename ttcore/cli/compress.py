"""``ttcore compress``: arrays of a file become trains in another."""

import argparse
import sys
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ttcore.cli.screen import describe, in_bytes, kind_of, note, quoted, say
from ttcore.errors import TTError, TTFormatError, TTShapeError, TTTypeError, TTValueError

if TYPE_CHECKING:
    from ttcore.io.source import ArrayEntry
    from ttcore.matrix import TTMatrix
    from ttcore.tensor import TTTensor
    from ttcore.truncation import Info

    Modes = tuple[int, ...]

_COMPRESS = """\
Decompose arrays into tensor trains and write them to one file.

By default an array becomes a TT-tensor with its own axes as modes. --modes splits the axes further,
--matrix and --row-modes/--col-modes make a TT-matrix of a two-dimensional array. With neither --eps
nor --max-rank the train is exact to machine precision, and often larger than the array.
"""
_EXAMPLES = """\
examples:
  ttcore compress photo.npy --modes auto --eps 0.05
  ttcore compress weight.npy --matrix --max-rank 8 -o weight.tt.npz
  ttcore compress weight.npy --row-modes 4,8,8,4 --col-modes 4,4,4,4 --eps 1e-2
  ttcore compress model.npz --key fc1.weight --key fc2.weight --matrix --eps 0.1
"""


def add_compress(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its options."""
    compress = commands.add_parser(
        "compress",
        help="turn arrays into tensor trains",
        description=_COMPRESS,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compress.add_argument("file", metavar="FILE", type=Path, help="a .npy or .npz file")
    compress.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="the file to write (default: the input's name with the suffix .tt.npz); it is "
        "replaced whole, or left alone on any failure",
    )
    compress.add_argument(
        "--key",
        metavar="NAME",
        action="append",
        help="take this array of a .npz; may be given several times (default: every array)",
    )
    compress.add_argument(
        "--eps",
        metavar="E",
        type=float,
        help="relative error in the Frobenius norm that is allowed, such as 1e-2",
    )
    compress.add_argument(
        "--max-rank",
        metavar="R",
        type=int,
        help="largest rank; wins over --eps where both cannot be kept",
    )
    modes = compress.add_mutually_exclusive_group()
    modes.add_argument(
        "--modes",
        metavar="MODES",
        type=_modes_or_auto,
        help="reshape to these modes first, such as 4,4,4; `auto` splits every axis into modes of "
        "about 4 to 8",
    )
    modes.add_argument(
        "--matrix",
        action="store_true",
        help="make TT-matrices of the two-dimensional arrays, with modes of about 4 to 8",
    )
    modes.add_argument(
        "--row-modes",
        metavar="MODES",
        type=_modes,
        help="make a TT-matrix with these row modes; needs --col-modes, equally many",
    )
    compress.add_argument(
        "--col-modes", metavar="MODES", type=_modes, help="the column modes for --row-modes"
    )
    compress.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show a progress bar on stderr (default: on a terminal)",
    )
    compress.set_defaults(run=_compress, command="compress")


def _modes(text: str) -> "Modes":
    try:
        modes = tuple(int(part) for part in text.split(","))
    except ValueError:
        modes = ()
    if not modes or min(modes) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of modes; expected integers of at least 1 with commas, as 4,8,4"
        )
    return modes


def _modes_or_auto(text: str) -> "Modes | str":
    return text if text == "auto" else _modes(text)


def _compress(args: argparse.Namespace) -> None:
    from ttcore.io.npz import save_npz
    from ttcore.io.source import open_arrays

    if (args.row_modes is None) != (args.col_modes is None):
        raise TTValueError("--row-modes and --col-modes come together; give both, or --matrix")
    output: Path = args.output or args.file.with_suffix(".tt.npz")
    if output.exists() and args.file.exists() and output.samefile(args.file):
        raise TTValueError(f"--output {output} is the input itself; choose another name")
    if output.is_dir() or not output.parent.is_dir():
        raise TTValueError(f"--output {output}: expected a file name in a folder that exists")
    trains: dict[str, TTTensor | TTMatrix] = {}
    reports = []
    with open_arrays(args.file) as entries:
        chosen = _choose(args.file, entries, args.key)
        if args.matrix and not any(len(entry.shape) == 2 for entry in chosen):
            shapes = ", ".join(f"{entry.name!r} {entry.shape}" for entry in chosen)
            raise TTShapeError(
                f"--matrix needs a two-dimensional array, but {args.file} has {shapes}; reshape it "
                "first, or use --modes auto"
            )
        shown = _shows_progress(args.progress)
        for entry in chosen:
            trains[entry.name], info = _decompose(entry, args, shown)
            reports.append(_compress_report(entry, trains[entry.name], info, args))
    try:
        save_npz(output, trains)
    except OSError as error:
        reason = f"{output} cannot be written ({error.strerror or error}); change --output"
        raise OSError(reason) from error
    for report in reports:
        say(report)
    before, after = args.file.stat().st_size, output.stat().st_size
    say(f"wrote {output}: {in_bytes(after)}, from {in_bytes(before)}")


def _choose(
    path: Path, entries: "dict[str, ArrayEntry]", keys: list[str] | None
) -> "list[ArrayEntry]":
    """The arrays asked for, or all that can become trains; says which are left out."""
    if "ttcore" in entries:
        raise TTFormatError(f"{path} holds trains already; `ttcore info` describes them")
    unusable = {name: entry.unusable for name, entry in entries.items() if entry.unusable}
    names = list(dict.fromkeys(keys)) if keys else list(entries)
    for name in names:
        if name not in entries:
            known = ", ".join(map(repr, entries)) or "no arrays"
            raise TTValueError(f"--key {name!r} is not in {path}; it has {known}")
        if name in unusable and (keys or len(unusable) == len(entries)):
            raise TTTypeError(f"{name!r} in {path} {unusable[name]}")
        if name in unusable:
            note(f"left out: {name!r} {unusable[name]}")
    if not names:
        raise TTFormatError(f"{path} has no arrays; expected at least one")
    return [entries[name] for name in names if name not in unusable]


def _decompose(
    entry: "ArrayEntry", args: argparse.Namespace, shown: bool
) -> "tuple[TTTensor | TTMatrix, Info]":
    """Turn one array into the train that the options ask for; large ones are read in blocks."""
    import ttcore as tt
    from ttcore.factorise import auto_matrix_modes, auto_modes

    rows, cols, modes = args.row_modes, args.col_modes, args.modes
    if args.matrix and len(entry.shape) == 2:
        rows, cols = auto_matrix_modes(*entry.shape)
    elif modes == "auto":
        modes = tuple(m for n in entry.shape for m in auto_modes(n) if m > 1) or (1,)
    elif modes and prod(modes) != prod(entry.shape):
        raise TTShapeError(
            f"--modes {modes} multiply to {prod(modes)}, but {entry.name!r} has shape "
            f"{entry.shape} and {prod(entry.shape)} numbers; choose modes whose product is that"
        )
    array = entry.load()
    eps, cap = args.eps, args.max_rank
    try:
        if rows:
            return tt.matrix_from_dense(
                array, rows, cols, eps=eps, max_rank=cap, progress=shown, full_output=True
            )
        array = array.reshape(modes or entry.shape)
        return tt.from_dense(array, eps=eps, max_rank=cap, progress=shown, full_output=True)
    except TTError as error:
        raise type(error)(f"{entry.name!r} with shape {entry.shape}: {error}") from error


def _shows_progress(wanted: bool | None) -> bool:
    """Whether bars are to be shown, and can be."""
    missing = find_spec("tqdm") is None
    if wanted and missing:
        note('no progress bar without tqdm; pip install "ttcore[cli]"')
    return not missing and (sys.stderr.isatty() if wanted is None else wanted)


def _compress_report(
    entry: "ArrayEntry", train: "TTTensor | TTMatrix", info: "Info", args: argparse.Namespace
) -> str:
    asked = "machine precision" if args.eps is None else f"{args.eps:.3g}"
    if args.max_rank is not None:
        asked += f", ranks up to {args.max_rank}"
    lines = [
        f"{quoted(entry.name)}: {entry.dtype} array {entry.shape} -> {kind_of(train)}",
        f"  error asked  {asked}",
        f"  error got    {info.error:.3g} ({info.error_kind})",
        *describe(train),
    ]
    if entry.dtype != train.dtype:
        lines.insert(1, f"  computed in  {train.dtype}, converted from {entry.dtype}")
    if train.compression < 1:
        lines.append("  note         larger than the array: try a larger --eps, or a --max-rank")
    return "\n".join(lines)
