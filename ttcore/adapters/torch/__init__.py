"""PyTorch: layers on tensor trains, and what puts them into trained models.

=================  ==============================================================================
`TTLinear`         takes the place of `torch.nn.Linear`
`tt_linear`        the function that it calls
`decompositions`   its operators as torch's own products, for exporters
`replace_layers`   exchanges the dense layers of a trained model for `TTLinear`
`rebuild_layers`   does so in a new model, to load what was saved
`TTDelta`          a frozen dense layer plus a TT-matrix that is trained, starting at zero
=================  ==============================================================================

Works under ``torch.compile(fullgraph=True)``, ``torch.export``, ``torch.func``, autocast and double
backward. Tensors on the CPU share memory with the compiled kernels, which use
``torch.get_num_threads()`` threads; those on other devices are contracted by torch's own products.
"""

from ttcore.adapters.torch.delta import TTDelta
from ttcore.adapters.torch.modules import TTLinear
from ttcore.adapters.torch.ops import decompositions, tt_linear
from ttcore.adapters.torch.rebuilding import rebuild_layers
from ttcore.adapters.torch.report import LayerReport, Report
from ttcore.adapters.torch.surgery import replace_layers

__all__ = [
    "LayerReport",
    "Report",
    "TTDelta",
    "TTLinear",
    "decompositions",
    "rebuild_layers",
    "replace_layers",
    "tt_linear",
]
