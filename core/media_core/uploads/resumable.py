"""Uploads that come in several requests, to any replica, over hours: the state behind the protocol tus 1.0.

    create --> open --bytes, until received = length--> whole --commit--> done
                 |                                        |                |
                 '----- expired, terminated, infected ----'------> ending: pieces gone, reservation given back, row gone

A row of `upload` says how many bytes are durable (`received`), and `upload_piece` where they are (`store.Piece`). Both
change in one statement, after the bytes are durable. So a byte counts once it is in the row, whoever is killed when.
Only a crash of the database server may take back the rows of its last half second, until the last byte has come.
The end is the end of every other upload: `upload.Upload` commits what has come, and the row keeps its answer.

1. One request at a time adds bytes. It holds the row's claim (`claims`), a token with an expiry, and moves the
   expiry forward while bytes come or the store works. Every statement that counts bytes names the token. One that has
   lost its claim may still write; the store keeps its bytes apart (`Appending`). So no rule here depends on clocks.
2. The hash is known without a second look if all bytes came to one process. Else the pieces are read once, at the end.
3. Quota: the length is reserved when the upload is created, and what comes of an upload without a length before it is
   stored. The reservation has the upload's id, and outlives the upload by an hour, so that only the end of the upload
   gives it back. A final upload takes over its parts' reservations. If it is killed, they count under its own until a
   sweep has made them again (`settle`), or until it is repeated.
4. `commit` takes the upload's id as Idempotency-Key. So an upload whose process was killed between the commit and the
   note in the row gets the same answer when it is committed again.
5. Lock order: upload -> upload_piece -> reservation -> usage. No statement locks an upload and a content.
"""

import asyncio
import contextlib
import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from media_core.auth.tokens import Claims
from media_core.contents.life import Reservation
from media_core.database import Database
from media_core.errors import Refused, Unavailable, not_found
from media_core.ids import new_upload_id
from media_core.items.access import require_room
from media_core.items.library import Library
from media_core.policy import Policy
from media_core.store import BodySource, GatheredObject, ObjectStore, Piece, PieceGone
from media_core.store.trailing_hash import TrailingHash
from media_core.uploads.claims import RESERVED_LONGER, Claim, Declared, locked, shielded, take_claim
from media_core.uploads.upload import CONNECTION_BYTES, Upload, Uploaded, Uploads, too_large

MOST_OPEN: Final = 1000
"""Uploads that one person may have under way."""
MOST_PARTS: Final = 1000
"""Partial uploads that a final one may be made of."""
REMEMBERED: Final = 512
"""Uploads whose hash so far this process keeps."""
_RESERVED_AHEAD: Final = 16 * 1024 * 1024
_FINAL_RESERVED: Final = timedelta(hours=2)
"""The reservation of a final upload: if it is killed, its parts' bytes count until a sweep has reserved them again."""
ALGORITHMS: Final = ("sha1", "sha256", "md5")
"""Of Upload-Checksum; tus asks for sha1."""
Algorithm = Literal["sha1", "sha256", "md5"]

_READ: Final = """
SELECT upload.*, coalesce(reservation.bytes, 0) AS reserved, upload.expires_at <= now() AS expired
FROM upload LEFT JOIN reservation ON reservation_id = upload_id WHERE upload_id = %s
"""
_COUNT: Final = "SELECT count(*) AS n FROM upload WHERE owner = %s AND answer IS NULL"
# The reservation was made with a short life, in case this statement is never reached.
_CREATE: Final = """
WITH kept AS (UPDATE reservation SET expires_at = now() + %(reserved)s WHERE reservation_id = %(upload_id)s)
INSERT INTO upload (upload_id, owner, declared, filename, claimed_type, tenant_scope, room_id, concat, length,
    received, answer, expires_at)
VALUES (%(upload_id)s, %(owner)s, %(declared)s, %(filename)s, %(claimed_type)s, %(tenant_scope)s, %(room_id)s,
    %(concat)s, %(length)s, %(received)s, %(answer)s, now() + %(lifetime)s)
"""
_PIECES: Final = "SELECT name, size FROM upload_piece WHERE upload_id = %s ORDER BY number"
_ANSWER: Final = "UPDATE upload SET answer = %s WHERE upload_id = %s RETURNING 1"
# Of uploads whose process ended between the commit and the note in the row.
_NOTE_ANSWERS: Final = """
UPDATE upload SET answer = idempotency.answer FROM idempotency
WHERE subject = owner AND key = 'upload ' || upload_id AND received = length AND upload.answer IS NULL
    AND idempotency.answer IS NOT NULL
"""
_FORGET_PIECES: Final = "DELETE FROM upload_piece WHERE upload_id = %s"
_FORGET: Final = "DELETE FROM upload WHERE upload_id = %s"
# The parts' bytes are stored a second time, under the final upload's reservation, before they go.
_TAKE_OVER: Final = """
WITH ended AS (DELETE FROM reservation WHERE reservation_id = ANY(%s) RETURNING bytes)
INSERT INTO reservation (reservation_id, bytes, expires_at)
SELECT %s, coalesce(sum(bytes), 0), now() + %s FROM ended
ON CONFLICT (reservation_id) DO UPDATE SET bytes = reservation.bytes + excluded.bytes, expires_at = excluded.expires_at
RETURNING bytes
"""
# Of parts whose final upload was killed: their reservations had gone to it.
_RESERVE_AGAIN: Final = """
WITH uncounted AS (
    SELECT upload_id, greatest(received, coalesce(length, 0)) AS bytes, expires_at FROM upload
    WHERE answer IS NULL AND NOT ending AND (claim IS NULL OR claimed_until <= now())
        AND greatest(received, coalesce(length, 0)) > 0
        AND NOT EXISTS (SELECT FROM reservation WHERE reservation_id = upload_id)
    ORDER BY upload_id LIMIT 200 FOR UPDATE SKIP LOCKED
), reserved AS (
    INSERT INTO reservation (reservation_id, bytes, expires_at)
    SELECT upload_id, bytes, expires_at + %s FROM uncounted ON CONFLICT DO NOTHING RETURNING bytes
), counted AS (
    UPDATE usage SET reserved_bytes = reserved_bytes + (SELECT sum(bytes) FROM reserved)
    WHERE EXISTS (SELECT FROM reserved)
)
SELECT count(*) AS n FROM reserved
"""
_SAME_FINAL: Final = """
SELECT upload_id FROM upload
WHERE owner = %s AND concat = %s AND declared = %s AND expires_at > now() AND NOT ending ORDER BY upload_id LIMIT 1
"""
_ENDED: Final = """
SELECT upload_id FROM upload
WHERE (expires_at <= now() OR ending) AND (claim IS NULL OR claimed_until <= now()) AND upload_id > %s
ORDER BY upload_id LIMIT 200
"""
_EXPIRE: Final = """
UPDATE upload SET ending = true
WHERE upload_id = %s AND (expires_at <= now() OR ending) AND (claim IS NULL OR claimed_until <= now()) RETURNING 1
"""
_ALIVE: Final = "SELECT upload_id FROM upload WHERE NOT ending"


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
class Checksum:
    """The digest that a client sent of the bytes of one request."""

    algorithm: Algorithm
    digest: bytes


class Resumables:
    """One tenant's uploads in several requests. `lifetime`: from the last bytes on.

    Every method that takes an id raises Refused `not_found` for what is not the caller's, and `upload_expired`.
    """

    def __init__(self, uploads: Uploads, *, lifetime: timedelta) -> None:
        self._uploads = uploads
        self._database = uploads.database
        self._store = uploads.store
        self._lifetime = lifetime
        self._hashes = _Hashes()

    async def create(
        self, caller: Claims, declared: Declared, length: int | None, *, partial: bool = False
    ) -> Progress:
        """Begins an upload of `length` bytes; None: the client tells it later.

        Raises Refused `file_too_large`, `empty_file`, `quota_exceeded`, `not_found` (a room that the caller's token
        does not name), `too_many_uploads`.
        """
        policy = await self._uploads.policy.current()
        self._check(caller, declared, length, policy)
        (open_now,) = await self._database.call(_COUNT, (caller.subject,))
        if open_now.n >= MOST_OPEN:
            raise Refused(
                "too_many_uploads",
                f"You have {MOST_OPEN} uploads under way. Go on with one, or delete one.",
                limit=MOST_OPEN,
                retry_after=60,
            )
        upload_id = new_upload_id()
        async with self._uploads.contents.reservation(upload_id) as reservation:
            await reservation.grow_to(length or 0)
            await self._insert(upload_id, caller, declared, length, concat="partial" if partial else None)
            reservation.ended()  # from here on it ends with the upload
        return await self.find(caller, upload_id)

    async def find(self, caller: Claims, upload_id: str) -> Progress:
        row = await self._row(caller, upload_id)
        return _progress(row, row.declared)

    async def settled(self, caller: Claims, upload_id: str, request_id: str | None = None) -> Progress:
        """As `find`. Bytes that have all come and are not committed, since that failed, are committed now: a client
        takes a whole upload for a finished one.
        """
        row = await self._row(caller, upload_id)
        if row.received == row.length and row.answer is None and row.concat is None:
            async with self._claimed(caller, upload_id) as claim:
                await self._finish(caller, claim, request_id)
            row = await self._row(caller, upload_id)
        return _progress(row, row.declared)

    @asynccontextmanager
    async def receiving(
        self,
        caller: Claims,
        upload_id: str,
        offset: int,
        *,
        length: int | None = None,
        announced: int | None = None,
        checksum: Checksum | None = None,
        request_id: str | None = None,
    ) -> AsyncIterator["Receiving"]:
        """Takes bytes from `offset` on: `write` them in order, then `end`. What came before an error is kept, unless
        there is a `checksum` of all of it.

        `length`: of the whole upload, if it is told only now; `announced`: how many bytes come, if that is known.
        Raises Refused `upload_locked` (another request adds to it), `offset_mismatch`, `file_too_large`,
        `quota_exceeded`, `upload_final`, `bad_request`.
        """
        async with self._claimed(caller, upload_id) as claim:
            if claim.concat is not None and not claim.is_partial:
                raise Refused("upload_final", "A final upload is made of others; it takes no bytes itself.")
            policy = await self._uploads.policy.current()
            at_most = claim.length or policy.max_upload_bytes
            with self._uploads.capacity.held(CONNECTION_BYTES + self._store.memory_of_append(at_most)):
                if claim.received != offset:
                    raise _another_offset(claim.received, offset)
                await self._declare_length(caller, claim, length, policy)
                limit = policy.max_upload_bytes if claim.length is None else claim.length
                if announced is not None and offset + announced > limit:
                    raise _beyond(limit) if claim.length is not None else too_large(policy)
                receiving = Receiving(self, caller, claim, limit, checksum, request_id)
                try:
                    yield receiving
                except PieceGone:
                    await shielded(claim.go_back())
                    raise _another_offset(claim.received, offset) from None
                except Exception:
                    await shielded(receiving.keep_what_came())
                    raise
                finally:
                    await shielded(receiving.close())

    async def terminate(self, caller: Claims, upload_id: str) -> None:
        """Removes an upload. A file that has been stored stays; `Library.delete` deletes it."""
        async with self._claimed(caller, upload_id) as claim:
            await self._end(claim)

    async def concatenate(
        self,
        caller: Claims,
        concat: str,
        parts: Sequence[str],
        declared: Declared,
        *,
        idempotency_key: str | None = None,
        request_id: str | None = None,
    ) -> Progress:
        """Stores the partial uploads `parts`, one after the other, as one file, and ends them. `concat`: the
        Upload-Concat of the request; the same again is answered with the same upload.
        """
        same = await self._database.call(_SAME_FINAL, (caller.subject, concat, declared.text))
        if same:
            await self._end_parts(caller, parts)  # the process may have been killed before it did
            return await self.find(caller, same[0].upload_id)
        if not 0 < len(parts) <= MOST_PARTS or len(set(parts)) < len(parts):
            raise Refused("bad_request", f"A final upload has 1 to {MOST_PARTS} different parts.")
        rows = [await self._row(caller, part) for part in parts]
        for row in rows:
            if row.concat != "partial" or row.received != row.length:
                raise Refused("bad_request", "A final upload is made of partial uploads that are complete.")
        total = sum(row.received for row in rows)
        self._check(caller, declared, total, await self._uploads.policy.current())
        upload_id = new_upload_id()
        async with contextlib.AsyncExitStack() as stack:
            # In one order, so that two final uploads of the same parts cannot wait for each other.
            claims = [await stack.enter_async_context(self._claimed(caller, part)) for part in sorted(parts)]
            for claim in claims:
                stack.enter_context(claim.working())
            # Named after the parts: a repetition takes over what a killed process has reserved.
            reservation_id = _key_of(parts)
            (moved,) = await self._database.call(_TAKE_OVER, (list(parts), reservation_id, _FINAL_RESERVED))
            reservation = self._uploads.contents.reservation(reservation_id, held=moved.bytes, lifetime=_FINAL_RESERVED)
            try:
                uploading = await self._uploads.start(announced=total, reservation=reservation)
                async with uploading as upload:
                    for part in parts:
                        pieces = await _pieces(self._database, part)
                        async with aclosing(self._store.gathered(part, pieces).stream()) as chunks:
                            async for chunk in chunks:
                                await upload.write(bytes(chunk))
                    key = idempotency_key or _key_of(parts)
                    uploaded = await _committed(upload, caller, declared, key, request_id)
                await self._insert(upload_id, caller, declared, total, concat=concat, uploaded=uploaded)
            except BaseException:
                await shielded(self._reserve_parts(claims, reservation))
                raise
            for claim in claims:
                await self._end(claim)
        return await self.find(caller, upload_id)

    async def _end_parts(self, caller: Claims, parts: Sequence[str]) -> None:
        for part in parts:
            with contextlib.suppress(Refused):  # it has ended
                async with self._claimed(caller, part) as claim:
                    if claim.is_partial:
                        await self._end(claim)

    async def _reserve_parts(self, claims: Sequence[Claim], moved: Reservation) -> None:
        """After a final upload that failed: the parts' bytes stand in staging, and count again.

        However full the tenant is by now: they were counted until then.
        """
        with contextlib.suppress(Unavailable):
            for claim in claims:
                lifetime = self._lifetime + RESERVED_LONGER
                counted = self._uploads.contents.reservation(claim.upload_id, lifetime=lifetime, over_quota=True)
                await counted.grow_to(claim.received)
            await moved.release()

    # -- rows ----------------------------------------------------------------------------------------------------

    async def _row(self, caller: Claims, upload_id: str) -> Any:
        rows = await self._database.call(_READ, (upload_id,))
        if not rows or rows[0].owner != caller.subject or rows[0].ending:
            raise not_found()
        if rows[0].expired:
            raise _expired()
        return rows[0]

    def _check(self, caller: Claims, declared: Declared, length: int | None, policy: Policy) -> None:
        if length == 0:
            raise Refused("empty_file", "The file is empty; send at least one byte.")
        if length is not None and length > policy.max_upload_bytes:
            raise too_large(policy)
        require_room(caller, declared.room_id)

    async def _insert(
        self,
        upload_id: str,
        caller: Claims,
        declared: Declared,
        length: int | None,
        *,
        concat: str | None,
        uploaded: Uploaded | None = None,
    ) -> None:
        await self._database.call(
            _CREATE,
            {
                "upload_id": upload_id,
                "owner": caller.subject,
                "declared": declared.text,
                "filename": declared.filename,
                "claimed_type": declared.claimed_type,
                "tenant_scope": declared.tenant_scope,
                "room_id": declared.room_id,
                "concat": concat,
                "length": length,
                "received": 0 if uploaded is None else uploaded.size,
                "answer": None if uploaded is None else json.dumps(vars(uploaded)),
                "lifetime": self._lifetime,
                "reserved": self._lifetime + RESERVED_LONGER,
            },
        )

    async def _declare_length(self, caller: Claims, claim: Claim, length: int | None, policy: Policy) -> None:
        if length is None or length == claim.length:
            return
        if claim.length is not None:
            raise Refused("bad_request", "The length of an upload is told once.")
        if length < claim.received:
            raise Refused("bad_request", f"This upload has {claim.received:,} bytes already.")
        self._check(caller, claim.declared, length, policy)
        await claim.reservation.grow_to(length)
        await claim.set_length(length)

    @asynccontextmanager
    async def _claimed(self, caller: Claims, upload_id: str) -> AsyncIterator[Claim]:
        """Raises Refused `upload_locked` while another request holds the claim, and as `_row`."""
        lifetime = self._lifetime + RESERVED_LONGER
        claim = await take_claim(self._database, self._uploads.contents, upload_id, caller.subject, lifetime)
        if claim is None:
            await self._row(caller, upload_id)  # there may be another reason
            raise locked()
        async with claim.held():
            yield claim

    # -- the end -------------------------------------------------------------------------------------------------

    async def _finish(self, caller: Claims, claim: Claim, request_id: str | None) -> None:
        """Commits an upload whose bytes have all come, once. Raises as `Upload.commit`; infected content ends it."""
        if claim.answer is not None:
            return
        declared = claim.declared
        with claim.working():
            pieces = await _pieces(self._database, claim.upload_id)
            gathered = self._store.gathered(claim.upload_id, pieces)
            known = self._hashes.take(claim)
            sha256 = await (_hashed(gathered) if known is None else known.hexdigest())
            try:
                async with await self._uploads.whole(gathered, sha256, claim.reservation) as upload:
                    key = f"upload {claim.upload_id}"
                    uploaded = await _committed(upload, caller, declared, key, request_id)
            except Refused as refused:
                if refused.code == "infected":
                    await self._end(claim)
                raise
            claim.answer = vars(uploaded)
            await self._database.call(_ANSWER, (json.dumps(claim.answer), claim.upload_id))
            with contextlib.suppress(Unavailable):  # the sweep of staging removes what is left
                await gathered.discard()
                await self._database.call(_FORGET_PIECES, (claim.upload_id,))

    async def _end(self, claim: Claim) -> None:
        with claim.working():
            await claim.begin_end()
            await _remove(self._database, self._store, claim.upload_id)


class Receiving:
    """One request's bytes."""

    def __init__(
        self,
        resumables: Resumables,
        caller: Claims,
        claim: Claim,
        limit: int,
        checksum: Checksum | None,
        request_id: str | None,
    ) -> None:
        self._resumables = resumables
        self._caller = caller
        self._claim = claim
        self._limit = limit
        self._checksum = checksum
        self._request_id = request_id
        self._whole = resumables._hashes.take(claim)
        self._hashing = self._whole or TrailingHash()
        self._hashing.beside = None if checksum is None else hashlib.new(checksum.algorithm, usedforsecurity=False)
        self._size = claim.received
        last = claim.last
        self._append = resumables._store.append(claim.upload_id, claim.pieces, last, at_most=limit)
        self._uncertain = False
        """Whether bytes may have been recorded, although no answer said so."""
        self._failed = False
        """Whether the store or the database failed: what came since the last record is not kept."""

    async def write(self, chunk: bytes) -> None:
        """The next bytes. Raises Refused `file_too_large`, `quota_exceeded`, `upload_locked`."""
        await self._make_room(len(chunk))
        with self._adding():
            await self._hashing.update(chunk)
            await self._append.write(chunk)
            await self._added(len(chunk))

    async def take(self, source: BodySource) -> None:
        """As `write`, for the bytes that `source` has at hand: the store reads, hashes and writes them in a thread."""
        await self._make_room(source.left)
        taken = 1
        while taken and source.left:
            with self._adding():
                taken = await self._append.take(source, self._hashing)
                await self._added(taken)

    async def _make_room(self, more: int) -> None:
        if self._size + more > self._limit:
            raise _beyond(self._limit)
        self._claim.touch()
        if self._size + more > self._claim.reservation.bytes:
            await self._reserve(self._size + more)

    @contextlib.contextmanager
    def _adding(self) -> Iterator[None]:
        try:
            with self._claim.working():
                yield
        except BaseException:
            self._failed = True
            raise

    async def _added(self, more: int) -> None:
        self._size += more
        if self._append.is_due and self._checksum is None:
            await self._keep()

    async def end(self) -> Progress:
        """All bytes of the request have come: makes them count. With the last byte of the upload it is committed.

        Raises Refused `checksum_mismatch`, and as `Upload.commit`.
        """
        if self._checksum is not None and await self._is_wrong(self._checksum):
            self._failed = True
            raise Refused(
                "checksum_mismatch",
                "The bytes that arrived do not have this checksum, and do not count. Send them again.",
                offset=self._claim.received,
            )
        await self._keep_all()
        await self.close()  # the pieces have to be unlocked to get their key
        claim = self._claim
        if claim.received == claim.length and not claim.is_partial:
            await self._resumables._finish(self._caller, claim, self._request_id)
        return _progress(claim, claim.declared.text)

    async def _is_wrong(self, checksum: Checksum) -> bool:
        await self._hashing.settle()
        found = self._hashing.beside
        return found is not None and found.digest() != checksum.digest

    async def keep_what_came(self) -> None:
        """After an error of the request: its bytes before that count, unless their checksum is not known."""
        if not self._failed and self._checksum is None:
            with contextlib.suppress(Unavailable, Refused):
                await self._keep_all()

    async def close(self) -> None:
        with contextlib.suppress(Unavailable):
            await self._append.close(leave=self._uncertain)

    async def _reserve(self, wanted: int) -> None:
        """For an upload of unknown length: reserves some more than has come, if there is room."""
        ahead = min(self._limit, wanted + _RESERVED_AHEAD)
        try:
            await self._claim.reservation.grow_to(ahead if self._claim.length is None else self._claim.length)
        except Refused:
            await self._claim.reservation.grow_to(wanted)

    async def _keep_all(self) -> None:
        with self._claim.working():
            try:
                await self._keep(to_the_end=True)
            except BaseException:
                self._failed = True
                raise
        if self._whole is not None and self._size == self._claim.received:
            self._resumables._hashes.put(self._claim, self._whole)

    async def _keep(self, *, to_the_end: bool = False) -> None:
        durable = await self._append.durable(to_the_end=to_the_end)
        if not durable.pieces:
            return
        self._uncertain = True
        await self._claim.keep(durable, self._resumables._lifetime, is_last=to_the_end)
        self._uncertain = False
        await self._append.kept()


class _Hashes:
    """The SHA-256 so far of uploads whose bytes have all come to this process. Each is taken once, at its offset.

    And for its last piece: a crash of the database may take back bytes, and others come in their place elsewhere.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, Piece | None, TrailingHash]] = OrderedDict()

    def put(self, claim: Claim, so_far: TrailingHash) -> None:
        self._kept[claim.upload_id] = claim.received, claim.last, so_far
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)

    def take(self, claim: Claim) -> TrailingHash | None:
        """None if bytes came elsewhere."""
        received, last, so_far = self._kept.pop(claim.upload_id, (0, None, TrailingHash(hashlib.sha256())))
        return so_far if (received, last) == (claim.received, claim.last) else None


async def expire(library: Library) -> int:
    """For the sweep: ends the uploads that have expired, and those whose end was interrupted. Returns how many."""
    ended, after = 0, ""
    while rows := await library.database.call(_ENDED, (after,)):
        for row in rows:
            with contextlib.suppress(Refused):  # somebody has taken it up
                await _expire(library, row.upload_id)
                ended += 1
        after = rows[-1].upload_id
    return ended


async def settle(database: Database) -> None:
    """For the sweep: notes in the rows what killed processes did not.

    Answers: their Idempotency-Keys are forgotten after a day, and an upload may stay for longer. Reservations, however
    full the tenant is: the bytes are in staging.
    """
    await database.call(_NOTE_ANSWERS, ())
    while (await database.call(_RESERVE_AGAIN, (RESERVED_LONGER,)))[0].n:
        pass


async def alive(database: Database) -> set[str]:
    """The names in staging of uploads under way."""
    return {row.upload_id for row in await database.call(_ALIVE, ())}


async def _expire(library: Library, upload_id: str) -> None:
    marked = await library.database.call(_EXPIRE, (upload_id,))
    if not marked:
        return
    await _remove(library.database, library.store, upload_id)


async def _remove(database: Database, store: ObjectStore, upload_id: str) -> None:
    """Removes the pieces, the reservation and the row, in this order: while there are pieces, a row leads to them.

    The reservation by its name: a sweep may have made it after the row was read.
    """
    if pieces := await _pieces(database, upload_id):
        await store.gathered(upload_id, pieces).discard()
    await database.call("SELECT content_release(%s)", (upload_id,))
    await database.call(_FORGET, (upload_id,))


async def _pieces(database: Database, upload_id: str) -> list[Piece]:
    return [Piece(row.name, row.size) for row in await database.call(_PIECES, (upload_id,))]


async def _hashed(gathered: GatheredObject) -> str:
    digest = hashlib.sha256()
    async with aclosing(gathered.stream()) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(digest.update, chunk)
    return digest.hexdigest()


def _key_of(parts: Sequence[str]) -> str:
    """The key of a final upload that came without one: when its answer was lost, a repetition makes no second file."""
    return f"final upload {hashlib.sha256(' '.join(parts).encode()).hexdigest()}"


def _progress(at: Any, declared: str) -> Progress:
    """`at`: a row of `_READ`, or a claim."""
    uploaded = None if at.answer is None else Uploaded(**at.answer)
    return Progress(at.upload_id, at.received, at.length, declared, at.concat, at.expires_at, uploaded)


def _another_offset(received: int, offset: int) -> Refused:
    return Refused(
        "offset_mismatch",
        f"This upload has {received:,} bytes; send what follows them, not from {offset:,} on.",
        offset=received,
    )


def _expired() -> Refused:
    return Refused("upload_expired", "This upload has expired, and its bytes are gone. Begin a new one.")


async def _committed(
    upload: Upload, caller: Claims, declared: Declared, idempotency_key: str, request_id: str | None
) -> Uploaded:
    return await upload.commit(
        caller=caller,
        filename=declared.filename,
        claimed_type=declared.claimed_type,
        tenant_scope=declared.tenant_scope,
        room_id=declared.room_id,
        idempotency_key=idempotency_key,
        request_id=request_id,
    )


def _beyond(length: int) -> Refused:
    return Refused(
        "file_too_large", f"More bytes come than the {length:,} that this upload was announced with.", limit=length
    )
