"""The command line: ``ttcore compress``, ``ttcore info``, ``ttcore demo``, ``ttcore doctor``.

Only argparse is loaded at the start; what a command needs is imported inside it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ttcore.cli.compress import add_compress
from ttcore.cli.screen import complain, describe, in_bytes, kind_of, quoted, say
from ttcore.errors import TTError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        0 when all went well, 2 for a mistake in the arguments or files (one line on stderr says
        which), 130 when interrupted.

    Raises
    ------
    SystemExit
        By argparse, for ``--help``, ``--version`` and arguments that it refuses.
    """
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], None] = args.run
    try:
        run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader of our output has closed it; nothing is left to say, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        complain(args, "interrupted")
        return 130
    except OSError as error:
        reason = error.strerror or str(error)
        complain(args, f"{error.filename}: {reason}; check the path" if error.filename else reason)
        return 2
    except (TTError, ModuleNotFoundError, MemoryError) as error:
        complain(args, str(error) or "out of memory")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    import ttcore

    parser = argparse.ArgumentParser(
        prog="ttcore",
        description="Tensor-train numerics: big arrays kept as chains of small ones.",
        epilog="`ttcore COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"ttcore {ttcore.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_compress(commands)

    info = commands.add_parser(
        "info",
        help="say what a file holds",
        description="Describe the trains of a .tt.npz file, or the arrays of a .npy or .npz file.",
    )
    info.add_argument("file", metavar="FILE", type=Path, help=".tt.npz, .npy or .npz")
    info.set_defaults(run=_info, command="info")

    demo = commands.add_parser(
        "demo",
        help="see what tensor trains do, in about a minute",
        description="Compress photographs, train a network with a TT layer and run the largest "
        "layer of VGG; numbers go to the screen and to summary.md and summary.json, pictures to "
        'PNG files. Needs no network, but the extra: pip install "ttcore[demo]".',
    )
    demo.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("demo-out"),
        help="where pictures and summary go (default: demo-out)",
    )
    demo.add_argument("--quick", action="store_true", help="smaller sizes: a few seconds")
    demo.set_defaults(run=_demo, command="demo")

    doctor = commands.add_parser(
        "doctor",
        help="say what ttcore finds on this machine",
        description="Describe Python, processor, compiler, BLAS, GPU and optional packages: what "
        "a report of a problem should come with.",
    )
    doctor.add_argument("--json", action="store_true", help="as JSON, for programs")
    doctor.set_defaults(run=_doctor, command="doctor")
    return parser


def _info(args: argparse.Namespace) -> None:
    from ttcore.io.npz import holds_trains, load_npz
    from ttcore.io.source import open_arrays

    if holds_trains(args.file):
        trains = load_npz(args.file)
        say(f"{args.file}: trains: {len(trains)}, {in_bytes(args.file.stat().st_size)}")
        for name, train in trains.items():
            say(f"{quoted(name)}: {train.dtype} {kind_of(train)}")
            say("\n".join([*describe(train), f"  norm         {train.norm():.6g}"]))
        return
    with open_arrays(args.file) as entries:
        say(f"{args.file}: arrays: {len(entries)}, {in_bytes(args.file.stat().st_size)}")
        for entry in entries.values():
            what = "Python objects, not read," if entry.dtype.hasobject else f"{entry.dtype} array"
            say(f"{quoted(entry.name)}: {what} {entry.shape}, {in_bytes(entry.nbytes)}")


def _demo(args: argparse.Namespace) -> None:
    from ttcore.demo import run

    run(args.output, quick=args.quick)


def _doctor(args: argparse.Namespace) -> None:
    from ttcore.doctor import as_json, as_text, examine

    say((as_json if args.json else as_text)(examine()))
