"""Folders for the data of the tests' PostgreSQL servers, in memory where there is room.

Almost every test makes a tenant and removes it again, which is 200 files. In memory that costs a quarter less.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
ROOM = 6 << 30
"""Bytes that have to be free. Of one server the write-ahead log alone grows to 1 GiB."""
_PREFIX = "media-test-pg-"


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


def _free() -> int:
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)


def _remove_leftovers() -> None:
    """Those of processes that were killed would take memory until the machine starts again."""
    for folder in MEMORY.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
