"""The networks of the experiments: those of the papers and tutorials, and their dense twins."""

import math
from collections.abc import Sequence

from torch import nn

from ttcore.adapters.torch import TTLinear

CLASSES = 10


def mnist(modes: Sequence[int] | None, rank: int) -> nn.Sequential:
    """1024 -> 1024, ReLU, -> 10 (Novikov et al., 2015); the first layer TT, or dense: None."""
    if modes is None:
        hidden: nn.Module = nn.Linear(1024, 1024)
    else:
        hidden = TTLinear(modes, modes, _all(rank, modes))
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(hidden.out_features, CLASSES))


def hashednet() -> nn.Sequential:
    """Both layers TT, ranks 8: 12,602 parameters with biases, the number in the paper.

    The paper does not say which modes give that number, and several do. In the second layer of
    these, the ten outputs sit in one core, between 16 inputs to its left and 8 to its right.
    """
    return nn.Sequential(
        TTLinear((4, 4, 8, 8), (4, 4, 8, 8), (8,) * 3),
        nn.ReLU(),
        TTLinear((2, 8, 8, 2, 4), (1, 1, 10, 1, 1), (8,) * 4),
    )


def t3f(rank: int | None) -> nn.Sequential:
    """784 -> 625, ReLU, -> 10, of t3f's tutorials; the first layer TT, or dense: None."""
    if rank is None:
        hidden: nn.Module = nn.Linear(784, 625)
    else:
        hidden = TTLinear((7, 4, 7, 4), (5, 5, 5, 5), _all(rank, (7, 4, 7, 4)))
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(625, CLASSES))


def compressed(dense: nn.Sequential, rank: int) -> nn.Sequential:
    """`t3f` with the weights of the trained dense one: TT-SVD of its first layer."""
    hidden = TTLinear.from_dense(dense[0], (7, 4, 7, 4), (5, 5, 5, 5), max_rank=rank)
    last = nn.Linear(625, CLASSES)
    last.load_state_dict(dense[2].state_dict())
    return nn.Sequential(hidden, nn.ReLU(), last)


def cifar(width: int, rank: int) -> nn.Sequential:
    """3072 -> width^6 -> 4096, both TT without bias, -> 10: TensorNet-TF's ``2-layer-tt``."""
    pixels, hidden, features = (4, 4, 4, 4, 4, 3), (width,) * 6, (4,) * 6
    layers: list[nn.Module] = []
    for ins, outs in ((pixels, hidden), (hidden, features)):
        layers += [
            TTLinear(ins, outs, _all(rank, ins), bias=False),
            nn.BatchNorm1d(math.prod(outs), momentum=0.2),  # TensorFlow's decay of 0.8
            nn.ReLU(inplace=True),
            nn.Dropout(0.4),  # TensorFlow's keep probability of 0.6
        ]
    return nn.Sequential(*layers, nn.Linear(4096, CLASSES))


def _all(rank: int, modes: Sequence[int]) -> tuple[int, ...]:
    """The same rank at every bond, as in the papers, even where the modes cannot use it."""
    return (rank,) * (len(modes) - 1)


def parameters(net: nn.Module) -> dict[str, int]:
    """How many numbers are trained: in all, and in the cores of TT layers."""
    cores = [g for layer in net.modules() if isinstance(layer, TTLinear) for g in layer.cores]
    return {
        "all": sum(p.numel() for p in net.parameters()),
        "cores": sum(g.numel() for g in cores),
    }
