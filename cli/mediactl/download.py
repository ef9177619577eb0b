"""A download, into a file or a stream. It is continued where it broke. Memory does not grow with the size.

The bytes are hashed, and the result is compared with the sha256 that the API names. A download is written to
`NAME.<first 12 of its sha256>.part` and gets its name only when the hash is right. So it is never continued with
another file's bytes.
"""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote

import httpx

from mediactl.characters import is_shown
from mediactl.errors import Corrupt, Misuse, Unreachable
from mediactl.exchange import Exchange
from mediactl.sending import ATTEMPTS, CHUNK

MOST_NAME_BYTES = 255
"""What file systems take."""
MOST_EXTENSION_BYTES = 32
"""A longer one is cut as the rest of its name is."""


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
            ending = f".{mark}.part" if mark else ".part"
            part = target.with_name(_cut(target.name, MOST_NAME_BYTES - len(ending)) + ending)
            try:
                part.touch()
            except OSError as error:
                raise Misuse(f"the folder {target.parent} cannot be written to: {error.strerror}") from None
            with part.open("ab+") as file:
                try:
                    # Two writers could each see a right hash and still leave a wrong file.
                    _lock(file)
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
    if not name.strip("_ "):
        return fallback
    extension = Path(name).suffix if len(Path(name).suffix.encode()) <= MOST_EXTENSION_BYTES else ""
    return _cut(name.removesuffix(extension), MOST_NAME_BYTES - len(extension.encode())) + extension


def _cut(name: str, most: int) -> str:
    """At most so many bytes of a name."""
    return os.fsencode(name)[:most].decode("utf-8", "ignore")


def _lock(file: BinaryIO) -> None:
    """Locks the file until it is closed. Raises OSError if another process has locked it."""
    if sys.platform == "win32":  # which has no fcntl
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
