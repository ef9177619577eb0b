"""Scan jobs: an object goes through clamd, and its verdict into the row.

Invariant: only a verdict that clamd gave on the whole content is recorded. Whatever else happens raises `Unavailable`:
the queue tries again later, and when it gives up the content is "error", which is as closed as "pending".
"""

import structlog

from media_core import canary
from media_core.access import CANARY
from media_core.errors import Unavailable
from media_core.keys import content_key
from media_core.queue import Lease
from media_core.store import ObjectMissing
from media_workers.clamd import Clamd
from media_workers.drain import Work
from media_workers.settings import ClamdSettings

_log = structlog.stdlib.get_logger("media.scan")


class Scanner:
    """The handler of "scan" jobs; their payload is `{"sha256"}`."""

    def __init__(self, settings: ClamdSettings) -> None:
        self._clamd = Clamd(settings)

    async def __call__(self, lease: Lease, work: Work) -> None:
        """Completes the job with clamd's verdict, or with nothing if the content is gone. Raises as `Handler` may."""
        sha256 = lease.payload["sha256"]
        content = await work.library.content(sha256)
        if content is None or content.scan_status == "infected":  # infected is final: its object is gone, its row stays
            await work.queue.finish(lease, {})
            return
        try:
            stream = work.store.stream(content_key(work.library.tenant_id, sha256))
            verdict = await self._clamd.scan(stream, content.size)
        except ObjectMissing:
            if await work.library.content(sha256) is not None:
                raise Unavailable("object store", "the object of this content is missing") from None
            await work.queue.finish(lease, {})  # deleted since we looked
            return
        if verdict.status == "error":
            raise Unavailable("clamd", verdict.detail or "no verdict")
        await work.library.record_verdict(lease, status=verdict.status, detail=verdict.detail, engine=verdict.engine)
        if lease.owner == CANARY:
            try:
                await canary.close(work.library, sha256)
            except Unavailable as error:
                _log.warning("canary_left_to_the_next", dependency=error.dependency, detail=error.detail)
