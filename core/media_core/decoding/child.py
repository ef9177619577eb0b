"""A decoding child, forked by the zygote with every decoder loaded.

It confines itself, reports that it is ready, and then serves one task after the other until its socket closes. It asks
the pool for ranges of the source, and answers with a JSON header and raw bytes.
"""

from __future__ import annotations

import gc
import io
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from media_core.decoding import audiovisual, documents, films, images, recordings
from media_core.decoding.confinement import allow_cpu, allow_memory, confine
from media_core.decoding.failures import CannotDecode, failure
from media_core.decoding.wire import BLOCK, LENGTHS, frame, header, lengths

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CACHED_BLOCKS = 8
READ_AHEAD = 64 << 10
TASKS: dict[str, Callable[..., tuple[dict[str, Any], bytes | bytearray]]] = {
    "inspect_image": images.inspect_image,
    "thumbnail": images.thumbnail,
    "resize_thumbnail": images.resize_thumbnail,
    "page": documents.page,
    "probe": audiovisual.probe,
    "video_frame": films.video_frame,
    "audio_window": recordings.audio_window,
}


class Link:
    """The child's end of the wire. Its calls block."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, message: dict[str, Any], payload: bytes | bytearray = b"") -> None:
        for buffer in frame(message, payload):
            self._connection.sendall(buffer)

    def receive(self, payload: bytearray | None = None) -> tuple[dict[str, Any], int]:
        """The header, and the length of its payload in bytes. The payload is written into `payload`."""
        header_length, payload_length = lengths(self._exactly(LENGTHS.size))
        message = header(self._exactly(header_length))
        if payload_length:
            if payload is None or payload_length > len(payload):
                os._exit(1)  # more than was asked for: the rest would be read as the next message
            self._fill(memoryview(payload)[:payload_length])
        return message, payload_length

    def _exactly(self, count: int) -> bytes:
        received = bytearray(count)
        self._fill(memoryview(received))
        return bytes(received)

    def _fill(self, view: memoryview) -> None:
        while view:
            read = self._connection.recv_into(view)
            if read == 0:
                os._exit(0)  # not an exception: a decoder could catch it
            view = view[read:]


class RangeReader(io.RawIOBase):
    """The source as a seekable file. It fetches aligned blocks from the pool on first use, and keeps a few of them."""

    def __init__(self, link: Link, size: int) -> None:
        self._link = link
        self.size = size
        self._position = 0
        self._blocks: OrderedDict[int, bytearray] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError("a position before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self.size:
            return 0
        index, within = divmod(self._position, BLOCK)
        chunk = memoryview(self._block(index))[within : within + len(view)]
        view[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def _block(self, index: int) -> bytearray:
        if index in self._blocks:
            self._blocks.move_to_end(index)
            return self._blocks[index]
        expected = min(BLOCK, self.size - index * BLOCK)
        block = bytearray(expected)  # before the request: without memory the answer would stay on the wire
        self._link.send({"read": [index * BLOCK, expected]})
        answer, received = self._link.receive(block)
        if "refused" in answer:
            raise CannotDecode("too_large", str(answer["refused"]))
        if received != expected:
            raise CannotDecode("corrupt", "the object is shorter than its recorded size")
        self._blocks[index] = block
        if len(self._blocks) > CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return block


class SourceFile(io.BufferedReader):
    """A source as decoders read it. A length that a damaged file claims takes no memory beyond the file's own."""

    raw: RangeReader

    def __init__(self, reader: RangeReader) -> None:
        super().__init__(reader, READ_AHEAD)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > READ_AHEAD:
            size = max(min(size, self.raw.size - self.tell()), 0)
        return super().read(size)


def serve(link: Link) -> None:
    """Carries out tasks until the pool closes the wire, which ends this process."""
    while True:
        order, _ = link.receive()
        allow_cpu(order["cpu_seconds"])
        allow_memory()
        answer(link, order)
        gc.collect()


def answer(link: Link, order: dict[str, Any]) -> None:
    """Carries out one task. A decoder may raise anything; all of it is reported as a failure of this source."""
    source = SourceFile(RangeReader(link, order["size"]))
    try:
        facts, payload = TASKS[order["task"]](source, **order["arguments"])
    except Exception as error:
        allow_memory()  # the error's frames may hold all memory that the task was allowed
        link.send(failure(error))
    else:
        link.send({"done": facts}, payload)


def main(parent: int, memory_bytes: int) -> None:
    """Turns this process into a child. `parent` has just forked it; its wire is descriptor 0."""
    link = Link(socket.socket(fileno=0))
    link.send({"ready": confine(parent=parent, memory_bytes=memory_bytes)})
    serve(link)
