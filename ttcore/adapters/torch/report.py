"""What `replace_layers` did to each layer, as a value and as a table."""

from dataclasses import dataclass

from ttcore.cores import short


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer.

    Attributes
    ----------
    names : tuple of str
        Where it is in the model: more than one place if they share it.
    shape : (out, in), or None
        None where the weight cannot be read.
    before, after : int
        Number of parameters, the bias included; equal where the layer is kept.
    error : float or None
        Of the weight, relative, in the Frobenius norm, measured on the cores as they are stored;
        None where the layer is kept.
    in_modes, out_modes, ranks : tuple of int
        Of the new layer; empty where the old one is kept.
    reason : str
        Why the layer is kept; empty where it is replaced.
    """

    names: tuple[str, ...]
    shape: tuple[int, int] | None
    before: int
    after: int
    error: float | None = None
    in_modes: tuple[int, ...] = ()
    out_modes: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What `replace_layers` returns; print it.

    Attributes
    ----------
    layers : tuple of LayerReport
        In the order of the model, those that are kept included.
    before, after : int
        Number of parameters of the whole model, shared ones counted once.
    goal : str
        As it was asked for: 'eps=0.01'.
    dry_run : bool
        Whether the model is as it was.
    """

    layers: tuple[LayerReport, ...]
    before: int
    after: int
    goal: str
    dry_run: bool

    @property
    def replaced(self) -> tuple[LayerReport, ...]:
        """The layers that have, or would have, become a `TTLinear`."""
        return tuple(layer for layer in self.layers if not layer.reason)

    @property
    def kept(self) -> tuple[LayerReport, ...]:
        """The others."""
        return tuple(layer for layer in self.layers if layer.reason)

    def __getitem__(self, name: str) -> LayerReport:
        """The layer of this name."""
        for layer in self.layers:
            if name in layer.names:
                return layer
        raise KeyError(name)

    def __str__(self) -> str:
        """A table, and the totals."""
        head = ("layer", "out x in", "parameters", "error", "")
        rows = [head, *(row for layer in self.layers for row in _rows(layer))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        would = "would be " if self.dry_run else ""
        times = f", {self.before / self.after:.3g} times fewer" if self.replaced else ""
        return "\n".join(
            [
                *table,
                f"{len(self.replaced)} of {len(self.layers)} layers {would}replaced, {self.goal}; "
                f"the model: {self.before} -> {self.after} parameters{times}",
            ]
        )

    __repr__ = __str__


def _rows(layer: LayerReport) -> list[tuple[str, ...]]:
    """A line for the layer, and one for each other place where it is."""
    size = "" if layer.shape is None else f"{layer.shape[0]} x {layer.shape[1]}"
    first, *others = layer.names
    if layer.reason:
        row = (first, size, f"{layer.before}", "", f"kept: {layer.reason}")
    else:
        modes = f"{short(layer.out_modes)} x {short(layer.in_modes)}, ranks {short(layer.ranks)}"
        row = (first, size, f"{layer.before} -> {layer.after}", f"{layer.error:.1e}", modes)
    return [row, *((name, "", "", "", f"the same layer as {first}") for name in others)]
