"""A large file's upload in several requests (tus 1.0.0), which goes on after a lost network, and after Ctrl-C.

Where an upload is under way is remembered in a file of one line in a folder of the caller's. It is named by what is
sent and to where; so the same call finds it, and a file that has changed since does not.
"""

import base64
import contextlib
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import httpx

from mediactl.errors import Corrupt, MediaError, Misuse, Problem, Unreachable
from mediactl.exchange import Exchange, Silence
from mediactl.sending import ATTEMPTS, OnBytes, Source, claimed_type, read

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
    """One file on its way. `notes`: the folder of what is under way; None: it goes on within this call only."""

    def __init__(
        self, exchange: Exchange, source: Source, fields: dict[str, str], on_bytes: OnBytes, notes: Path | None
    ) -> None:
        if source.size is None:
            raise Misuse("what has no size cannot be sent in several requests")
        self._exchange = exchange
        self._source = source
        self._size = source.size
        self._fields = fields
        self._on_bytes = on_bytes
        self._shown = 0
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._key = secrets.token_hex(16)
        self._note: Path | None = None
        if notes is not None and source.path is not None:
            changed = os.fstat(source.file.fileno()).st_mtime_ns
            path = str(source.path.resolve())
            what = [exchange.base, path, source.name, self._size, changed, sorted(fields.items())]
            self._note = notes / hashlib.sha256(json.dumps(what).encode()).hexdigest()

    async def send(self) -> Any:
        """The data that an upload in one request is answered with. Raises Unspoken, Problem, Unreachable, Corrupt."""
        where, offset = await self._remembered() or ("", 0)
        fruitless = 0
        silence = Silence(self._exchange)
        while True:
            try:
                if not where:
                    where, offset = await self._begun()
                self._show(offset)
                await self._send_from(where, offset)
                answer: dict[str, Any] = (await self._exchange.call("GET", where))["media"]
                break
            except Problem as problem:
                if not where or problem.status not in MOMENTARY or problem.code == "suspended":
                    raise  # a later call goes on, with another token or once there is room
                reason: MediaError = problem
            except Unreachable as error:
                if not where and isinstance(error.__cause__, httpx.ConnectError):
                    raise  # nothing was sent
                reason = error
            before, offset = offset, await self._offset(where, offset) if where else offset
            fruitless = fruitless + 1 if offset <= before else 0
            if fruitless > ATTEMPTS:
                raise reason
            if fruitless:
                await silence.lasts(reason, 0.5 * 2**fruitless, patience=math.inf)
            else:
                silence.ends()
        self._forget()
        await self._hash_to(self._size)
        if answer["sha256"] != self._hash.hexdigest():
            raise Corrupt(
                f"{self._source.name} arrived as {answer['media_id']} with other bytes than were sent; delete it"
            )
        return answer

    async def _begun(self) -> tuple[str, int]:
        """The upload, and how much of it has arrived. Where an earlier answer was lost, it is the same upload."""
        told = {"filename": self._source.name, "filetype": claimed_type(self._source.name), **self._fields}
        metadata = ",".join(f"{key} {_encoded(value)}" for key, value in told.items())
        headers = {**PROTOCOL, "Upload-Length": str(self._size), "Upload-Metadata": metadata, "Content-Length": "0"}
        headers["Idempotency-Key"] = self._key
        self._remember(self._key)
        try:
            async with self._exchange.open("POST", UPLOADS, headers=headers) as response:
                where = response.headers.get("location", "")
                offset = response.headers.get("upload-offset", "0")
        except Problem as problem:
            if problem.status < 500:
                self._forget()  # nothing was begun
            if problem.status in {404, 405} and "room_id" not in self._fields:
                raise Unspoken from None
            raise
        if not where.startswith(f"{UPLOADS}/"):
            self._forget()
            raise Unspoken
        self._remember(where)
        return str(where), int(offset) if offset.isdigit() else 0

    def _remember(self, what: str) -> None:
        """The upload's address, or until that is known the key that it is begun with."""
        if self._note is not None:
            with contextlib.suppress(OSError):  # then it cannot go on after this call
                self._note.parent.mkdir(parents=True, exist_ok=True)
                self._note.write_text(what)

    async def _remembered(self) -> tuple[str, int] | None:
        try:
            where = "" if self._note is None else self._note.read_text()
        except OSError:
            return None
        if not where.startswith(f"{UPLOADS}/"):
            self._key = where if re.fullmatch("[0-9a-f]{32}", where) else self._key
            return None
        try:
            return where, await self._asked(where)
        except Problem as problem:
            if problem.status not in GONE:
                raise
            self._forget()
            return None

    async def _asked(self, where: str) -> int:
        """How much has arrived. While an earlier request is being ended, nobody can say."""
        for attempt in range(ATTEMPTS + 1):
            try:
                async with self._exchange.open("HEAD", where, headers=PROTOCOL) as response:
                    offset = response.headers.get("upload-offset", "")
                break
            except Problem as problem:
                if problem.status not in MOMENTARY or attempt == ATTEMPTS:
                    raise
                await self._exchange.wire.pause(0.5 * 2**attempt)
        if not offset.isdigit():
            raise Unreachable(f"what answers at {self._exchange.base} is not the media API")
        return int(offset)

    async def _offset(self, where: str, known: int) -> int:
        """How much has arrived; what was known before, while nobody can be asked."""
        try:
            return await self._asked(where)
        except Unreachable:
            return known

    async def _send_from(self, where: str, offset: int) -> None:
        await self._hash_to(offset)

        async def body() -> AsyncGenerator[bytes, None]:
            position = offset
            async with aclosing(read(self._exchange, self._source, offset)) as chunks:
                async for chunk in chunks:
                    self._hash_at(position, chunk)
                    yield chunk
                    position += len(chunk)
                    self._show(position)

        headers = {
            **PROTOCOL,
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(self._size - offset),
            "Upload-Offset": str(offset),
        }
        await self._exchange.call("PATCH", where, body=body, repeatable=False, headers=headers)

    async def _hash_to(self, end: int) -> None:
        """What arrived in an earlier call was not hashed by this one."""
        if self._hashed < end:
            async with aclosing(read(self._exchange, self._source, self._hashed)) as chunks:
                async for chunk in chunks:
                    self._hash_at(self._hashed, chunk[: end - self._hashed])
                    if self._hashed >= end:
                        break

    def _hash_at(self, position: int, chunk: bytes) -> None:
        if self._hashed == position:
            self._hash.update(chunk)
            self._hashed += len(chunk)

    def _show(self, position: int) -> None:
        self._on_bytes(position - self._shown)
        self._shown = position

    def _forget(self) -> None:
        if self._note is not None:
            with contextlib.suppress(OSError):
                self._note.unlink()


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
