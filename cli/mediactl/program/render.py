"""Output: units, tables and lines. It is styled on a terminal; in a pipe it is tab-separated and never cut.

File names, room ids and sentences come from other people. All of them pass through `printable`, so that no name can
move the cursor, colour the terminal or split a line that a script reads.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mediactl.characters import is_shown
from mediactl.models import Segment

out = Console(highlight=False, emoji=False, markup=False)
err = Console(highlight=False, emoji=False, markup=False, stderr=True)

BAR_WIDTH = 30
"""Short enough that the `^C` which a terminal echoes stays on the bar's line. Otherwise the bar could not be erased."""
NARROWEST = 10
NAME_WIDTH = 13
STYLES = {
    "clean": "green",
    "completed": "green",
    "pending": "yellow",
    "queued": "yellow",
    "running": "cyan",
    "infected": "bold red",
    "failed": "red",
    "error": "red",
    "unscannable": "magenta",
    "cancelled": "dim",
}


def printable(value: object) -> str:
    """`value` with line breaks, escape sequences, and direction overrides replaced."""
    return "".join(c if is_shown(c) else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def size(count: int | float | None) -> str:
    """Bytes in binary units, as the tenant's limits count them (`maxUploadMb: 1` is 1 MiB)."""
    if count is None:
        return "-"
    if count < 1000:
        return "1 byte" if count == 1 else f"{count:.0f} bytes"
    power = next((power for power in (1, 2, 3) if count / 1024**power < 1000), 4)
    amount = count / 1024**power
    digits = f"{amount:.3g}" if amount < 100 else f"{amount:.0f}"
    return f"{digits} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def in_units(sentence: str) -> str:
    """`sentence` with its long byte counts (`10,737,418,240 bytes`) in units."""
    if "bytes" not in sentence:
        return sentence
    counted = re.sub(r"\b\d{1,3}(?:,\d{3})+\b", lambda match: size(int(match[0].replace(",", ""))), sentence)
    return re.sub(r"(iB) bytes\b", r"\1", counted)


def span(seconds: float) -> str:
    """A length of time for people: `40 s`, `12 min`, `3 h 20 min`, `6 days`."""
    if seconds < 1:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 90:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(hours / 24)} days"


def clock(seconds: float) -> str:
    """A position in a recording: `0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def when(moment: object) -> str:
    """An RFC 3339 time in the reader's own time zone, to the minute."""
    try:
        return datetime.fromisoformat(str(moment)).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return "-" if moment is None else printable(moment)


def when_short(moment: object) -> str:
    """The same in 12 cells, as in `ls -l`: with the year only if it is not the current one."""
    try:
        local = datetime.fromisoformat(str(moment)).astimezone()
    except ValueError:
        return when(moment)
    return local.strftime("%b %d %H:%M" if local.year == datetime.now().astimezone().year else "%b %d  %Y")


def expiry(moment: datetime) -> str:
    """`in 12 h (2026-11-24 19:00)` or `3 min ago (…)`."""
    left = (moment - datetime.now(UTC)).total_seconds()
    words = f"in {span(left)}" if left > 0 else f"{span(-left)} ago"
    return f"{words} ({when(moment.isoformat())})"


@dataclass(frozen=True)
class Column:
    heading: str
    right: bool = False
    shrinks: bool = False
    """Shortened with an ellipsis if the terminal is too narrow. Other columns are never shortened."""
    middle: bool = False
    """Shortened in the middle: names that differ mostly do so at an end, and the last one says what the file is."""
    optional: int = 0
    """Left out if shortening is not enough, the highest number first. 0: it is always there."""


def data(value: Any) -> None:
    """The API's own data: one line of JSON in a pipe, indented on a terminal."""
    if out.is_terminal:
        out.print_json(data=value)
    else:
        print_json(value, sys.stdout)


def print_json(value: Any, stream: TextIO) -> None:
    """In a line. What the stream's encoding may lack is escaped."""
    print(json.dumps(value, ensure_ascii=not stream.encoding.lower().startswith("utf")), file=stream)


def line(*cells: object) -> None:
    """Prints one row without a table."""
    shown = [printable(cell) for cell in cells]
    if out.is_terminal:
        out.print(Text("  ").join(Text(cell, STYLES.get(cell, "")) for cell in shown), soft_wrap=True)
    else:
        print("\t".join(shown))


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows: on a terminal aligned and with a heading, in a pipe tab-separated and without."""
    if not out.is_terminal:
        for row in rows:
            line(*row)
        return
    cells = [[column.heading for column in columns], *([printable(cell) for cell in row] for row in rows)]
    widths = _fit(columns, [max(cell_len(row[place]) for row in cells) for place in range(len(columns))], out.width)
    for number, row in enumerate(cells):
        line_of = Text()
        for place, width in widths.items():
            cell = _shortened(row[place], width, middle=columns[place].middle)
            space = " " * (width - cell_len(cell))
            line_of.append(space if columns[place].right else "")
            line_of.append(cell, "dim" if number == 0 else STYLES.get(cell))
            line_of.append(("" if columns[place].right else space) + "  ")
        line_of.rstrip()
        out.print(line_of, soft_wrap=True)


def _shortened(cell: str, width: int, *, middle: bool) -> str:
    """`cell` in at most `width` cells of the terminal."""
    if cell_len(cell) <= width:
        return cell
    tail = ""
    for character in reversed(cell if middle else ""):
        if cell_len(character + tail) > width // 2:
            break
        tail = character + tail
    while tail and not cell_len(tail[0]):  # a mark of the character before it
        tail = tail[1:]
    return set_cell_size(cell, width - 1 - cell_len(tail)).rstrip() + "…" + tail


def _fit(columns: Sequence[Column], widths: Sequence[int], room: int) -> dict[int, int]:
    """Index -> width of the columns to show, for a terminal of `room` cells.

    An id is never cut, since it has to be copied: the line is longer than the terminal instead.
    """
    fitted = dict(enumerate(widths))
    while sum(fitted.values()) + 2 * (len(fitted) - 1) > room:
        shrinking = [place for place, width in fitted.items() if columns[place].shrinks and width > NARROWEST]
        optional = [place for place in fitted if columns[place].optional]
        if shrinking:
            fitted[max(shrinking, key=lambda place: fitted[place])] -= 1
        elif optional:
            least = max(optional, key=lambda place: columns[place].optional)
            fitted = {place: widths[place] for place in fitted if place != least}
        else:
            break
    return fitted


def spoken(console: Console, segment: Segment) -> None:
    """Prints one segment of a transcript, wrapped beside its time."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", width=7, style="dim")
    grid.add_column()
    grid.add_row(clock(segment["start"]), printable(str(segment["text"]).strip()))
    console.print(grid)


def fields(pairs: dict[str, object]) -> None:
    """Prints names and values, one pair a line. Values of None are left out."""
    present = {name: printable(value) for name, value in pairs.items() if value is not None}
    if not out.is_terminal:
        for name, value in present.items():
            print(f"{name}\t{value}")
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, width=NAME_WIDTH)
    grid.add_column(overflow="fold")
    for name, value in present.items():
        grid.add_row(name, Text(value, STYLES.get(value, "")))
    out.print(grid)


def gauge(name: str, used: float, limit: float, words: str) -> None:
    """Prints `used` of `limit` as a bar with `words`, aligned with `fields`: yellow from 75 %, red from 90 %."""
    if not out.is_terminal:
        print(f"{name}\t{words}")
        return
    share = min(used / limit, 1.0) if limit else 1.0
    style = "red" if share >= 0.9 else "yellow" if share >= 0.75 else "green"
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=NAME_WIDTH, style="dim")
    grid.add_column(width=BAR_WIDTH)
    grid.add_column()
    bar = ProgressBar(total=1.0, completed=share, width=BAR_WIDTH, complete_style=style, finished_style=style)
    grid.add_row(name, bar, Text(f"{share:.0%}  {words}"))
    out.print(grid)


def note(sentence: str) -> None:
    """Prints a remark for the person at the terminal. In a pipe nothing is printed."""
    if err.is_terminal:
        err.print(Text(printable(sentence), "dim"), soft_wrap=True)


def failure(sentence: str) -> None:
    """Prints the one line that says what went wrong."""
    err.print(Text.assemble(("mediactl: ", "bold red"), printable(sentence)), soft_wrap=True)


class Speed(ProgressColumn):
    """Bytes a second, in the units of `size`."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{size(speed)}/s" if speed else "", "dim")


def transfer_progress() -> Progress:
    """Bars of transfers on standard error, erased when done. Nothing if that is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR_WIDTH),
        DownloadColumn(binary_units=True),
        Speed(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def job_progress(console: Console) -> Progress:
    """The bar of a job on `console`: its state and the share done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR_WIDTH),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
