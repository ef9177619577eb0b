"""Contenders that do the same work in turns (A B C A B C ...), and the tables of the results.

They take turns because the machine's speed changes within minutes. Medians count, because one slow turn says nothing.
The first round warms everything up and is not counted. Ratios are valid only within one run.
"""

import asyncio
import inspect
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.resources import MIB, Resources


@dataclass(frozen=True)
class Unit:
    """How a rate and its CPU are told: `amount`s a second divided by `scale`; CPU seconds of `cpu_amount`, in `cpu`."""

    rate: str
    scale: float
    cpu: str
    cpu_amount: float
    cpu_factor: float = 1.0


BYTES = Unit("MiB/s", MIB, "s/GiB", 1024 * MIB)
ITEMS = Unit("/s", 1, "ms", 1, 1000)
SPEECH = Unit("x real time", 1, "s/min", 60)
"""Seconds of sound a second."""


@dataclass(frozen=True)
class Effort:
    """How much is done in a turn, and in how many turns."""

    turns: int
    large: int
    """Bytes."""
    seconds: int
    """Of small requests."""
    pictures: int
    scanned: int
    """Bytes."""
    scanned_small: int
    rest_seconds: int
    """Until an api counts as at rest."""
    gigabyte: int


QUICK = Effort(3, 128 * MIB, 2, 3, 16 * MIB, 100, 5, 256 * MIB)
FULL = Effort(5, 512 * MIB, 4, 8, 64 * MIB, 300, 10, 1024 * MIB)


@dataclass(frozen=True)
class Contender:
    """`work` does one turn and returns how much was done. `prepare` runs before it and `tidy` after it, unmeasured.

    Blocking functions get a thread. `used`: resources of the server; `beside`: those of the services it uses
    (PostgreSQL, an S3 server), which are shown apart.
    """

    work: Callable[[], float] | Callable[[], Awaitable[float]]
    used: Resources | None = None
    tidy: Callable[[], object] | None = None
    prepare: Callable[[], object] | None = None
    beside: Resources | None = None


@dataclass(frozen=True)
class Figures:
    """Medians: amounts a second, CPU seconds per amount; and the largest growth of the peak, in bytes."""

    rate: float
    cpu: float | None = None
    cpu_beside: float | None = None
    growth: int | None = None


@dataclass(frozen=True)
class Goal:
    """What a figure must reach, and its goal. A larger ratio is better; of other figures a smaller one is."""

    must: float
    aim: float
    allowance: float = 0.0
    """By which share a figure may miss it, where it counts some of what is not meant."""

    def reached(self, figure: float, *, at_most: bool = False) -> str:
        def is_met(goal: float) -> bool:
            return figure <= goal * (1 + self.allowance) if at_most else figure >= goal * (1 - self.allowance)

        return "aim" if is_met(self.aim) else "must" if is_met(self.must) else "no"


@dataclass(frozen=True)
class Row:
    """Ours against one other. `theirs` None: it could not be measured; the legend says why."""

    what: str
    unit: Unit
    ours: Figures
    against: str
    theirs: Figures | None
    legend: str
    """What the other did."""
    goal: Goal | None = None


@dataclass(frozen=True)
class Amount:
    """A figure that is no rate: the less the better."""

    what: str
    figure: float
    unit: str
    legend: str
    goal: Goal | None = None


@dataclass(frozen=True)
class Listing:
    """Markdown that a bench prints below the tables: a table, or a list."""

    text: str


async def compare(turns: int, contenders: Mapping[str, Contender]) -> dict[str, Figures]:
    """The medians of each contender, by its name."""
    seen: dict[str, list[Figures]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, contender in contenders.items():
            measured = await _turn(contender)
            if turn:
                seen[name].append(measured)
    return {name: _median(figures) for name, figures in seen.items()}


async def _turn(contender: Contender) -> Figures:
    if contender.prepare:
        await _call(contender.prepare)
    used, beside = contender.used, contender.beside
    for resources in (used, beside):
        if resources:
            resources.reset()
    began = time.perf_counter()
    amount = await _call(contender.work)
    seconds = time.perf_counter() - began
    figures = Figures(
        amount / seconds,
        used.cpu_seconds() / amount if used else None,
        beside.cpu_seconds() / amount if beside else None,
        used.peak_growth() if used else None,
    )
    if contender.tidy:
        await _call(contender.tidy)
    return figures


async def _call(work: Callable[[], object]) -> float:
    done = await work() if inspect.iscoroutinefunction(work) else await asyncio.to_thread(work)
    return done if isinstance(done, float | int) else 0


def _median(figures: Sequence[Figures]) -> Figures:
    def median(of: Callable[[Figures], float | None]) -> float | None:
        known = [value for value in map(of, figures) if value is not None]
        return statistics.median(known) if known else None

    growth = [each.growth for each in figures if each.growth is not None]
    return Figures(
        statistics.median(each.rate for each in figures),
        median(lambda each: each.cpu),
        median(lambda each: each.cpu_beside),
        max(growth) if growth else None,
    )


HEADINGS = ("", "ours", "against", "theirs", "ratio", "must", "aim", "reached", "CPU: ours", "theirs", "RSS: ours")
AMOUNTS = ("", "measured", "must", "aim", "reached")


def table(rows: Sequence[Row]) -> str:
    """Markdown that reads well in a terminal too. What ours is, is said once for all that it is compared with."""
    lines: list[tuple[str, ...]] = []
    before = ""
    for row in rows:
        lines.append(_cells(row, again=row.what == before))
        before = row.what
    return aligned([HEADINGS, *lines], left=(0, 2))


def amounts(rows: Sequence[Amount]) -> str:
    return aligned([AMOUNTS, *(_amount(row) for row in rows)])


def legends(rows: Sequence[Row | Amount]) -> str:
    """A line for each thing measured, or one for several of which the same is to be said, by how their names begin."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        said = f"{row.against}: {row.legend}" if isinstance(row, Row) else row.legend
        if said not in lines.setdefault(row.what, []):
            lines[row.what].append(said)
    alike: dict[str, list[str]] = {}
    for what, said_of_it in lines.items():
        alike.setdefault(". ".join(said_of_it), []).append(what)
    return "\n".join(f"- {_beginning(whats)} - {legend}" for legend, whats in alike.items())


def _beginning(names: Sequence[str]) -> str:
    """What all begin with, up to a comma; without that, all of them."""
    words = [name.split(", ") for name in names]
    alike = list(itertools.takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False)))
    return ", ".join(each[0] for each in alike) if alike else "; ".join(names)


def aligned(lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table whose first line is its head; the columns in `left` are words, all others numbers."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    head, *rest = [
        "| "
        + " | ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rules = ("-" * (width + 1) + ("-" if index in left else ":") for index, width in enumerate(widths))
    return "\n".join([head, f"|{'|'.join(rules)}|", *rest])


def _cells(row: Row, *, again: bool) -> tuple[str, ...]:
    ours, theirs, unit, goal = row.ours, row.theirs, row.unit, row.goal
    ratio = ours.rate / theirs.rate if theirs else None
    return (
        "" if again else row.what,
        "" if again else f"{_number(ours.rate / unit.scale)} {unit.rate}",
        row.against,
        _number(theirs.rate / unit.scale) if theirs else "none",
        "" if ratio is None else _number(ratio),
        f"{goal.must:g}" if goal else "",
        f"{goal.aim:g}" if goal else "",
        "" if goal is None else "not seen" if ratio is None else goal.reached(ratio),
        "" if again else _cpu(ours, unit, unit.cpu),
        _cpu(theirs, unit) if theirs else "",
        "" if again or ours.growth is None else f"+{ours.growth / MIB:.1f} MiB",
    )


def _amount(row: Amount) -> tuple[str, ...]:
    goal = row.goal
    return (
        row.what,
        f"{_number(row.figure)} {row.unit}".rstrip(),
        f"{goal.must:g}" if goal else "",
        f"{goal.aim:g}" if goal else "",
        goal.reached(row.figure, at_most=True) if goal else "",
    )


def _cpu(figures: Figures, unit: Unit, name: str = "") -> str:
    """`2.10`, or `2.10 + 0.80`: the server's, and that of what it stands on."""
    parts = [
        _number(cpu * unit.cpu_amount * unit.cpu_factor) for cpu in (figures.cpu, figures.cpu_beside) if cpu is not None
    ]
    return f"{' + '.join(parts)} {name}".strip() if parts else ""


def _number(value: float) -> str:
    """Three digits, no more are known."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
