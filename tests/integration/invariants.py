"""Invariants of a tenant. Each broken one is reported as a sentence."""

from dataclasses import dataclass
from datetime import timedelta

from media_core.database import Database
from media_core.items.library import Library
from media_core.settings import RetentionSettings
from media_core.store import ObjectStore
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.upkeep.sweep import sweep

AT_ONCE = RetentionSettings(orphan_days=0, orphans_few=10_000)
"""Retention for a sweep that leaves nothing over."""

_USAGE = """
WITH standing AS (SELECT * FROM blob WHERE doomed_at IS NULL AND scan_status <> 'infected')
SELECT 'usage' AS what, stored_bytes, reserved_bytes, objects, object_bytes, items, item_bytes FROM usage
UNION ALL
SELECT 'rows', (SELECT coalesce(sum(size + thumbnail_size), 0) FROM standing),
    (SELECT coalesce(sum(bytes), 0) FROM reservation), (SELECT count(*) FROM standing),
    (SELECT coalesce(sum(size), 0) FROM standing), (SELECT count(*) FROM media JOIN standing USING (sha256)),
    (SELECT coalesce(sum(size), 0) FROM media JOIN standing USING (sha256))
"""
_ROWS = """
SELECT sha256, size, thumbnail_status, thumbnail_size, scan_status, doomed_at IS NOT NULL AS marked,
    scan_status = 'infected' AND remove_after > doomed_at AND removing_until IS NULL AS held,
    EXISTS (SELECT FROM media WHERE media.sha256 = blob.sha256) AS wanted
FROM blob
"""
_LATER = """
UPDATE reservation SET expires_at = now() - interval '1 second';
UPDATE blob SET remove_after = least(remove_after, now()),
    removing_until = CASE WHEN removing_until IS NOT NULL THEN now() - interval '1 second' END
WHERE doomed_at IS NOT NULL;
UPDATE suspicion SET trusted_at = now();
UPDATE orphan SET first_seen = now() - interval '30 days';
UPDATE job SET lease_until = now() - interval '1 second' WHERE status = 'running';
"""


@dataclass(frozen=True)
class Left:
    """What a tenant has beside contents that count."""

    reservations: int
    marked: int
    orphans: int
    loose_objects: int
    """Objects of contents without a row that counts."""
    staged: int


async def objects_of(store: ObjectStore) -> dict[str, int]:
    return {entry.key: entry.size async for entry in store.list() if not entry.key.endswith("/.birth")}


async def broken(database: Database, store: ObjectStore, tenant_id: str) -> list[str]:
    """The rules that are broken now, while no step is under way; it should be empty."""
    async with database.transaction() as tx:
        counted = [tuple(row)[1:] for row in await tx.execute(_USAGE)]
        rows = list(await tx.execute(_ROWS))
    objects = await objects_of(store)
    found = [] if counted[0] == counted[1] else [f"usage says {counted[0]}, the rows {counted[1]}"]
    for row in rows:
        size = objects.get(content_key(tenant_id, row.sha256))
        stands = row.scan_status != "infected" and not row.marked
        if (stands or row.held) and size != row.size:
            found.append(f"{row.sha256} has {row.size} bytes and its object {size}: {row}")
        picture = objects.get(thumbnail_key(tenant_id, row.sha256))
        if stands and row.thumbnail_status == "ready" and picture != row.thumbnail_size:
            found.append(f"the thumbnail of {row.sha256} has {row.thumbnail_size} bytes and its object {picture}")
        if stands and not row.wanted:
            found.append(f"nobody has {row.sha256}, and it stands")
    return found


async def left(database: Database, store: ObjectStore, tenant_id: str) -> Left:
    async with database.transaction() as tx:
        row = await tx.first(
            """
                SELECT (SELECT count(*) FROM reservation) AS reservations,
                    (SELECT count(*) FROM blob WHERE doomed_at IS NOT NULL) AS marked,
                    (SELECT count(*) FROM orphan) AS orphans
                """
        )
        counting = "SELECT sha256 FROM blob WHERE doomed_at IS NULL AND scan_status <> 'infected'"
        standing = {row.sha256 for row in await tx.execute(counting)}
    loose = sum(key.rsplit("/", 1)[-1] not in standing for key in await objects_of(store))
    return Left(*row, loose, await store.sweep_staging(older_than=timedelta(0)))


async def later_and_swept(library: Library, owner: Database, schema: str) -> None:
    """Lets every deadline pass, decides suspicions, and sweeps: twice, since an orphan is only noted at first."""
    for _ in range(2):
        async with owner.transaction() as tx:
            await tx.execute(f"SET LOCAL search_path = {schema}")
            for statement in _LATER.strip().split(";\n"):
                await tx.execute(statement.rstrip(";"))
        swept = await sweep(library, AT_ONCE)
        assert not swept.mismatch
