"""How much memory uploads may take together: a share of what the container has, taken before a body is read.

An upload says at its start what it takes at most, and holds that until it ends. Who finds too little left is asked to
come again, so clients that open uploads and stall take what they announced once, and nothing more.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from media_core.errors import Unavailable

MIB: Final = 1024 * 1024
AT_REST_BYTES: Final = 192 * MIB
"""What the process and its decoding children have before the first upload's byte, with room to spare."""
LEAST_BYTES: Final = 64 * MIB
MOST_BYTES: Final = 512 * MIB

_CGROUP: Final = Path("/sys/fs/cgroup")
_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")
"""Of cgroup v2 and v1, as a container sees its own."""


class Capacity:
    """So many bytes for all uploads of this process. Not thread-safe: it belongs to one event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0

    @contextlib.contextmanager
    def held(self, wanted: int) -> Iterator[None]:
        """Raises Unavailable where too little is left; one upload alone always fits."""
        if self.taken and self.taken + wanted > self.total:
            raise Unavailable("api", "too many uploads are under way; send yours again in a moment")
        self.taken += wanted
        try:
            yield
        finally:
            self.taken -= wanted


def of_this_container(*, processes: int = 1) -> int:
    """Bytes for the uploads of one of `processes` that share the container (or, without a limit, the machine).

    Half of what lies above `AT_REST_BYTES`: the other half is for pictures that are decoded, for downloads, and for
    what an allocator keeps.
    """
    share = (memory_limit() - AT_REST_BYTES) // 2
    return min(MOST_BYTES, max(LEAST_BYTES, share)) // processes


def memory_limit() -> int:
    """Bytes that this container may take; those of the machine where nothing limits it."""
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    for name in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such cgroup, or "max"
            return min(total, int((_CGROUP / name).read_text()))
    return total
