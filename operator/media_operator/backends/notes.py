"""Reads what sweeps and scan workers have written into a tenant's schema for a person to decide (`observed.Notes`)."""

from __future__ import annotations

from typing import Final

from media_core.contents.life import LOST
from media_core.database import Transaction
from media_core.events.webhooks import RESTS_AFTER
from media_operator.plan import observed

MOST_SUSPICIONS = 3
"""How many one condition names. The next ones follow when these are decided."""
MOST_HELD = 10_000
"""At most so many contents of one signature are counted, or events of one webhook."""
MOST_WEBHOOKS = 100
"""Rows that are read. A MediaTenant has 16 at most; the others are of earlier ones."""

# A schema of an older revision has no such tables.
_ARE_THERE: Final = "SELECT to_regclass('suspicion') IS NOT NULL AND to_regclass('swept') IS NOT NULL"
_SUSPICIONS: Final = f"""
SELECT left(signature, 150) AS signature, since, (
    SELECT count(*) FROM (
        SELECT FROM blob WHERE scan_detail = suspicion.signature AND scan_status = 'infected'
            AND doomed_at IS NOT NULL LIMIT {MOST_HELD}
    ) AS these
) AS held
FROM suspicion WHERE trusted_at IS NULL ORDER BY since, signature LIMIT {MOST_SUSPICIONS}
"""  # noqa: S608  constants of this file
_SWEPT: Final = """
SELECT swept_at, listed, orphans, orphan_bytes, orphans_kept, orphans_since, orphans_released_at FROM swept
"""
_HAS_LOSSES: Final = "SELECT to_regclass('blob_lost') IS NOT NULL"
_LOSSES: Final = f"""
SELECT count(*) AS count, sum(size)::bigint AS bytes, min(lost_at) AS since FROM blob
WHERE {LOST} HAVING count(*) > 0
"""  # noqa: S608 (a constant)
# One that failed now and then is no matter for a person.
_HAS_WEBHOOKS: Final = "SELECT to_regclass('webhook') IS NOT NULL"
_WEBHOOKS: Final = f"""
SELECT webhook_id, left(host, 253) AS host, CASE WHEN failures >= {RESTS_AFTER} THEN failing_since END AS failing_since,
    left(webhook.error, 200) AS error, given_up.count, left(given_up.error, 200) AS given_up_error,
    CASE WHEN failures >= {RESTS_AFTER} THEN retry_at END AS next_attempt
FROM webhook, LATERAL (
    SELECT count(*) AS count, (array_agg(these.error ORDER BY dead_at DESC))[1] AS error FROM (
        SELECT error, dead_at FROM webhook_delivery
        WHERE webhook_delivery.webhook_id = webhook.webhook_id AND dead_at IS NOT NULL LIMIT {MOST_HELD}
    ) AS these
) AS given_up
ORDER BY host, webhook_id LIMIT {MOST_WEBHOOKS}
"""  # noqa: S608  constants


async def read(tx: Transaction) -> observed.Notes:
    """`tx`: a transaction of `Databases.within`."""
    if not await tx.value(_ARE_THERE):
        return observed.Notes()
    suspicions = tuple(observed.Suspicion(*row) for row in await tx.execute(_SUSPICIONS))
    swept = await tx.first(_SWEPT)
    webhooks: tuple[observed.WebhookNote, ...] = ()
    if await tx.value(_HAS_WEBHOOKS):
        webhooks = tuple(observed.WebhookNote(*row) for row in await tx.execute(_WEBHOOKS))
    losses = await tx.first(_LOSSES) if await tx.value(_HAS_LOSSES) else None
    return observed.Notes(
        suspicions,
        None if swept is None else observed.Orphans(*swept),
        webhooks,
        None if losses is None else observed.Losses(*losses),
    )
