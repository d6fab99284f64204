"""Layers of neural networks on tensor trains: arrays in, arrays out, no framework.

Layers take ``(in_modes, out_modes)``, as frameworks do; matrices take ``(row_modes, col_modes)``,
outputs first. A weight is (out, in), as torch stores it, and core k is (r_{k-1}, out_k, in_k, r_k).

=================  ==============================================================================
`FC`               a fully-connected layer: cores, bias, and what can be done with them
`fc`               its ``forward`` and ``backward`` as functions of arrays
`init_cores`       random cores by the variance of the dense weight
`suggest`          modes and ranks for an error, a number of parameters, or a time
`from_t3f`, ...    layers from the arrays that other programs store
=================  ==============================================================================
"""

from ttcore.layers import fc
from ttcore.layers.init import init_cores
from ttcore.layers.layer import FC
from ttcore.layers.predecessors import (
    from_t3f,
    from_tensornet_matlab,
    from_tensornet_tf,
    from_tensornet_tf_2016,
    from_tensornet_theano,
)
from ttcore.layers.suggesting import Candidate, Suggestion, suggest

__all__ = [
    "FC",
    "Candidate",
    "Suggestion",
    "fc",
    "from_t3f",
    "from_tensornet_matlab",
    "from_tensornet_tf",
    "from_tensornet_tf_2016",
    "from_tensornet_theano",
    "init_cores",
    "suggest",
]
