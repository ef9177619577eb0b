"""One upload, from the first byte to the committed row.

    read: hash + buffer (8 MiB) or staging object  ->  sniff, thumbnail  ->  one transaction  ->  answer

Invariants: a row never stands without its object, and an upload that ends anywhere before its commit leaves no
reservation, no object and no row. The transaction first takes the content's `blob` row (inserting or locking it), then
puts the object under its final key, then writes the rest. Deleting takes the same row lock before it removes the
object (`library.collect`), so for one content the two can't interleave. Should the process die after the object is put
and before the commit, the object has no row: garbage, swept later.
"""

import asyncio
import contextlib
import hashlib
import json
import mmap
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from media_core import media_types, queue
from media_core.access import has_room
from media_core.database import Database
from media_core.decoding import BytesSource, DecodingFailed, DecodingPool, ImageFacts, MediaFacts, Source, Thumbnail
from media_core.errors import Refused, Unavailable, not_found
from media_core.ids import new_media_id, new_ulid, thumbnail_id_if
from media_core.keys import content_key, thumbnail_key
from media_core.policy import Policy, PolicyReader
from media_core.quota import MIB, Reservation
from media_core.store import ObjectStore, StagedObject
from media_core.thumbnails import make_thumbnail
from media_core.tokens import Claims

BUFFER_BYTES = 8 * MIB - MIB // 2
"""Up to this size a file is kept in memory and put in one request; a larger one streams to a staging object, from its
first byte on if the request announces it. With what its connection holds beside it (a read of 256 KiB and the rest of
the one before) an upload takes up to 8 MiB of memory."""
STEP_BYTES = MIB
FORM_OVERHEAD_BYTES = 64 * 1024
"""How much of a request's Content-Length may be form fields and boundaries rather than file."""
EXTEND_SECONDS = 60.0
SNIFF_BYTES = 16 * 1024
THUMBNAIL_SECONDS = 5.0
"""How long an upload waits for its thumbnail, other uploads' pictures before it included."""
MOST_BUFFERED_BYTES = 512 * MIB
"""What the buffers of one process may hold together; with so much in them, new uploads are asked to come again."""

CANARY_PRIORITY = 10
"""Before everything else: what is late then is the scanner, not a tenant's own backlog."""

_log = structlog.stdlib.get_logger("media.uploads")

_KNOWN = text("SELECT scan_status, doomed_at FROM blob WHERE sha256 = :sha256")
_NEW_BLOB = text("""
INSERT INTO blob (sha256, size, mime_type, width, height, duration, thumbnail_status, thumbnail_sha256, thumbnail_size)
VALUES (:sha256, :size, :mime_type, :width, :height, :duration, :thumbnail_status, :thumbnail_sha256, :thumbnail_size)
ON CONFLICT (sha256) DO NOTHING RETURNING sha256
""")
_LOCK_BLOB = text("""
SELECT size, mime_type, width, height, scan_status, thumbnail_status, doomed_at FROM blob
WHERE sha256 = :sha256 FOR NO KEY UPDATE
""")
_DESCRIBE = text("""
UPDATE blob SET mime_type = :mime_type, width = :width, height = :height, duration = :duration,
    thumbnail_status = :thumbnail_status, thumbnail_sha256 = :thumbnail_sha256, thumbnail_size = :thumbnail_size,
    scan_status = 'pending', doomed_at = NULL
WHERE sha256 = :sha256
""")
_NEW_MEDIA = text("""
INSERT INTO media (media_id, sha256, filename, claimed_type, uploaded_by, tenant_scope)
VALUES (:media_id, :sha256, :filename, :claimed_type, :uploaded_by, :tenant_scope)
""")
_ATTACH = text("INSERT INTO room_file (room_id, media_id, added_by) VALUES (:room_id, :media_id, :added_by)")
_CLAIM_KEY = text("""
INSERT INTO idempotency (subject, key, fingerprint) VALUES (:subject, :key, :fingerprint)
ON CONFLICT (subject, key) DO UPDATE
SET fingerprint = excluded.fingerprint, answer = NULL, created_at = now()
WHERE idempotency.created_at < now() - interval '24 hours'
RETURNING key
""")
_EARLIER = text("SELECT fingerprint, answer FROM idempotency WHERE subject = :subject AND key = :key")
_REMEMBER = text("UPDATE idempotency SET answer = CAST(:answer AS jsonb) WHERE subject = :subject AND key = :key")


@dataclass(frozen=True)
class Uploaded:
    """The published answer. `thumbnail_id` is None where the type has none; width and height in pixels."""

    media_id: str
    sha256: str
    size: int
    mime_type: str
    thumbnail_id: str | None
    width: int | None
    height: int | None
    scan_status: str


@dataclass(frozen=True)
class _Facts:
    """What the bytes are, found before the transaction."""

    mime_type: str
    width: int | None = None
    height: int | None = None
    duration: float | None = None
    thumbnail: Thumbnail | None = None
    thumbnail_status: str = "none"


class _Buffer:
    """Room for so many bytes. Takes memory only for what is written, and gives all of it back with its last reference.

    (What grows and shrinks on the heap instead leaves holes of its own size there, or has every page of it faulted in
    anew: 0.9 s of CPU a GiB.)
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._memory: mmap.mmap | None = None
        self._hashed = 0
        self.size = 0

    @property
    def full(self) -> bool:
        return self.size == self._capacity

    @property
    def unhashed(self) -> int:
        return self.size - self._hashed

    def take(self, chunk: memoryview) -> int:
        """How many bytes of `chunk` found room."""
        if self._memory is None:
            self._memory = mmap.mmap(-1, self._capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        taken = min(len(chunk), self._capacity - self.size)
        self._memory[self.size : self.size + taken] = chunk[:taken]
        self.size += taken
        return taken

    def hash_into(self, digest: "hashlib._Hash") -> None:
        digest.update(self.view()[self._hashed :])
        self._hashed = self.size

    def view(self) -> memoryview:
        return memoryview(self._memory or b"")[: self.size]

    def clear(self) -> None:
        self.size = self._hashed = 0


class Uploads:
    """One tenant's door for new content."""

    def __init__(
        self,
        *,
        tenant_id: str,
        database: Database,
        store: ObjectStore,
        decoder: DecodingPool,
        policy: PolicyReader,
        canary: bool = False,
    ) -> None:
        """`canary`: a full quota refuses nothing, and scans go first and belong to whoever sent what is scanned."""
        self.tenant_id = tenant_id
        self.database = database
        self.store = store
        self.decoder = decoder
        self.policy = policy
        self.canary = canary
        self.in_flight: set[Upload] = set()

    async def start(self, *, announced: int | None = None, digest: str | None = None) -> "Upload":
        """Begins an upload of a request that announces `announced` bytes in all (Content-Length), or an unknown number.

        `digest`: the file's sha256 in hex if the client sent one. Use the result as a context manager. Raises Refused
        `file_too_large` before a byte is read when the announced size can't pass.
        """
        policy = await self.policy.current()
        at_least = 0 if announced is None else max(0, announced - FORM_OVERHEAD_BYTES)
        if at_least > policy.max_upload_bytes:
            raise _too_large(policy)
        if sum(upload.buffered for upload in self.in_flight) >= MOST_BUFFERED_BYTES:
            raise Unavailable("api", "too many uploads are under way; send yours again in a moment")
        return Upload(self, policy, at_least, digest)


class Upload:
    """`write` the file's bytes in order, then `commit`. Leaving the context without it undoes everything."""

    def __init__(self, uploads: Uploads, policy: Policy, at_least: int, digest: str | None) -> None:
        self._uploads = uploads
        self._policy = policy
        self._at_least = at_least
        self._digest = digest
        self._hash = hashlib.sha256()
        self._buffer = _Buffer(BUFFER_BYTES)
        self._head = b""
        self._staged: StagedObject | None = None
        self._known_by_digest = False
        self._reservation = Reservation(uploads.database, over_quota=uploads.canary)
        self._extended_at = time.monotonic()
        self._to_store = 0
        self.size = 0
        self.replayed = False
        """Whether `commit` gave the answer of an earlier request with the same Idempotency-Key."""

    @property
    def buffered(self) -> int:
        """Bytes in memory."""
        return self._buffer.size

    async def __aenter__(self) -> Self:
        self._uploads.in_flight.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Shielded: a client that goes away cancels the request, and the clean-up must still run to its end.
        await asyncio.shield(asyncio.ensure_future(self._leave()))

    async def _leave(self) -> None:
        self._uploads.in_flight.discard(self)
        self._buffer = _Buffer(0)
        try:
            if self._staged is not None:
                await self._staged.discard()
        except Unavailable as error:
            _log.warning("staging_left_to_the_sweep", detail=error.detail)
        try:
            await self._reservation.release()
        except Unavailable as error:
            _log.warning("reservation_left_to_expire", detail=error.detail)

    async def write(self, chunk: bytes) -> None:
        """Raises Refused `file_too_large`, `quota_exceeded` as soon as it is certain."""
        self.size += len(chunk)
        if self.size > self._policy.max_upload_bytes:
            raise _too_large(self._policy)
        if not self._streaming and max(self.size, self._at_least) > BUFFER_BYTES:
            await self._start_streaming()
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._buffer.take(rest) :]
            if self._streaming:
                if self._buffer.full:
                    await self._step()
            elif self._buffer.unhashed >= STEP_BYTES:
                await asyncio.to_thread(self._buffer.hash_into, self._hash)

    async def commit(
        self,
        *,
        caller: Claims,
        filename: str,
        claimed_type: str | None = None,
        tenant_scope: bool = False,
        room_id: str | None = None,
        idempotency_key: str | None = None,
        operation: str = "upload",
        request_id: str | None = None,
    ) -> Uploaded:
        """Stores what was written and answers, or raises Refused.

        Codes: `empty_file`, `digest_mismatch`, `infected` (bytes known to be), `quota_exceeded`, `not_found` (a room
        the caller has no claim to), `idempotency_key_reused`.
        """
        if room_id is not None and not has_room(caller, room_id):
            raise not_found()
        if self.size == 0:
            raise Refused("empty_file", "The file is empty; send at least one byte.")
        if self._streaming:
            await self._step()
        else:
            self._buffer.hash_into(self._hash)
        sha256 = self._hash.hexdigest()
        if self._digest is not None and sha256 != self._digest:
            raise Refused(
                "digest_mismatch",
                f"The file that arrived has sha-256 {sha256}, the request announced {self._digest}. Send it again.",
            )
        facts = None
        if not await self._is_known(sha256):
            if self._known_by_digest:
                raise _deleted_meanwhile()
            facts = await self._new_facts(filename, claimed_type)
        fingerprint = json.dumps([operation, sha256, filename, tenant_scope, room_id])
        async with self._uploads.database.transaction() as tx:
            key = {"subject": caller.subject, "key": idempotency_key}
            if idempotency_key is not None:
                earlier = await _claim(tx, key, fingerprint)
                if earlier is not None:
                    self.replayed = True
                    return Uploaded(**earlier)
            uploaded = await self._keep(tx, sha256, facts, caller, filename, claimed_type, request_id)
            await tx.execute(
                _NEW_MEDIA,
                {
                    "media_id": uploaded.media_id,
                    "sha256": sha256,
                    "filename": filename,
                    "claimed_type": claimed_type,
                    "uploaded_by": caller.subject,
                    "tenant_scope": tenant_scope,
                },
            )
            if room_id is not None:
                await tx.execute(
                    _ATTACH, {"room_id": room_id, "media_id": uploaded.media_id, "added_by": caller.subject}
                )
            if idempotency_key is not None:
                await tx.execute(_REMEMBER, {**key, "answer": json.dumps(asdict(uploaded))})
            # Last: all uploads of the tenant wait for its row, from here to the commit.
            await self._reservation.settle(tx, self._to_store)
        self._reservation.forget()
        return uploaded

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def _streaming(self) -> bool:
        return self._staged is not None or self._known_by_digest

    async def _start_streaming(self) -> None:
        """The file is larger than the buffer: from here on it goes to staging in steps."""
        buffered, self._buffer = self._buffer, _Buffer(STEP_BYTES)
        buffered.hash_into(self._hash)
        self._head = bytes(buffered.view()[:SNIFF_BYTES])
        if self._digest is not None and await self._stands(self._digest):
            # The bytes must still be sent (knowing a hash grants nothing), but need not be stored a second time. They
            # are reserved where there is room, so that nobody learns from the usage what stands here already.
            self._known_by_digest = True
            with contextlib.suppress(Refused):
                await self._reservation.grow_to(max(self._at_least, self.size))
            return
        await self._reservation.grow_to(max(self._at_least, self.size))
        self._staged = await self._uploads.store.stage(new_ulid())
        for start in range(0, buffered.size, STEP_BYTES):
            await self._staged.write(buffered.view()[start : start + STEP_BYTES])

    async def _step(self) -> None:
        """Hashes and stages what has gathered; hashing and writing overlap, both outside the event loop's thread."""
        chunk = self._buffer.view()
        self._head = self._head or bytes(chunk[:SNIFF_BYTES])
        if self._staged is None:
            await asyncio.to_thread(self._hash.update, chunk)
        else:
            if self.size > self._reservation.bytes:
                await self._reserve_ahead()
            elif time.monotonic() - self._extended_at > EXTEND_SECONDS:
                await self._reservation.extend()
                self._extended_at = time.monotonic()
            await asyncio.gather(asyncio.to_thread(self._hash.update, chunk), self._staged.write(chunk))
        self._buffer.clear()

    async def _reserve_ahead(self) -> None:
        """For a body that did not say its size: a buffer's worth at a time, at the end what is left."""
        try:
            await self._reservation.grow_to(self.size + BUFFER_BYTES if self._at_least == 0 else self.size)
        except Refused:
            await self._reservation.grow_to(self.size)

    # -- knowing -------------------------------------------------------------------------------------------------

    async def _stands(self, sha256: str) -> bool:
        """Whether bytes of this hash need not be stored. Infected ones are told apart only to who has sent them."""
        async with self._uploads.database.statement() as tx:
            row = (await tx.execute(_KNOWN, {"sha256": sha256})).first()
        return row is not None and (row.doomed_at is None or row.scan_status == "infected")

    async def _is_known(self, sha256: str) -> bool:
        """Whether content that was sent is stored already. Raises Refused `infected` for content known to be."""
        async with self._uploads.database.statement() as tx:
            row = (await tx.execute(_KNOWN, {"sha256": sha256})).first()
        if row is not None and row.scan_status == "infected":
            raise _infected()
        return row is not None and row.doomed_at is None

    def _source(self) -> Source:
        if self._staged is None:
            return BytesSource(self._buffer.view())
        return self._staged

    async def _examine(self, filename: str, claimed_type: str | None) -> _Facts:
        """What only the content can tell. Bytes that can't be decoded are a file like any other, without a picture."""
        mime_type = media_types.sniff(self._head or bytes(self._buffer.view()[:SNIFF_BYTES]), filename, claimed_type)
        decoder = self._uploads.decoder
        try:
            if media_types.category(mime_type) == "image" and media_types.has_thumbnail(mime_type):
                async with asyncio.timeout(THUMBNAIL_SECONDS):
                    thumbnail = await make_thumbnail(decoder, self._source(), mime_type)
                return _Facts(
                    mime_type,
                    thumbnail.source_width,
                    thumbnail.source_height,
                    thumbnail=thumbnail,
                    thumbnail_status="ready",
                )
            if media_types.transcribable(mime_type):
                facts: MediaFacts = await decoder.run("probe", self._source())
                mime_type = media_types.settled(mime_type, has_video=facts.has_video)
                video = facts.has_video and media_types.has_thumbnail(mime_type)
                return _Facts(
                    mime_type,
                    facts.width,
                    facts.height,
                    facts.duration,
                    thumbnail_status="pending" if video else "none",
                )
        except TimeoutError:
            return _Facts(mime_type, thumbnail_status="pending")  # a worker's job then, as for videos
        except DecodingFailed as error:
            _log.info("not_decoded", mime_type=mime_type, size=self.size, code=error.code, detail=error.detail)
            if media_types.category(mime_type) == "image":
                return await self._measure(mime_type)
        return _Facts(mime_type)

    async def _measure(self, mime_type: str) -> _Facts:
        """A picture too large for a thumbnail, or damaged further down, still says its size in the header."""
        try:
            image: ImageFacts = await self._uploads.decoder.run("inspect_image", self._source())
        except DecodingFailed:
            return _Facts(mime_type)
        return _Facts(mime_type, image.width, image.height)

    async def _new_facts(self, filename: str, claimed_type: str | None) -> _Facts:
        """Examines content that is to be stored, and reserves what it takes.

        A thumbnail counts against the quota too; where there is no room for it the file goes without.
        """
        await self._reservation.grow_to(self.size)  # first: a full tenant's refusals must not cost a decoding
        if self._staged is not None:
            await self._staged.finish()  # not sooner: a duplicate's staged bytes need not become durable
        facts = await self._examine(filename, claimed_type)
        if facts.thumbnail is not None:
            try:
                await self._reservation.grow_to(self.size + len(facts.thumbnail.data))
            except Refused:
                facts = _Facts(facts.mime_type, facts.width, facts.height, thumbnail_status="failed")
        return facts

    # -- keeping -------------------------------------------------------------------------------------------------

    async def _keep(
        self,
        tx: AsyncConnection,
        sha256: str,
        facts: _Facts | None,
        caller: Claims,
        filename: str,
        claimed_type: str | None,
        request_id: str | None,
    ) -> Uploaded:
        """Takes the content's row and, unless it stands already, puts the object and describes it."""
        media_id = new_media_id()
        row: Row[Any] | None = None
        while True:
            if facts is not None and (await tx.execute(_NEW_BLOB, self._described(sha256, facts))).first() is not None:
                break
            row = (await tx.execute(_LOCK_BLOB, {"sha256": sha256})).first()
            if row is not None and row.scan_status == "infected":
                raise _infected()
            if row is not None and row.doomed_at is None:
                return Uploaded(
                    media_id,
                    sha256,
                    row.size,
                    row.mime_type,
                    thumbnail_id_if(row.thumbnail_status, media_id),
                    row.width,
                    row.height,
                    row.scan_status,
                )
            if self._known_by_digest:
                raise _deleted_meanwhile()
            if facts is None:  # it was known a moment ago and is going or gone now
                facts = await self._new_facts(filename, claimed_type)
            if row is not None:
                break
        await self._put(sha256, facts)
        if row is not None:
            await tx.execute(_DESCRIBE, self._described(sha256, facts))
        if self._policy.scan_enabled:
            owner, priority = (caller.subject, CANARY_PRIORITY) if self._uploads.canary else (None, 0)
            await queue.enqueue_for_content(tx, "scan", sha256, owner=owner, priority=priority, request_id=request_id)
        if facts.thumbnail_status == "pending":
            await queue.enqueue_for_content(tx, "thumbnail", sha256, request_id=request_id)
        self._to_store = self.size + (len(facts.thumbnail.data) if facts.thumbnail else 0)
        return Uploaded(
            media_id,
            sha256,
            self.size,
            facts.mime_type,
            thumbnail_id_if(facts.thumbnail_status, media_id),
            facts.width,
            facts.height,
            "pending",
        )

    def _described(self, sha256: str, facts: _Facts) -> dict[str, Any]:
        """The columns of the content's row."""
        thumbnail = facts.thumbnail
        return {
            "sha256": sha256,
            "size": self.size,
            "mime_type": facts.mime_type,
            "width": facts.width,
            "height": facts.height,
            "duration": facts.duration,
            "thumbnail_status": facts.thumbnail_status,
            "thumbnail_sha256": hashlib.sha256(thumbnail.data).hexdigest() if thumbnail else None,
            "thumbnail_size": len(thumbnail.data) if thumbnail else 0,
        }

    async def _put(self, sha256: str, facts: _Facts) -> None:
        store, tenant_id = self._uploads.store, self._uploads.tenant_id
        if facts.thumbnail is not None:
            await store.put(thumbnail_key(tenant_id, sha256), facts.thumbnail.data)
        if self._staged is not None:
            await self._staged.promote(content_key(tenant_id, sha256))
        else:
            await store.put(content_key(tenant_id, sha256), self._buffer.view())


async def _claim(tx: AsyncConnection, key: dict[str, str | None], fingerprint: str) -> dict[str, Any] | None:
    """None: the key is ours now. Otherwise the answer already given; waits for a request under way with this key."""
    if (await tx.execute(_CLAIM_KEY, {**key, "fingerprint": fingerprint})).first() is not None:
        return None
    row = (await tx.execute(_EARLIER, key)).one()
    if row.fingerprint != fingerprint:
        raise Refused(
            "idempotency_key_reused",
            "This Idempotency-Key was used for another request in the last 24 hours; use a new key.",
        )
    answer: dict[str, Any] = row.answer
    return answer


def _too_large(policy: Policy) -> Refused:
    limit = policy.max_upload_bytes
    return Refused(
        "file_too_large",
        f"A file may have at most {limit:,} bytes here. Send a smaller one, or ask for a larger limit.",
        limit=limit,
    )


def _deleted_meanwhile() -> Unavailable:
    return Unavailable("object store", "this content was deleted while it was being sent again; send it once more")


def _infected() -> Refused:
    return Refused("infected", "This content was found infected before and is not accepted.")
