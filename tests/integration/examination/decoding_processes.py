"""The processes in which decoding happens, as the kernel shows them."""

import asyncio
import contextlib
from pathlib import Path

import psutil


class Processes:
    """The zygotes and children that this process, or `owner`, starts from now on."""

    def __init__(self, owner: int | None = None) -> None:
        self._owner = psutil.Process(owner)
        self._before = {process.pid for process in self._decoding()}

    @property
    def zygotes(self) -> list[psutil.Process]:
        return [process for process, parent in self._new() if parent == self._owner.pid]

    @property
    def children(self) -> list[psutil.Process]:
        return [process for process, parent in self._new() if parent != self._owner.pid]

    @property
    def child(self) -> psutil.Process:
        (child,) = self.children
        return child

    async def become(
        self,
        zygotes: int,
        children: int,
    ) -> None:
        async with asyncio.timeout(60):
            while (len(self.zygotes), len(self.children)) != (zygotes, children):  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.02)

    def _new(self) -> list[tuple[psutil.Process, int]]:
        """Each with the id of its parent."""
        new = []
        for process in self._decoding():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                if process.pid not in self._before:
                    new.append((process, process.ppid()))
        return new

    def _decoding(self) -> list[psutil.Process]:
        return [process for process in self._owner.children(recursive=True) if _decodes(process)]


def _decodes(process: psutil.Process) -> bool:
    try:
        return "media_core.decoding.zygote" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has ended meanwhile, or is a zombie of another test's server
        return False


def forget_peak(process: psutil.Process) -> None:
    """Resets `peak` (proc(5), clear_refs)."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def peak(process: psutil.Process) -> int:
    """Peak of its resident memory, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10
