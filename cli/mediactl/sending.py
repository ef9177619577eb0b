"""What is sent: files and streams, in a multipart form. They are read while they are sent, so memory does not grow.

The bytes are hashed, and the result is compared with the sha256 that the API answers.
"""

import contextlib
import hashlib
import io
import mimetypes
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mediactl.errors import Corrupt, Misuse, Unreachable
from mediactl.exchange import Exchange

CHUNK = 1024 * 1024
ATTEMPTS = 5
"""A transfer gives up after breaking so many times in a row without one more byte."""

OnBytes = Callable[[int], None]
"""Hears how many bytes more have been sent; fewer, where an upload goes back to what has arrived."""


@dataclass
class Source:
    """A file to send. `size` None: not known before its end (a pipe); then it can be sent only once."""

    file: BinaryIO
    name: str
    size: int | None
    path: Path | None = None


File = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Source
"""What can be sent: a file's path, or content, or a stream of it. A stream that can be wound is sent from its begin."""


@contextlib.contextmanager
def open_source(what: File, name: str | None = None) -> Iterator[Source]:
    """Raises Misuse if there is nothing to send, and OSError."""
    if isinstance(what, Source):
        yield what
    elif isinstance(what, bytes | bytearray | memoryview):
        content = io.BytesIO(what)
        yield Source(content, _named(name), content.getbuffer().nbytes)
    elif isinstance(what, str | os.PathLike):
        path = Path(what)
        try:
            with path.open("rb") as file:
                yield Source(file, name or path.name, _size_of(file), path)
        except IsADirectoryError:
            raise Misuse(f"{path}: is a folder; give the files in it") from None
    elif _is_text(what):
        raise Misuse("this file is open for text; open it in binary mode")
    else:
        yield Source(what, _named(name), _length_of(what))


def _named(name: str | None) -> str:
    if not name:
        raise Misuse("what has no path needs a filename")
    return name


def _is_text(stream: object) -> bool:
    return isinstance(stream, io.TextIOBase)


def _size_of(file: BinaryIO) -> int | None:
    facts = os.fstat(file.fileno())
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _length_of(stream: BinaryIO) -> int | None:
    """Where its end is. What `fileno` leads to may be something else: of a GzipFile, the compressed bytes."""
    try:
        if not stream.seekable():
            return None
        stream.seek(0, os.SEEK_END)
        return stream.tell()
    except (AttributeError, OSError, ValueError):
        return None


class Form:
    """A multipart form: `fields`, then `source` as its part `file`. It hashes what it sends of the source."""

    def __init__(self, exchange: Exchange, fields: dict[str, str], source: Source | None, on_bytes: OnBytes) -> None:
        self._exchange = exchange
        self._source = source
        self._on_bytes = on_bytes
        self._boundary = secrets.token_hex(16)
        self._hash = hashlib.sha256()
        head = "".join(
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        if source is not None:
            quoted = source.name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
            head += f'--{self._boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
            head += f"Content-Type: {claimed_type(source.name)}\r\n\r\n"
        self._opening = head.encode("utf-8", "surrogateescape")
        self._closing = (b"" if source is None else b"\r\n") + f"--{self._boundary}--\r\n".encode()

    async def post(self, path: str) -> Any:
        """The answer's `data`. Raises Corrupt if it has another sha256 than the bytes sent."""
        size = 0 if self._source is None else self._source.size
        # One key for all tries: if an answer is lost, the next try gets the same answer and makes no second item.
        headers = {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Idempotency-Key": secrets.token_hex(16),
        }
        if size is not None:
            headers["Content-Length"] = str(len(self._opening) + size + len(self._closing))
        answer = await self._exchange.call("POST", path, body=self._body, repeatable=size is not None, headers=headers)
        if not isinstance(answer, dict):
            raise Unreachable(f"the server at {self._exchange.base} is not the media API")
        if self._source is not None and "sha256" in answer and answer["sha256"] != self._hash.hexdigest():
            raise Corrupt(f"{self._source.name} was stored as {answer.get('media_id')} with wrong bytes; delete it")
        return answer

    async def _body(self) -> AsyncGenerator[bytes, None]:
        self._hash = hashlib.sha256()
        yield self._opening
        if self._source is not None:
            async with contextlib.aclosing(read(self._exchange, self._source)) as chunks:
                async for chunk in chunks:
                    self._hash.update(chunk)
                    yield chunk
                    self._on_bytes(len(chunk))
        yield self._closing


async def read(exchange: Exchange, source: Source, start: int = 0) -> AsyncGenerator[bytes, None]:
    """The bytes from `start` on, or those that come where the size is not known. Raises Misuse if some are missing."""
    left = None if source.size is None else source.size - start
    if left is not None:
        await exchange.wire.work(source.file.seek, start)
    while chunk := await exchange.wire.work(source.file.read, CHUNK if left is None else min(CHUNK, left)):
        left = None if left is None else left - len(chunk)
        yield chunk
    if left:
        raise Misuse(f"{source.name} became shorter while it was being sent")


def claimed_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
