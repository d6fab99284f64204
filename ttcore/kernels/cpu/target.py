"""What the compiler compiles for: its vector registers, and whether it has an FMA."""

from functools import lru_cache

import llvmlite.binding as llvm
from numba.core import config


@lru_cache
def features() -> frozenset[str]:
    """Names of the processor features that Numba may use."""
    if config.CPU_FEATURES is not None:
        return frozenset(name[1:] for name in config.CPU_FEATURES.split(",") if name[:1] == "+")
    if config.CPU_NAME not in {None, "host"}:
        return frozenset()  # a named processor: nothing is known of it but its name
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


@lru_cache
def vector_bytes() -> int:
    """Bytes of a vector register."""
    if "avx512f" in features():
        return 64
    return 32 if {"avx2", "fma"} <= features() else 16


@lru_cache
def vector_registers() -> int:
    """How many vector registers there are: a tile that needs more keeps sums in memory."""
    arm = llvm.get_default_triple().startswith(("aarch64", "arm64"))
    return 32 if arm or "avx512f" in features() else 16


@lru_cache
def has_fma() -> bool:
    """Whether there is a vector multiply-add; without one LLVM would call the C library's."""
    triple = llvm.get_default_triple()
    return "fma" in features() or "avx512f" in features() or triple.startswith(("aarch64", "arm64"))
