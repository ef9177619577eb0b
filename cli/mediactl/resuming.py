"""A large file's upload in several requests (tus 1.0.0), which goes on after a lost network, and after Ctrl-C.

Where an upload is under way is remembered in a file of one line below `$XDG_STATE_HOME/mediactl`. It is named by what
is sent and to where; so the same command finds it, and a file that has changed since does not.
"""

import base64
import contextlib
import hashlib
import json
import mimetypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from mediactl.client import Api, Misuse, Problem, Unreachable
from mediactl.transfer import ATTEMPTS, CHUNK, Corrupt, Source

FROM_BYTES: Final = 16 * 1024 * 1024
"""A smaller file goes in one request."""
UPLOADS: Final = "/v1/media/uploads"
PROTOCOL: Final = {"Tus-Resumable": "1.0.0"}
GONE: Final = frozenset({404, 410})
MOMENTARY: Final = frozenset({409, 423, 503})
"""Another request is at the same upload, or has been; or a dependency is away."""


class Unspoken(Exception):
    """This API takes no upload in several requests."""


class Resuming:
    """One file on its way. `on_bytes` hears how many bytes more, or fewer, have arrived."""

    def __init__(
        self, api: Api, path: Path, source: Source, fields: dict[str, str], on_bytes: Callable[[int], None]
    ) -> None:
        if source.size is None:
            raise Misuse("what has no size cannot be sent in several requests")
        self._api = api
        self._source = source
        self._size = source.size
        self._fields = fields
        self._on_bytes = on_bytes
        self._shown = 0
        self._hash = hashlib.sha256()
        self._hashed = 0
        changed = os.fstat(source.file.fileno()).st_mtime_ns
        what = [api.base, str(path.resolve()), source.name, self._size, changed, sorted(fields.items())]
        self._note = _folder() / hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def send(self) -> dict[str, Any]:
        """The data that an upload in one request is answered with. Raises Unspoken, Problem, Unreachable, Corrupt."""
        where, offset = self._remembered() or (self._begun(), 0)
        fruitless = 0
        while True:
            self._show(offset)
            try:
                self._send_from(where, offset)
                answer: dict[str, Any] = self._api.call("GET", where)["media"]
                break
            except Problem as problem:
                if problem.status not in MOMENTARY or problem.code == "suspended":
                    self._forget()
                    raise
                reason: Exception = problem
            except Unreachable as error:
                reason = error
            before, offset = offset, self._offset(where, offset)
            fruitless = fruitless + 1 if offset <= before else 0
            if fruitless > ATTEMPTS:
                raise reason
            if fruitless:
                time.sleep(0.5 * 2**fruitless)
        self._forget()
        self._hash_to(self._size)
        if answer["sha256"] != self._hash.hexdigest():
            raise Corrupt(
                f"{self._source.name} arrived as {answer['media_id']} with other bytes than were sent; delete it"
            )
        return answer

    def _begun(self) -> str:
        claimed = mimetypes.guess_type(self._source.name)[0] or "application/octet-stream"
        told = {"filename": self._source.name, "filetype": claimed, **self._fields}
        metadata = ",".join(f"{key} {_encoded(value)}" for key, value in told.items())
        headers = {**PROTOCOL, "Upload-Length": str(self._size), "Upload-Metadata": metadata, "Content-Length": "0"}
        try:
            with self._api.open("POST", UPLOADS, headers=headers) as response:
                where = response.headers.get("location", "")
        except Problem as problem:
            if problem.status in {404, 405} and "room_id" not in self._fields:
                raise Unspoken from None
            raise
        if not where.startswith(f"{UPLOADS}/"):
            raise Unspoken
        with contextlib.suppress(OSError):  # then it cannot go on after this command
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.write_text(where)
        return str(where)

    def _remembered(self) -> tuple[str, int] | None:
        try:
            where = self._note.read_text()
        except OSError:
            return None
        if not where.startswith(f"{UPLOADS}/"):
            return None
        try:
            return where, self._asked(where)
        except Problem as problem:
            if problem.status not in GONE:
                raise
            self._forget()
            return None

    def _asked(self, where: str) -> int:
        """How much has arrived. While an earlier request is being ended, nobody can say."""
        for attempt in range(ATTEMPTS + 1):
            try:
                with self._api.open("HEAD", where, headers=PROTOCOL) as response:
                    offset = response.headers.get("upload-offset", "")
                break
            except Problem as problem:
                if problem.status not in MOMENTARY or attempt == ATTEMPTS:
                    raise
                time.sleep(0.5 * 2**attempt)
        if not offset.isdigit():
            raise Unreachable(f"what answers at {self._api.base} is not the media API")
        return int(offset)

    def _offset(self, where: str, known: int) -> int:
        """How much has arrived; what was known before, while nobody can be asked."""
        try:
            return self._asked(where)
        except Unreachable:
            return known

    def _send_from(self, where: str, offset: int) -> None:
        self._hash_to(offset)

        def body() -> Iterator[bytes]:
            self._source.file.seek(offset)
            left = self._size - offset
            while left:
                chunk = self._source.file.read(min(CHUNK, left))
                if not chunk:
                    raise Misuse(f"{self._source.name} became shorter while it was being sent")
                if self._hashed == self._size - left:
                    self._hash.update(chunk)
                    self._hashed += len(chunk)
                yield chunk
                left -= len(chunk)
                self._show(self._size - left)

        headers = {
            **PROTOCOL,
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(self._size - offset),
            "Upload-Offset": str(offset),
        }
        self._api.call("PATCH", where, body=body, repeatable=False, headers=headers)

    def _hash_to(self, end: int) -> None:
        """What arrived in an earlier command was not hashed by this one."""
        if self._hashed < end:
            self._source.file.seek(self._hashed)
        while self._hashed < end and (chunk := self._source.file.read(min(CHUNK, end - self._hashed))):
            self._hash.update(chunk)
            self._hashed += len(chunk)

    def _show(self, position: int) -> None:
        self._on_bytes(position - self._shown)
        self._shown = position

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            self._note.unlink()


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state else Path.home() / ".local" / "state") / "mediactl" / "uploads"
