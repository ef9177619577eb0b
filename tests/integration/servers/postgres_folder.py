"""The tests' PostgreSQL servers, and folders for their data, in memory where there is room.

Almost every test makes a tenant and removes it again, which is 200 files. In memory that costs a quarter less.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from media_operator.local.postgres import EmbeddedPostgres

MEMORY = Path("/dev/shm")
ROOM = 6 << 30
"""Bytes that have to be free. Of one server the write-ahead log alone grows to 1 GiB."""
_PREFIX = "media-test-pg-"
_FIRST: list[tuple[Path, str]] = []
"""What initdb made for the first server of this process, and its password."""


class CopiedPostgres(EmbeddedPostgres):
    """With a copy of what initdb made for the first server of this process, which takes half a second of CPU less."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, durable=False)

    def _initdb(self, binaries: Path) -> None:
        if not _FIRST:
            super()._initdb(binaries)
            kept = ExitStack()
            atexit.register(kept.close)
            first = kept.enter_context(postgres_folder()) / "data"
            copy(self.data, first)
            _FIRST.append((first, self._password))
            return
        first, self._password = _FIRST[0]
        (self.folder / "admin-password").write_text(self._password)
        copy(first, self.data)


@contextmanager
def postgres_folder(*, in_memory: bool = True) -> Iterator[Path]:
    """An empty folder, which goes afterwards. `in_memory`: False for gigabytes of rows.

    It is not below tmp_path: as root the server runs as another user, who must be able to reach it.
    """
    roomy = in_memory and MEMORY.is_dir() and _free() > ROOM
    if roomy:
        _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=MEMORY if roomy else None))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy(folder: Path, place: Path) -> None:
    """With the owner of the files, who runs the server."""
    subprocess.run(["cp", "-a", folder, place], check=True)


def _free() -> int:
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)


def _remove_leftovers() -> None:
    """Those of processes that were killed would take memory until the machine starts again."""
    for folder in MEMORY.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
