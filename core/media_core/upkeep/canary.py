"""The canary: the EICAR test virus, sent through a tenant's own path to see whether it is found.

    send: row, upload (the object, the queue)  ->  a worker's scan  ->  close: the verdict stays, all else is removed

It is uploaded like any content, with two exceptions: `items.access` shows it to no caller, and a full quota does not
refuse it. The row in `canary` is written first, so what a killed process left behind can be found. There is at most one
canary at a time.
"""

import contextlib
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final

from media_core.auth.tokens import CANARY, Claims
from media_core.contents.life import Facts
from media_core.decoding import Source
from media_core.errors import Unavailable
from media_core.examination.examiner import Examined
from media_core.items.library import Library
from media_core.uploads.claims import Declared
from media_core.uploads.upload import Uploads

# In parts, so that a virus scanner takes neither this file nor its compiled form for the test virus.
EICAR = b"".join((rb"X5O!P%@AP[4\PZX54(P^)", rb"7CC)7}$EICAR-STANDARD-", rb"ANTIVIRUS-TEST-FILE!$H+H*"))
_MOST = 128
"""Most bytes of the test file. After the first 68 it may hold white space only."""
_WHITE = b" \t\r\n"

_SENT: Final = "INSERT INTO canary (sha256) VALUES (%(sha256)s)"
_QUEUED: Final = """
UPDATE canary SET job_id = (SELECT job_id FROM job WHERE owner = %(owner)s ORDER BY job_id DESC LIMIT 1)
WHERE sha256 = %(sha256)s
"""
_LEFT: Final = """
SELECT sha256 FROM canary
WHERE ended_at IS NULL OR EXISTS (SELECT FROM blob WHERE blob.sha256 = canary.sha256)
LIMIT 100
"""
_FORGET: Final = "DELETE FROM canary WHERE sha256 = %(sha256)s"
_FORGET_OLDER: Final = """
DELETE FROM canary WHERE ended_at IS NOT NULL
  AND sent_at < (SELECT max(sent_at) FROM canary WHERE ended_at IS NOT NULL)
"""


class PlainText:
    """The `upload.Examiner` for this content alone. Its type is known: neither libmagic nor a decoder is needed."""

    async def examine(self, source: Source, head: bytes, filename: str, claimed_type: str | None) -> Examined:
        return Examined(Facts(source.size, "text/plain"))


def new_content() -> bytes:
    """The test virus and 120 random bits as white space: each one is new, as known infected content is refused."""
    spare = _MOST - len(EICAR)
    return EICAR + bytes(_WHITE[secrets.randbelow(4)] for _ in range(spare))


async def send(uploads: Uploads, library: Library) -> None:
    """Closes the previous canary, with or without a verdict, and sends a new one.

    `uploads` must be made with `canary=True`. Raises Unavailable or Refused; then none was sent.
    """
    await clear(library)
    content = new_content()
    this = {"sha256": hashlib.sha256(content).hexdigest()}
    database = library.database
    async with database.transaction() as tx:
        await tx.execute(_SENT, this)
    try:
        async with await uploads.start(announced=len(content)) as upload:
            await upload.write(content)
            await upload.commit(_sender(), Declared("canary.txt"))
        async with database.transaction() as tx:
            await tx.execute(_QUEUED, {**this, "owner": CANARY})
    except BaseException:
        with contextlib.suppress(Unavailable):  # the row stays then, and the next `send` closes it
            await close(library, this["sha256"])
            async with database.transaction() as tx:
                await tx.execute(_FORGET, this)
        raise


async def close(library: Library, sha256: str) -> None:
    """Keeps the verdict, if there is one, and removes everything else: item, content, object, bytes of the quota.

    Idempotent. Raises Unavailable.
    """
    await library.contents.close_canary(sha256, CANARY)


async def clear(library: Library) -> None:
    """Closes the canaries that are still open, and deletes the rows of all but the last. Raises Unavailable."""
    async with library.database.transaction() as tx:
        left = [row.sha256 for row in await tx.execute(_LEFT)]
    for sha256 in left:
        await close(library, sha256)
    async with library.database.transaction() as tx:
        await tx.execute(_FORGET_OLDER)


def _sender() -> Claims:
    return Claims(CANARY, frozenset({"media:write"}), frozenset(), datetime.now(UTC) + timedelta(hours=1))
