"""The Python blocks of README.md and docs/*.md run; those with prompts print what they show."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if path.exists()]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_of_the_documentation_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert run_blocks(text, str(page)) == text.count("```python\n")


def test_blocks_are_one_session_and_failures_are_seen():
    page = "```python\nx = 1\n```\n\n```python\n>>> x + 1\n{}\n```\n"
    assert run_blocks(page.format("2"), "page") == 2
    with pytest.raises(AssertionError, match="line 6"):
        run_blocks(page.format("3"), "page")
