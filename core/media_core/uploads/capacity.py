"""How much memory all uploads of a process may take: a share of the container's memory.

An upload takes its most before its body is read, and holds it until it ends. If too little is left, the client is asked
to try again. So a client that opens an upload and stalls holds what that upload announced, and no more.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from media_core.errors import NotNow

MIB: Final = 1024 * 1024
AT_REST_BYTES: Final = 192 * MIB
"""Memory of the process and its decoding children before the first upload, generously."""
LEAST_BYTES: Final = 64 * MIB
MOST_BYTES: Final = 512 * MIB

_CGROUP: Final = Path("/sys/fs/cgroup")
_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")
"""Of cgroup v2 and v1, as seen from inside the container."""


class Capacity:
    """`total` bytes for all uploads of this process. Not thread-safe: it belongs to one event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0

    @contextlib.contextmanager
    def held(self, wanted: int) -> Iterator[None]:
        """Holds `wanted` bytes. Raises NotNow if too little is left; one upload alone always fits."""
        if self.taken and self.taken + wanted > self.total:
            raise NotNow("api", "too many uploads are under way")
        self.taken += wanted
        try:
            yield
        finally:
            self.taken -= wanted


def of_this_container(*, processes: int = 1) -> int:
    """Bytes for the uploads of one of `processes` that share the container (or, without a limit, the machine).

    It is half of the memory above `AT_REST_BYTES`. The other half is for decoding pictures, for downloads, and for
    memory that the allocator does not give back.
    """
    share = (memory_limit() - AT_REST_BYTES) // 2
    return min(MOST_BYTES, max(LEAST_BYTES, share)) // processes


def memory_limit() -> int:
    """The container's memory limit in bytes, or the machine's memory if there is no limit."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    for name in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such cgroup, or "max"
            return min(total, int((_CGROUP / name).read_text()))
    return total
