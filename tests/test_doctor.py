import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import ttcore
from ttcore import doctor
from ttcore.cli import main

OPTIONAL = ["torch", "jax", "tensorflow", "keras", "pytensor", "cupy", "dask", "h5py", "matplotlib"]
TOOLS = ["numba", "llvmlite", "llvmlite.binding", "scipy", "scipy.linalg", "threadpoolctl"]
RUN = """
import sys
sys.modules.update(dict.fromkeys({hidden}))
from ttcore.cli import main
code = main({argv})
loaded = set({optional}) & {{name for name, module in sys.modules.items() if module}}
assert not loaded, loaded
sys.exit(code)
"""


def program(*argv, hidden=(), env=None):
    """What ``ttcore doctor`` prints in a process where some modules cannot be imported."""
    code = RUN.format(hidden=list(hidden), argv=["doctor", *argv], optional=OPTIONAL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_says_what_is_here(tmp_path):
    settings = {"OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    found = json.loads(program("--json", env=settings))
    assert settings.items() <= found["settings"].items()
    assert Path(found["numba"]["cache"]).expanduser().is_relative_to(tmp_path)
    assert found["ttcore"] == ttcore.__version__
    assert found["python"]["version"] == platform.python_version()
    assert found["platform"] == platform.platform()
    assert found["packages"]["numpy"] == metadata.version("numpy")
    assert found["numba"]["version"] == metadata.version("numba")
    assert found["numba"]["llvmlite"] == metadata.version("llvmlite")
    assert 1 <= found["cpu"]["usable"] <= found["cpu"]["count"]
    assert found["cpu"]["vectors"]["name"] in {name for name, _, _ in doctor._VECTORS}
    assert isinstance(found["gpu"], list)
    assert all(library["name"] for library in found["blas"])


@pytest.mark.parametrize("hidden", [OPTIONAL, [*OPTIONAL, *TOOLS]], ids=len)
def test_nothing_that_is_missing_makes_it_fail(hidden):
    text = program(hidden=hidden)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 98
    starts = {line[:11].strip() for line in lines}
    assert {"ttcore", "Python", "CPU", "vectors", "Numba", "BLAS", "GPU", "packages"} <= starts
    assert len({len(line) - len(line[11:].lstrip()) for line in lines}) == 1  # one column
    packages, _, absent = text.partition("not found")
    for name in set(hidden) & {*OPTIONAL, "scipy", "threadpoolctl"}:
        assert f" {name} " not in packages.partition("packages")[2]
        assert name in absent
    if "numba" in hidden:
        assert "Numba      unknown: ModuleNotFoundError" in text
    assert "BLAS       unknown" not in text


def test_a_part_that_breaks_does_not_take_the_others_along(monkeypatch, capsys):
    def broken():
        raise SystemError("no\n  such luck")

    for name in ("_python", "_cpu", "_numba", "_blas", "_gpu", "_packages"):
        monkeypatch.setattr(doctor, name, broken)
    monkeypatch.setattr(platform, "platform", broken)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.count("unknown: SystemError: no such luck") == 7
    assert out.splitlines()[0].split() == ["ttcore", ttcore.__version__]
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cpu"] == {"unknown": "SystemError: no such luck"}


@pytest.fixture
def fake_nvidia_smi(tmp_path, monkeypatch):
    if os.name != "posix":
        pytest.skip("the fake program is a shell script")

    def install(script):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setattr(doctor, "_gpus_by_numba", list)

    return install


def said_of_gpus(found):
    others = ("python", "platform", "cpu", "numba", "blas", "packages")
    parts = {name: {"unknown": "not asked"} for name in others}
    text = doctor.as_text({"ttcore": "1", **parts, "gpu": found, "settings": {}})
    return text.partition("GPU")[2].partition("\n")[0].strip()


def test_gpus_are_named(fake_nvidia_smi):
    fake_nvidia_smi("echo 'NVIDIA H100 80GB HBM3, 81559 MiB, 550.54.15'")
    found = doctor._gpu()
    gpu = {"name": "NVIDIA H100 80GB HBM3", "memory": "81559 MiB", "driver": "550.54.15"}
    assert found == [gpu]
    assert said_of_gpus(found) == "NVIDIA H100 80GB HBM3, 81559 MiB, driver 550.54.15"


def test_a_driver_that_does_not_answer_is_reported(fake_nvidia_smi):
    fake_nvidia_smi("echo 'Failed to initialize NVML'; exit 18")
    assert said_of_gpus(doctor._gpu()).startswith("unknown: CalledProcessError")


def test_no_gpu_is_no_error(fake_nvidia_smi):
    fake_nvidia_smi("true")
    assert said_of_gpus(doctor._gpu()) == "none is visible"


def test_gpus_that_only_numba_sees(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "_gpus_by_numba", lambda: ["Orin"])
    assert doctor._gpu() == [{"name": "Orin", "memory": None, "driver": None}]


@pytest.mark.parametrize(
    ("features", "vectors"),
    [
        ({"sse2": True, "avx2": True, "avx512f": True}, ("AVX-512", 512)),
        ({"sse2": True, "avx2": True, "avx512f": False}, ("AVX2", 256)),
        ({"neon": True, "fp-armv8": True}, ("NEON", 128)),
        ({"vsx": True}, (None, None)),
    ],
)
def test_the_widest_vectors_are_named(monkeypatch, features, vectors):
    binding = pytest.importorskip("llvmlite.binding")
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: features)
    assert doctor._vectors() == dict(zip(("name", "bits"), vectors, strict=True))


def test_a_package_may_come_from_a_distribution_of_another_name():
    assert doctor._version("_pytest") == metadata.version("pytest")
    assert doctor._version("no_such_module") is None
    assert doctor._version("antigravity") == "of unknown version"  # it is Python's own


def test_help_names_the_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out
