"""The tables of one tenant's schema.

No table names its schema: the tenant's role has it as its search_path. So the same code serves every tenant, and a bug
cannot reach another tenant's rows. `contents.life`, `contents.quota`, `items.library` and `jobs.queue` keep
the invariants that span tables.
"""

from media_core.tables import contents, events, items, jobs, policy, transcripts, upkeep, uploads

__all__ = ["contents", "events", "items", "jobs", "policy", "transcripts", "upkeep", "uploads"]
