"""Transfers: an upload as a streamed multipart form, and a download that resumes. Memory does not grow with the size.

Both hash the bytes and compare the result with the sha256 that the API names. A download is written to
`NAME.<first 12 of its sha256>.part` and gets its name only when the hash is right. So it is never continued with
another file's bytes.
"""

import contextlib
import fcntl
import hashlib
import mimetypes
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import httpx

from mediactl.client import Api, Failed, Misuse, Unreachable

CHUNK = 1024 * 1024
ATTEMPTS = 5
"""A download gives up after breaking so many times in a row without one more byte."""


class Corrupt(Failed):
    """The bytes that arrived are not the bytes that were sent."""


@dataclass
class Source:
    """A file to send. `size` None: not known before its end (a pipe); then it can be sent only once."""

    file: BinaryIO
    name: str
    size: int | None


@contextlib.contextmanager
def open_source(path: Path, name: str | None = None) -> Iterator[Source]:
    """`path`, or standard input for `-`. Raises Misuse if there is nothing to send."""
    if str(path) == "-":
        if not name:
            raise Misuse("standard input has no file name; give one with --name")
        if sys.stdin.isatty():
            raise Misuse("nothing is piped into standard input")
        yield Source(sys.stdin.buffer, name, None)
        return
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            yield Source(file, name or path.name, facts.st_size if stat.S_ISREG(facts.st_mode) else None)
    except IsADirectoryError:
        raise Misuse(f"{path}: is a folder; give the files in it") from None


def send(
    api: Api, path: str, source: Source, fields: dict[str, str], on_bytes: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """POSTs `source` as the form's `file` part after `fields`. Returns the answer's `data`.

    `on_bytes(count)` is called after each chunk. Raises Corrupt if the answer has another sha256 than the bytes sent.
    """
    boundary = secrets.token_hex(16)
    claimed = mimetypes.guess_type(source.name)[0] or "application/octet-stream"
    quoted = source.name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
    opening = f"{head}Content-Type: {claimed}\r\n\r\n".encode("utf-8", "surrogateescape")
    closing = f"\r\n--{boundary}--\r\n".encode()
    sent = hashlib.sha256()

    def body() -> Iterator[bytes]:
        nonlocal sent
        sent = hashlib.sha256()
        left = source.size
        if left is not None:
            source.file.seek(0)
        yield opening
        while chunk := source.file.read(CHUNK if left is None else min(CHUNK, left)):
            sent.update(chunk)
            yield chunk
            on_bytes(len(chunk))
            left = None if left is None else left - len(chunk)
        if left:
            raise Misuse(f"{source.name} became shorter while it was being sent")
        yield closing

    # One key for all tries: if an answer is lost, the next try gets the same answer and makes no second item.
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Idempotency-Key": secrets.token_hex(16)}
    if source.size is not None:
        headers["Content-Length"] = str(len(opening) + source.size + len(closing))
    answer = api.call("POST", path, body=body, repeatable=source.size is not None, headers=headers)
    if not isinstance(answer, dict):
        raise Unreachable(f"the server at {api.base} is not the media API")
    if "sha256" in answer and answer["sha256"] != sent.hexdigest():
        raise Corrupt(f"{source.name} was stored as {answer.get('media_id')} with wrong bytes; delete it")
    return answer


class Download:
    """One download into a file or a stream. It is continued with Range and If-Range whenever the connection breaks.

    `on_bytes(position, total)` is called after each chunk; `total` None: the API does not say.
    """

    def __init__(self, api: Api, path: str, on_bytes: Callable[[int, int | None], None], **request: Any):
        self._api = api
        self._path = path
        self._on_bytes = on_bytes
        self._request = request
        self._position = 0
        self._total: int | None = None
        self._etag: str | None = None
        self._hash = hashlib.sha256()

    def to_file(self, target: Path | None, fallback_name: str) -> tuple[Path, int, str]:
        """The file's path, its size, and `verified`, `complete` (the API names no sha256) or `was here`.

        `target` None: the API's file name in the current folder; a folder: that name in this folder. Neither overwrites
        a file. A file is replaced; a device or pipe is written to. Raises Misuse, Corrupt, Problem, Unreachable,
        OSError.
        """
        explicit = target is not None and not target.is_dir()
        if target is not None and explicit and not target.parent.is_dir():
            raise Misuse(f"there is no folder {target.parent}")
        if target is not None and explicit and target.exists() and not target.is_file():
            with target.open("wb") as sink:  # a device or a pipe is written to, never replaced
                return target, self.to_stream(sink), "complete" if self._sha256() is None else "verified"
        with contextlib.ExitStack() as first:
            response = first.enter_context(self._open(0))
            self._learn(response)
            if target is None or not explicit:
                target = (target or Path()) / _file_name(response.headers.get("content-disposition"), fallback_name)
            if not explicit and target.exists():
                if self._sha256() is not None and _sha256_of(target) == self._sha256():
                    return target, target.stat().st_size, "was here"
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
                self._take_up(file)
                if self._position:
                    first.close()
                    if self._position != self._total:
                        self._receive(file, None)
                else:
                    self._receive(file, response)
        try:
            self._verify(target.name)
        except Corrupt:
            part.unlink()
            raise
        part.replace(target)
        return target, self._position, "complete" if self._sha256() is None else "verified"

    def to_stream(self, stream: BinaryIO) -> int:
        """Writes all into `stream`. Returns the number of bytes. Raises Corrupt at the end if the hash is wrong."""
        with self._open(0) as response:
            self._learn(response)
            self._receive(stream, response)
        stream.flush()
        self._verify("what was written")
        return self._position

    def _open(self, start: int) -> contextlib.AbstractContextManager[httpx.Response]:
        headers = {"Accept-Encoding": "identity", **self._request.get("headers", {})}
        if start:
            headers |= {"Range": f"bytes={start}-", **({"If-Range": self._etag} if self._etag else {})}
        return self._api.open("GET", self._path, **{**self._request, "headers": headers})

    def _learn(self, response: httpx.Response) -> None:
        tag = response.headers.get("etag")
        # If-Range needs a strong tag (RFC 9110, 13.1.5).
        self._etag = tag if tag and not tag.startswith("W/") else None
        length = response.headers.get("content-length")
        self._total = int(length) if length and length.isdigit() else None

    def _sha256(self) -> str | None:
        match = re.fullmatch(r'"([0-9a-f]{64})"', self._etag or "")
        return match[1] if match else None

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

    def _receive(self, sink: BinaryIO, response: httpx.Response | None) -> None:
        """Appends the rest to `sink`: first from `response`, then from ranges."""
        fruitless = 0
        while True:
            before = self._position
            try:
                if response is not None:
                    self._copy(response, sink)
                else:
                    with self._open(self._position) as rest:
                        self._check_range(rest, sink)
                        self._copy(rest, sink)
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
            time.sleep(0.2 * 2**fruitless)

    def _copy(self, response: httpx.Response, sink: BinaryIO) -> None:
        for chunk in response.iter_raw():
            sink.write(chunk)
            self._hash.update(chunk)
            self._position += len(chunk)
            self._on_bytes(self._position, self._total)

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


def _file_name(disposition: str | None, fallback: str) -> str:
    """The name that the API gives, as one path segment that is printable and not hidden."""
    name = ""
    if match := re.search(r"filename\*=UTF-8''([^;\s]+)", disposition or "", re.IGNORECASE):
        name = unquote(match[1])
    elif match := re.search(r'filename="((?:[^"\\]|\\.)*)"', disposition or "", re.IGNORECASE):
        name = re.sub(r"\\(.)", r"\1", match[1])
    name = "".join(c if c.isprintable() else "_" for c in re.split(r"[/\\]", name)[-1]).strip()
    if name.startswith("."):
        name = "_" + name[1:]
    # File systems allow 255 bytes, and `.part` with its hash needs some of them.
    return (name if name.strip("_ ") else fallback).encode()[:220].decode("utf-8", "ignore")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
