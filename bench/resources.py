"""What a process used: CPU seconds, and how far its resident memory rose above where it stood."""

from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MIB = 1024 * 1024


class Resources:
    """Of the processes that `pids` names, from `reset` on.

    The peak is the kernel's own (VmHWM), set back to the present size by writing 5 to `/proc/PID/clear_refs` (proc(5)),
    so it misses nothing between two looks; Linux only. With several processes their peaks are added up.
    """

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._before: dict[int, tuple[float, int]] = {}

    @classmethod
    def of(cls, *pids: int) -> "Resources":
        return cls(lambda: pids)

    def reset(self) -> None:
        self._before = {}
        for pid in self._pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            self._before[pid] = (_cpu(pid), _kib(pid, "VmHWM"))

    def cpu_seconds(self) -> float:
        return sum(_cpu(pid) - cpu for pid, (cpu, _) in self._before.items())

    def peak_growth(self) -> int:
        """Bytes."""
        return sum(_kib(pid, "VmHWM") - peak for pid, (_, peak) in self._before.items()) * 1024


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _kib(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise ValueError(f"no {field} of process {pid}")
