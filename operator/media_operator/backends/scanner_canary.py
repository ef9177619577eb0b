"""ScannerReady: what became of the last canary, the test virus sent through this tenant's own path.

`latest` reads it, `judge` says what it means, `send` sends the next one with the tenant's own role and S3 key.
`media_core.upkeep.canary` says what a canary is and how a worker ends it after its verdict.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

import psycopg

from media_core.database import Database, Transaction
from media_core.errors import Refused, Unavailable
from media_core.items.library import Library
from media_core.policy import PolicyReader
from media_core.store import S3Settings, S3Store
from media_core.upkeep import canary
from media_core.uploads.upload import Uploads
from media_operator.plan import observed

SEND_SECONDS = 30.0
RETRY_SECONDS = 60.0
"""Least time from a canary that was not found to the next one."""

State = Literal["pending", "found", "missed", "failed"]

_STATES: dict[str, State] = {"infected": "found", "clean": "missed", "unscannable": "missed", "error": "failed"}

# A schema of an older revision has no such table.
_IS_THERE: Final = "SELECT to_regclass('canary') IS NOT NULL"
_LATEST: Final = """
SELECT canary.sent_at, canary.ended_at, extract(epoch FROM now() - canary.sent_at)::float8 AS age,
    coalesce(canary.verdict, nullif(blob.scan_status, 'pending')) AS verdict,
    left(coalesce(canary.detail, blob.scan_detail), 500) AS detail,
    left(coalesce(canary.engine, blob.scan_engine), 500) AS engine,
    job.status AS job_status, left(job.error_code, 500) AS error_code, left(job.error_detail, 500) AS error_detail
FROM canary LEFT JOIN job ON job.job_id = canary.job_id LEFT JOIN blob ON blob.sha256 = canary.sha256
ORDER BY canary.sent_at DESC LIMIT 2
"""


@dataclass(frozen=True)
class Canary:
    """`age`: seconds since it was sent, by PostgreSQL's own clock. `detail`: the signature that found it, or why there
    is no verdict. `engine`: clamd's version, and number and date of its signatures. `before`: the canary before it,
    while this one is under way."""

    sent_at: datetime
    age: float
    state: State
    detail: str = ""
    engine: str | None = None
    before: Canary | None = None


async def latest(tx: Transaction) -> Canary | None:
    """`tx`: a transaction of `Databases.within`. None: no canary was sent yet."""
    if not await tx.value(_IS_THERE):
        return None
    found = [_canary(row) for row in await tx.execute(_LATEST)]
    if not found:
        return None
    newest, *older = found
    return replace(newest, before=older[0] if older else None) if newest.state == "pending" else newest


def _canary(row: Any) -> Canary:
    if row.verdict is not None:
        return Canary(row.sent_at, row.age, _STATES[row.verdict], row.detail or "", row.engine)
    if row.ended_at is None and row.job_status in ("completed", "failed", "cancelled"):
        return Canary(row.sent_at, row.age, "failed", f"its scan ended as {row.error_code or row.job_status}")
    return Canary(row.sent_at, row.age, "pending", row.error_detail or "")


def judge(latest: Canary | None, *, every: float, timeout: float) -> observed.Scanner:
    """What the last canary means. `every`, `timeout`: seconds. While one is under way and not late, the one before it
    counts.

    The text holds nothing that changes with time alone, since the status is written whenever it changes.
    """
    if latest is None:
        return observed.Scanner(
            "Unknown", "CanaryPending", "no test virus was sent through this tenant's path yet", True
        )
    age = latest.age
    sent = f"the test virus sent at {latest.sent_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    scanner = f"clamd ({latest.engine})" if latest.engine else "clamd"
    soon = age >= min(every, max(RETRY_SECONDS, every / 12))
    match latest.state:
        case "found":
            return observed.Scanner("True", "CanaryFound", f"{scanner} found {sent}", age >= every)
        case "missed":
            called = f"unscannable ({latest.detail})" if latest.detail else "clean"
            detail = f"{scanner} called {sent} {called}: none of its verdicts can be trusted"
            return observed.Scanner("False", "CanaryMissed", detail, soon)
        case "failed":
            return observed.Scanner("False", "CanaryFailed", f"{sent} got no verdict: {latest.detail}", soon)
    if age >= timeout:
        detail = f"{sent} had no verdict {timeout:g} s later" + (f"; {latest.detail}" if latest.detail else "")
        return observed.Scanner("False", "CanaryOverdue", detail, age >= max(every, timeout))
    if latest.before is not None:
        return replace(judge(latest.before, every=every, timeout=timeout), canary_due=False)
    return observed.Scanner("Unknown", "CanaryPending", f"{sent} has no verdict yet")


async def send(tenant_id: str, database_url: str, s3_settings: S3Settings) -> None:
    """Sends a canary as the tenant, after it removed what earlier ones left. Raises Unavailable, without secrets."""
    try:
        async with asyncio.timeout(SEND_SECONDS), AsyncExitStack() as stack:
            database = Database(database_url, pool_size=2)
            stack.push_async_callback(database.aclose)
            store = S3Store(s3_settings, tenant_id)
            stack.push_async_callback(store.aclose)
            policy = PolicyReader(database)
            uploads = Uploads(
                tenant_id=tenant_id,
                database=database,
                store=store,
                examiner=canary.PlainText(),
                policy=policy,
                canary=True,
            )
            library = Library(tenant_id=tenant_id, database=database, store=store, policy=policy)
            await canary.send(uploads, library)
    except TimeoutError:
        raise Unavailable("canary", f"it was not sent within {SEND_SECONDS:g} s") from None
    except Refused as error:
        raise Unavailable("canary", f"the tenant's upload path refuses it: {error.detail}") from error
    except psycopg.Error as error:
        # A tenant's tables may answer anything. The exception chain keeps it for the log.
        raise Unavailable("database", "the tenant's schema refuses the canary") from error
