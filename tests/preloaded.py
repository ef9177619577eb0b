"""Programs of ours as processes that need not import their modules first, which takes seconds on a busy machine.

Tests start the api, the operator and workers again and again. One process, the standard library's fork server, imports
them once and forks one process for each start. From `main` on that one is as any other: with an environment, a log,
signals and an exit status of its own. What comes before `main` is tested where programs start as in their images: on
kind, and in `test_packages.py`.
"""

import asyncio
import ctypes
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

API = "media_api.main"
OPERATOR = "media_operator.main"
WORKERS = "media_workers.main"
_SERVER = multiprocessing.get_context("forkserver")
# A forked process imports the main module of the one that asks, which is pytest where it runs without others.
_SERVER.set_forkserver_preload([API, OPERATOR, WORKERS, "pytest", "tests.rehearsed"])


class Program:
    """A process that runs `main` of a module, with the methods of `subprocess.Popen` that tests use.

    It has these `arguments`, `environment` and no other variable, and ends with the test process, however that ends.
    What it writes is added to `log`.
    """

    def __init__(self, module: str, environment: Mapping[str, str], log: Path, *arguments: str) -> None:
        log.touch()
        self._process = _SERVER.Process(target=_run, args=(module, dict(environment), log, arguments))
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or minus the number of the signal that ended it. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self.returncode

    async def ended(self) -> None:
        """Returns once it has ended. One task at a time may wait so."""
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._process.sentinel)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(module: str, environment: dict[str, str], log: Path, arguments: tuple[str, ...]) -> None:
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG; the fork server ends with the tests
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(written, 1)
    os.dup2(written, 2)
    raise SystemExit(importlib.import_module(module).main())
