"""``ttcore demo``: three things that tensor trains do, on data that ordinary packages carry.

Photographs of scikit-image, the digits of scikit-learn, and a layer of VGG with random numbers;
nothing is downloaded.
"""

import os
import time
from importlib.util import find_spec
from pathlib import Path

import ttcore
from ttcore.demo.report import Report

__all__ = ["run"]

_NEEDED = {"matplotlib": "matplotlib", "sklearn": "scikit-learn", "skimage": "scikit-image"}


def run(output: str | os.PathLike[str] = "demo-out", *, quick: bool = False) -> None:
    """Run the demo; say on stdout what it does, and leave pictures and a summary.

    Parameters
    ----------
    output : path-like
        Folder for the pictures, ``summary.md`` and ``summary.json``; made if it is not there.
    quick : bool
        Smaller pictures, less training and a smaller layer: seconds instead of a minute.

    Raises
    ------
    ModuleNotFoundError
        If a package of the extra ``demo`` is missing; the message names the extra.
    OSError
        If the folder cannot be written to.
    """
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f'the demo needs {", ".join(missing)}; install with pip install "ttcore[demo]"'
        )
    from ttcore.demo import digits, photographs, vgg

    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(folder)
    start = time.perf_counter()
    report.say(
        f"ttcore {ttcore.__version__}: a tensor train keeps a big array as a chain of small ones, "
        "its cores.\nThis demo shows what that is good for, with numbers measured here and now."
    )
    photographs.show(report, quick=quick)
    digits.show(report, quick=quick)
    vgg.show(report, quick=quick)
    seconds = time.perf_counter() - start
    report.results["seconds"] = round(seconds, 1)
    report.say(f"\nDone in {seconds:.0f} s. Pictures and summary are in {folder}.")
    report.write()
