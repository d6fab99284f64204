"""Modules of torch."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttcore.adapters.torch.dense import dense_weight
from ttcore.adapters.torch.ops import tt_linear
from ttcore.errors import TTShapeError
from ttcore.layers.init import init_cores
from ttcore.layers.layer import FC
from ttcore.layers.modes import check_layer_modes, check_size
from ttcore.matrix import TTMatrix


class TTLinear(nn.Module):
    """A fully-connected layer whose weight is a TT-matrix; takes the place of `torch.nn.Linear`.

    Parameters
    ----------
    in_modes, out_modes : sequence of d ints
        They multiply to ``in_features`` and ``out_features``. (Layers take input modes first;
        matrices take rows, the outputs, first.)
    rank : int or sequence of int
        As in `ttcore.layers.init_cores`.
    bias : bool
    init : str or float
        The variance of the dense weight, or how the cores are drawn: see
        `ttcore.layers.init_cores`. Drawn by torch's random numbers: `torch.manual_seed` holds.
    device, dtype
        As in `torch.nn.Linear`.
    in_features, out_features : int, optional
        Sizes of input and output where the modes multiply to more: x is then padded with zeros,
        and y is cut. (The variance of ``init`` counts what is padded.)

    Attributes
    ----------
    cores : ParameterList
        Of shapes (r_{k-1}, out_k, in_k, r_k); ``cores.0`` ... in the state dict.
    bias : Parameter or None
        Of shape (out_features,); zero at the start.

    Examples
    --------
    >>> import torch
    >>> from ttcore.adapters.torch import TTLinear
    >>> layer = TTLinear((4, 7, 4, 7), (5, 5, 8, 4), rank=3)
    >>> layer(torch.ones(10, 784)).shape
    torch.Size([10, 800])
    >>> sum(p.numel() for p in layer.parameters())
    1547
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        rank: int | Sequence[int],
        bias: bool = True,
        *,
        init: str | float = "glorot",
        device: Any = None,
        dtype: torch.dtype | None = None,
        in_features: int | None = None,
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        self.in_modes, self.out_modes = check_layer_modes(in_modes, out_modes)
        self.in_features = check_size("in_features", in_features, self.in_modes)
        self.out_features = check_size("out_features", out_features, self.out_modes)
        self._missing = (
            math.prod(self.in_modes) - self.in_features,
            math.prod(self.out_modes) - self.out_features,
        )
        self.init = init
        self._names = [str(k) for k in range(len(self.in_modes))]
        self._warned = False
        place = {"device": device, "dtype": dtype}
        shapes = [g.shape for g in init_cores(self.in_modes, self.out_modes, rank, init=init)]
        self.cores = nn.ParameterList([torch.empty(shape, **place) for shape in shapes])
        if bias:
            self.bias = nn.Parameter(torch.empty(self.out_features, **place))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @property
    def ranks(self) -> tuple[int, ...]:
        """The d + 1 ranks; the outer ones are 1."""
        return (1, *(int(core.shape[3]) for core in self.cores))

    def reset_parameters(self) -> None:
        """Draw the cores anew, and set the bias to zero."""
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
        drawn = init_cores(self.in_modes, self.out_modes, self.ranks, init=self.init, rng=seed)
        with torch.no_grad():
            for core, values in zip(self.cores, drawn, strict=True):
                core.copy_(torch.from_numpy(values))
            if self.bias is not None:
                self.bias.zero_()

    @classmethod
    def from_dense(
        cls,
        linear: Any,
        in_modes: Sequence[int] | None = None,
        out_modes: Sequence[int] | None = None,
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        pad: bool = False,
    ) -> "TTLinear":
        """The layer of a trained one, by TT-SVD of its weight.

        Parameters
        ----------
        linear : torch.nn.Linear, or Conv1D of transformers
            Not changed; device, dtype and bias are taken over.
        in_modes, out_modes, eps, max_rank, pad
            As in `ttcore.layers.FC.from_dense`. What `ttcore.layers.suggest` proposes may need
            ``pad=True``.

        Examples
        --------
        >>> import torch
        >>> from ttcore.adapters.torch import TTLinear
        >>> TTLinear.from_dense(torch.nn.Linear(64, 32), (4, 4, 4), (4, 4, 2), max_rank=5)
        TTLinear(in_modes=(4, 4, 4), out_modes=(4, 4, 2), ranks=(1, 5, 5, 1), bias=True)
        """
        weight = dense_weight(linear)
        found = FC.from_dense(
            weight.float() if weight.dtype in {torch.float16, torch.bfloat16} else weight,
            in_modes,
            out_modes,
            eps=eps,
            max_rank=max_rank,
            pad=pad,
        )
        layer = cls(
            found.in_modes,
            found.out_modes,
            found.ranks,
            bias=linear.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            in_features=found.in_features,
            out_features=found.out_features,
        )
        with torch.no_grad():
            for core, values in zip(layer.cores, found.cores, strict=True):
                core.copy_(values)
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        bias: Tensor | None
        try:
            bias = self._parameters["bias"]  # asking the module itself takes a microsecond
        except KeyError:
            bias = self.bias  # it is computed
        inputs, outputs = self._missing
        if inputs == outputs == 0:
            return tt_linear(x, self._cores(), bias)
        if x.shape[-1] != self.in_features:  # else what was padded would be complained about
            raise TTShapeError(
                f"x has shape {tuple(x.shape)}, expected (..., in_features) with "
                f"in_features={self.in_features}"
            )
        bias = bias if bias is None else nn.functional.pad(bias, (0, outputs))
        y = tt_linear(nn.functional.pad(x, (0, inputs)), self._cores(), bias)
        return y[..., : self.out_features].contiguous()

    def _cores(self) -> list[Tensor]:
        """The cores in their order; dicts tell them sooner than modules and lists of parameters."""
        held: Any = self._modules["cores"]
        try:
            return [held._parameters[name] for name in self._names]
        except KeyError:  # some are computed, by `parametrize` or `prune` of torch.nn.utils
            return [getattr(held, name) for name in self._names]

    @property
    def weight(self) -> Tensor:
        """The dense weight (out_features, in_features), built at each call; warns the first time.

        Differentiable: gradients reach the cores.
        """
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"TTLinear.weight builds the dense {self.out_features} x {self.in_features} weight "
                "at each call; the layer itself never does",
                stacklevel=2,
            )
        return self.to_dense().to(self.cores[0].dtype)

    def to_dense(self) -> Tensor:
        """The dense weight (out_features, in_features); of half precision, in float32.

        Differentiable: gradients reach the cores.
        """
        dense: Tensor = TTMatrix(self._cores()).to_dense()
        return dense[: self.out_features, : self.in_features]

    def extra_repr(self) -> str:
        """Modes and ranks, and the sizes where the modes do not tell them."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, "
        return (
            f"in_modes={self.in_modes}, out_modes={self.out_modes}, ranks={self.ranks}, "
            f"{sizes if any(self._missing) else ''}bias={self.bias is not None}"
        )

    def __repr__(self) -> str:
        """One line, as of `torch.nn.Linear`: the cores follow from modes and ranks."""
        return f"{type(self).__name__}({self.extra_repr()})"
