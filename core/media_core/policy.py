"""The tenant's limits and rules, as the operator last wrote them into the one row of `policy` (limits of
storage: `usage`).

They take effect without a restart: readers ask at every request and see a change after at most one second.
"""

from dataclasses import asdict, dataclass, fields
from typing import Final, Literal

from media_core.database import Database, Transaction
from media_core.fresh import FRESH_SECONDS, Fresh

__all__ = ["FRESH_SECONDS", "Policy", "PolicyReader", "apply", "read"]

IN_USAGE: Final = ("max_bytes", "max_items")
"""Fields that are in the row of `usage`, so that one statement reads the limit and the count."""

PendingAccess = Literal["None", "Uploader", "All"]


@dataclass(frozen=True)
class Policy:
    """Each field is a column of the table `policy` (`tables`), except those in `IN_USAGE`.

    A new field is added here, to the tables by a migration, and to MediaTenant's `spec`.
    """

    max_bytes: int
    """Most bytes, stored and reserved together."""
    max_upload_bytes: int
    max_transcription_seconds_per_day: int
    scan_enabled: bool = True
    pending_access: PendingAccess = "None"
    """Who may read content before its verdict: nobody, its uploader, or everybody who may see the item."""
    unscannable: Literal["Block", "Allow"] = "Block"
    transcription_enabled: bool = True
    suspended: bool = False
    max_items: int | None = None
    """Most items; None: as many as there is room for."""
    generation: int = 0
    """`metadata.generation` of the MediaTenant that this policy comes from."""


_COLUMNS: Final = tuple(field.name for field in fields(Policy) if field.name not in IN_USAGE)
_APPLY: Final = f"""
WITH limits AS (
    INSERT INTO usage (id, max_bytes, max_items) VALUES (1, %(max_bytes)s, %(max_items)s)
    ON CONFLICT (id) DO UPDATE SET max_bytes = excluded.max_bytes, max_items = excluded.max_items
)
INSERT INTO policy (id, {", ".join(_COLUMNS)}) VALUES (1, {", ".join(f"%({name})s" for name in _COLUMNS)})
ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)}
"""  # noqa: S608 (only names of fields are put in)
_READ: Final = f"SELECT {', '.join((*IN_USAGE, *_COLUMNS))} FROM policy, usage"  # noqa: S608 (as above)


async def apply(tx: Transaction, policy: Policy) -> None:
    """Idempotent. Only this function writes limits."""
    await tx.execute(_APPLY, asdict(policy))


async def read(tx: Transaction) -> Policy | None:
    """None until the operator has applied one."""
    row = await tx.first(_READ)
    return Policy(**row._asdict()) if row else None


class PolicyReader:
    """The policy, read at most once a second. A tenant without one counts as full and suspended (fail closed)."""

    _CLOSED = Policy(max_bytes=0, max_upload_bytes=0, max_transcription_seconds_per_day=0, suspended=True)

    def __init__(self, database: Database) -> None:
        self._database = database
        self._policy = Fresh(self._read)

    async def current(self) -> Policy:
        """Raises Unavailable when the database is away and the last answer is older than `FRESH_SECONDS`.

        It may wait for a connection, so a caller must not hold one.
        """
        return await self._policy.current()

    async def _read(self) -> Policy:
        rows = await self._database.call(_READ, ())
        return Policy(**rows[0]._asdict()) if rows else self._CLOSED
