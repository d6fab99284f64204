"""The Python blocks of README.md and docs/ run; those with prompts print what they show.

The cells of notebooks too, as plain Python: `make docs` runs them in Jupyter.
"""

import doctest
import re
import sys
from pathlib import Path

import pytest

import ttcore as tt
from ttcore import errors

ROOT = Path(__file__).parents[1]
OPENING = r"```(?:python|\{code-cell\}[^\n]*)\n"
BLOCK = re.compile(rf"^{OPENING}(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
    if path.exists() and "_build" not in path.parts
]


def run_blocks(text, name):
    """Run the blocks of a page in order, as one session; return how many there are."""
    session = {"__name__": "__main__"}
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        code, line = block[1], text.count("\n", 0, block.start(1))
        if ">>>" in code:
            test = doctest.DocTestParser().get_doctest(code, session, name, name, line)
            report = []
            runner = doctest.DocTestRunner(
                optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            )
            failed = runner.run(test, out=report.append, clear_globs=False).failed
            session = test.globs  # get_doctest copied it
            assert not failed, "".join(report)
        else:
            exec(compile("\n" * line + code, name, "exec"), session)
    return len(blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_of_the_documentation_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = page.read_text(encoding="utf-8")
    try:
        assert run_blocks(text, str(page)) == len(re.findall(OPENING, text))
    finally:
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")


def test_blocks_are_one_session_and_failures_are_seen():
    page = "```python\nx = 1\n```\n\n```{code-cell} python\nx += 1\n```\n\n"
    page += "```python\n>>> x\n{}\n```\n"
    assert run_blocks(page.replace("{}", "2"), "page") == 3
    with pytest.raises(AssertionError, match="line 10"):
        run_blocks(page.replace("{}", "3"), "page")


def test_the_reference_lists_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    found = set(re.findall(r"^\.\. auto\w+:: (?:ttcore\.)?(\w+)$", text, re.MULTILINE))
    assert "errors" in found  # by automodule, which lists all of them
    public = {name for name in tt.__all__ if not hasattr(errors, name)}
    assert public <= found
