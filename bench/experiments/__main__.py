"""Networks with TT layers trained for real, as papers and tutorials trained them.

    python bench/experiments mnist --data FOLDER --shape 4x8x8x4 --rank 8 --seed 0

A run that was stopped goes on from its checkpoint; its record and its plot lie beside that.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import images
import networks
import page
import records
import torch
from torch import nn
from tqdm import tqdm
from training import Batches, Progress, Recipe, fit, test

# Chosen on the last sixth of the training set (--validate); steps follow from --epochs.
MNIST = Recipe("adam", 6e-3, "cosine", batch=100, steps=0, every=0)
DENSE = replace(MNIST, rate=1e-3)
TUTORIAL = Recipe("adam", 1e-2, "constant", batch=64, steps=0, every=0)
TO_CUT = replace(TUTORIAL, rate=1e-3)
TUNING = replace(TUTORIAL, rate=2e-3, schedule="cosine")
CIFAR = Recipe("sgd", 0.06, "stairs", batch=100, steps=40_000, every=500)


def mnist(options: argparse.Namespace) -> None:
    """1024 -> 1024 -> 10, the first layer TT, or dense."""
    modes = None if options.dense else options.shape
    name = "mnist-dense" if options.dense else f"mnist-{_times(modes)}-r{options.rank}"
    net, recipe = networks.mnist(modes, options.rank), DENSE if options.dense else MNIST
    run(options, name, net, _mnist(options, 32), recipe, epochs=20)


def hashednet(options: argparse.Namespace) -> None:
    """Both layers TT: 12,602 parameters."""
    run(options, "hashednet", networks.hashednet(), _mnist(options, 32), MNIST, epochs=20)


def t3f(options: argparse.Namespace) -> None:
    """784 -> 625 -> 10, the first layer TT: t3f's tutorial."""
    name, net = f"t3f-r{options.rank}", networks.t3f(options.rank)
    run(options, name, net, _mnist(options, 28), TUTORIAL, epochs=3)


def compress(options: argparse.Namespace) -> None:
    """Train the same with dense layers, cut the first one to a TT layer, train on."""
    data, name, dense = _mnist(options, 28), f"compress-r{options.rank}", networks.t3f(None)
    trained = run(options, f"{name}-dense", dense, data, TO_CUT, epochs=2)
    if trained["finished"]:
        net = networks.compressed(dense, options.rank).to(options.device)
        cut = test(net, Batches(data, TO_CUT, whiten=False, device=options.device))
        before = {"dense": trained["result"], "cut": cut}
        run(options, name, net, data, TUNING, epochs=2, before=before)


def cifar(options: argparse.Namespace) -> None:
    """Two wide TT layers on CIFAR-10: TensorNet-TF's 2-layer-tt."""
    name = f"cifar-{options.width**6}-r{options.rank}"
    net = networks.cifar(options.width, options.rank)
    run(options, name, net, _held_out(options, images.cifar10(options.data)), CIFAR, whiten=True)


def _mnist(options: argparse.Namespace, side: int) -> images.Images:
    return _held_out(options, images.mnist(options.data).padded(side))


def _held_out(options: argparse.Namespace, data: images.Images) -> images.Images:
    return data.held_out() if options.validate else data


def run(
    options: argparse.Namespace,
    name: str,
    net: nn.Module,
    data: images.Images,
    recipe: Recipe,
    *,
    epochs: int | None = None,
    whiten: bool = False,
    **more: Any,
) -> records.Record:
    """Train, or train on, and write the record and the plot."""
    name += "".join(
        mark
        for mark, holds in (
            (f"-seed{options.seed}", options.seed != 0),
            ("-digits", options.data is None),
            ("-validate", options.validate),
        )
        if holds
    )
    recipe = replace(
        recipe,
        seed=options.seed,
        rate=options.rate or recipe.rate,
        decay=recipe.decay if options.decay is None else options.decay,
    )
    batches = Batches(data, recipe, whiten=whiten, device=options.device)
    if epochs is not None or options.epochs:
        count = batches.per_epoch
        recipe = replace(recipe, steps=(options.epochs or epochs) * count, every=count)
    record: records.Record = {"experiment": options.experiment, "data": data.note, **more}
    record |= {"recipe": asdict(recipe), "parameters": networks.parameters(net)}
    record |= {"steps_per_epoch": batches.per_epoch, "machine": records.machine(options.device)}

    def say(progress: Progress) -> None:
        at = progress.history[-1]
        loss, error = at["train_loss"], at["error"]
        tqdm.write(f"{name}: step {at['step']}, loss {loss:.4f}, error {error:.2f} %")

    progress = fit(
        net,
        batches,
        recipe,
        options.out / f"{name}.pt",
        seconds=60 * options.minutes,
        until=options.steps,
        graphs=options.graphs,
        say=say,
    )
    record |= {
        "finished": progress.step == recipe.steps,
        "step": progress.step,
        "minutes": progress.seconds / 60,
        "step_ms": records.milliseconds(progress.times),
        "result": test(net, batches),
        "history": progress.history,
    }
    records.write(options.out / f"{name}.json", record)
    if progress.history:
        records.plot(options.out / f"{name}.png", {name: record})
    print(
        f"{name}: {record['parameters']['all']} parameters, {progress.step} of {recipe.steps} "
        f"steps, error {record['result']['error']:.2f} %, "
        f"{record['step_ms']['step']['median']:.3g} ms a step"
    )
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.experiment == "page":
        page.write(options.records, options.page)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device cuda: torch {torch.__version__} sees no CUDA device here")
    if options.graphs and options.device != "cuda":
        raise SystemExit(f"--graphs: there are none on the {options.device}; give --device cuda")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    options.call(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/experiments", description=__doc__.split("\n")[0])
    which = parser.add_subparsers(dest="experiment", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--data", type=Path, metavar="FOLDER", help="with the standard files; digits without it")
    add("--out", type=Path, default="experiments-out", help="for checkpoint, record and plot")
    add("--seed", type=int, default=0)
    add("--epochs", type=int, help="length of the run, which the learning rate follows")
    add("--rate", type=float, help="learning rate at the start")
    add("--decay", type=float, help="weight decay")
    add("--minutes", type=float, default=math.inf, help="stop then; the next call goes on")
    add("--steps", type=int, help="stop after that step; the next call goes on")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--graphs", action="store_true", help="on a GPU, record a step once and replay it")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--validate", action="store_true", help="test on the last sixth of the training set")
    found = {}
    for call in (mnist, hashednet, t3f, compress, cifar):
        found[call] = which.add_parser(call.__name__, parents=[shared], help=call.__doc__)
        found[call].set_defaults(call=call)
    found[mnist].add_argument("--shape", type=_modes, default="4x8x8x4", help="modes, both sides")
    found[mnist].add_argument("--dense", action="store_true", help="the dense twin")
    for call, rank in ((mnist, 8), (t3f, 4), (compress, 16), (cifar, 10)):
        found[call].add_argument("--rank", type=int, default=rank)
    found[cifar].add_argument("--width", type=int, default=6, help="6: 6^6 = 46,656 hidden units")
    table = which.add_parser("page", help="write the table of records into a page")
    table.add_argument("--records", type=Path, default=page.RECORDS)
    table.add_argument("--page", type=Path, default=page.PAGE)
    return parser


def _modes(text: str) -> tuple[int, ...]:
    modes = tuple(map(int, text.split("x")))
    if math.prod(modes) != 1024:
        raise argparse.ArgumentTypeError(
            f"the modes {text} multiply to {math.prod(modes)}; 32 x 32 pixels need 1024"
        )
    return modes


def _times(modes: tuple[int, ...]) -> str:
    return "x".join(map(str, modes))


if __name__ == "__main__":
    main()
