"""One training loop, which can be stopped at any step and goes on with the same numbers.

What a step does depends on its number, on the seed and on the state that a checkpoint holds: the
order of the images is drawn anew for every epoch from (seed, epoch), the rate is a function of the
step, and dropout's generator is stored. So it is on any device, and a checkpoint of one is good for
another, where dropout then goes on with other numbers.

On a GPU all images lie in its memory, and the loop does not wait for it at every step: what was
measured is read after `SETTLE` steps, the loss included.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import Images
from torch import Tensor, nn
from tqdm import tqdm

CHECKPOINT_EVERY = 60.0  # seconds
AT_ONCE = 250  # images, in a test
SETTLE = 100  # steps between two looks at what a GPU has done


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    optimiser: str  # "adam" or "sgd"
    rate: float  # learning rate of the first step
    schedule: str  # "constant"; "cosine", to 0; or "stairs", 0.64 times every 2000 steps
    batch: int
    steps: int
    every: int  # steps between two tests
    seed: int = 0
    decay: float = 0.0  # of all weights, as torch.optim.AdamW and SGD apply it

    def rate_at(self, step: int) -> float:
        factor = 1.0
        if self.schedule == "cosine":  # after a rise over the first fiftieth
            rise = min(1.0, 50 * (step + 1) / self.steps)
            factor = rise * (1 + math.cos(math.pi * step / self.steps)) / 2
        elif self.schedule == "stairs":
            factor = 0.64 ** (step // 2000)
        return self.rate * factor


class Batches:
    """Images as rows of numbers, and labels, in the order that the seed gives.

    Pixels are centred by the mean over the training set; each is divided by its deviation there
    if ``whiten``, all by 255 if not. Everything lies on ``device``.
    """

    def __init__(
        self, images: Images, recipe: Recipe, *, whiten: bool, device: str = "cpu"
    ) -> None:
        self._recipe, self.device = recipe, torch.device(device)
        self.x, self.x_test = (
            torch.from_numpy(a.reshape(len(a), -1)).to(device) for a in (images.x, images.x_test)
        )
        self.y, self.y_test = (torch.from_numpy(a).to(device) for a in (images.y, images.y_test))
        pixels = images.x.reshape(len(images.x), -1)
        self._mean = torch.from_numpy(pixels.mean(axis=0, dtype=np.float32)).to(device)
        scale = 1 / np.maximum(pixels.std(axis=0, dtype=np.float32), 1) if whiten else 1 / 255
        self._scale = torch.as_tensor(scale, dtype=torch.float32, device=device)
        self.per_epoch = len(self.x) // recipe.batch  # what is left over waits for another epoch
        self._epoch, self._order = -1, torch.empty(0)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self._recipe.seed, epoch)).permutation(len(self.x))
            self._epoch, self._order = epoch, torch.from_numpy(order).to(self.device)
        rows = self._order[place * self._recipe.batch : (place + 1) * self._recipe.batch]
        return self._ready(self.x[rows]), self.y[rows]

    def tests(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self.x_test), AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            yield self._ready(self.x_test[rows]), self.y_test[rows]

    def _ready(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self._mean) * self._scale


@dataclass
class Progress:
    """What is known of a run after so many steps."""

    step: int
    history: list[dict[str, float]]  # after every `Recipe.every` steps
    losses: list[float]  # of the steps since the last of these
    seconds: float  # of all sittings, tests and all
    times: list[list[float]]  # of every step: forward, backward, update


def fit(
    net: nn.Module,
    batches: Batches,
    recipe: Recipe,
    checkpoint: Path,
    *,
    seconds: float = math.inf,
    until: int | None = None,
    graphs: bool = False,
    say: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train ``net`` from its checkpoint, or from the start where there is none.

    The network moves to where the batches are. Stops when the recipe is finished, after so many
    seconds (but makes one step), or at step ``until``; in any case between two steps, with a
    checkpoint. ``say`` is called after every test. ``graphs``: see `record_graphs`.
    """
    net.to(batches.device)
    optimiser = (
        torch.optim.AdamW(net.parameters(), recipe.rate, weight_decay=recipe.decay)
        if recipe.optimiser == "adam"
        else torch.optim.SGD(net.parameters(), recipe.rate, weight_decay=recipe.decay)
    )
    torch.manual_seed(recipe.seed)  # of dropout; who makes the network seeds it before
    progress = _restore(checkpoint, net, optimiser, recipe) or Progress(0, [], [], 0.0, [])
    last = recipe.steps if until is None else min(until, recipe.steps)
    if graphs:
        record_graphs(net, batches.at(progress.step)[0])
    began = saved = time.perf_counter()
    spent, first = progress.seconds, progress.step
    clock = Clock(batches.device, progress)
    bar = tqdm(total=recipe.steps, initial=progress.step, unit="step", disable=None)
    with bar:
        while progress.step < last and (
            progress.step == first or time.perf_counter() - began < seconds
        ):
            net.train()
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate_at(progress.step)
            _step(net, optimiser, *batches.at(progress.step), clock)
            progress.step += 1
            bar.update()
            if progress.step % recipe.every == 0 or progress.step == recipe.steps:
                clock.settle()
                tested = test(net, batches)
                progress.history.append(
                    {
                        "step": progress.step,
                        "train_loss": statistics.fmean(progress.losses),
                        **tested,
                    }
                )
                progress.losses.clear()
                bar.set_postfix(error=f"{tested['error']:.2f} %")
                say(progress)
            progress.seconds = spent + time.perf_counter() - began
            if time.perf_counter() - saved > CHECKPOINT_EVERY:
                clock.settle()
                _save(checkpoint, net, optimiser, recipe, progress)
                saved = time.perf_counter()
    if progress.step > first:
        clock.settle()
        progress.seconds = spent + time.perf_counter() - began
    _save(checkpoint, net, optimiser, recipe, progress)
    return progress


class Clock:
    """Losses, and times of the parts of a step, as the device made them.

    On a GPU the marks are events among its own work, and are read when it has come past them.
    """

    def __init__(self, device: torch.device, progress: Progress) -> None:
        self._on_gpu, self._progress = device.type == "cuda", progress
        self._marks: list[Any] = []
        self._waiting: list[tuple[Tensor, list[Any]]] = []

    def mark(self) -> None:
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def end_of_step(self, loss: Tensor) -> None:
        self._waiting.append((loss.detach(), self._marks))
        self._marks = []
        if not self._on_gpu or len(self._waiting) >= SETTLE:
            self.settle()

    def settle(self) -> None:
        """Put down what the steps since the last call gave: one wait for the device.

        Stops the program where a loss is no number.
        """
        if not self._waiting:
            return
        losses = torch.stack([loss for loss, _ in self._waiting]).tolist()
        for loss, (_, marks) in zip(losses, self._waiting, strict=True):
            if not math.isfinite(loss):
                step = len(self._progress.times)
                raise SystemExit(f"the loss is {loss} at step {step}; a lower rate?")
            self._progress.losses.append(loss)
            self._progress.times.append([self._between(a, b) for a, b in pairwise(marks)])
        self._waiting.clear()

    def _between(self, first: Any, last: Any) -> float:
        return first.elapsed_time(last) / 1e3 if self._on_gpu else last - first


def record_graphs(net: nn.Module, x: Tensor) -> None:
    """From now on, Python only starts forward and backward of a step on the GPU.

    The network is run for that, and what this changes is put back: deviations of batches, random
    numbers. Tests run as before.
    """
    net.train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.cuda.get_rng_state()
    torch.cuda.make_graphed_callables(net, (x,))
    net.load_state_dict(state)
    torch.cuda.set_rng_state(random)


def _step(
    net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, clock: Clock
) -> None:
    clock.mark()
    loss = nn.functional.cross_entropy(net(x), y)
    clock.mark()
    optimiser.zero_grad()
    loss.backward()
    clock.mark()
    optimiser.step()
    clock.mark()
    clock.end_of_step(loss)


@torch.inference_mode()
def test(net: nn.Module, batches: Batches) -> dict[str, float]:
    """Mean loss, and the percentage of wrong answers, on the test set."""
    net.eval()
    found = torch.zeros(2, dtype=torch.float64, device=batches.device)  # read once, at the end
    for x, y in batches.tests():
        scores = net(x)
        loss = nn.functional.cross_entropy(scores, y, reduction="sum")
        found += torch.stack([loss, (scores.argmax(dim=1) != y).sum()])
    loss, wrong = found.tolist()
    count = len(batches.y_test)
    return {"loss": loss / count, "error": 100 * wrong / count}


def _save(
    path: Path,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    progress: Progress,
) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    state = {
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "recipe": asdict(recipe),
        "progress": asdict(progress),
    }
    torch.save(state, new)
    os.replace(new, path)


def _restore(
    path: Path, net: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe
) -> Progress | None:
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if state["recipe"] != asdict(recipe):
        known = asdict(recipe).items()
        other = {key: state["recipe"][key] for key, value in known if state["recipe"][key] != value}
        raise SystemExit(f"{path.name} was begun with {other}; delete it, or give the same options")
    net.load_state_dict(state["net"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"])
    if torch.cuda.is_initialized() and state.get("random_cuda") is not None:
        torch.cuda.set_rng_state(state["random_cuda"])
    return Progress(**state["progress"])
