"""Ports for servers that bind them later than they are picked, or again after a kill.

The kernel gives the ports of `ip_local_port_range` to any process that asks for one. So another process could get such
a port meanwhile. The ports here are below that range.
"""

import itertools
import socket
from collections.abc import Iterator
from functools import cache

FIRST, END, AT_ONCE = 20_000, 30_000, 100


def free_port() -> int:
    """One of 127.0.0.1 that no server has. It is another one at each of the next calls, and in other test processes."""
    while True:
        port = next(_ours())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@cache
def _ours() -> Iterator[int]:
    for first in range(FIRST, END, AT_ONCE):
        try:
            _MARK.bind(f"\0media-platform-test-ports-{first}")
        except OSError:  # another test process has these
            continue
        return itertools.cycle(range(first, first + AT_ONCE))
    raise AssertionError(f"other test processes have all ports from {FIRST} to {END}")


_MARK = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
"""Its name is in no folder. The kernel frees the name with this process."""
