"""What the demo says: on the screen as it goes, and at the end in ``summary.md`` and ``.json``."""

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttcore.io.npz import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report"]


class Report:
    """Text, tables and pictures of one run.

    Parameters
    ----------
    folder : Path
        Where pictures and summary go; must be there.

    Attributes
    ----------
    results : dict
        What goes into ``summary.json``: the numbers of each part under its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[str, Any] = {}
        self._markdown = ["# ttcore demo\n"]

    def title(self, text: str) -> None:
        """Start a part."""
        self._print(f"\n{text}\n{'=' * len(text)}")
        self._markdown.append(f"\n## {text}\n")

    def say(self, text: str) -> None:
        """Say a paragraph; lines are wrapped for the screen."""
        for line in text.split("\n"):
            self._print(textwrap.fill(line, width=96))
        self._markdown.append(f"{text.strip()}\n")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows of cells under a head; cells are aligned to the right but for the first."""
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

        def line(cells: Sequence[str], gap: str) -> str:
            padded = [cells[0].ljust(widths[0])]
            padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            return gap.join(padded)

        rule = ["-" * width for width in widths]
        self._print("\n".join("  " + line(cells, "  ") for cells in (head, rule, *rows)))
        marks = [rule[0], *(dashes[:-1] + ":" for dashes in rule[1:])]
        lines = (f"| {line(cells, ' | ')} |\n" for cells in (head, marks, *rows))
        self._markdown.append("".join(lines))

    def picture(self, figure: "Figure", name: str, caption: str) -> None:
        """Write a figure to ``name`` in the folder."""
        with replacing(self.folder / name) as file:
            figure.savefig(file, format="png", dpi=120)
        self._print(f"  picture: {self.folder / name}")
        self._markdown.append(f"![{caption}]({name})\n")

    def write(self) -> None:
        """Write the summary."""
        markdown = "\n".join(self._markdown)
        numbers = json.dumps(self.results, indent=2) + "\n"
        for name, text in (("summary.md", markdown), ("summary.json", numbers)):
            with replacing(self.folder / name) as file:
                file.write(text.encode())

    def _print(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()  # also through a pipe one sees how far it is
