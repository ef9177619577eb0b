"""Where bytes lie: one small contract, two drivers (`folder`, `s3`), one test module over both.

What every driver keeps:
- An object appears under its key whole or not at all, whenever the process is killed; once `put` or `promote` has
  returned, it survives a crash of the machine as far as the backend keeps its word.
- A store is bound to one tenant: it takes no key outside `tenant/{tenant_id}/`, and none under `.staging/`, where large
  objects wait until they are whole. What lies there has no key: it can't be listed or signed.
- Memory does not grow with what is written or read; `memory_of` says what a staged object takes.
- A removal ends: `delete` sends nothing any more after `DELETE_SECONDS`, so who holds a lease of minutes on a removal
  never outlives it.
- An absent object is `ObjectMissing` or None, an outage is `Unavailable("object store", ...)`, said within seconds, not
  minutes, save where the backend may be busy with a large object (`finish`, `promote`). Neither bears a secret.
Nothing depends on tags, metadata, conditional puts, lifecycle rules or versions: not every S3 has them.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from media_core.errors import Unavailable

CHUNK_BYTES = 1024 * 1024
"""What `stream` aims at per chunk: from here on larger chunks are no faster, and smaller ones cost CPU."""

Chunk = bytes | memoryview
"""One piece of a stream. A memoryview shows memory that does not change."""

DELETE_SECONDS = 30.0
"""`delete` has ended by then, in whatever way."""

USUAL_MOST = 48 * 1024**3
"""What a staged object may hold where its caller does not say: S3's 10,000 parts of 5 MiB, and something to spare."""

STAGING = ".staging"

_TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SEGMENT = re.compile(r"\.?[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class ObjectMissing(Exception):
    """There is no object under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}")
        self.key = key


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`size` in bytes; `modified` is when the object was put or promoted, aware, in UTC, by the backend's clock.

    S3 tells it to the second in a head, and some servers more exactly in a listing.
    """

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL that fetches one object without any header until `expires_at` (aware, UTC)."""

    url: str
    expires_at: datetime


class StagedObject(Protocol):
    """A large object on its way in, for one task at a time. It has no key yet: only `promote` makes it visible."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    async def write(self, chunk: bytes | memoryview) -> None:
        """Appends; chunks may be of any size, also empty. Waits while the backend is behind.

        Raises ValueError where more comes than `stage` was told.
        """

    async def finish(self) -> None:
        """Returns once all bytes are durable. Nothing can be written after.

        Where `stage` was told the key, the object may be visible from here on: check the bytes before.
        """

    async def promote(self, key: str) -> None:
        """Makes the object visible under `key`, at once and whole, in place of what was there.

        Moves no byte through this process and leaves the staged object, so that it can be repeated (after an outage,
        say) until `discard`. A large one may take the backend minutes: hold no connection and no lock meanwhile. A call
        that is cut or fails may yet have made the object visible, or may do so a little later. Raises RuntimeError
        before `finish`.
        """

    async def read(self, start: int, length: int) -> bytes:
        """Like `ObjectStore.read`, after `finish`: a staged object is a `decoding.Source` of its own bytes."""

    async def discard(self) -> None:
        """Removes what is staged, finished or not; repeating it is a no-op. What is visible under a key stays."""


class ObjectStore(Protocol):
    """One tenant's objects. Keys are whole keys (`object_keys`); a foreign or malformed one is a ValueError."""

    async def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Stores a small object (one request's worth, at most some MiB) in place of what was there."""

    async def stage(self, name: str, *, at_most: int = USUAL_MOST, key: str | None = None) -> StagedObject:
        """Begins a large object; `name` is one segment, unique among the tenant's uploads (a ULID).

        `at_most`: how many bytes may come, which is the announced size or the limit that holds. S3 takes 10,000 parts,
        so the parts are as small as they can be for it, 5 MiB or more, and memory goes with them: `memory_of`. Raises
        ValueError for more than the backend can hold in one object (S3: 5 TiB).

        `key`: where it will be promoted to, if that is known before the bytes have come. S3 then needs no copy, and
        `promote` costs next to nothing. Who says it checks the bytes before `finish`, since nothing takes the object
        back after; `promote` raises Unavailable where somebody has removed it since.
        """

    def memory_of(self, at_most: int = USUAL_MOST) -> int:
        """The most bytes of this process's memory that one staged object takes at a time."""

    async def read(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from offset `start`; fewer at the object's end, none beyond it. Raises ObjectMissing."""

    def stream(self, key: str, start: int = 0, length: int | None = None) -> AsyncGenerator[Chunk, None]:
        """The bytes from `start`, all or `length` of them, in chunks of about 1 MiB.

        Raises ObjectMissing before the first chunk. Once it has begun it never mixes two versions of an object.
        Close it (`contextlib.aclosing`) if you leave it early.
        """

    async def head(self, key: str) -> ObjectInfo | None:
        """What is known of the object; None where there is none."""

    async def delete(self, *keys: str) -> None:
        """Removes objects; an absent one is a no-op.

        Ends within `DELETE_SECONDS`, whatever the backend does: with all of them removed, or with Unavailable and some
        of them left, and then nothing more is sent. (A backend that hangs with a request that it has already taken may
        still carry that one out when it wakes; nothing on this side can prevent it.)
        """

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The tenant's objects whose key begins with the string `prefix`, in no promised order. Staging is left out."""

    def sign(self, key: str, *, expires_in: timedelta, content_type: str, content_disposition: str) -> SignedUrl:
        """A URL that fetches `key` with exactly this Content-Type and Content-Disposition. Does no I/O.

        The object need not exist, and a URL can't be called back: sign only what may be read until it expires.
        `expires_in`: one second to seven days (S3's limit), else ValueError.
        """

    async def sweep_staging(self, older_than: timedelta) -> int:
        """Removes what uploads that died left in staging, unless younger than `older_than`; returns how many."""

    async def probe(self) -> None:
        """Raises Unavailable, with a sentence that says what is wrong, unless the store answers in three seconds."""

    async def aclose(self) -> None:
        """Gives connections back. The store is not used after."""


def tenant_prefix(tenant_id: str) -> str:
    """`tenant/{tenant_id}/`, which every key of the tenant begins with (media-and-files-api.md)."""
    if not _TENANT_ID.fullmatch(tenant_id):
        raise ValueError(f"not a tenant id: {tenant_id!r}")
    return f"tenant/{tenant_id}/"


def staging_key(tenant_id: str, name: str) -> str:
    """Where an upload called `name` waits."""
    if not _SEGMENT.fullmatch(name):
        raise ValueError(f"not a staging name: {name!r}")
    return f"{tenant_prefix(tenant_id)}{STAGING}/{name}"


def checked_key(tenant_id: str, key: str) -> str:
    """The key itself, if it may name an object of this tenant; else ValueError.

    Segments are of letters, digits, dot, underscore and hyphen, so that a key reads the same in a path, a URL and an S3
    request, and none is `.` or `..`: no key leads out of the tenant's prefix.
    """
    prefix = tenant_prefix(tenant_id)
    segments = key.removeprefix(prefix).split("/")
    if not key.startswith(prefix) or segments[0] == STAGING or not all(map(_SEGMENT.fullmatch, segments)):
        raise ValueError(f"not a key of tenant {tenant_id}: {key[:200]!r}")
    return key


def checked_expiry(expires_in: timedelta) -> int:
    """The seconds that a signed URL lives; ValueError outside S3's limits."""
    seconds = int(expires_in.total_seconds())
    if not 1 <= seconds <= 7 * 24 * 3600:
        raise ValueError(f"a signed URL lives from a second to seven days, not {expires_in}")
    return seconds


def checked_most(at_most: int, wanted: int) -> None:
    """Raises ValueError where `wanted` bytes would be more than `at_most`."""
    if wanted > at_most:
        raise ValueError(f"more than the {at_most:,} bytes that were announced for this object")


def unavailable(detail: str) -> Unavailable:
    return Unavailable("object store", detail)
