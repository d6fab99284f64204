import ast
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ttcore

PACKAGE = Path(ttcore.__file__).parent
SUBMODULES = {module.name for module in pkgutil.iter_modules(ttcore.__path__)}


def in_fresh_process(code, cwd):
    """What ``code`` prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_import_loads_nothing_but_the_standard_library_and_numpy(tmp_path):
    loaded = in_fresh_process(
        "import json, sys; before = set(sys.modules); import ttcore; "
        "print(json.dumps(sorted(set(sys.modules) - before)))",
        tmp_path,
    )
    roots = {name.partition(".")[0] for name in loaded}
    assert "ttcore" in roots
    assert roots - set(sys.stdlib_module_names) <= {"ttcore", "numpy"}
    assert [name for name in loaded if name.startswith("ttcore.")] == []


# A submodule that has the name of a public function would replace it once it is imported.
READ_TWICE = """
import importlib, json, pkgutil, ttcore
first = {name: getattr(ttcore, name) for name in ttcore.__all__}
imported = []
for module in pkgutil.walk_packages(ttcore.__path__, "ttcore."):
    if module.name.startswith(("ttcore.adapters", "ttcore.kernels.cuda")):
        continue  # these need what may not be installed
    imported.append(importlib.import_module(module.name).__name__)
changed = [name for name, value in first.items() if getattr(ttcore, name) is not value]
print(json.dumps([imported, changed]))
"""


def test_public_names_stay_the_same_objects_after_importing_every_submodule(tmp_path):
    imported, changed = in_fresh_process(READ_TWICE, tmp_path)
    assert "ttcore.tensor" in imported
    assert changed == []


def test_no_public_function_shares_its_name_with_a_submodule():
    shared = {"indexing", "layers", "linear", "rows", "testing"}
    assert set(ttcore.__all__) & SUBMODULES == shared


def test_public_names_are_listed():
    assert set(dir(ttcore)) == {*ttcore.__all__, "__version__"}
    assert {"TTTensor", "TTMatrix", "from_dense", "TTShapeError", "linear"} <= set(dir(ttcore))


def test_every_public_class_and_function_says_what_it_is():
    assert [name for name in ttcore.__all__ if not getattr(ttcore, name).__doc__] == []


def test_stub_lists_exactly_the_public_names():
    bound = set()
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                assert name.asname == name.name  # a re-export, by the rules of stubs
                home = getattr(ttcore, name.name)
                assert getattr(home, "__module__", node.module) == node.module
                bound.add(name.name)
        else:
            assert isinstance(node, ast.AnnAssign)
            bound.add(node.target.id)
    assert bound == {*ttcore.__all__, "__version__"}


def test_unknown_attribute_is_refused_with_a_hint():
    with pytest.raises(AttributeError, match="'from_dence'; did you mean 'from_dense'"):
        _ = ttcore.from_dence
    with pytest.raises(AttributeError, match=r"'qqqq'; dir\(ttcore\) lists the public names"):
        _ = ttcore.qqqq


def test_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()
