"""The rest of a request's body, read from the connection's socket by a thread, without event loop and parser.

For a body of many MiB the way through the event loop costs as much CPU as hashing it, and one core does both.
"""

import os
import select
from collections.abc import Callable
from typing import Final

EXTENSION: Final = "media.socket_body"
"""In ASGI's scope: a function that returns a `SocketBody`, or None while that is not possible."""
READ_BY_SOCKET: Final = "read_by_socket"
"""In the state of ASGI's scope: how many bytes of the body came that way. No message of ASGI's has them."""
LEAST_BYTES: Final = 256 * 1024
"""The rest of a body has to be larger."""
NEXT_BYTES_MS: Final = 5
"""For so long a thread waits for a client that has sent without pause so far."""


class SocketBody:
    """A `media_core.store.BodySource`. The connection reads nothing meanwhile.

    `end` gives it back, in the event loop, once no thread reads any more.
    """

    def __init__(self, socket: int, left: int, on_end: Callable[["SocketBody"], None]) -> None:
        self.left = left
        self.taken = 0
        # A copy: the connection may be cut meanwhile, and another connection may get its number.
        self._socket = os.dup(socket)
        self._on_end = on_end
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def read_into(self, buffer: memoryview) -> int:
        at, most = 0, min(len(buffer), self.left)
        while at < most and (read := self._read(buffer[at:most])):
            at += read
        self.left -= at
        self.taken += at
        return at

    def _read(self, buffer: memoryview) -> int:
        """Returns 0 at the connection's end, too. The event loop notices the end by itself."""
        while True:
            try:
                return os.readv(self._socket, [buffer])
            except BlockingIOError:
                if not self.taken or not self._poll.poll(NEXT_BYTES_MS):
                    return 0
            except OSError:
                return 0

    def end(self) -> None:
        os.close(self._socket)
        self._on_end(self)
