"""The rows of uploads that come in several requests: found, made, claimed and removed. `resumable` says what holds."""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from media_core.auth.tokens import Claims
from media_core.contents.life import KeyReused
from media_core.database import Database
from media_core.errors import Refused, Unavailable, not_found
from media_core.store import ObjectStore, Piece, PieceGone
from media_core.uploads.claims import RESERVED_LONGER, Claim, Declared, locked, take_claim
from media_core.uploads.upload import Uploaded, Uploads, key_reused

CLAIM_POLL_SECONDS: Final = 0.25
"""Time between two looks of a request that waits for the claim. A stalled request loses its claim without a notice."""
REMEMBERED: Final = 512
"""Uploads whose claim, and whose hash so far, this process keeps."""
REMEMBERED_SECONDS: Final = 1.0
"""After a request its claim is remembered for so long. Between pieces a client pauses for milliseconds."""

_READ: Final = """
SELECT upload.*, coalesce(reservation.bytes, 0) AS reserved, upload.expires_at <= now() AS expired
FROM upload LEFT JOIN reservation ON reservation_id = upload_id WHERE upload_id = %s
"""
# The reservation was made with a short life, in case this statement is never reached.
_CREATE: Final = """
WITH kept AS (
    UPDATE reservation SET expires_at = now() + %(reserved)s WHERE reservation_id = %(upload_id)s
), taken AS (
    INSERT INTO idempotency AS known (subject, key, fingerprint, answer)
    SELECT %(owner)s, %(key)s, %(fingerprint)s, jsonb_build_object('upload_id', %(upload_id)s::text)
    WHERE %(key)s::text IS NOT NULL
    ON CONFLICT (subject, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, answer = excluded.answer, created_at = now()
    WHERE known.created_at < now() - interval '24 hours' OR known.answer ->> 'upload_id' = %(gone)s
    RETURNING key
)
INSERT INTO upload (upload_id, owner, declared, filename, claimed_type, tenant_scope, room_id, labels, concat, digest,
    length, received, answer, expires_at)
SELECT %(upload_id)s, %(owner)s, %(declared)s, %(filename)s, %(claimed_type)s, %(tenant_scope)s, %(room_id)s,
    %(labels)s, %(concat)s, %(digest)s, %(length)s, %(received)s, %(answer)s, now() + %(lifetime)s
WHERE (%(key)s::text IS NULL OR EXISTS (SELECT FROM taken)) AND (%(item)s::text IS NULL OR EXISTS (
    SELECT FROM media WHERE media_id = %(item)s UNION ALL SELECT FROM media_tombstone WHERE media_id = %(item)s))
RETURNING upload_id
"""
_PIECES: Final = "SELECT name, size FROM upload_piece WHERE upload_id = %s ORDER BY number"
_WHOLE: Final = """
SELECT number, name, size, received, answer, digest, labels FROM upload LEFT JOIN upload_piece USING (upload_id)
WHERE upload_id = %s ORDER BY number
"""
_FORGET: Final = "DELETE FROM upload WHERE upload_id = %s"


@dataclass(frozen=True)
class Progress:
    """How far an upload is. `received` and `length` in bytes; `length`: None until the client has told it."""

    upload_id: str
    received: int
    length: int | None
    declared: str
    concat: str | None
    expires_at: datetime
    uploaded: Uploaded | None
    """The published answer, once the file is stored."""

    @property
    def is_whole(self) -> bool:
        return self.received == self.length

    @property
    def is_partial(self) -> bool:
        return self.concat == "partial"


@dataclass(frozen=True)
class Once:
    """The Idempotency-Key of a request that begins an upload. `fingerprint`: of the request. `gone`: the upload that
    was begun under it before, and is no more.
    """

    key: str
    fingerprint: str
    gone: str | None = None


class Rows:
    """Those of one tenant. `lifetime`: of an upload, from its last bytes on."""

    def __init__(self, uploads: Uploads, lifetime: timedelta) -> None:
        self.lifetime = lifetime
        self._contents = uploads.contents
        self._database = uploads.database
        self._store = uploads.store
        self._remembered: OrderedDict[str, tuple[float, Claim]] = OrderedDict()
        """By upload: when its last request ended, and its claim."""
        self._going_on: dict[str, Claim] = {}
        """Remembered claims in use."""

    async def read(self, caller: Claims, upload_id: str) -> Any:
        """Raises Refused `not_found` for what is not the caller's, and `upload_expired`."""
        rows = await self._database.call(_READ, (upload_id,))
        if not rows or rows[0].owner != caller.subject or rows[0].ending:
            raise not_found()
        if rows[0].expired:
            raise Refused("upload_expired", "This upload has expired, and its bytes are gone. Begin a new one.")
        return rows[0]

    async def progress(self, caller: Claims, upload_id: str) -> Progress:
        row = await self.read(caller, upload_id)
        return progress_of(row, row.declared)

    async def insert(
        self,
        upload_id: str,
        caller: Claims,
        declared: Declared,
        length: int | None,
        *,
        concat: str | None,
        digest: str | None = None,
        uploaded: Uploaded | None = None,
        once: Once | None = None,
    ) -> bool:
        """False: another request has begun an upload under this key, or the item of `uploaded` was lost in a failover.
        Then nothing was written.
        """
        rows = await self._database.call(
            _CREATE,
            {
                "upload_id": upload_id,
                "owner": caller.subject,
                "declared": declared.text,
                "filename": declared.filename,
                "claimed_type": declared.claimed_type,
                "tenant_scope": declared.tenant_scope,
                "room_id": declared.room_id,
                "labels": json.dumps(dict(declared.labels)) if declared.labels else None,
                "concat": concat,
                "digest": digest,
                "length": length,
                "received": 0 if uploaded is None else uploaded.size,
                "answer": None if uploaded is None else json.dumps(vars(uploaded)),
                "item": None if uploaded is None else uploaded.media_id,
                "lifetime": self.lifetime,
                "reserved": self.lifetime + RESERVED_LONGER,
                "key": None if once is None else once.key,
                "fingerprint": None if once is None else once.fingerprint,
                "gone": None if once is None else once.gone,
            },
        )
        return bool(rows)

    async def earlier(self, caller: Claims, once: Once) -> str | None:
        """The upload that was begun under this key; it may be gone. Raises Refused `idempotency_key_reused`."""
        try:
            answer = await self._contents.earlier(caller.subject, once.key, once.fingerprint)
        except KeyReused:
            raise key_reused() from None
        return None if answer is None else str(answer["upload_id"])

    @asynccontextmanager
    async def claimed(
        self, caller: Claims, upload_id: str, *, at: int | None = None, patience: float = 0
    ) -> AsyncIterator[Claim]:
        """Raises Refused `upload_locked` while another request holds the claim, for `patience` seconds and longer, and
        as `read`. `at`: where the bytes begin that are added; a claim is remembered for them.
        """
        if (claim := self._goes_on(caller, upload_id, at)) is None:
            if (other := self._going_on.get(upload_id)) is not None:
                await other.renew()
            claim = await self._taken(caller, upload_id, patience)
        async with claim.held():
            try:
                yield claim
            except (Refused, Unavailable) as error:
                if claim.is_remembered and (isinstance(error, Unavailable) or error.code == "upload_locked"):
                    await self.read(caller, upload_id)  # it may have ended meanwhile
                raise
            finally:
                if self._going_on.get(upload_id) is claim:
                    del self._going_on[upload_id]
                self._remembered.pop(upload_id, None)  # of a request that ended while this one waited for the claim
        # An upload without a length reserves before its bytes count. Only a claim from the database may reserve.
        if not claim.is_held and claim.length is not None:
            self._remembered[upload_id] = time.monotonic(), claim
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)

    def _goes_on(self, caller: Claims, upload_id: str, at: int | None) -> Claim | None:
        ended_at, claim = self._remembered.pop(upload_id, (0.0, None))
        if claim is None or time.monotonic() - ended_at > REMEMBERED_SECONDS:
            return None
        if (claim.owner, claim.received) != (caller.subject, at):
            return None
        claim.is_held = claim.is_remembered = True
        self._going_on[upload_id] = claim
        return claim

    async def _taken(self, caller: Claims, upload_id: str, patience: float) -> Claim:
        lifetime = self.lifetime + RESERVED_LONGER
        until = time.monotonic() + patience
        while True:
            claim = await take_claim(self._database, self._contents, upload_id, caller.subject, lifetime)
            if claim is not None:
                return claim
            await self.read(caller, upload_id)  # there may be another reason
            if time.monotonic() >= until:
                raise locked()
            await asyncio.sleep(CLAIM_POLL_SECONDS)

    async def go_back(self, claim: Claim, gone: PieceGone) -> None:
        """As `Claim.go_back`, and removes what the store has of these pieces: the quota does not count them."""
        with claim.working():
            pieces = await claim.go_back(gone)
            with suppress(Unavailable):  # the sweep of staging removes them after the upload
                await self._store.gathered(claim.upload_id, pieces).discard()

    async def end(self, claim: Claim, *, final: str | None = None) -> None:
        with claim.working():
            await claim.begin_end(final=final)
            await remove(self._database, self._store, claim.upload_id)


async def pieces_of(database: Database, upload_id: str) -> list[Piece]:
    return [Piece(row.name, row.size) for row in await database.call(_PIECES, (upload_id,))]


async def whole(
    database: Database, upload_id: str, length: int | None
) -> tuple[list[Piece], str | None, dict[str, str]]:
    """The pieces of an upload whose `length` bytes have all come, and the digest and labels that it was begun with.

    Raises Refused `upload_locked` where somebody else has ended it meanwhile, or a failover has lost what came last;
    PieceGone where a piece has no row.
    """
    rows = await database.call(_WHOLE, (upload_id,))
    if not rows or rows[0].answer is not None or rows[0].received != length:
        raise locked()
    in_order = next((number for number, row in enumerate(rows) if row.number != number), len(rows))
    if sum(row.size for row in rows[:in_order]) != length:
        raise PieceGone(in_order)
    return [Piece(row.name, row.size) for row in rows], rows[0].digest, rows[0].labels or {}


async def remove(database: Database, store: ObjectStore, upload_id: str) -> None:
    """Removes the pieces, the reservation and the row, in this order: while there are pieces, a row leads to them.

    The reservation by its name: a sweep may have made it after the row was read.
    """
    if pieces := await pieces_of(database, upload_id):
        await store.gathered(upload_id, pieces).discard()
    await database.call("SELECT content_release(%s)", (upload_id,))
    await database.call(_FORGET, (upload_id,))


def progress_of(at: Any, declared: str) -> Progress:
    """`at`: a row of `_READ`, or a claim."""
    uploaded = None if at.answer is None else Uploaded(**at.answer)
    return Progress(at.upload_id, at.received, at.length, declared, at.concat, at.expires_at, uploaded)


def commit_lost() -> Unavailable:
    """What to raise where the database has lost a commit in a failover: the upload can be committed again."""
    return Unavailable("database", "it has lost what was committed last")
