"""Part 2: a network with one TT layer, trained with NumPy and matvec and its backward pass."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

import ttcore as tt
from ttcore.demo.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Arrays = list[np.ndarray]
    Data = tuple[np.ndarray, np.ndarray]

__all__ = ["Layer", "Run", "dense_layer", "show", "train", "tt_layer"]

_IN, _OUT, _RANK = (4, 4, 4), (4, 8, 8), 4  # 64 pixels -> 256 hidden units
_PIXELS, _HIDDEN, _CLASSES = 64, 256, 10
_BATCH, _RATE = 64, 3e-3


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer without bias: its weights, and what it does with them.

    Attributes
    ----------
    weights : list of ndarray
        One matrix, or the cores of a TT-matrix; changed by training.
    forward : callable
        ``(weights, x) -> y``.
    gradient : callable
        ``(weights, x, gy) -> gweights``.
    """

    weights: "Arrays"
    forward: "Callable[[Arrays, np.ndarray], np.ndarray]"
    gradient: "Callable[[Arrays, np.ndarray, np.ndarray], Sequence[np.ndarray]]"


@dataclass(frozen=True, slots=True)
class Run:
    """A trained network.

    Attributes
    ----------
    accuracy : list of float
        On the test digits, after every epoch.
    step_ms : float
        Median milliseconds of one step: forward, backward and Adam.
    guesses : (digits,) array
        What it takes the test digits for in the end.
    """

    accuracy: list[float]
    step_ms: float
    guesses: np.ndarray


def show(report: Report, *, quick: bool) -> None:
    """Train the network and its dense twin; compare accuracy, weights and time."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16 - 0.3).astype(np.float32)  # (1797, 64), about centred
    order = np.random.default_rng(0).permutation(len(labels))
    learnt, tested = order[:1437], order[1437:]
    report.title("2. Digits: a layer with far fewer weights")
    report.say(
        f"A network 64 -> 256 -> 10 learns {len(learnt)} handwritten digits of 8 x 8 pixels and is "
        f"tested on {len(tested)} others. Its hidden layer is a TT-matrix of rank {_RANK}, modes "
        f"{_IN} -> {_OUT}, trained from scratch with nothing but NumPy, ttcore.linear.matvec and "
        "matvec_backward, and Adam. Beside it the same network with an ordinary dense layer."
    )
    layers = {"dense": dense_layer(), "TT": tt_layer()}
    sizes = {name: sum(w.size for w in layer.weights) for name, layer in layers.items()}
    runs = {
        name: train(
            layer,
            (pixels[learnt], labels[learnt]),
            (pixels[tested], labels[tested]),
            epochs=4 if quick else 30,
        )
        for name, layer in layers.items()
    }
    report.table(
        ["hidden layer", "weights", "test accuracy", "wrong", "ms per step"],
        [
            [
                name,
                f"{sizes[name]:,}",
                f"{100 * run.accuracy[-1]:.1f} %",
                f"{np.count_nonzero(run.guesses != labels[tested])} of {len(tested)}",
                f"{run.step_ms:.2f}",
            ]
            for name, run in runs.items()
        ],
    )
    report.say(
        f"\nThe TT layer has {sizes['dense'] / sizes['TT']:.0f} times fewer weights. Speed is not "
        "the point here: so small a dense product takes microseconds. Part 3 has a layer large "
        "enough for that."
    )
    report.results["digits"] = {
        name: {"weights": sizes[name], "accuracy": run.accuracy, "step_ms": run.step_ms}
        for name, run in runs.items()
    }
    figure = _draw(runs, sizes, pixels[tested], labels[tested])
    report.picture(figure, "digits.png", "Test accuracy while learning, and some test digits")


def dense_layer() -> Layer:
    """Make the layer with a full matrix, He's initial weights."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((_HIDDEN, _PIXELS), dtype=np.float32) * (2 / _PIXELS) ** 0.5
    return Layer(
        [weight.astype(np.float32)],
        lambda weights, x: x @ weights[0].T,
        lambda _, x, gy: [gy.T @ x],
    )


def tt_layer() -> Layer:
    """Make the layer with a TT-matrix whose entries have the variance of the dense layer's."""
    weight = tt.random_matrix(_OUT, _IN, _RANK, rng=1, dtype=np.float32)
    scale = (2 / _PIXELS) ** (0.5 / len(_IN))  # shared out evenly, so that Adam's steps fit all
    return Layer(
        [(core * scale).astype(np.float32) for core in weight.cores],
        lambda cores, x: tt.linear.matvec(tuple(cores), x),
        lambda cores, x, gy: tt.linear.matvec_backward(tuple(cores), x, gy)[1],
    )


def train(hidden: Layer, learnt: "Data", tested: "Data", *, epochs: int) -> Run:
    """Train ``hidden``, bias and ReLU, then a dense layer and softmax, by Adam.

    Parameters
    ----------
    hidden : Layer
        Its weights are changed.
    learnt, tested : (pixels, labels)
        Arrays (digits, 64) and (digits,).
    epochs : int
        How often all digits to learn are seen.

    Returns
    -------
    Run
    """
    rng = np.random.default_rng(2)
    pixels, labels = learnt
    head = rng.standard_normal((_CLASSES, _HIDDEN), dtype=np.float32) / np.float32(_HIDDEN**0.5)
    bias, head_bias = np.zeros(_HIDDEN, np.float32), np.zeros(_CLASSES, np.float32)
    adam = _Adam([*hidden.weights, bias, head, head_bias])

    def forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h = np.maximum(hidden.forward(hidden.weights, x) + bias, 0)  # (batch, 256)
        return h, h @ head.T + head_bias  # (batch, 10)

    def step(x: np.ndarray, wanted: np.ndarray) -> None:
        h, z = forward(x)
        gz = np.exp(z - z.max(axis=1, keepdims=True))
        gz /= gz.sum(axis=1, keepdims=True)  # softmax, and of its cross-entropy the gradient
        gz[np.arange(len(x)), wanted] -= 1
        gz /= len(x)
        gh = (gz @ head) * (h > 0)
        adam.step([*hidden.gradient(hidden.weights, x, gh), gh.sum(0), gz.T @ h, gz.sum(0)])

    accuracy, seconds = [], []
    for _ in range(epochs):
        batches = np.array_split(rng.permutation(len(labels)), len(labels) // _BATCH)
        for batch in batches:
            start = time.perf_counter()
            step(pixels[batch], labels[batch])
            seconds.append(time.perf_counter() - start)
        guesses = forward(tested[0])[1].argmax(axis=1)
        accuracy.append(float(np.mean(guesses == tested[1])))
    return Run(accuracy, 1e3 * median(seconds), guesses)


class _Adam:
    """Adam with its usual constants; writes to the arrays it is given."""

    def __init__(self, params: "Arrays") -> None:
        self.params = params
        self.mean = [np.zeros_like(p) for p in params]
        self.square = [np.zeros_like(p) for p in params]
        self.steps = 0

    def step(self, grads: Sequence[np.ndarray]) -> None:
        self.steps += 1
        rate = _RATE * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for k, g in enumerate(grads):
            self.mean[k] += 0.1 * (g - self.mean[k])
            self.square[k] += 0.001 * (g * g - self.square[k])
            self.params[k] -= rate * self.mean[k] / (np.sqrt(self.square[k]) + 1e-8)


def _draw(
    runs: dict[str, Run], sizes: dict[str, int], pixels: np.ndarray, labels: np.ndarray
) -> "Figure":
    """Draw the learning curves, and test digits with the TT network's mistakes first."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 1.05])
    left, right = figure.add_subfigure(grid[0, 0]), figure.add_subfigure(grid[0, 1])
    axes = left.subplots()
    for (name, run), style in zip(runs.items(), ("k--", "-"), strict=True):
        epochs = range(1, len(run.accuracy) + 1)
        label = f"{name}: {sizes[name]:,} weights, in the end {100 * run.accuracy[-1]:.1f} %"
        axes.plot(epochs, [100 * a for a in run.accuracy], style, label=label)
    axes.set(title="Test accuracy while learning", xlabel="epoch", ylabel="right, in %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    guesses = runs["TT"].guesses
    order = np.argsort(guesses == labels, kind="stable")  # wrong ones first
    right.suptitle("Test digits, and what the TT network takes them for (red: wrong)")
    for axes, i in zip(right.subplots(4, 8).flat, order, strict=False):
        axes.imshow(pixels[i].reshape(8, 8), cmap="gray_r")
        wrong = guesses[i] != labels[i]
        text = f"{guesses[i]}, is {labels[i]}" if wrong else f"{guesses[i]}"
        axes.set_title(text, fontsize=9, color="tab:red" if wrong else "black")
        axes.set_axis_off()
    return figure
