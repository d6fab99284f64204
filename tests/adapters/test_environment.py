"""Where nothing may be missing, a module that is has failed the tests that need it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.mark.parametrize(
    "code",
    ['pytest.importorskip("no_such")', 'def test_one():\n    pytest.importorskip("no_such")'],
    ids=["module", "test"],
)
def test_what_is_skipped_for_a_missing_module_fails_where_nothing_may_be(code, tmp_path):
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_it.py").write_text(f"import pytest\n\n{code}\n", "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")

    def run(nothing_missing):
        environment = dict(os.environ, TTCORE_NOTHING_MISSING=nothing_missing)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )

    assert "1 skipped" in run("").stdout
    failed = run("1")
    assert failed.returncode
    assert "could not import 'no_such'" in failed.stdout
    assert "may not be missing here" in failed.stdout
