"""Transfers: an upload as a streamed multipart form, and a download that resumes. Memory does not grow with the size.

Both hash the bytes and compare the result with the sha256 that the API names. A download is written to
`NAME.<first 12 of its sha256>.part` and gets its name only when the hash is right. So it is never continued with
another file's bytes.
"""

import contextlib
import fcntl
import hashlib
import io
import mimetypes
import os
import re
import secrets
import stat
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote

import httpx

from mediactl.characters import is_shown
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


@dataclass(frozen=True)
class Downloaded:
    """A file that came. `complete`: it came whole, but the API named no sha256 to verify it by."""

    path: Path
    size: int
    outcome: Literal["verified", "complete", "already here"]


class Download:
    """One download into a file or a stream. It is continued with Range and If-Range whenever the connection breaks.

    `on_bytes(position, total)` is called after each chunk; `total` None: the API does not say.
    """

    def __init__(
        self, exchange: Exchange, path: str, on_bytes: Callable[[int, int | None], None], **request: Any
    ) -> None:
        self._exchange = exchange
        self._path = path
        self._on_bytes = on_bytes
        self._request = request
        self._position = 0
        self._total: int | None = None
        self._etag: str | None = None
        self._hash = hashlib.sha256()

    async def to_file(self, target: Path | None, fallback_name: str) -> Downloaded:
        """`target` None: the API's file name in the current folder; a folder: that name in this folder. Neither
        overwrites a file. A file is replaced; a device or pipe is written to. Raises Misuse, Corrupt, Problem,
        Unreachable, OSError.
        """
        explicit = target is not None and not await self._exchange.wire.work(target.is_dir)
        if explicit and target is not None and (sink := await self._exchange.wire.work(_sink, target)):
            with sink:
                return Downloaded(target, await self.to_stream(sink), self._outcome())
        async with contextlib.AsyncExitStack() as first:
            response = await first.enter_async_context(self._open(0))
            self._learn(response)
            if target is None or not explicit:
                target = (target or Path()) / _file_name(response.headers.get("content-disposition"), fallback_name)
            if not explicit and target.exists():
                if self._sha256() is not None and await self._exchange.wire.work(_sha256_of, target) == self._sha256():
                    return Downloaded(target, target.stat().st_size, "already here")
                raise Misuse(f"{target} exists with other content; -o {target} replaces it")
            mark = re.sub(r"\W", "", self._etag or "")[:12]
            part = target.with_name(f"{target.name}.{mark}.part" if mark else f"{target.name}.part")
            try:
                part.touch()
            except OSError as error:
                raise Misuse(f"the folder {target.parent} cannot be written to: {error.strerror}") from None
            with part.open("ab+") as file:
                try:
                    # Two writers could each see a right hash and still leave a wrong file.
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise Misuse(f"another download of {target} is under way") from None
                if not mark:
                    self._restart(file)
                await self._exchange.wire.work(self._take_up, file)
                if self._position:
                    await first.aclose()
                    if self._position != self._total:
                        await self._receive(file, None)
                else:
                    await self._receive(file, response)
        try:
            self._verify(target.name)
        except Corrupt:
            part.unlink()
            raise
        part.replace(target)
        return Downloaded(target, self._position, self._outcome())

    async def to_stream(self, stream: BinaryIO) -> int:
        """Writes all into `stream`. Returns the number of bytes. Raises Corrupt at the end if the hash is wrong."""
        async with self._open(0) as response:
            self._learn(response)
            await self._receive(stream, response)
        await self._exchange.wire.work(stream.flush)
        self._verify("what was written")
        return self._position

    def _open(self, start: int) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        headers = {"Accept-Encoding": "identity", **self._request.get("headers", {})}
        if start:
            headers |= {"Range": f"bytes={start}-", **({"If-Range": self._etag} if self._etag else {})}
        return self._exchange.open("GET", self._path, **{**self._request, "headers": headers})

    def _learn(self, response: httpx.Response) -> None:
        tag = response.headers.get("etag")
        # If-Range needs a strong tag (RFC 9110, 13.1.5).
        self._etag = tag if tag and not tag.startswith("W/") else None
        length = response.headers.get("content-length")
        self._total = int(length) if length and length.isdigit() else None

    def _sha256(self) -> str | None:
        match = re.fullmatch(r'"([0-9a-f]{64})"', self._etag or "")
        return match[1] if match else None

    def _outcome(self) -> Literal["verified", "complete"]:
        return "complete" if self._sha256() is None else "verified"

    def _take_up(self, file: BinaryIO) -> None:
        """Hashes what an earlier attempt left in `file`."""
        file.seek(0)
        while chunk := file.read(CHUNK):
            self._hash.update(chunk)
            self._position += len(chunk)
        if self._total is None or self._position > self._total:
            self._restart(file)

    def _restart(self, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self._hash, self._position = hashlib.sha256(), 0

    async def _receive(self, sink: BinaryIO, response: httpx.Response | None) -> None:
        """Appends the rest to `sink`: first from `response`, then from ranges."""
        fruitless = 0
        while True:
            before = self._position
            try:
                if response is not None:
                    await self._copy(response, sink)
                else:
                    async with self._open(self._position) as rest:
                        self._check_range(rest, sink)
                        await self._copy(rest, sink)
                if self._total is None or self._position == self._total:
                    return
                reason = "the answer was too short"
            except (httpx.TransportError, Unreachable) as error:
                reason = str(error) or type(error).__name__
                if self._total is None:
                    raise Unreachable(f"the connection broke ({reason})") from error
            response = None
            fruitless = fruitless + 1 if self._position == before else 1
            if fruitless >= ATTEMPTS:
                raise Unreachable(f"the connection broke at {self._position} of {self._total} bytes ({reason})")
            await self._exchange.wire.pause(0.2 * 2**fruitless)

    async def _copy(self, response: httpx.Response, sink: BinaryIO) -> None:
        async with contextlib.aclosing(self._exchange.wire.chunks(response, raw=True)) as chunks:
            async for chunk in chunks:
                await self._exchange.wire.work(self._keep, sink, chunk)
                self._on_bytes(self._position, self._total)

    def _keep(self, sink: BinaryIO, chunk: bytes) -> None:
        sink.write(chunk)
        self._hash.update(chunk)
        self._position += len(chunk)

    def _check_range(self, response: httpx.Response, sink: BinaryIO) -> None:
        if response.status_code == 206:
            expected = f"bytes {self._position}-"
            if not response.headers.get("content-range", "").startswith(expected):
                raise Corrupt(f"the API answered with {response.headers.get('content-range')}, not {expected}")
            return
        if self._position:
            if not sink.seekable():
                raise Corrupt("the file changed while it was being downloaded")
            self._restart(sink)
        self._learn(response)

    def _verify(self, name: str) -> None:
        if self._total is not None and self._position != self._total:
            raise Corrupt(f"{name} has {self._position} bytes instead of {self._total}")
        if self._sha256() is not None and self._hash.hexdigest() != self._sha256():
            raise Corrupt(f"{name} does not have the sha256 that the API names; nothing was kept")


def _sink(target: Path) -> BinaryIO | None:
    """The device or pipe at `target`, which is never replaced; None: it is a file, or can be."""
    if not target.parent.is_dir():
        raise Misuse(f"there is no folder {target.parent}")
    return target.open("wb") if target.exists() and not target.is_file() else None


def _file_name(disposition: str | None, fallback: str) -> str:
    """The name that the API gives, as one path segment that is printable and not hidden."""
    name = ""
    if match := re.search(r"filename\*=UTF-8''([^;\s]+)", disposition or "", re.IGNORECASE):
        name = unquote(match[1])
    elif match := re.search(r'filename="((?:[^"\\]|\\.)*)"', disposition or "", re.IGNORECASE):
        name = re.sub(r"\\(.)", r"\1", match[1])
    name = "".join(c if is_shown(c) else "_" for c in re.split(r"[/\\]", name)[-1]).strip()
    if name.startswith("."):
        name = "_" + name[1:]
    # File systems allow 255 bytes, and `.part` with its hash needs some of them.
    return (name if name.strip("_ ") else fallback).encode()[:220].decode("utf-8", "ignore")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
