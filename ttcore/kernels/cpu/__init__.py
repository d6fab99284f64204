"""The kernels compiled by Numba: accelerated twins of ``kernels.portable``."""
