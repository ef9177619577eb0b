"""How far the api's memory rises while it takes uploads, as the kernel counts it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.clients import Client, Content, Crowd
from bench.resources import MIB, Resources
from media_core.uploads import BUFFER_BYTES

CROWD = 32
LARGE_MAY_TAKE = 10_000_000
CROWD_MAY_TAKE = CROWD * 8 * MIB + LARGE_MAY_TAKE
"""Bytes, as the design promises them."""
CROWD_SIZE = BUFFER_BYTES + 4096
"""Too little over it to be known by the request's Content-Length, which covers the form as well."""


def large_upload(address: tuple[str, int], token: str, used: Resources, size: int) -> int:
    """Bytes by which the peak rose during one upload of `size` bytes. Blocks."""
    with Client(address, token) as client:
        used.reset()
        client.upload(Content(size), size)
        return used.peak_growth()


def crowd_of_uploads(address: tuple[str, int], token: str, used: Resources) -> int:
    """Bytes by which the peak rose during CROWD uploads at once, each just over what is buffered. Blocks.

    They wait for each other where their buffers are full to the last byte, so that all are full at one moment.
    """
    full = threading.Barrier(CROWD, action=lambda: _until_taken(address[1]))
    contents = [Content(CROWD_SIZE) for _ in range(CROWD)]
    with Crowd(CROWD, lambda: Client(address, token)) as crowd:
        used.reset()
        crowd.share(contents, lambda client, content: client.upload(_held(content, full), content.size))
        return used.peak_growth()


def _held(content: Content, full: threading.Barrier) -> Iterator[memoryview]:
    sent = 0
    for piece in content:
        room = BUFFER_BYTES - sent
        if 0 < room <= len(piece):
            yield piece[:room]
            full.wait()
            yield piece[room:]
        else:
            yield piece
        sent += len(piece)


def _until_taken(port: int) -> None:
    """Waits until the server has read whatever was sent to it; looks, since nobody tells."""
    while _under_way(port):
        time.sleep(0.01)


def _under_way(port: int) -> int:
    """Bytes in the kernel's queues on connections to `port` of 127.0.0.1 (proc(5), /proc/net/tcp)."""
    end = f":{port:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [row[4] for row in rows if row[1].endswith(end) or row[2].endswith(end)]
    return sum(int(part, 16) for queue in queues for part in queue.split(":"))
