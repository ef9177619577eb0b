"""A stored content as a source for decoding. It tells a slow store from a file that takes long to decode, and an object
that was cut from a file that is damaged.
"""

import contextlib
import time
from collections.abc import Iterator

from media_core.decoding import DecodingFailed, StoreSource
from media_core.errors import Unavailable
from media_core.jobs.queue import Content
from media_core.store import ObjectMissing
from media_core.store.object_keys import content_key
from media_workers.drain import Work


class TimedSource(StoreSource):
    """A content's object. It measures how long reads have waited for the store."""

    def __init__(self, work: Work, content: Content) -> None:
        super().__init__(work.store, content_key(work.library.tenant_id, content.sha256), content.size)
        self._work, self._sha256 = work, content.sha256
        self._waited = 0.0
        self._reading_since: float | None = None

    async def read(self, start: int, length: int) -> bytes:
        """Raises ObjectMissing also for an object that is shorter than its content, which a decoder takes for whole."""
        began = time.monotonic()
        if self._reading_since is None:
            self._reading_since = began
        try:
            data = await super().read(start, length)
        finally:
            self._waited += time.monotonic() - began
        if len(data) < min(length, self.size - start):
            raise ObjectMissing(self._key)
        return data

    async def missed(self) -> Exception:
        """What to raise after ObjectMissing: see `Contents.missed`."""
        return await self._work.library.contents.missed(self._sha256)

    @contextlib.contextmanager
    def decoded(self) -> Iterator[None]:
        """For the block of one decoding: raises Unavailable for its "timeout" if the store took most of the time."""
        self._waited, self._reading_since = 0.0, None
        try:
            yield
        except DecodingFailed as error:
            if error.code == "timeout" and self._store_is_slow():
                raise Unavailable("object store", "it sends the file too slowly") from error
            raise

    def _store_is_slow(self) -> bool:
        since = self._reading_since
        return since is not None and self._waited > (time.monotonic() - since) / 2
