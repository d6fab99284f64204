"""The page that shows the records beside what was published. Needs no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from records import Record, plot, read_all, replace_text

RECORDS = Path(__file__).parent / "records"
PAGE = Path(__file__).parents[2] / "docs" / "experiments.md"
BEGIN, END = "<!-- measured: written by bench/experiments page -->", "<!-- end of measured -->"


class Published(NamedTuple):
    """A network, and what others report of it."""

    network: str
    report: str = "–"


PAPER = "[paper, recalled](#sources)"
RESULTS = "[stored results](#sources)"
TUTORIAL = "[tutorial](#sources)"

PERCEPTRONS = {
    "mnist-dense": Published("dense 1024 → 1024 → 10", f"1.9 % ({PAPER})"),
    "mnist-4x8x8x4-r8": Published("TT 4·8·8·4, rank 8, then dense", f"1.8–1.9 % ({PAPER})"),
    "mnist-32x32-r8": Published("TT 32·32, rank 8, then dense"),
    "mnist-4x4x4x4x4-r8": Published("TT 4^5, rank 8, then dense"),
    "mnist-2x2x8x8x2x2-r8": Published("TT 2·2·8·8·2·2, rank 8, then dense"),
    "mnist-2x2x2x2x2x2x2x2x2x2-r8": Published("TT 2^10, rank 8, then dense"),
    "hashednet": Published(
        "both layers TT, rank 8",
        f"1.9 % with 12,602 parameters; HashedNet 2.79 % with 12,720 ({PAPER})",
    ),
    "t3f-r4": Published(
        "TT 7·4·7·4 → 5^4, rank 4, then dense", f"3.6 % with 7,985 parameters ({TUTORIAL})"
    ),
}
WIDE = {
    "cifar-46656-r10": Published(
        "TT 3072 → 6^6 → 4096, rank 10", f"30.26 % after 30,000 steps of 184 ms ({RESULTS})"
    ),
    "cifar-262144-r10": Published(
        "TT 3072 → 8^6 → 4096, rank 10", f"28.66 % after 40,000 steps of 695 ms ({RESULTS})"
    ),
}
CURVES = {"mnist": PERCEPTRONS, "cifar": WIDE}
COMPRESSED = "compress-r16"


def write(folder: Path, page: Path) -> None:
    """Replace the measured part of the page, and draw the curves beside it."""
    found = read_all(folder)
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    replace_text(page, f"{before}{BEGIN}\n\n{measured(found)}\n\n{END}{after}")
    for name, group in CURVES.items():
        if chosen := _tested(found, group):
            plot(page.with_name(f"experiments-{name}.svg"), chosen)


def measured(found: Mapping[str, Record]) -> str:
    """The part of the page that the records determine."""
    lines = [*_machines(found), "", "### MNIST", "", *_table(found, PERCEPTRONS)]
    lines += _curves(found, "mnist")
    if COMPRESSED in found:
        lines += ["", "### A trained layer, compressed", "", *_compression(found)]
    lines += ["", "### CIFAR-10", "", *_table(found, WIDE), *_curves(found, "cifar")]
    return "\n".join(lines)


def _tested(found: Mapping[str, Record], group: Mapping[str, Published]) -> dict[str, Record]:
    """Those that came to a test, and have a curve."""
    return {name: found[name] for name in group if name in found and found[name]["history"]}


def _curves(found: Mapping[str, Record], name: str) -> list[str]:
    shown = _tested(found, CURVES[name])
    return ["", f"![Loss and error of these networks](experiments-{name}.svg)"] if shown else []


def _machines(found: Mapping[str, Record]) -> Iterator[str]:
    """On what the records were made, and from what."""
    for label, key in (("processor", "machine"), ("data", "data")):
        kinds: dict[str, list[str]] = {}
        for name, record in found.items():
            text = record[key]
            if key == "machine":
                gpu = f"GPU: {text['gpu']}; its host: " if "gpu" in text else ""
                text = gpu + _MACHINE.format(**text)
            kinds.setdefault(text, []).append(name)
        for text, names in kinds.items():
            which = "" if len(kinds) == 1 else f" ({', '.join(names)})"
            yield f"* {label}: {text}{which}"


_MACHINE = "{processor}, threads: {threads}; Python {python}, torch {torch}, ttcore {ttcore}"


def _table(found: Mapping[str, Record], group: Mapping[str, Published]) -> Iterator[str]:
    head = ("network", "parameters", "in cores", "theirs", "ours", "steps", "epochs")
    head = (*head, "a step, ms", "forward, backward, update")
    yield _row(*head)
    yield _row(*("---" for _ in head))
    for name, other in group.items():
        if name not in found:
            continue
        record = found[name]
        count, times = record["parameters"], record["step_ms"]
        steps = f"{record['step']:,}"
        if not record["finished"]:
            steps += f" of {record['recipe']['steps']:,}"
        yield _row(
            other.network + (", on a GPU" if "gpu" in record["machine"] else ""),
            f"{count['all']:,}",
            f"{count['cores']:,}" if count["cores"] else "–",
            other.report,
            f"**{record['result']['error']:.2f} %**",
            steps,
            f"{record['step'] / record['steps_per_epoch']:.3g}",
            f"{_ms(times['step']['median'])} ({_ms(times['step']['best'])})",
            ", ".join(_ms(times[part]["median"]) for part in ("forward", "backward", "update")),
        )


def _compression(found: Mapping[str, Record]) -> Iterator[str]:
    """Before, between and after, beside the three numbers of the tutorial."""
    record = found[COMPRESSED]
    before, count = record["before"], record["parameters"]["all"]
    epochs = record["recipe"]["steps"] // record["steps_per_epoch"]
    yield _row("784 → 625 → 10", "parameters", f"right, theirs ({TUTORIAL})", "right, ours")
    yield _row(*["---"] * 4)
    for stage, size, theirs, error in (
        ("dense, trained", 496_885, "97.1 %", before["dense"]["error"]),
        ("first layer cut to rank 16 by TT-SVD", count, "64.4 %", before["cut"]["error"]),
        (f"trained on for {epochs} epochs", count, "97.65 %", record["result"]["error"]),
    ):
        yield _row(stage, f"{size:,}", theirs, f"**{100 - error:.2f} %**")


def _ms(time: float) -> str:
    return f"{time:,.0f}" if time >= 100 else f"{time:.3g}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
