"""The canary: the EICAR test virus goes through a tenant's own path, and whether it is found says if the path works.

    send: row, upload (the object, the queue)  ->  a worker's scan  ->  close: what became of it, and nothing else stays

It is uploaded like any content, as nobody's: `access` shows it to no caller, and a full quota does not keep it out. The
row in `canary` is written first, so whatever a killed process left behind is found by it. There is at most one at a
time.
"""

import contextlib
import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from media_core.access import CANARY
from media_core.contents import Facts
from media_core.decoding import Source
from media_core.errors import Unavailable
from media_core.library import Library
from media_core.tokens import Claims
from media_core.uploads import Examined, Uploads

# In parts, so that a virus scanner does not take this file for the test virus, nor its compiled form.
EICAR = b"".join((rb"X5O!P%@AP[4\PZX54(P^)", rb"7CC)7}$EICAR-STANDARD-", rb"ANTIVIRUS-TEST-FILE!$H+H*"))
_MOST = 128
"""Bytes that the test file may have; beyond the first 68 it may hold nothing but white space."""
_WHITE = b" \t\r\n"

_SENT = text("INSERT INTO canary (sha256) VALUES (:sha256)")
_QUEUED = text("""
UPDATE canary SET job_id = (SELECT job_id FROM job WHERE owner = :owner ORDER BY job_id DESC LIMIT 1)
WHERE sha256 = :sha256
""")
_LEFT = text("""
SELECT sha256 FROM canary
WHERE ended_at IS NULL OR EXISTS (SELECT FROM blob WHERE blob.sha256 = canary.sha256)
LIMIT 100
""")
_FORGET = text("DELETE FROM canary WHERE sha256 = :sha256")
_FORGET_OLDER = text("""
DELETE FROM canary WHERE ended_at IS NOT NULL
  AND sent_at < (SELECT max(sent_at) FROM canary WHERE ended_at IS NOT NULL)
""")


class PlainText:
    """The `uploads.Examiner` for this content alone. Its type is known: neither libmagic nor a decoder is needed."""

    async def examine(self, source: Source, head: bytes, filename: str, claimed_type: str | None) -> Examined:
        return Examined(Facts(source.size, "text/plain"))


def new_content() -> bytes:
    """The test virus with 120 random bits behind it, written in white space: known infected content is refused."""
    spare = _MOST - len(EICAR)
    return EICAR + bytes(_WHITE[secrets.randbelow(4)] for _ in range(spare))


async def send(uploads: Uploads, library: Library) -> None:
    """Ends the one before, whether it got its verdict or not, and sends a new one.

    `uploads` made with `canary=True`. Raises Unavailable, Refused; then none was sent.
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
            await upload.commit(caller=_sender(), filename="canary.txt")
        async with database.transaction() as tx:
            await tx.execute(_QUEUED, {**this, "owner": CANARY})
    except BaseException:
        with contextlib.suppress(Unavailable):  # the row stays then, and the next one ends it
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
    """Closes what is left of earlier ones, and forgets all but the last of them. Raises Unavailable."""
    async with library.database.transaction() as tx:
        left = list((await tx.execute(_LEFT)).scalars())
    for sha256 in left:
        await close(library, sha256)
    async with library.database.transaction() as tx:
        await tx.execute(_FORGET_OLDER)


def _sender() -> Claims:
    return Claims(CANARY, frozenset({"media:write"}), frozenset(), datetime.now(UTC) + timedelta(hours=1))
