"""Objects as files under one folder: what `make run` uses, and any single machine.

An object's file is its key below the root. Bytes go to a file in the tenant's `.staging` first, are fsynced, and get
their name by rename(2) or link(2), after which the folder is fsynced: kill -9 and power loss leave an object whole or
absent, and a reader keeps the version it opened. Needs a file system with hard links.

Signed URLs lead to the api itself. Their signature is HMAC-SHA256 over key, expiry, type and disposition, so none of
the four can be exchanged; who serves them asks `FolderStore.verify` first.
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BufferedWriter, FileIO
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import ParamSpec, TypeVar
from urllib.parse import urlencode

from media_core.errors import Refused
from media_core.store.base import (
    CHUNK_BYTES,
    STAGING,
    ObjectInfo,
    ObjectMissing,
    SignedUrl,
    checked_expiry,
    checked_key,
    staging_key,
    tenant_prefix,
    unavailable,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_LISTED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a verified URL entitles to: this object, under this type and disposition."""

    key: str
    content_type: str
    content_disposition: str


class FolderStore:
    """`ObjectStore` on a local folder.

    `signing_key`: at least 32 secret bytes; empty where nobody signs or serves URLs (workers). `public_url`: where
    clients reach the api, e.g. `https://media.acme.example`; signed URLs are `{public_url}/objects/{key}?...`.
    """

    def __init__(self, root: Path, tenant_id: str, signing_key: bytes, public_url: str) -> None:
        if signing_key and len(signing_key) < 32:
            raise ValueError("the signing key of a folder store has at least 32 bytes")
        self._root = root
        self._tenant_id = tenant_id
        self._prefix = tenant_prefix(tenant_id)
        self._staging = root / self._prefix / STAGING
        self._signing_key = signing_key
        self._public_url = public_url.rstrip("/")

    async def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        await _in_thread(self._put, self._path(key), data)

    async def stage(self, name: str) -> "FolderStagedObject":
        return await _in_thread(FolderStagedObject, self, self._root / staging_key(self._tenant_id, name))

    async def read(self, key: str, start: int, length: int) -> bytes:
        return await _in_thread(_read, key, self._path(key), start, length)

    async def stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        with await _in_thread(_open, key, self._path(key)) as file:
            end = None if length is None else start + length
            while end is None or start < end:
                size = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - start)
                chunk = await _in_thread(os.pread, file.fileno(), size, start)
                if not chunk:
                    return
                yield chunk
                start += len(chunk)

    async def head(self, key: str) -> ObjectInfo | None:
        return await _in_thread(_info, key, self._path(key))

    async def delete(self, *keys: str) -> None:
        await _in_thread(_delete, [self._path(key) for key in keys])

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        found = self._walk(prefix)
        while batch := await _in_thread(lambda: list(islice(found, _LISTED_AT_ONCE))):
            for entry in batch:
                yield entry

    def sign(self, key: str, *, expires_in: timedelta, content_type: str, content_disposition: str) -> SignedUrl:
        expires = int(_now().timestamp()) + checked_expiry(expires_in)
        signature = self._signature(checked_key(self._tenant_id, key), str(expires), content_type, content_disposition)
        query = {"expires": expires, "type": content_type, "disposition": content_disposition, "signature": signature}
        return SignedUrl(f"{self._public_url}/objects/{key}?{urlencode(query)}", datetime.fromtimestamp(expires, UTC))

    def verify(self, key: str, query: Mapping[str, str], now: datetime) -> SignedRequest:
        """What the URL `/objects/{key}?{query}` entitles to at `now` (aware).

        Raises Refused `signature_invalid` for anything this store's key did not sign exactly so, `signature_expired`
        for what it signed for a time that is over. Says nothing about whether the object exists.
        """
        expires, signature = query.get("expires", ""), query.get("signature", "")
        content_type, disposition = query.get("type", ""), query.get("disposition", "")
        wanted = self._signature(key, expires, content_type, disposition)
        # A key that was signed for another tenant's store is one that this store never signs.
        if not key.startswith(self._prefix) or not hmac.compare_digest(
            wanted.encode(), signature.encode("utf-8", "replace")
        ):
            raise Refused("signature_invalid", "This URL was not signed here, or was changed since.")
        if now.timestamp() >= int(expires):
            raise Refused("signature_expired", "This URL has expired; ask for a new one.")
        return SignedRequest(key, content_type, disposition)

    async def sweep_staging(self, older_than: timedelta) -> int:
        return await _in_thread(self._sweep_staging, _now().timestamp() - older_than.total_seconds())

    async def probe(self) -> None:
        def check() -> None:
            _make_folder(self._staging)
            if not os.access(self._staging, os.R_OK | os.W_OK | os.X_OK):
                raise unavailable("the folder of the object store can't be written")

        await _in_thread(check)

    async def aclose(self) -> None:
        pass

    def _path(self, key: str) -> Path:
        return self._root / checked_key(self._tenant_id, key)

    def _signature(self, *signed: str) -> str:
        if not self._signing_key:
            raise RuntimeError("this folder store was opened without a signing key")
        # Lengths first: no two lists of fields give one message.
        fields = [field.encode(errors="surrogatepass") for field in signed]
        message = b"".join(len(field).to_bytes(8, "big") + field for field in fields)
        return hmac.new(self._signing_key, message, hashlib.sha256).hexdigest()

    def _put(self, path: Path, data: bytes | bytearray | memoryview) -> None:
        _make_folder(self._staging)
        unfinished = self._staging / f"put-{secrets.token_hex(16)}"
        try:
            with _create(unfinished) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _make_folder(path.parent)
            unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)

    def _link(self, staged: Path, path: Path) -> None:
        _make_folder(path.parent)
        second_name = self._staging / f"link-{secrets.token_hex(16)}"
        second_name.hardlink_to(staged)
        try:
            os.utime(second_name)  # `modified` is the moment of the promotion, not of the last write
            second_name.rename(path)
        finally:
            # rename(2) leaves both names where they are already the same file: a promote that is repeated.
            second_name.unlink(missing_ok=True)
        _fsync_folder(path.parent)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        folders = [self._root / self._prefix]
        while folders:
            with contextlib.suppress(*_ABSENT), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if path == self._staging:
                        continue
                    key = path.relative_to(self._root).as_posix()
                    if entry.is_dir(follow_symlinks=False):
                        if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                            folders.append(path)
                    elif key.startswith(prefix) and (info := _info(key, path)):
                        yield info

    def _sweep_staging(self, before: float) -> int:
        swept = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self._staging) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # its upload ended just now
                    if entry.stat().st_mtime <= before:
                        Path(entry.path).unlink()
                        swept += 1
        return swept


class FolderStagedObject:
    """A file in staging. Its lock keeps a write that was cancelled half-way from meeting `discard`."""

    def __init__(self, store: FolderStore, path: Path) -> None:
        _make_folder(path.parent)
        self.size = 0
        self._store = store
        self._path = path
        self._file = _create(path)
        self._finished = False
        self._lock = threading.Lock()

    async def write(self, chunk: bytes | memoryview) -> None:
        await _in_thread(self._write, chunk)
        self.size += len(chunk)

    async def finish(self) -> None:
        await _in_thread(self._finish)

    async def promote(self, key: str) -> None:
        path = self._store._path(key)
        if not self._finished:
            raise RuntimeError("a staged object is promoted after finish()")
        await _in_thread(self._store._link, self._path, path)

    async def read(self, start: int, length: int) -> bytes:
        return await _in_thread(_read, self._path.name, self._path, start, length)

    async def discard(self) -> None:
        await _in_thread(self._discard)

    def _write(self, chunk: bytes | memoryview) -> None:
        with self._lock:
            self._file.write(chunk)

    def _finish(self) -> None:
        with self._lock:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        _fsync_folder(self._path.parent)
        self._finished = True

    def _discard(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # what a full disk kept from being flushed goes anyway
            self._file.close()
        self._path.unlink(missing_ok=True)


async def _in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        raise unavailable(f"the folder failed: {error.strerror}") from error


def _now() -> datetime:
    return datetime.now(UTC)


def _open(key: str, path: Path) -> FileIO:
    try:
        return FileIO(path)
    except _ABSENT:
        raise ObjectMissing(key) from None


def _read(key: str, path: Path, start: int, length: int) -> bytes:
    with _open(key, path) as file:
        return os.pread(file.fileno(), length, start)


def _info(key: str, path: Path) -> ObjectInfo | None:
    try:
        found = path.stat()
    except _ABSENT:
        return None
    if not S_ISREG(found.st_mode):
        return None
    return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _delete(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(*_ABSENT):
            path.unlink()
    for folder in {path.parent for path in paths if path.parent.is_dir()}:
        _fsync_folder(folder)


def _create(path: Path) -> BufferedWriter:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        _fsync_folder(path.parent)


def _fsync_folder(path: Path) -> None:
    """Makes what was created, renamed or removed in it survive a crash."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
