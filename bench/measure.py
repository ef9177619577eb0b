"""Contenders that do the same work in turns (A B C A B C ...), and the table of what was seen.

Turns, because the machine is never the same for two minutes; medians, because one slow turn says nothing. The first
round warms everything up and is not counted. Ratios hold within one run only.
"""

import asyncio
import inspect
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
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
class Contender:
    """`work` does one turn and returns how much was done; `tidy` follows it unmeasured. Blocking ones get a thread."""

    work: Callable[[], float] | Callable[[], Awaitable[float]]
    used: Resources | None = None
    tidy: Callable[[], object] | None = None


@dataclass(frozen=True)
class Figures:
    """Medians: amounts a second, CPU seconds per amount; and the largest growth of the peak, in bytes."""

    rate: float
    cpu: float | None
    growth: int | None


@dataclass(frozen=True)
class Row:
    what: str
    unit: Unit
    ours: Figures
    bare: Figures
    peer: Figures | None
    legend: str
    """What the other two did."""


async def compare(
    what: str, unit: Unit, turns: int, *, ours: Contender, bare: Contender, peer: Contender | None = None, legend: str
) -> Row:
    contenders = [contender for contender in (ours, bare, peer) if contender]
    seen: list[list[Figures]] = [[] for _ in contenders]
    for turn in range(turns + 1):
        for contender, figures in zip(contenders, seen, strict=True):
            measured = await _turn(contender)
            if turn:
                figures.append(measured)
    medians = [_median(figures) for figures in seen]
    return Row(what, unit, medians[0], medians[1], medians[2] if peer else None, legend)


async def _turn(contender: Contender) -> Figures:
    used = contender.used
    if used:
        used.reset()
    began = time.perf_counter()
    amount = await _call(contender.work)
    seconds = time.perf_counter() - began
    figures = Figures(
        amount / seconds, used.cpu_seconds() / amount if used else None, used.peak_growth() if used else None
    )
    if contender.tidy:
        await _call(contender.tidy)
    return figures


async def _call(work: Callable[[], object]) -> float:
    done = await work() if inspect.iscoroutinefunction(work) else await asyncio.to_thread(work)
    return done if isinstance(done, float | int) else 0


def _median(figures: Sequence[Figures]) -> Figures:
    cpu = [each.cpu for each in figures if each.cpu is not None]
    growth = [each.growth for each in figures if each.growth is not None]
    return Figures(
        statistics.median(each.rate for each in figures),
        statistics.median(cpu) if cpu else None,
        max(growth) if growth else None,
    )


HEADINGS = ("", "ours", "bare", "ratio", "peer", "ratio", "CPU: ours", "bare", "peer", "RSS: ours")


def table(rows: Sequence[Row]) -> str:
    """Markdown that reads well in a terminal too."""
    return aligned([HEADINGS, *(_cells(row) for row in rows)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    head, *rest = [
        "| "
        + " | ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if index == 0 else ":") for index, width in enumerate(widths)) + "|"
    return "\n".join([head, rule, *rest])


def _cells(row: Row) -> tuple[str, ...]:
    ours, bare, peer, unit = row.ours, row.bare, row.peer, row.unit
    return (
        row.what,
        f"{_number(ours.rate / unit.scale)} {unit.rate}",
        _number(bare.rate / unit.scale),
        _number(ours.rate / bare.rate),
        _number(peer.rate / unit.scale) if peer else "",
        _number(ours.rate / peer.rate) if peer else "",
        _cpu(ours, unit, unit.cpu),
        _cpu(bare, unit),
        _cpu(peer, unit) if peer else "",
        "" if ours.growth is None else f"+{ours.growth / MIB:.1f} MiB",
    )


def _cpu(figures: Figures, unit: Unit, name: str = "") -> str:
    if figures.cpu is None:
        return ""
    return f"{_number(figures.cpu * unit.cpu_amount * unit.cpu_factor)} {name}".rstrip()


def _number(value: float) -> str:
    """Three digits, no more are known."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
