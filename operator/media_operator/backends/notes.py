"""Reads what sweeps and scan workers have written into a tenant's schema for a person to decide (`observed.Notes`)."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from media_operator.plan import observed

MOST_SUSPICIONS = 3
"""How many one condition names. The next ones follow when these are decided."""
MOST_HELD = 10_000
"""At most so many contents of one signature are counted."""

# A schema of an older revision has no such tables.
_ARE_THERE = text("SELECT to_regclass('suspicion') IS NOT NULL AND to_regclass('swept') IS NOT NULL")
_SUSPICIONS = text(f"""
SELECT left(signature, 150) AS signature, since, (
    SELECT count(*) FROM (
        SELECT FROM blob WHERE scan_detail = suspicion.signature AND scan_status = 'infected'
            AND doomed_at IS NOT NULL LIMIT {MOST_HELD}
    ) AS these
) AS held
FROM suspicion WHERE trusted_at IS NULL ORDER BY since, signature LIMIT {MOST_SUSPICIONS}
""")  # noqa: S608  constants of this file
_SWEPT = text("""
SELECT swept_at, listed, orphans, orphan_bytes, orphans_kept, orphans_since, orphans_released_at FROM swept
""")


async def read(tx: AsyncConnection) -> observed.Notes:
    """`tx`: a transaction of `Databases.within`."""
    if not (await tx.execute(_ARE_THERE)).scalar():
        return observed.Notes()
    suspicions = tuple(observed.Suspicion(*row) for row in await tx.execute(_SUSPICIONS))
    swept = (await tx.execute(_SWEPT)).one_or_none()
    return observed.Notes(suspicions, None if swept is None else observed.Orphans(*swept))
