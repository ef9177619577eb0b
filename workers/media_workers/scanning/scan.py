"""Scan jobs: contents are sent to clamd, and their verdicts are written into the rows in batches.

Invariant: a verdict is recorded only if clamd gave it on the whole content, with the SHA-256 of its row, and the module
`clamd` has confirmed it. In all other cases nothing is decided: the job is handed back or retried. When its attempts
are used up the content becomes "error". Nobody may read it then.
"""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from media_core.auth.tokens import CANARY
from media_core.contents.life import Contents, Verdict
from media_core.errors import Refused, Unavailable, Unfinished
from media_core.jobs.kinds import JOB_KINDS
from media_core.jobs.queue import Content, Lease, LeaseLost, NotYet
from media_core.settings import RetentionSettings
from media_core.store import Chunk, ObjectMissing
from media_core.store.object_keys import content_key
from media_core.upkeep import canary
from media_workers.drain import Work
from media_workers.scanning import clamd
from media_workers.scanning.clamd import SMALL_BYTES, Clamd, signatures_of
from media_workers.settings import ClamdSettings, Settings

JOBS_AT_ONCE: Final = JOB_KINDS["scan"].jobs_at_once
"""Jobs that one worker leases: some are being scanned, others wait until their verdict is confirmed or written."""
READ_AT_ONCE: Final = 8
"""Small contents that are read from the object store at the same time, ahead of their scan."""
LATER: Final = timedelta(seconds=10)
"""How long a large content is handed back for when the worker has no slot for it."""
BATCH: Final = 24
"""Verdicts are written once there are this many, or when nothing else is being scanned."""
WAIT_SECONDS: Final = 0.2
"""How long a verdict waits for others, to be written with them."""

_log = structlog.stdlib.get_logger("media.scan")


@dataclass
class _Waiting:
    """A verdict that is to be written into its row."""

    verdict: Verdict
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    """Once `ended` is set: why it was not written; None if it was."""


def scanner(settings: Settings) -> "Scanner":
    return Scanner(settings.clamd, settings.retention)


class Scanner:
    """The handler of "scan" jobs; their payload is `{"sha256"}`. It takes up to `JOBS_AT_ONCE` at the same time."""

    def __init__(self, settings: ClamdSettings, retention: RetentionSettings | None = None) -> None:
        self._clamd = Clamd(settings)
        self._retention = retention or RetentionSettings()
        self._reading = asyncio.Semaphore(READ_AT_ONCE)
        self._large = 0
        self._most_large = min(2 * settings.at_once, JOBS_AT_ONCE // 2)
        self._scanning = 0
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def __call__(self, lease: Lease, work: Work) -> None:
        """Completes the job with clamd's verdict, or with {} if the content is gone. Raises as `Handler`."""
        sha256 = lease.payload["sha256"]
        content = lease.content or await work.library.content(sha256) or await work.library.content_to_recall(sha256)
        if content is None or (content.scan_status == "infected" and content.found_by is None):
            await work.queue.finish(lease, {})
            return
        self._scanning += 1
        try:
            found = await self._scan(content, work)
        finally:
            self._scanning -= 1
            if not self._scanning and self._waiting:
                self._write_soon(work.library.contents)
        if found is None or not _may_recall(found, content):
            await work.queue.finish(lease, {})
            return
        verdict = Verdict(lease.job_id, lease.token, content.sha256, found.status, found.detail, found.engine)
        await self._record(verdict, work.library.contents)
        if lease.owner == CANARY:
            try:
                await canary.close(work.library, content.sha256)
            except Unavailable as error:
                _log.warning("canary_left_to_the_next", dependency=error.dependency, detail=error.detail)

    async def _scan(self, content: Content, work: Work) -> clamd.ClamdVerdict | None:
        """clamd's verdict. None: the content has been deleted meanwhile."""
        key, size = content_key(work.library.tenant_id, content.sha256), content.size
        try:
            if size <= SMALL_BYTES:
                async with self._reading:
                    whole = await work.store.read(key, 0, size + 1)  # one more, to notice an object that is larger
                _require_same(content, hashlib.sha256(whole), len(whole))
                verdict = await self._clamd.scan(whole, size)
            else:
                with self._one_of_few():
                    verdict = await self._clamd.scan(_compared(work.store.stream(key), content), size)
        except (ObjectMissing, _OtherBytes) as error:
            other_bytes = isinstance(error, _OtherBytes)
            missed = await work.library.contents.missed(content.sha256, other_bytes=other_bytes)
            if isinstance(missed, Refused):
                return None
            raise missed from None
        if verdict.status == "error":
            raise Unfinished("clamd", verdict.detail or "no verdict")
        return verdict

    @contextlib.contextmanager
    def _one_of_few(self) -> Iterator[None]:
        """Takes a slot for a large content. Raises NotYet if there is none: a large content that waited here would
        keep other workers from it, and small contents from this worker's slots.
        """
        if self._large >= self._most_large:
            raise NotYet(LATER * (0.5 + random.random()), waits_for=None)  # noqa: S311 (jitter, not a secret)
        self._large += 1
        try:
            yield
        finally:
            self._large -= 1

    # --- into the rows ------------------------------------------------------------------------------------------

    async def _record(self, verdict: Verdict, contents: Contents) -> None:
        """Returns once the verdict is in its row. Raises LeaseLost, Unavailable."""
        waiting = _Waiting(verdict)
        self._waiting.append(waiting)
        if len(self._waiting) >= BATCH or not self._scanning:
            self._write_soon(contents)
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(WAIT_SECONDS, self._write_soon, contents)
        try:
            await waiting.ended.wait()
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                raise
            await waiting.ended.wait()  # it is being written, which cannot be undone
        if waiting.error is not None:
            raise waiting.error

    def _write_soon(self, contents: Contents) -> None:
        if self._waiting and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write(contents))

    async def _write(self, contents: Contents) -> None:
        """Writes the waiting verdicts, and those that come meanwhile."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await self._write_batch(contents, batch)

    async def _write_batch(self, contents: Contents, batch: list[_Waiting]) -> None:
        for one in batch:
            one.error = Unavailable("database", "the worker ended before the verdict was written")
        try:
            held = await contents.record_verdicts(
                (one.verdict for one in batch),
                recall=timedelta(days=self._retention.found_days),
                few=self._retention.found_few,
            )
        except Exception as error:
            for one in batch:
                one.error = error
        else:
            for one in batch:
                one.error = None if one.verdict.job_id in held else LeaseLost(one.verdict.job_id)
        finally:
            for one in batch:
                one.ended.set()


def _may_recall(found: clamd.ClamdVerdict, content: Content) -> bool:
    """Older signatures do not open what newer ones have found, as where a mirror or an image brings old ones back."""
    if content.found_by is None or found.status == "infected":
        return True
    return signatures_of(found.engine) >= signatures_of(content.found_by)


class _OtherBytes(Exception):
    """The store has given as many bytes as the content has, but not the same."""


async def _compared(chunks: AsyncGenerator[Chunk, None], content: Content) -> AsyncGenerator[Chunk, None]:
    """Passes chunks on. Raises _OtherBytes in place of their end if they are not the content's: clamd decides only once
    it has got the end.
    """
    digest, size = hashlib.sha256(), 0
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            digest.update(chunk)  # in less time than clamd takes to receive it
            size += len(chunk)
            yield chunk
    _require_same(content, digest, size)


def _require_same(content: Content, digest: "hashlib._Hash", size: int) -> None:
    if size == content.size and digest.hexdigest() != content.sha256:  # `Clamd.scan` refuses another size
        raise _OtherBytes
