"""`TTDelta`: what a trained layer learns on top of what it knows, as a tensor train."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttcore.adapters.torch.dense import dense_weight, is_conv1d, why_not_dense
from ttcore.adapters.torch.modules import TTLinear
from ttcore.errors import TTTypeError
from ttcore.layers.modes import usual_modes


class TTDelta(nn.Module):
    """A dense layer that is frozen, plus a TT-matrix that is trained and starts at zero.

    Parameters
    ----------
    base : torch.nn.Linear, or Conv1D of transformers
        Taken over, not copied. Its weight and bias no longer require gradients: a weight that is
        tied to another module is frozen there too.
    rank : int or sequence of int
        As in `TTLinear`.
    in_modes, out_modes : sequence of d ints, optional
        They multiply to the sizes of the layer, or to a little more. Default: near 4 to 8.
    init : str or float
        How the cores are drawn, the last one excepted, which is zero: as in `TTLinear`.
    dtype : torch.dtype, optional
        Of the cores; default: that of the base. float32 beside a base in half precision keeps
        steps of training that half precision would round away.

    Attributes
    ----------
    base : the layer
        ``base.weight`` and ``base.bias`` in the state dict.
    delta : TTLinear
        ``delta.cores.0`` ... in the state dict. Without bias.

    Raises
    ------
    TTTypeError
        If ``base`` is something else, or its weight is quantised, parametrised or not there yet.
    TTShapeError
        If the modes multiply to less than the sizes of the layer.

    Notes
    -----
    With the last core zero and the others drawn as for a new layer, the output is that of the base
    layer, and the gradient of the last core is not zero. There is no factor for the delta, as
    it would do what another learning rate for that core does.

    Examples
    --------
    >>> import torch
    >>> from ttcore.adapters.torch import TTDelta
    >>> layer = TTDelta(torch.nn.Linear(768, 3072), rank=4)
    >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)
    1632
    >>> layer.merge()
    Linear(in_features=768, out_features=3072, bias=True)
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int | Sequence[int],
        in_modes: Sequence[int] | None = None,
        out_modes: Sequence[int] | None = None,
        *,
        init: str | float = "glorot",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        reason = why_not_dense(base) if isinstance(base, nn.Module) else f"a {type(base).__name__}"
        if reason:
            raise TTTypeError(
                f"cannot put a delta on base: {reason}; expected a plain torch.nn.Linear or Conv1D "
                "of transformers"
            )
        if (in_modes is None) != (out_modes is None):
            raise TTTypeError("in_modes and out_modes: give both, or neither")
        weight = dense_weight(base)
        outputs, inputs = weight.shape
        if in_modes is None or out_modes is None:
            out_modes, in_modes = usual_modes(outputs, inputs)
        self.base = base
        self.delta = TTLinear(
            in_modes,
            out_modes,
            rank,
            bias=False,
            init=init,
            device=weight.device,
            dtype=weight.dtype if dtype is None else dtype,
            in_features=inputs,
            out_features=outputs,
        )
        self.train(base.training)
        nn.init.zeros_(self.delta.cores[-1])
        base.requires_grad_(False)  # not before everything is known to fit

    @property
    def in_features(self) -> int:
        """Size of the input."""
        return self.delta.in_features

    @property
    def out_features(self) -> int:
        """Size of the output."""
        return self.delta.out_features

    @property
    def bias(self) -> Tensor | None:
        """That of the base layer."""
        return self.base._parameters["bias"]

    @property
    def weight(self) -> Tensor:
        """The dense weight with the delta, laid out as in the base layer; built at each call.

        Differentiable: gradients reach the cores.
        """
        delta = self.delta.to_dense()
        weight: Any = self.base.weight
        return (weight + (delta.T if is_conv1d(self.base) else delta)).to(weight.dtype)

    def reset_parameters(self) -> None:
        """Draw the cores anew, and start at zero again; the base layer stays."""
        self.delta.reset_parameters()
        nn.init.zeros_(self.delta.cores[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        y: Tensor = self.base(x)
        return y + self.delta(x)

    def merge(self) -> nn.Module:
        """A dense layer of the class of the base, with the sum as its weight.

        A new one, which shares no memory with this. Its parameters are frozen, as those of the
        base: call ``requires_grad_()`` to train them.
        """
        with torch.no_grad():
            weight = self.weight
            merged: Any = copy.deepcopy(self.base)
            merged.weight.copy_(weight)
        return merged
