"""``ttcore doctor``: what this machine has that matters to ttcore.

Nothing here fails because something is missing or broken: what cannot be found out is said to be
unknown, with the reason. Optional packages are looked up, not imported.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ttcore

__all__ = ["as_json", "as_text", "examine"]

_OPTIONAL = (
    "torch", "jax", "tensorflow", "keras", "pytensor", "cupy", "dask", "h5py", "matplotlib",
)  # fmt: skip
_SETTINGS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
    "NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_DISABLE_JIT", "NUMBA_ENABLE_CUDASIM",
    "TTCORE_CACHE_DIR", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
# widest first: features by the names of LLVM, and by those of NumPy
_VECTORS = (
    ("AVX-512", 512, {"avx512f", "AVX512F", "X86_V4"}),
    ("AVX2", 256, {"avx2", "AVX2", "X86_V3"}),
    ("SVE", None, {"sve", "SVE"}),
    ("NEON", 128, {"neon", "NEON", "ASIMD"}),
    ("SSE2", 128, {"sse2", "SSE2", "X86_V2"}),
)
_PATIENCE = 20  # seconds for a program that is asked


def examine() -> dict[str, Any]:
    """Look at the machine.

    Returns
    -------
    dict
        Of what JSON knows: strings, numbers, lists and dicts. A part that could not be found out is
        ``{"unknown": reason}``.

    Examples
    --------
    >>> from ttcore.doctor import examine
    >>> sorted(examine())
    ['blas', 'cpu', 'gpu', 'numba', 'packages', 'platform', 'python', 'settings', 'ttcore']
    """
    parts: dict[str, Callable[[], Any]] = {
        "ttcore": lambda: ttcore.__version__,
        "python": _python,
        "platform": platform.platform,
        "cpu": _cpu,
        "numba": _numba,
        "blas": _blas,
        "gpu": _gpu,
        "packages": _packages,
        "settings": lambda: {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that are tried
        return {name: _tried(look) for name, look in parts.items()}


def as_json(found: dict[str, Any]) -> str:
    """What `examine` found, for programs."""
    return json.dumps(found, indent=2)


def as_text(found: dict[str, Any]) -> str:
    """What `examine` found, as aligned lines."""
    rows = [
        ("ttcore", found["ttcore"]),
        ("Python", _words(found["python"], "{version} ({implementation}, {bits} bit)")),
        ("platform", _words(found["platform"])),
    ]
    cpu = found["cpu"]
    rows.append(("CPU", _words(cpu, "{name} ({target})")))
    if "unknown" not in cpu:
        rows.append(("vectors", _words(cpu["vectors"], "{name}, {bits} bits")))
        rows.append(("CPUs", f"{cpu['usable']} usable of {cpu['count']}"))
    numba = found["numba"]
    rows.append(("Numba", _words(numba, "{version}, with llvmlite {llvmlite}")))
    if "unknown" not in numba:
        rows.append(("its cache", _words(numba["cache"])))
    rows += _listed("BLAS", found["blas"], "{name} {version}, {threads} threads, in {library}")
    rows += _listed("GPU", found["gpu"], "{name}, {memory}, driver {driver}", "none is visible")
    packages = found["packages"]
    if "unknown" in packages:
        rows.append(("packages", _words(packages)))
    else:
        has = [
            f"{name}\N{NO-BREAK SPACE}{version}" for name, version in packages.items() if version
        ]
        rows.append(("packages", ", ".join(has)))
        rows.append(("not found", ", ".join(n for n, v in packages.items() if not v) or "-"))
    rows += _listed("settings", [f"{a}={b}" for a, b in found["settings"].items()], empty="none")
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(
        textwrap.fill(
            str(text),
            width=98,
            initial_indent=name.ljust(width),
            subsequent_indent=" " * width,
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\N{NO-BREAK SPACE}", " ")
        for name, text in rows
    )


def _words(value: Any, form: str = "") -> str:
    """A part in words: by the form, or why it is unknown."""
    if isinstance(value, dict) and "unknown" in value:
        return f"unknown: {value['unknown']}"
    if isinstance(value, dict):
        return form.format(**{k: "unknown" if v is None else v for k, v in value.items()})
    return str(value)


def _listed(name: str, parts: Any, form: str = "", empty: str = "none") -> list[tuple[str, str]]:
    if isinstance(parts, dict):  # it is unknown
        parts = [parts]
    texts = [_words(part, form) for part in parts] or [empty]
    return [(name if k == 0 else "", text) for k, text in enumerate(texts)]


def _tried(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except Exception as error:  # whatever is broken here, the other parts are still of use
        reason = " ".join(str(error).split())
        return {"unknown": f"{type(error).__name__}: {reason}" if reason else type(error).__name__}


def _python() -> dict[str, Any]:
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "bits": sys.maxsize.bit_length() + 1,
    }


def _cpu() -> dict[str, Any]:
    target = _tried(lambda: import_module("llvmlite.binding").get_host_cpu_name())
    return {
        "name": _tried(_cpu_name),
        "target": target if isinstance(target, str) else platform.machine(),
        "vectors": _tried(_vectors),
        "count": os.cpu_count(),
        "usable": _usable_cpus(),
    }


def _cpu_name() -> str:
    """The name that the processor gives itself, or that of its architecture."""
    name = ""
    if sys.platform == "linux":
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        fields = (line.partition(":") for line in text.splitlines())
        name = next((value for key, _, value in fields if key.strip() == "model name"), "")
    elif sys.platform == "darwin":
        name = _said_by("sysctl", "-n", "machdep.cpu.brand_string")
    return name.strip() or platform.processor() or platform.machine()


def _vectors() -> dict[str, Any]:
    """The widest vectors that the processor has, by LLVM or else by NumPy."""
    features = _tried(lambda: import_module("llvmlite.binding").get_host_cpu_features())
    names = {name for name, has in features.items() if has is True}
    if not names:
        import numpy as np

        known: Any = np.show_config(mode="dicts")
        simd = known["SIMD Extensions"]
        names = {*simd.get("baseline", ()), *simd.get("found", ())}
    for name, bits, signs in _VECTORS:
        if names & signs:
            return {"name": name, "bits": bits}
    return {"name": None, "bits": None}


def _usable_cpus() -> int | None:
    """CPUs that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()


def _numba() -> dict[str, Any]:
    import_module("numba")  # that it is installed does not say that it works
    return {
        "version": metadata.version("numba"),
        "llvmlite": metadata.version("llvmlite"),
        "cache": _tried(_cache_folder),
    }


def _cache_folder() -> str:
    """Where compiled kernels are kept; a home folder is written ``~``."""
    from ttcore.kernels.cpu.cache import folder

    path, home = str(folder()), str(Path.home())
    return "~" + path[len(home) :] if path.startswith(home + os.sep) else path


def _blas() -> list[dict[str, Any]]:
    """The BLAS libraries that are loaded, or the one that NumPy was built with."""
    import numpy as np

    _tried(lambda: import_module("scipy.linalg"))  # SciPy may bring one of its own
    if find_spec("threadpoolctl") is None:
        known: Any = np.show_config(mode="dicts")
        blas = known["Build Dependencies"]["blas"]
        return [_blas_library(blas.get("name"), blas.get("version"), None, "NumPy")]
    pools = import_module("threadpoolctl").threadpool_info()
    return [
        _blas_library(
            pool["internal_api"], pool.get("version"), pool["num_threads"], Path(pool["filepath"])
        )
        for pool in pools
        if pool["user_api"] == "blas"
    ]


def _blas_library(name: Any, version: Any, threads: Any, where: str | Path) -> dict[str, Any]:
    library = where.name if isinstance(where, Path) else where
    return {"name": name, "version": version, "threads": threads, "library": library}


def _gpu() -> list[dict[str, Any]]:
    """GPUs by nvidia-smi, or else by Numba."""
    table: Any = ""
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,memory.total,driver_version"
        table = _tried(lambda: _said_by("nvidia-smi", query, "--format=csv,noheader"))
        if isinstance(table, str) and table:
            rows = (line.rsplit(", ", 2) for line in table.splitlines())
            return [dict(zip(("name", "memory", "driver"), row, strict=True)) for row in rows]
    names = _tried(_gpus_by_numba)
    if isinstance(names, list) and names:
        return [{"name": name, "memory": None, "driver": None} for name in names]
    return [table] if isinstance(table, dict) else []  # why nvidia-smi failed


def _gpus_by_numba() -> list[str]:
    cuda = import_module("numba.cuda")
    if not cuda.is_available():
        return []
    return [_text(device.name) for device in cuda.gpus.lst]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _said_by(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)
    return done.stdout.strip()


def _packages() -> dict[str, str | None]:
    """Versions of the packages that ttcore needs or knows, None for those that are not here."""
    required = ("numpy", "scipy", "array_api_compat", "threadpoolctl")
    return {name: _version(name) for name in (*required, *_OPTIONAL)}


def _version(module: str) -> str | None:
    if _tried(lambda: find_spec(module) is None) is not False:
        return None
    for distribution in (module, *_distributions_of(module)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _distributions_of(module: str) -> Iterable[str]:
    """Distributions of another name that bring the module, as cupy-cuda12x does."""
    found = _tried(metadata.packages_distributions)
    return found.get(module, ()) if isinstance(found, dict) else ()
