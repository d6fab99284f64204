"""One training loop, which can be stopped at any step and goes on with the same numbers.

What a step does depends on its number, on the seed and on the state that a checkpoint holds: the
order of the images is drawn anew for every epoch from (seed, epoch), the rate is a function of the
step, and dropout's generator is stored.
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
    if ``whiten``, all by 255 if not.
    """

    def __init__(self, images: Images, recipe: Recipe, *, whiten: bool) -> None:
        self._recipe = recipe
        self.x, self.x_test = (
            torch.from_numpy(a.reshape(len(a), -1)) for a in (images.x, images.x_test)
        )
        self.y, self.y_test = torch.from_numpy(images.y), torch.from_numpy(images.y_test)
        pixels = images.x.reshape(len(images.x), -1)
        self._mean = torch.from_numpy(pixels.mean(axis=0, dtype=np.float32))
        scale = 1 / np.maximum(pixels.std(axis=0, dtype=np.float32), 1) if whiten else 1 / 255
        self._scale = torch.as_tensor(scale, dtype=torch.float32)
        self.per_epoch = len(self.x) // recipe.batch  # what is left over waits for another epoch
        self._epoch, self._order = -1, torch.empty(0)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self._recipe.seed, epoch)).permutation(len(self.x))
            self._epoch, self._order = epoch, torch.from_numpy(order)
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
    say: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train ``net`` from its checkpoint, or from the start where there is none.

    Stops when the recipe is finished, after so many seconds (but makes one step), or at step
    ``until``; in any case between two steps, with a checkpoint. ``say`` is called after every test.
    """
    optimiser = (
        torch.optim.AdamW(net.parameters(), recipe.rate, weight_decay=recipe.decay)
        if recipe.optimiser == "adam"
        else torch.optim.SGD(net.parameters(), recipe.rate, weight_decay=recipe.decay)
    )
    torch.manual_seed(recipe.seed)  # of dropout; who makes the network seeds it before
    progress = _restore(checkpoint, net, optimiser, recipe) or Progress(0, [], [], 0.0, [])
    last = recipe.steps if until is None else min(until, recipe.steps)
    began = saved = time.perf_counter()
    spent, first = progress.seconds, progress.step
    bar = tqdm(total=recipe.steps, initial=progress.step, unit="step", disable=None)
    with bar:
        while progress.step < last and (
            progress.step == first or time.perf_counter() - began < seconds
        ):
            net.train()
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate_at(progress.step)
            loss, times = _step(net, optimiser, *batches.at(progress.step))
            if not math.isfinite(loss):
                raise SystemExit(f"the loss is {loss} at step {progress.step}; a lower rate?")
            progress.step += 1
            progress.losses.append(loss)
            progress.times.append(times)
            bar.update()
            if progress.step % recipe.every == 0 or progress.step == recipe.steps:
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
                _save(checkpoint, net, optimiser, recipe, progress)
                saved = time.perf_counter()
    _save(checkpoint, net, optimiser, recipe, progress)
    return progress


def _step(
    net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> tuple[float, list[float]]:
    clock = [time.perf_counter()]
    loss = nn.functional.cross_entropy(net(x), y)
    clock.append(time.perf_counter())
    optimiser.zero_grad()
    loss.backward()
    clock.append(time.perf_counter())
    optimiser.step()
    clock.append(time.perf_counter())
    return loss.item(), [b - a for a, b in pairwise(clock)]


@torch.inference_mode()
def test(net: nn.Module, batches: Batches) -> dict[str, float]:
    """Mean loss, and the percentage of wrong answers, on the test set."""
    net.eval()
    loss = wrong = 0.0
    for x, y in batches.tests():
        scores = net(x)
        loss += nn.functional.cross_entropy(scores, y, reduction="sum").item()
        wrong += (scores.argmax(dim=1) != y).sum().item()
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
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["recipe"] != asdict(recipe):
        known = asdict(recipe).items()
        other = {key: state["recipe"][key] for key, value in known if state["recipe"][key] != value}
        raise SystemExit(f"{path.name} was begun with {other}; delete it, or give the same options")
    net.load_state_dict(state["net"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"])
    return Progress(**state["progress"])
