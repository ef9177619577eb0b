"""Resources of processes: CPU seconds, growth of resident memory, and memory at rest."""

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1024 * 1024


class Resources:
    """Of the processes that `pids` names, from `reset` on.

    The peak is the kernel's own (VmHWM), set back to the present size by writing 5 to `/proc/PID/clear_refs` (proc(5)),
    so it misses nothing between two looks; Linux only. With several processes their peaks are added up.

    `reaped`: the CPU of children that ended counts too. Together with all living descendants that misses no process.
    """

    def __init__(self, pids: Callable[[], Iterable[int]], *, reaped: bool = False) -> None:
        self._pids = pids
        self._reaped = reaped
        self._cpu_before = 0.0
        self._peaks: dict[int, int] = {}

    @classmethod
    def of(cls, *pids: int) -> "Resources":
        return cls(lambda: pids)

    @classmethod
    def tree(cls, pid: int) -> "Resources":
        """Of a process and whatever it started, before `reset` or after."""
        return cls(lambda: descendants(pid), reaped=True)

    @classmethod
    def own(cls) -> "Resources":
        """Of this process, and of what it starts from now on: servers that run already are none of its work."""
        servers = {child.pid for child in psutil.Process().children()}

        def pids() -> list[int]:
            new = [child.pid for child in psutil.Process().children() if child.pid not in servers]
            return [os.getpid(), *(pid for child in new for pid in descendants(child))]

        return cls(pids, reaped=True)

    def reset(self) -> None:
        self._peaks = {}
        for pid in self._pids():
            with contextlib.suppress(OSError):  # it has ended since it was listed
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            self._peaks[pid] = _peak(pid)
        self._cpu_before = self._cpu()

    def cpu_seconds(self) -> float:
        return self._cpu() - self._cpu_before

    def peak_growth(self) -> int:
        """Bytes. A process that ended in between is left out, one that began counts in full."""
        return sum(max(0, _peak(pid) - self._peaks.get(pid, 0)) for pid in self._pids()) * 1024

    def _cpu(self) -> float:
        return sum(_cpu(pid, self._reaped) for pid in self._pids())


def descendants(pid: int) -> list[int]:
    """`pid` and all below it, as far as they live."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _cpu(pid: int, reaped: bool) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + (times.children_user + times.children_system if reaped else 0))


def _peak(pid: int) -> int:
    """KiB; 0 of a process that ended."""
    with contextlib.suppress(OSError):
        for line in _lines(pid, "status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


@dataclass(frozen=True)
class Held:
    """Memory that a process and its descendants hold, in bytes."""

    processes: int
    alone: int
    """Each page once, as if no other process mapped the same files: as a pod is charged if none shares its image."""
    pss: int
    """Each page divided by all who map it: less than `alone`, since here the bench maps the same libraries."""
    rss: int
    """Each process by itself: a page that several share counts several times."""


def held(pid: int) -> Held:
    """By `/proc/PID/smaps` and `smaps_rollup` (proc(5)).

    A file's pages count once for the whole tree: of those who map the same piece, whoever touched most of it. Of all
    other memory the proportional share counts, since only relatives share that.
    """
    pieces: dict[tuple[str, ...], int] = {}
    others = pss = rss = 0
    pids = descendants(pid)
    for each in pids:
        total = {line.split()[0]: int(line.split()[1]) for line in _lines(each, "smaps_rollup")[1:]}
        pss += total["Pss:"]
        rss += total["Rss:"]
        others += total["Pss_Anon:"] + total["Pss_Shmem:"]
        for piece, touched in _file_pages(each):
            pieces[piece] = max(pieces.get(piece, 0), touched)
    return Held(len(pids), (sum(pieces.values()) + others) * 1024, pss * 1024, rss * 1024)


def _file_pages(pid: int) -> list[tuple[tuple[str, ...], int]]:
    """Each mapped piece of a file (device, inode, offset, length), and the KiB of it that are in use and unchanged."""
    found: list[tuple[tuple[str, ...], int]] = []
    piece: tuple[str, ...] | None = None
    for line in _lines(pid, "smaps"):
        words = line.split()
        if not words[0].endswith(":"):  # ADDRESSES PERMISSIONS OFFSET DEVICE INODE PATH
            begin, end = (int(part, 16) for part in words[0].split("-"))
            piece = None if words[4] == "0" else (words[3], words[4], words[2], str(end - begin))
        elif piece and words[0] == "Rss:":
            found.append((piece, int(words[1])))
        elif piece and words[0] == "Anonymous:":  # written to, so no longer the file's
            found[-1] = (piece, found[-1][1] - int(words[1]))
    return found


def _lines(pid: int, file: str) -> list[str]:
    return Path(f"/proc/{pid}/{file}").read_text().splitlines()
