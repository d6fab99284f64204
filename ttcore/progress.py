"""How much has been read, shown by tqdm when somebody asks for it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ttcore.errors import TTValueError


class Meter:
    """Bytes read; shows nothing unless it has a bar."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar

    def expect(self, size: int) -> None:
        """Another pass over ``size`` bytes begins."""
        if self._bar is not None:
            self._bar.total += size
            self._bar.refresh()

    def advance(self, size: int) -> None:
        """So many more were read."""
        if self._bar is not None:
            self._bar.update(size)


@contextlib.contextmanager
def meter(shown: bool) -> Iterator[Meter]:
    """A `Meter`, with a bar on stderr if ``shown``.

    Raises
    ------
    TTValueError
        If tqdm is not installed.
    """
    if not shown:
        yield Meter()
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise TTValueError(
            "progress=True needs tqdm, which is not installed: "
            'pip install "ttcore[cli]", or leave progress out'
        ) from error
    with tqdm(total=0, unit="B", unit_scale=True) as bar:
        yield Meter(bar)
