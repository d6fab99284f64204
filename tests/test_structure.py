"""Rules about the files of the project that no linter checks."""

import ast
import os
import re
from pathlib import Path

import pytest

import ttcore

ROOT = Path(__file__).parents[1]
PACKAGE = Path(ttcore.__file__).parent
KERNELS = PACKAGE / "kernels"
MADE = {"build", "dist", "_build", "demo-out", "__pycache__"}  # by tools, beside every .hidden one
KEPT = {".ci", ".github", ".gitignore", ".pre-commit-config.yaml"}


def repository_files():
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in MADE and (f[0] != "." or f in KEPT)]
        yield from (Path(folder, f) for f in files if f[0] != "." or f in KEPT)


def public_functions(path):
    """Name -> arguments and defaults of the functions of a file, without annotations."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            for arg in ast.walk(node.args):
                if isinstance(arg, ast.arg):
                    arg.annotation = None
            found[node.name] = ast.unparse(node.args)
    return found


@pytest.mark.parametrize(
    ("reference", "twin"), [("portable", "cpu"), ("portable", "cuda"), ("cpu", "cuda")]
)
def test_kernel_twins_have_equal_signatures(reference, twin):
    for path in sorted((KERNELS / twin).glob("*.py")):
        other = KERNELS / reference / path.name
        if path.name == "__init__.py" or not other.exists():
            continue
        here, there = public_functions(path), public_functions(other)
        common = here.keys() & there.keys()
        assert {f: here[f] for f in common} == {f: there[f] for f in common}, path.name
        if reference == "portable":  # a twin accelerates a function that the reference defines
            assert here.keys() <= there.keys(), path.name


def test_modules_are_shorter_than_400_lines():
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert "__init__.py" in lengths
    assert {name: length for name, length in lengths.items() if length >= 400} == {}


def test_no_file_names_a_path_of_one_machine():
    pattern = re.compile(
        r"(?<![\w.~/-])(?:[A-Za-z]:\\Users|/(?:home|Users|root|work|opt|mnt))[/\\]\w"
    )
    seen, guilty = set(), []
    for path in repository_files():
        seen.add(path.name)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # not a text
            continue
        if match := pattern.search(text):
            guilty.append((str(path.relative_to(ROOT)), match.group()))
    assert {"pyproject.toml", "run", "ci.yml", "__init__.py"} <= seen
    assert guilty == []


def test_version_is_the_same_everywhere():
    """pyproject.toml reads it from the package."""
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    changelog = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'dynamic = ["version"]' in project
    assert 'path = "ttcore/__init__.py"' in project
    assert citation[1] == changelog[1] == ttcore.__version__
