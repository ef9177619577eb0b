"""The contract of an object store. It has two drivers (`folder`, `s3`), and one test module for both.

Every driver keeps these rules:
- An object appears under its key whole or not at all, whenever the process is killed. Once `put` or `promote` has
  returned, it survives a crash of the machine, if the backend is as durable as it says.
- A store is bound to one tenant. It takes no key outside `tenant/{tenant_id}/`, and none under `.staging/`, where large
  objects are kept until they are whole. These cannot be listed or signed.
- Memory does not grow with what is written or read; `memory_of` says what a staged object takes.
- `delete` sends nothing any more after `DELETE_SECONDS`, so it ends before a claim of two minutes does.
- An absent object is `ObjectMissing` or None. An outage is `Unavailable("object store", ...)`, raised within seconds,
  except in `finish` and `promote`, where the backend may be busy with a large object. Neither contains a secret.
Nothing depends on tags, metadata, conditional puts, lifecycle rules or versions: not every S3 has them.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from media_core.errors import Unavailable
from media_core.store.trailing_hash import TrailingHash

CHUNK_BYTES = 1024 * 1024
"""Usual size of a chunk of `stream`: larger ones are no faster, and smaller ones cost CPU."""

Chunk = bytes | memoryview
"""One piece of a stream. A memoryview shows memory that does not change."""

DELETE_SECONDS = 30.0
"""Longest duration of `delete`, whether it succeeds or fails."""

USUAL_MOST = 48 * 1024**3
"""Most bytes of a staged object by default: somewhat less than S3's 10,000 parts of 5 MiB."""

STAGING = ".staging"

_TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SEGMENT = re.compile(r"\.?[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class ObjectMissing(Exception):
    """There is no object under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}")
        self.key = key


class PieceGone(Unavailable):
    """The piece `number` of an upload is missing, or shorter than what was recorded. Its bytes have to come again, and
    all that follow them.

    The disk of the store may have been lost. Or PostgreSQL lost what was committed last in a failover: its record is
    older than what staging has, and names a piece that was replaced meanwhile.
    """

    def __init__(self, number: int) -> None:
        super().__init__("object store", "a piece of this upload is missing, or shorter than what was recorded")
        self.number = number


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`size` in bytes; `modified`: when the object was put or promoted, aware, in UTC, by the backend's clock.

    S3's `head` gives it in whole seconds; some servers are more exact in a listing.
    """

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL that fetches one object without any header until `expires_at` (aware, UTC)."""

    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Piece:
    """Durable bytes of an object that comes in several requests: the first `size` bytes of what staging has as `name`.

    Whoever records pieces elsewhere decides which bytes count. What staging has beside them is nobody's.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Durable:
    """The pieces from index `first` on; those before it are as they were. `replaces`: a former one goes after it."""

    first: int
    pieces: tuple[Piece, ...]
    replaces: bool = False


class StagedObject(Protocol):
    """A large object that is being uploaded, for one task at a time. It has no key until `promote` makes it visible."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    async def write(self, chunk: bytes | memoryview) -> None:
        """Appends a chunk of any size, also an empty one. Waits while the backend is behind.

        Raises ValueError if more bytes come than `stage` was told.
        """

    async def take(self, source: "BodySource", hashing: TrailingHash, at_most: int) -> int:
        """Appends what `source` has at hand, up to `at_most` bytes and some MiB. Returns how many; `hashing` takes
        them, too.

        Does not return before the source is left alone, also if it is cancelled. Raises as `write`.
        """

    async def finish(self) -> None:
        """Returns once all bytes are durable. Nothing can be written afterwards.

        If `stage` was told the key, the object may be visible from here on: check the bytes before.
        """

    async def promote(self, key: str) -> None:
        """Makes the object visible under `key`, atomically, and replaces what was there.

        No byte moves through this process. The staged object stays until `discard`, so the call can be repeated, for
        example after an outage. A large object may take the backend minutes: hold no connection and no lock meanwhile.
        A call that fails or is cancelled may still have made the object visible, or do so a little later. Raises
        RuntimeError before `finish`.
        """

    async def read(self, start: int, length: int) -> bytes:
        """Like `ObjectStore.read`, after `finish`: so a staged object is a `decoding.Source`."""

    async def discard(self) -> None:
        """Removes the staged bytes, finished or not; a repetition is a no-op. What is visible under a key stays."""


class BodySource(Protocol):
    """Bytes that one thread at a time reads, without waiting for long: the rest of a request's body, for example."""

    @property
    def left(self) -> int:
        """Bytes that are still to be read, at most."""

    def read_into(self, buffer: memoryview) -> int:
        """Fills in the next bytes, and returns how many: 0 if none come at once, or none any more."""


def pass_on(source: BodySource, hashing: TrailingHash, at_most: int, keep: Callable[[memoryview], object] = len) -> int:
    """Gives the bytes that `source` has at hand to `keep`, part by part, and then to `hashing`. Returns how many. For a
    thread. `keep`: may read a part until it returns; by default nothing is kept.
    """
    taken, read = 0, 1
    while read and source.left and taken < at_most:
        buffer = hashing.buffer()
        read = source.read_into(buffer[: at_most - taken])
        keep(buffer[:read])
        hashing.take(buffer, read)
        taken += read
    return taken


async def to_its_end(work: Awaitable[int]) -> int:
    """Awaits what a thread does, to its end also if the caller is cancelled."""
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    finally:
        if not working.done():
            await asyncio.wait((working,))


class Appending(Protocol):
    """What one request adds to an object in pieces, for one task at a time.

    Bytes count once the caller has recorded the pieces that `durable` gave, which it then says with `kept`. No piece
    that is recorded is ever changed by somebody else, so two that append at once cannot harm each other's bytes.
    """

    @property
    def is_due(self) -> bool:
        """Whether enough has come since the last `kept` that it is worth recording."""

    async def write(self, chunk: bytes | memoryview) -> None:
        """Appends a chunk of at most 1 MiB. Waits while the backend is behind. Raises PieceGone, before any effect."""

    async def take(self, source: BodySource, hashing: TrailingHash) -> int:
        """Appends what `source` has at hand, some MiB at most. Returns how many bytes; `hashing` takes them, too.

        Does not return before the source is left alone, also if it is cancelled. Raises as `write`.
        """

    async def durable(self, *, to_the_end: bool = False) -> Durable:
        """Makes bytes durable, and returns the pieces that are new or larger. `to_the_end`: all bytes written so far;
        nothing can be written afterwards. Otherwise it may leave out the last ones.
        """

    async def kept(self) -> None:
        """The result of the last `durable` has been recorded: what it replaces may go."""

    async def close(self, *, leave: bool = False) -> None:
        """Ends it, and removes what has not been kept, as far as the backend answers.

        `leave`: it may have been recorded, so nothing is removed.
        """


class Complete:
    """What all objects have whose bytes have all come."""

    async def write(self, chunk: bytes | memoryview) -> None:
        raise ValueError(_TAKES_NO_MORE)

    async def take(self, source: BodySource, hashing: TrailingHash, at_most: int) -> int:
        raise ValueError(_TAKES_NO_MORE)


_TAKES_NO_MORE = "an object that has come whole takes no more bytes"


class GatheredObject(StagedObject, Protocol):
    """An object that has come in pieces, whole: `finish` and `promote` work as after `stage`; `write` raises."""

    def stream(self) -> AsyncGenerator[Chunk, None]:
        """All bytes in order, also before `finish`. Raises PieceGone, as `finish` and `promote` do."""


class ObjectStore(Protocol):
    """One tenant's objects. Keys are whole keys (`object_keys`); a foreign or malformed one raises ValueError."""

    async def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Stores a small object (of one request, at most some MiB), and replaces what was there."""

    async def stage(self, name: str, *, at_most: int = USUAL_MOST, key: str | None = None) -> StagedObject:
        """Begins a large object; `name` is one segment, unique among the tenant's uploads (a ULID).

        `at_most`: most bytes that may come, which is the announced size or the limit. S3 takes 10,000 parts, so this
        decides the size of the parts, 5 MiB or more, and thereby the memory (`memory_of`). Raises ValueError for more
        than the backend can hold in one object (S3: 5 TiB).

        `key`: the key of the later `promote`, if it is known before the bytes have come. S3 then needs no copy. The
        caller has to check the bytes before `finish`, which cannot be undone. `promote` raises Unavailable if somebody
        has removed the object meanwhile.
        """

    def append(self, name: str, count: int, last: Piece | None, *, at_most: int = USUAL_MOST) -> Appending:
        """Goes on with the object `name` (as for `stage`), which has `count` pieces, the last of which is `last`.

        `at_most`: as for `stage`.
        """

    def memory_of_append(self, at_most: int = USUAL_MOST) -> int:
        """The most bytes of this process's memory that one `append` takes at a time."""

    def gathered(self, name: str, pieces: Sequence[Piece]) -> GatheredObject:
        """The object of these pieces. Somebody may still write to one of them, after the bytes that count."""

    def memory_of(self, at_most: int = USUAL_MOST) -> int:
        """The most bytes of this process's memory that one staged object takes at a time."""

    async def read(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from offset `start`; fewer at the object's end, none after it. Raises ObjectMissing."""

    def stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[Chunk, None]:
        """The bytes from `start`, all or `length` of them, in chunks of about 1 MiB.

        Raises ObjectMissing before the first chunk. It never mixes two versions of an object. Close it
        (`contextlib.aclosing`) if you leave it early.
        """

    async def head(self, key: str) -> ObjectInfo | None:
        """The object's size and time; None if there is no such object."""

    async def delete(self, *keys: str) -> None:
        """Removes objects; an absent one is a no-op.

        Ends within `DELETE_SECONDS`, whatever the backend does: all objects are removed, or it raises Unavailable and
        some are left. Then nothing more is sent. A request that a hanging backend has already taken may still be
        carried out later.
        """

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The tenant's objects whose key begins with the string `prefix`, in any order, without staging."""

    def sign(self, key: str, *, expires_in: timedelta, content_type: str, content_disposition: str) -> SignedUrl:
        """A URL that fetches `key` with exactly this Content-Type and Content-Disposition. Makes no request.

        The object need not exist. A URL cannot be revoked, so sign only what may be read until it expires.
        `expires_in`: one second to seven days (S3's limit), else ValueError. The URL lives shorter if the store's own
        key ends earlier. Raises Unavailable if that has ended.
        """

    async def sweep_staging(self, older_than: timedelta, keep: Collection[str] = ()) -> int:
        """Removes staged objects of dead uploads that are older than `older_than`; returns how many.

        `keep`: names of objects in pieces that are alive, however old their pieces are.
        """

    async def probe(self) -> None:
        """Raises Unavailable, with a sentence that says what is wrong, unless the store answers in three seconds."""

    async def aclose(self) -> None:
        """Closes connections. The store must not be used afterwards."""


def tenant_prefix(tenant_id: str) -> str:
    """`tenant/{tenant_id}/`, with which every key of the tenant begins (media-and-files-api.md)."""
    if not _TENANT_ID.fullmatch(tenant_id):
        raise ValueError(f"not a tenant id: {tenant_id!r}")
    return f"tenant/{tenant_id}/"


def staging_key(tenant_id: str, name: str) -> str:
    """The key in staging of the upload `name`. Raises ValueError for a malformed name."""
    if not _SEGMENT.fullmatch(name):
        raise ValueError(f"not a staging name: {name!r}")
    return f"{tenant_prefix(tenant_id)}{STAGING}/{name}"


def name_in_staging(entry: str) -> str:
    """The object that an entry of staging belongs to. A piece is named `{object}.{what tells it apart}`."""
    return entry.partition(".")[0]


def checked_key(tenant_id: str, key: str) -> str:
    """The key itself, if it may name an object of this tenant; else ValueError.

    Segments consist of letters, digits, dot, underscore and hyphen, so that a key is the same in a path, a URL and an
    S3 request. None is `.` or `..`, so that no key leads out of the tenant's prefix.
    """
    prefix = tenant_prefix(tenant_id)
    segments = key.removeprefix(prefix).split("/")
    if not key.startswith(prefix) or segments[0] == STAGING or not all(map(_SEGMENT.fullmatch, segments)):
        raise ValueError(f"not a key of tenant {tenant_id}: {key[:200]!r}")
    return key


def may_be_in_a_key(name: str) -> bool:
    """Whether a key may have this segment. Other names are of files that somebody else has put there."""
    return _SEGMENT.fullmatch(name) is not None


def checked_expiry(expires_in: timedelta) -> int:
    """The seconds that a signed URL is valid. Raises ValueError outside S3's limits."""
    seconds = int(expires_in.total_seconds())
    if not 1 <= seconds <= 7 * 24 * 3600:
        raise ValueError(f"a signed URL lives from a second to seven days, not {expires_in}")
    return seconds


def checked_most(at_most: int, wanted: int) -> None:
    """Raises ValueError if `wanted` bytes are more than `at_most`."""
    if wanted > at_most:
        raise ValueError(f"more than the {at_most:,} bytes that were announced for this object")


def unavailable(detail: str) -> Unavailable:
    return Unavailable("object store", detail)
