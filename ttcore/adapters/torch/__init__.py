"""PyTorch: `TTLinear`, a module, and `tt_linear`, the function that it calls.

Works under ``torch.compile(fullgraph=True)``, ``torch.export``, ``torch.func``, autocast and double
backward. Tensors on the CPU share memory with the compiled kernels, which use
``torch.get_num_threads()`` threads; those on other devices are contracted by torch's own products.
"""

from ttcore.adapters.torch.modules import TTLinear
from ttcore.adapters.torch.ops import decompositions, tt_linear

__all__ = ["TTLinear", "decompositions", "tt_linear"]
