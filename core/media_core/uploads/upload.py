"""One upload, from the first byte to the committed row.

    read: hash + buffer (7.5 MiB) or staging object  ->  reserve  ->  sniff, thumbnail  ->  put  ->  commit  ->  answer

No connection and no transaction is held while bytes come in, are decoded or are put; `contents.life` has the rules that
allow this. Content that is stored already is neither decoded nor put: its upload needs only the first statement. An
upload that ends before its commit leaves no row and no reservation. It may leave an object without a row, an orphan:
another upload of the same bytes uses it, or the sweep notes it.
"""

import asyncio
import contextlib
import hashlib
import json
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Literal, Self

import structlog

from media_core.auth.tokens import Claims
from media_core.contents.life import Again, Contents, Facts, Infected, KeyReused, NewItem, NoMoreFiles, Reservation
from media_core.contents.quota import MIB, files_exceeded
from media_core.database import Database
from media_core.decoding import BytesSource, Source
from media_core.errors import Lost, NotNow, Refused, Unavailable
from media_core.examination.examiner import Examined, Examiner
from media_core.ids import new_media_id, new_ulid
from media_core.items.access import require_room
from media_core.policy import Policy, PolicyReader
from media_core.store import BodySource, ObjectStore, StagedObject
from media_core.store.base import pass_on, to_its_end
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.store.trailing_hash import TrailingHash
from media_core.uploads.buffer import SMALL_BYTES, STEP_BYTES, Buffer
from media_core.uploads.capacity import Capacity, of_this_container
from media_core.uploads.claims import Declared

BUFFER_BYTES = 8 * MIB - MIB // 2
"""Up to this size a file is kept in memory and put in one request. A larger one streams to a staging object, from its
first byte on if the request announces its size. With `CONNECTION_BYTES` an upload takes up to 8 MiB of memory."""
HASHES_BEHIND = 2
"""Buffers of a MiB that wait to be hashed while a thread reads the body of a large upload."""
STREAMING_BYTES = (HASHES_BEHIND + 2) * MIB
"""Memory of a large upload beside its connection and its store: those buffers, and the one that is read and parsed."""
FORM_OVERHEAD_BYTES = 64 * 1024
"""How much of a request's Content-Length may be form fields and boundaries, not file."""
SNIFF_BYTES = 16 * 1024
CONNECTION_BYTES = MIB // 2
"""Memory of a connection beside its upload's buffer: a read of 256 KiB, and the rest of the previous read."""
REMOVAL_WAITS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds between tries while the content is being removed."""
LOOK_SECONDS = 1.0
"""How long an upload of known bytes waits for the store to say that it has them. A store that is away or slow does not
keep them from being taken."""

CANARY_PRIORITY = 10
"""Before all other jobs: so a late verdict means a slow scanner, not a backlog of the tenant."""

_log = structlog.stdlib.get_logger("media.uploads")

_KNOWN: Final = "SELECT scan_status, doomed_at, lost_at, size FROM blob WHERE sha256 = %(sha256)s"


@dataclass(frozen=True)
class Uploaded:
    """The published answer. `size` in bytes, `width` and `height` in pixels; `thumbnail_id`: None if there is none."""

    media_id: str
    sha256: str
    size: int
    mime_type: str
    thumbnail_id: str | None
    width: int | None
    height: int | None
    scan_status: str


class Uploads:
    """Uploads into one tenant."""

    def __init__(
        self,
        *,
        tenant_id: str,
        database: Database,
        store: ObjectStore,
        examiner: Examiner,
        policy: PolicyReader,
        canary: bool = False,
        capacity: Capacity | None = None,
    ) -> None:
        """`canary`: uploads ignore the quota, and their scans go first and belong to the uploading subject.

        `capacity`: the memory for all uploads; by default the container's share for them.
        """
        self.tenant_id = tenant_id
        self.database = database
        self.store = store
        self.examiner = examiner
        self.policy = policy
        self.canary = canary
        self.contents = Contents(tenant_id=tenant_id, database=database, store=store)
        self.capacity = capacity or Capacity(of_this_container())

    async def start(
        self, *, announced: int | None = None, digest: str | None = None, reservation: Reservation | None = None
    ) -> "Upload":
        """Begins an upload. `announced`: the request's Content-Length, None if unknown. `digest`: the file's sha256 in
        hex, if the client sent one. `reservation`: what it has reserved already; by default nothing.

        Raises Refused `file_too_large` if the announced size is too large. Use the result as a context manager. It
        takes the memory that the upload needs, and raises Unavailable if there is too little.
        """
        policy = await self.policy.current()
        at_least = 0 if announced is None else max(0, announced - FORM_OVERHEAD_BYTES)
        if at_least > policy.max_upload_bytes:
            raise too_large(policy)
        at_most = policy.max_upload_bytes if announced is None else min(announced, policy.max_upload_bytes)
        return Upload(self, policy, at_least, at_most, digest, reservation)

    async def whole(self, staged: StagedObject, sha256: str, reservation: Reservation) -> "Upload":
        """An upload whose bytes have all come already. It can be committed, and again if that failed.

        `sha256`: of `staged`, in hex. Leaving the context without a commit undoes nothing: `staged` and the reservation
        stay with whoever made them.
        """
        return Upload(self, await self.policy.current(), staged.size, staged.size, sha256, reservation, whole=staged)


class Upload:
    """`write` the file's bytes in order, then `commit`. Leaving the context without a commit undoes the upload."""

    def __init__(
        self,
        uploads: Uploads,
        policy: Policy,
        at_least: int,
        at_most: int,
        digest: str | None,
        reservation: Reservation | None = None,
        *,
        whole: StagedObject | None = None,
    ) -> None:
        self._uploads = uploads
        self._policy = policy
        self._at_least = at_least
        self._at_most = at_most
        self._digest = digest
        self._hash = hashlib.sha256()
        self._buffer = Buffer(BUFFER_BYTES if at_most > SMALL_BYTES else SMALL_BYTES)
        self._head = b""
        self._staged = whole
        self._is_whole = whole is not None
        self._known_by_digest = False
        self._reservation = reservation or uploads.contents.reservation(over_quota=uploads.canary)
        self._held = contextlib.ExitStack()
        self._orphan: str | None = None
        """The hash of an object that was put and has no row yet. It is removed if the upload ends like this."""
        self.size = 0 if whole is None else whole.size
        self.replayed = False
        """Whether `commit` gave the answer of an earlier request with the same Idempotency-Key."""

    async def __aenter__(self) -> Self:
        self._held.enter_context(self._uploads.capacity.held(self._memory()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._buffer = Buffer(0)
        with self._held:
            undone = self._staged is not None or self._reservation.is_open
            if (undone and not self._is_whole) or self._orphan is not None:
                # Shielded: when the server ends it cancels the request, and the clean-up must still finish.
                await asyncio.shield(asyncio.ensure_future(self._clean_up()))

    async def _clean_up(self) -> None:
        if not self._is_whole:
            await self._undo()
        try:
            if self._orphan is not None:
                await self._uploads.contents.remove_orphan(self._orphan)  # a no-op if another upload has stored it
        except Unavailable as error:
            _log.warning("object_left_to_the_sweep", detail=error.detail)

    async def _undo(self) -> None:
        try:
            if self._staged is not None:
                await self._staged.discard()
        except Unavailable as error:
            _log.warning("staging_left_to_the_sweep", detail=error.detail)
        finally:
            try:
                await self._reservation.release()
            except Unavailable as error:
                _log.warning("reservation_left_to_expire", detail=error.detail)

    def _memory(self) -> int:
        """Most bytes of memory that this upload takes, its connection's buffers included."""
        if self._is_whole:
            return 0  # no byte of it passes through here
        gathered = STREAMING_BYTES if self._at_least > BUFFER_BYTES else min(BUFFER_BYTES, self._at_most)
        staging = self._uploads.store.memory_of(self._at_most) if self._at_most > BUFFER_BYTES else 0
        return CONNECTION_BYTES + gathered + staging

    async def write(self, chunk: bytes) -> None:
        """Takes the file's next bytes. Raises Refused `file_too_large`, `quota_exceeded`, `file_quota_exceeded` as soon
        as that is certain.
        """
        self.size += len(chunk)
        if self.size > self._policy.max_upload_bytes:
            raise too_large(self._policy)
        if not self._streaming and max(self.size, self._at_least) > BUFFER_BYTES:
            await self._start_streaming()
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._buffer.take(rest) :]
            if self._streaming:
                if self._buffer.full:
                    await self._step()
            elif rest:  # more than was announced
                await self._start_streaming()
            elif self._buffer.unhashed >= STEP_BYTES:
                await asyncio.to_thread(self._buffer.hash_into, self._hash)

    async def take(self, source: BodySource) -> None:
        """As `write`, for what `source` has at hand: a thread reads, hashes and stages it.

        It leaves bytes in the source that only `write` can judge: the first ones, of which the type is read, and those
        beyond the buffer, or beyond what is reserved or allowed.
        """
        if self.size < SNIFF_BYTES:
            return
        if not self._streaming:
            room = self._policy.max_upload_bytes - self.size
            self.size += await to_its_end(asyncio.to_thread(self._buffer.fill, source, room, self._hash))
            return
        if self._buffer.size:
            await self._step()
        hashing = TrailingHash(self._hash, most_behind=HASHES_BEHIND)
        taken = 1
        try:
            while taken and source.left and (room := self._room()) > 0:
                if self._staged is None:
                    taken = await to_its_end(asyncio.to_thread(pass_on, source, hashing, min(room, BUFFER_BYTES)))
                else:
                    taken = await self._staged.take(source, hashing, room)
                self.size += taken
                await self._reservation.extend()
        finally:
            await hashing.settle()

    def expect(self, digest: str) -> None:
        """The file's sha256 in hex, for a client that has not sent it before: `commit` compares it.

        Raises Refused `digest_mismatch` where the client sent another one before.
        """
        if self._digest not in (None, digest):
            raise digests_differ()
        self._digest = digest

    def _room(self) -> int:
        """How many bytes may come before a limit has to be looked at."""
        room = self._policy.max_upload_bytes - self.size
        return room if self._known_by_digest else min(room, self._reservation.bytes - self.size)

    async def commit(
        self,
        caller: Claims,
        declared: Declared,
        *,
        idempotency_key: str | None = None,
        operation: Literal["upload", "transcribe"] = "upload",
    ) -> Uploaded:
        """Stores what was written. `operation`: the request's kind, for the fingerprint of its Idempotency-Key.

        Raises Refused `empty_file`, `digest_mismatch`, `infected` (known to be), `quota_exceeded`,
        `file_quota_exceeded`, `not_found` (a room that the caller's token does not name), `idempotency_key_reused`.
        """
        require_room(caller, declared.room_id)
        if self.size == 0:
            raise Refused("empty_file", "The file is empty; send at least one byte.")
        sha256 = await self._sha256()
        said = [operation, sha256, declared.filename, declared.tenant_scope, declared.room_id]
        if declared.labels:  # without labels it is what earlier releases stored, so that their keys stay valid
            said.append(sorted(declared.labels.items()))
        item = NewItem(
            media_id=new_media_id(),
            filename=declared.filename,
            claimed_type=declared.claimed_type,
            subject=caller.subject,
            tenant_scope=declared.tenant_scope,
            room_id=declared.room_id,
            key=idempotency_key or None,
            fingerprint=json.dumps(said),
            labels=declared.labels,
        )
        try:
            return await self._keep(sha256, item)
        except Infected:
            raise Refused("infected", "This content was found infected before and is not accepted.") from None
        except NoMoreFiles:
            raise files_exceeded(await self._uploads.contents.usage()) from None
        except KeyReused:
            raise key_reused() from None

    async def _sha256(self) -> str:
        """Of all bytes. Raises Refused `digest_mismatch`."""
        if self._is_whole and self._digest is not None:
            return self._digest
        if self._streaming:
            await self._step()
        else:
            self._buffer.hash_into(self._hash)
        sha256 = self._hash.hexdigest()
        if self._digest is not None and sha256 != self._digest:
            raise another_digest(sha256, self._digest)
        return sha256

    async def _keep(self, sha256: str, item: NewItem) -> Uploaded:
        """Reserve, put, commit; again where the same bytes were being removed."""
        examined: Examined | None = None
        for wait in REMOVAL_WAITS:
            try:
                begun = await self._reservation.begin(sha256, self.size, item)
                if begun.answer is not None:
                    self._orphan = None
                    self.replayed = begun.state == "replayed"
                    await self._put_if_lost(sha256)
                    return Uploaded(**begun.answer)
                if begun.state == "removing":
                    await asyncio.sleep(wait)
                    continue
                if self._known_by_digest:
                    raise _deleted_meanwhile()
                examined = await self._placed(sha256, item, examined)
                return await self._committed(sha256, item, examined.facts)
            except Again:
                continue
            except Unavailable:
                self._orphan = None  # the commit may have succeeded, and only its answer was lost
                raise
        raise NotNow("object store", "the same content is being removed")

    async def _placed(self, sha256: str, item: NewItem, examined: Examined | None) -> Examined:
        """Puts the bytes and their thumbnail under their keys. `examined`: by an earlier try."""
        async with self._reservation.extended():
            if examined is None:
                examined = await self._examined(item)
            elif examined.thumbnail is not None:
                await self._reservation.grow_to(self.size + len(examined.thumbnail), sha256)
            await self._put(sha256, examined)
        return examined

    async def _committed(self, sha256: str, item: NewItem, facts: Facts) -> Uploaded:
        self._orphan = sha256
        canary = self._uploads.canary
        committed = await self._uploads.contents.commit(
            self._reservation,
            sha256,
            facts,
            item,
            scan_owner=item.subject if canary else None,
            scan_priority=CANARY_PRIORITY if canary else 0,
        )
        self._orphan = None
        self.replayed = committed.replayed
        return Uploaded(**committed.answer)

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def _streaming(self) -> bool:
        return self._staged is not None or self._known_by_digest

    async def _start_streaming(self) -> None:
        """For a file that is larger than the buffer: from here on it goes to staging in steps."""
        buffered, self._buffer = self._buffer, Buffer(STEP_BYTES)
        buffered.hash_into(self._hash)
        self._head = bytes(buffered.view()[:SNIFF_BYTES])
        stored = None if self._digest is None else await self._stored(self._digest)
        if stored == "kept":
            # The bytes must still be sent (knowing a hash grants nothing), but need not be stored a second time. They
            # are reserved if there is room: otherwise the usage would show which contents are stored already.
            self._known_by_digest = True
            with contextlib.suppress(Refused):
                await self._reservation.grow_to(max(self._at_least, self.size))
            return
        if stored == "lost":
            self._reservation.over_quota = True  # its bytes are counted already
        # The reservation keeps an object with the announced digest from being removed. Its final key is known, so
        # nothing has to be copied.
        await self._reservation.grow_to(max(self._at_least, self.size), self._digest)
        key = None if self._digest is None else content_key(self._uploads.tenant_id, self._digest)
        self._staged = await self._uploads.store.stage(new_ulid(), at_most=self._at_most, key=key)
        for start in range(0, buffered.size, STEP_BYTES):
            await self._staged.write(buffered.view()[start : start + STEP_BYTES])

    async def _step(self) -> None:
        """Hashes and stages the buffer. Both happen at the same time, outside the event loop's thread."""
        chunk = self._buffer.view()
        self._head = self._head or bytes(chunk[:SNIFF_BYTES])
        if self._staged is None:
            await asyncio.to_thread(self._hash.update, chunk)
        else:
            if self.size > self._reservation.bytes:
                await self._reserve_ahead()
            else:
                await self._reservation.extend()
            await asyncio.gather(asyncio.to_thread(self._hash.update, chunk), self._staged.write(chunk))
        self._buffer.clear()

    async def _reserve_ahead(self) -> None:
        """For a body of unknown size: reserves a buffer's worth more, or only what has come if the quota is short."""
        try:
            await self._reservation.grow_to(self.size + BUFFER_BYTES if self._at_least == 0 else self.size)
        except Refused:
            await self._reservation.grow_to(self.size)

    # -- knowing -------------------------------------------------------------------------------------------------

    async def _stored(self, sha256: str) -> Literal["kept", "lost"] | None:
        """`kept`: bytes of this hash need not be stored. `lost`: they were, and have to be stored again.

        Infected bytes are taken for kept, and refused once all have come, so that a mere hash does not tell which
        contents are infected.
        """
        for row in await self._uploads.database.call(_KNOWN, {"sha256": sha256}):
            if row.scan_status == "infected":
                return "kept"
            if row.doomed_at is None:
                return "lost" if row.lost_at is not None or await self._is_lost(sha256, row.size) else "kept"
        return None

    def _source(self) -> Source:
        if self._staged is None:
            return BytesSource(self._buffer.view())
        return self._staged

    async def _examined(self, item: NewItem) -> Examined:
        """Examines content that is to be stored, and reserves what its thumbnail takes.

        A thumbnail counts against the quota too. If there is no room for it, the file is stored without one.
        """
        if self._staged is not None:
            await self._staged.finish()  # not earlier: the staged bytes of a duplicate need not become durable
        examined = await self._examine(item.filename, item.claimed_type)
        if examined.thumbnail is not None:
            try:
                await self._reservation.grow_to(self.size + len(examined.thumbnail))
            except Refused:
                facts = replace(examined.facts, thumbnail_status="failed", thumbnail_sha256=None, thumbnail_size=0)
                return Examined(facts)
        return examined

    async def _examine(self, filename: str, claimed_type: str | None) -> Examined:
        head = self._head or bytes(self._buffer.view()[:SNIFF_BYTES])
        if self._is_whole and self._staged is not None:
            head = await self._staged.read(0, SNIFF_BYTES)
        return await self._uploads.examiner.examine(self._source(), head, filename, claimed_type)

    # -- keeping -------------------------------------------------------------------------------------------------

    async def _put(self, sha256: str, examined: Examined) -> None:
        """May be repeated."""
        if examined.thumbnail is not None:
            await self._uploads.store.put(thumbnail_key(self._uploads.tenant_id, sha256), examined.thumbnail)
        await self._put_content(sha256)

    async def _put_content(self, sha256: str) -> None:
        key = content_key(self._uploads.tenant_id, sha256)
        if self._staged is not None:
            await self._staged.promote(key)
        else:
            await self._uploads.store.put(key, self._buffer.view())

    async def _put_if_lost(self, sha256: str) -> None:
        """Puts what the tenant has already, if the store has lost it. A thumbnail that is lost too is made when it is
        asked for. Raises Unavailable if it has to be put and cannot be.
        """
        if self._known_by_digest or not await self._is_lost(sha256, self.size):
            return  # what is known by its digest was looked for when its first bytes came
        self._reservation.over_quota = True  # its bytes are counted already
        await self._reservation.grow_to(self.size, sha256)  # nobody removes reserved content
        async with self._reservation.extended():
            if self._staged is not None:
                await self._staged.finish()
            await self._put_content(sha256)
        if not await self._uploads.contents.is_there(sha256, self.size):
            raise NotNow("object store", "the store does not have what was put again")
        await self._reservation.release()

    async def _is_lost(self, sha256: str, size: int) -> bool:
        """Whether the store says, soon enough, that it does not have what the tenant has. Then that is noted."""
        with contextlib.suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(LOOK_SECONDS):
                found = await self._uploads.store.head(content_key(self._uploads.tenant_id, sha256))
            if found is None or found.size != size:
                return isinstance(await self._uploads.contents.missed(sha256), Lost)
        return False


def key_reused() -> Refused:
    return Refused(
        "idempotency_key_reused",
        "This Idempotency-Key was used for another request in the last 24 hours; use a new key.",
    )


def digests_differ() -> Refused:
    return Refused("digest_mismatch", "Content-Digest and Repr-Digest announce different contents.")


def another_digest(sha256: str, announced: str, *, what: str = "file") -> Refused:
    return Refused(
        "digest_mismatch",
        f"The {what} that arrived has sha-256 {sha256}, the request announced {announced}. Send it again.",
    )


def too_large(policy: Policy) -> Refused:
    limit = policy.max_upload_bytes
    return Refused(
        "file_too_large",
        f"A file may have at most {limit:,} bytes here. Send a smaller one, or ask for a larger limit.",
        limit=limit,
    )


def _deleted_meanwhile() -> NotNow:
    return NotNow("object store", "this content went while it was being sent again")
