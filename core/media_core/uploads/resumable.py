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
   sweep has made them again (`expiry.settle`), or until it is repeated.
4. `commit` takes the upload's id as Idempotency-Key. So an upload whose process was killed between the commit and the
   note in the row gets the same answer when it is committed again. Where a failover has lost the commit, its answer is
   not noted, and no piece is forgotten.
5. An Idempotency-Key is taken by the statement that makes the row, and its answer names the upload. Where that upload
   is gone, a new one takes its place: one alone, since it names the one that it takes the place of.
6. Lock order: idempotency -> upload -> upload_piece -> reservation -> usage. No statement locks an upload and a
   content.
"""

import asyncio
import contextlib
import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Literal

from media_core.auth.tokens import Claims
from media_core.errors import Refused, Unavailable
from media_core.ids import new_upload_id
from media_core.items.access import require_room
from media_core.policy import Policy
from media_core.store import BodySource, GatheredObject, Piece, PieceGone
from media_core.store.trailing_hash import TrailingHash
from media_core.uploads.claims import Claim, Declared, shielded
from media_core.uploads.rows import REMEMBERED, Once, Progress, Rows, commit_lost, progress_of, whole
from media_core.uploads.upload import CONNECTION_BYTES, Uploads, another_digest, too_large

MOST_OPEN: Final = 1000
"""Uploads that one person may have under way."""
_RESERVED_AHEAD: Final = 16 * 1024 * 1024
ALGORITHMS: Final = ("sha1", "sha256", "md5")
"""Of Upload-Checksum; tus asks for sha1."""
Algorithm = Literal["sha1", "sha256", "md5"]

_COUNT: Final = "SELECT count(*) AS n FROM upload WHERE owner = %s AND answer IS NULL AND expires_at > now()"
# Both find nothing at a server that has lost the statement before in a failover. Then the bytes are still needed.
_ANSWER: Final = """
UPDATE upload SET answer = %s WHERE upload_id = %s
    AND EXISTS (SELECT FROM idempotency WHERE subject = owner AND key = 'upload ' || upload_id)
RETURNING 1
"""
_FORGET_PIECES: Final = """
DELETE FROM upload_piece USING upload
WHERE upload_piece.upload_id = upload.upload_id AND answer IS NOT NULL AND upload.upload_id = %s
"""


@dataclass(frozen=True)
class Checksum:
    """The digest that a client sent of the bytes of one request: tus's, or that of `Content-Digest` (RFC 9530)."""

    algorithm: Algorithm
    digest: bytes
    is_content_digest: bool = False


class Resumables:
    """One tenant's uploads in several requests. `lifetime`: from the last bytes on.

    Every method that takes an id raises Refused `not_found` for what is not the caller's, and `upload_expired`.
    """

    def __init__(self, uploads: Uploads, *, lifetime: timedelta) -> None:
        self.uploads = uploads
        self.rows = Rows(uploads, lifetime)
        self.hashes = _Hashes()
        self._database = uploads.database
        self._store = uploads.store

    async def create(
        self,
        caller: Claims,
        declared: Declared,
        length: int | None,
        *,
        partial: bool = False,
        digest: str | None = None,
        idempotency_key: str | None = None,
    ) -> Progress:
        """Begins an upload of `length` bytes; None: the client tells it later. `digest`: the file's sha256 in hex,
        compared when the upload ends. The same `idempotency_key` again within 24 hours gives the same upload, as long
        as it is there.

        Raises Refused `file_too_large`, `empty_file`, `quota_exceeded`, `file_quota_exceeded`, `not_found` (a room
        that the caller's token does not name), `too_many_uploads`, `idempotency_key_reused`.
        """
        policy = await self.uploads.policy.current()
        checked(caller, declared, length, policy)
        once = None
        if idempotency_key is not None:
            said = (declared.filename, declared.claimed_type, declared.tenant_scope, declared.room_id, declared.text)
            request = ["upload in several requests", *said, length, partial, digest]  # `text` has the labels, too
            once = Once(idempotency_key, json.dumps(request))
            if (earlier := await self.rows.earlier(caller, once)) is not None:
                try:
                    return await self.settled(caller, earlier)
                except Refused as refused:
                    if refused.code not in {"not_found", "upload_expired"}:
                        raise
                once = replace(once, gone=earlier)
        (open_now,) = await self._database.call(_COUNT, (caller.subject,))
        if open_now.n >= MOST_OPEN:
            raise Refused(
                "too_many_uploads",
                f"You have {MOST_OPEN} uploads under way. Go on with one, or delete one.",
                limit=MOST_OPEN,
                retry_after=60,
            )
        upload_id = new_upload_id()
        async with self.uploads.contents.reservation(upload_id) as reservation:
            await reservation.grow_to(length or 0)
            concat = "partial" if partial else None
            if await self.rows.insert(upload_id, caller, declared, length, concat=concat, digest=digest, once=once):
                reservation.ended()  # from here on it ends with the upload
                return await self.find(caller, upload_id)
        # A request with the same key has begun one at the same time.
        return await self.create(
            caller, declared, length, partial=partial, digest=digest, idempotency_key=idempotency_key
        )

    async def find(self, caller: Claims, upload_id: str) -> Progress:
        return await self.rows.progress(caller, upload_id)

    async def settled(self, caller: Claims, upload_id: str, *, patience: float = 0) -> Progress:
        """As `find`. Bytes that have all come and are not committed, since that failed, are committed now: a client
        takes a whole upload for a finished one.

        `patience`: in seconds. A request that still adds to the upload is waited for, and adds nothing later.
        """
        row = await self.rows.read(caller, upload_id)
        is_due = row.received == row.length and row.answer is None and row.concat is None
        if is_due or patience:
            async with self.rows.claimed(caller, upload_id, patience=patience) as claim:
                if claim.received == claim.length and claim.concat is None:
                    try:
                        await self.finish(caller, claim)
                    except PieceGone as gone:
                        await shielded(self.rows.go_back(claim, gone))
            return await self.rows.progress(caller, upload_id)
        return progress_of(row, row.declared)

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
        digest: str | None = None,
        patience: float = 0,
    ) -> AsyncIterator["Receiving"]:
        """Takes bytes from `offset` on: `write` them in order, then `end`. What came before an error is kept, unless
        there is a `checksum` of all of it.

        `length`: of the whole upload, if it is told only now; `announced`: how many bytes come, if that is known.
        `digest`: the file's sha256 in hex, compared if the upload ends with these bytes.
        Raises Refused `upload_locked` (another request adds to it, also after `patience` seconds), `offset_mismatch`,
        `file_too_large`, `quota_exceeded`, `file_quota_exceeded`, `upload_final`, `bad_request`. Where it is about
        another length than was announced, its facts have the `length`.
        """
        async with self.rows.claimed(caller, upload_id, at=offset, patience=patience) as claim:
            if claim.concat is not None and not claim.is_partial:
                raise Refused("upload_final", "A final upload is made of others; it takes no bytes itself.")
            policy = await self.uploads.policy.current()
            at_most = claim.length or policy.max_upload_bytes
            with self.uploads.capacity.held(CONNECTION_BYTES + self._store.memory_of_append(at_most)):
                if claim.received != offset:
                    raise _another_offset(claim.received, offset)
                await self._declare_length(caller, claim, length, policy)
                limit = policy.max_upload_bytes if claim.length is None else claim.length
                if announced is not None and offset + announced > limit:
                    raise _beyond(limit) if claim.length is not None else too_large(policy)
                receiving = Receiving(self, caller, claim, limit, checksum, digest)
                try:
                    yield receiving
                except PieceGone as gone:
                    await shielded(self.rows.go_back(claim, gone))
                    raise _another_offset(claim.received, offset) from None
                except Exception:
                    await shielded(receiving.keep_what_came())
                    raise
                finally:
                    await shielded(receiving.close())

    async def terminate(self, caller: Claims, upload_id: str, *, patience: float = 0) -> None:
        """Removes an upload. A file that has been stored stays; `Library.delete` deletes it."""
        async with self.rows.claimed(caller, upload_id, patience=patience) as claim:
            await self.rows.end(claim)

    async def invalidate(self, caller: Claims, upload_id: str) -> None:
        """Removes an upload to which more bytes came than its length. One that is stored stays as it is."""
        async with self.rows.claimed(caller, upload_id) as claim:
            if claim.answer is None:
                await self.rows.end(claim)

    async def _declare_length(self, caller: Claims, claim: Claim, length: int | None, policy: Policy) -> None:
        if length is None or length == claim.length:
            return
        if claim.length is not None:
            raise Refused("bad_request", "The length of an upload is told once.", length=claim.length)
        if length < claim.received:
            raise Refused("bad_request", f"This upload has {claim.received:,} bytes already.")
        checked(caller, claim.declared, length, policy)
        await claim.reservation.grow_to(length)
        await claim.set_length(length)

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(self, caller: Claims, claim: Claim, *, digest: str | None = None) -> None:
        """Commits an upload whose bytes have all come, once. Raises as `Upload.commit`, and Refused `digest_mismatch`
        where they have another than this `digest`, or than the upload was begun with. That ends the upload, and so does
        infected content.
        """
        if claim.answer is not None:
            return
        with claim.working():
            pieces, announced, labels = await whole(self._database, claim.upload_id, claim.length)
            gathered = self._store.gathered(claim.upload_id, pieces)
            known = self.hashes.take(claim)
            sha256 = await (_hashed(gathered) if known is None else known.hexdigest())
            for said in (announced, digest):
                if said is not None and said != sha256:
                    await self.rows.end(claim)
                    raise another_digest(sha256, said)
            try:
                async with await self.uploads.whole(gathered, sha256, claim.reservation) as upload:
                    key, declared = f"upload {claim.upload_id}", replace(claim.declared, labels=labels)
                    uploaded = await upload.commit(caller, declared, idempotency_key=key)
            except Refused as refused:
                if refused.code == "infected":
                    await self.rows.end(claim)
                raise
            if not await self._database.call(_ANSWER, (json.dumps(vars(uploaded)), claim.upload_id)):
                raise commit_lost()
            claim.answer = vars(uploaded)
            with contextlib.suppress(Unavailable):  # the sweep of staging removes what is left
                await gathered.discard()
                await self._database.call(_FORGET_PIECES, (claim.upload_id,))


class Receiving:
    """One request's bytes."""

    def __init__(
        self,
        resumables: Resumables,
        caller: Claims,
        claim: Claim,
        limit: int,
        checksum: Checksum | None,
        digest: str | None,
    ) -> None:
        self._resumables = resumables
        self._caller = caller
        self._claim = claim
        self._limit = limit
        self._checksum = checksum
        self._digest = digest
        self._whole = resumables.hashes.take(claim)
        self._hashing = self._whole or TrailingHash()
        self._hashing.beside = None if checksum is None else hashlib.new(checksum.algorithm, usedforsecurity=False)
        self._size = claim.received
        last = claim.last
        self._append = resumables.uploads.store.append(claim.upload_id, claim.pieces, last, at_most=limit)
        self._uncertain = False
        """Whether bytes may have been recorded, although no answer said so."""
        self._failed = False
        """Whether the store or the database failed: what came since the last record is not kept."""

    async def write(self, chunk: bytes) -> None:
        """The next bytes. Raises Refused `file_too_large`, `quota_exceeded`, `file_quota_exceeded`, `upload_locked`."""
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

    async def pause(self) -> None:
        """Nothing comes for a while: what came counts, since its client may have lost the connection, and go on over
        another one. It does not prolong the claim, which that one waits for.
        """
        if self._checksum is not None or self._size == self._claim.received:
            return
        await self._keep_all(is_last=False)
        await self.close()
        claim = self._claim
        self._append = self._resumables.uploads.store.append(
            claim.upload_id, claim.pieces, claim.last, at_most=self._limit
        )

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

        Raises Refused `checksum_mismatch`, `digest_mismatch`, and as `Upload.commit`.
        """
        if self._checksum is not None and await self._is_wrong(self._checksum):
            self._failed = True
            said = "The bytes that arrived do not have this checksum, and do not count. Send them again."
            if self._checksum.is_content_digest:
                raise Refused("digest_mismatch", said, offset=self._claim.received)
            raise Refused("checksum_mismatch", said, offset=self._claim.received)
        await self._keep_to_the_end()
        await self.close()  # the pieces have to be unlocked to get their key
        claim = self._claim
        if claim.received == claim.length and not claim.is_partial:
            await self._resumables.finish(self._caller, claim, digest=self._digest)
        return progress_of(claim, claim.declared.text)

    async def _is_wrong(self, checksum: Checksum) -> bool:
        await self._hashing.settle()
        found = self._hashing.beside
        return found is not None and found.digest() != checksum.digest

    async def keep_what_came(self) -> None:
        """After an error of the request: its bytes before that count, unless their checksum is not known."""
        if not self._failed and self._checksum is None:
            with contextlib.suppress(Unavailable, Refused):
                await self._keep_to_the_end()

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

    async def _keep_to_the_end(self) -> None:
        with self._claim.working():
            await self._keep_all(is_last=True)
        if self._whole is not None and self._size == self._claim.received:
            self._resumables.hashes.put(self._claim, self._whole)

    async def _keep_all(self, *, is_last: bool) -> None:
        try:
            await self._keep(to_the_end=True, is_last=is_last)
        except BaseException:
            self._failed = True
            raise

    async def _keep(self, *, to_the_end: bool = False, is_last: bool = False) -> None:
        durable = await self._append.durable(to_the_end=to_the_end)
        if not durable.pieces:
            return
        self._uncertain = True
        try:
            await self._claim.keep(durable, self._resumables.rows.lifetime, is_last=is_last)
        except Refused:
            self._uncertain = False
            raise
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


async def _hashed(gathered: GatheredObject) -> str:
    digest = hashlib.sha256()
    async with aclosing(gathered.stream()) as chunks:
        async for chunk in chunks:
            await asyncio.to_thread(digest.update, chunk)
    return digest.hexdigest()


def _another_offset(received: int, offset: int) -> Refused:
    return Refused(
        "offset_mismatch",
        f"This upload has {received:,} bytes; send what follows them, not from {offset:,} on.",
        offset=received,
    )


def checked(caller: Claims, declared: Declared, length: int | None, policy: Policy) -> None:
    """Raises Refused `empty_file`, `file_too_large`, `not_found`."""
    if length == 0:
        raise Refused("empty_file", "The file is empty; send at least one byte.")
    if length is not None and length > policy.max_upload_bytes:
        raise too_large(policy)
    require_room(caller, declared.room_id)


def _beyond(length: int) -> Refused:
    return Refused(
        "file_too_large",
        f"More bytes come than the {length:,} that this upload was announced with.",
        limit=length,
        length=length,
    )
