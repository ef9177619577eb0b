"""Child processes of `make run`.

Invariant: no child outlives us. The kernel signals each child when we die (PDEATHSIG). Each child leads a process group
of its own. At the end it is asked to stop, and killed with its group if it does not. A service that ends by itself is
started again after a growing delay; `trouble` says how often and why it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

LOG_BYTES = 10 * 1024 * 1024
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
STEADY_SECONDS = 60.0
"""After running this long, earlier failures of a service no longer count."""


def die_with_parent(signal_: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: the kernel sends the child `signal_` when the thread that started it ends. Linux only."""
    if sys.platform != "linux":
        return lambda: None
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl  # looked up here, since the child may not load anything between fork and exec

    def ask_for_death_signal() -> None:
        prctl(1, int(signal_))
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)

    return ask_for_death_signal


def open_log(log: Path) -> IO[bytes]:
    """Opens it for appending. A log of more than 10 MiB is renamed first; one such file is kept."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    return log.open("ab")


async def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> asyncio.subprocess.Process:
    """Starts `command` with `environment` only; stdout and stderr are appended to `log`."""
    with open_log(log) as output:
        return await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C in the terminal reaches only us; we stop the children in order
            preexec_fn=die_with_parent(signal.SIGTERM),
        )


async def end(process: asyncio.subprocess.Process, grace: float) -> None:
    """Asks the process to stop, waits at most `grace` seconds, then kills the rest of its group."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def ending(returncode: int) -> str:
    """`exited with 1`, `was killed by SIGSEGV`."""
    if returncode >= 0:
        return f"exited with {returncode}"
    return f"was killed by {signal.Signals(-returncode).name}"


def last_line(log: Path) -> str:
    """The last line of the log, for a one-line report; empty if there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return "".join(filter(str.isprintable, lines[-1]))[:300] if lines else ""
    return ""


def delay_after(failures: int) -> float:
    """Seconds until the next try: 0.5, 1, 2 ... 30."""
    return min(LONGEST_DELAY, FIRST_DELAY * (1 << max(0, min(failures, 10) - 1)))


class Service:
    """A process that has to run all the time.

    `changed` is called whenever it started or ended; `report` gets one line for the person at the terminal.
    """

    def __init__(
        self, name: str, log: Path, *, grace: float, changed: Callable[[], None], report: Callable[[str], None]
    ) -> None:
        self.name = name
        self.log = log
        self.failures = 0
        self.trouble: str | None = None
        """Why it does not run or keeps ending; None: it runs."""
        self._grace = grace
        self._changed = changed
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts it, or starts it again with another command or environment."""
        await self.stop()
        self.failures, self.trouble = 0, None
        self._task = asyncio.create_task(self._keep(command, environment), name=self.name)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def steady(self) -> None:
        """To be called when it was seen to work: clears `trouble`."""
        self.trouble = None

    async def _keep(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        while True:
            started = time.monotonic()
            self._process = await spawn(command, environment, self.log)
            self._changed()
            try:
                returncode = await self._process.wait()
            except asyncio.CancelledError:
                await end(self._process, self._grace)
                raise
            self.failures = 1 if time.monotonic() - started > STEADY_SECONDS else self.failures + 1
            delay = delay_after(self.failures)
            words = last_line(self.log)
            self.trouble = f"{self.name} {ending(returncode)}" + (
                f", {self.failures} times" if self.failures > 1 else ""
            )
            self.trouble += f": {words}" if words else ""
            self._report(f"{self.trouble} (log: {self.log}); starting again in {delay:g} s")
            self._changed()
            await asyncio.sleep(delay)
