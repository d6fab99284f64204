from ttcore import linear as linear
from ttcore import testing as testing
from ttcore.errors import TTConvergenceError as TTConvergenceError
from ttcore.errors import TTError as TTError
from ttcore.errors import TTFormatError as TTFormatError
from ttcore.errors import TTIndexError as TTIndexError
from ttcore.errors import TTShapeError as TTShapeError
from ttcore.errors import TTSizeError as TTSizeError
from ttcore.errors import TTTypeError as TTTypeError
from ttcore.errors import TTValueError as TTValueError
from ttcore.functions import allclose as allclose
from ttcore.functions import distance as distance
from ttcore.functions import log_vdot as log_vdot
from ttcore.functions import round_sum as round_sum
from ttcore.functions import vdot as vdot
from ttcore.making import eye as eye
from ttcore.making import from_dense as from_dense
from ttcore.making import matrix_from_dense as matrix_from_dense
from ttcore.making import ones as ones
from ttcore.making import random as random
from ttcore.making import random_matrix as random_matrix
from ttcore.making import rank_one as rank_one
from ttcore.making import zeros as zeros
from ttcore.matrix import TTMatrix as TTMatrix
from ttcore.tensor import TTTensor as TTTensor

__version__: str
