"""How many jobs of each kind a queue has. The operator asks it of many schemas in one statement."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from media_core.jobs.kinds import KINDS

MOST_COUNTED: Final = 10_000
"""Most jobs of one kind and state that `Depth` counts. If there are more, it says this number."""

_READY: Final = "((status = 'queued' AND run_after <= now()) OR (status = 'running' AND lease_until < now()))"
# Each count has a LIMIT, so its cost does not grow with the table.
_DEPTH: Final = """
SELECT kind,
    (SELECT count(*) FROM (
        SELECT FROM {job} AS job
        WHERE job.kind = kinds.kind AND status = 'queued' AND run_after <= now() LIMIT {most}) AS counted)
    + (SELECT count(*) FROM (
        SELECT FROM {job} AS job
        WHERE job.kind = kinds.kind AND status = 'running' AND lease_until < now() LIMIT {most}) AS counted) AS ready,
    (SELECT count(*) FROM (
        SELECT FROM {job} AS job
        WHERE job.kind = kinds.kind AND status = 'running' AND lease_until >= now() LIMIT {most}) AS counted) AS leased,
    (SELECT count(*) FROM (
        SELECT FROM {job} AS job
        WHERE job.kind = kinds.kind AND status = 'queued' AND run_after > now() LIMIT {most}) AS counted) AS waiting,
    (SELECT min(run_after) FROM {job} AS job WHERE job.kind = kinds.kind AND status = 'queued' AND run_after <= now())
        AS oldest,
    (
        SELECT concat_ws(' ', job_id, attempts, extract(epoch FROM run_after)) FROM {job} AS job
        WHERE job.kind = kinds.kind AND status IN ('queued','running') AND {ready}
        ORDER BY priority DESC, run_after, job_id LIMIT 1
    ) AS head,
    (SELECT count(*) FROM (
        SELECT FROM {job} AS job
        WHERE job.kind = kinds.kind AND status = 'failed' AND finished_at > now() - interval '1 hour' LIMIT {most})
        AS counted) AS failed
FROM unnest(ARRAY[{kinds}]) AS kinds(kind)
"""


@dataclass(frozen=True)
class Depth:
    """Jobs of one kind: `ready` to be leased now, `leased` by live workers, `waiting` for a retry that is due later."""

    ready: int = 0
    leased: int = 0
    waiting: int = 0
    oldest: datetime | None = None
    head: str | None = None
    """The next job to be leased, with its attempts and its time: it changes with each attempt and each hand-back."""
    failed: int = 0
    """Jobs that failed within the last hour."""


def depth_query(job: str = "job") -> str:
    """SQL that returns one row a kind: `kind` and the fields of `Depth`. `job`: the table's quoted name."""
    return _DEPTH.format(job=job, ready=_READY, most=MOST_COUNTED, kinds=", ".join(f"'{kind}'" for kind in KINDS))


def by_kind(rows: Iterable[Any]) -> Mapping[str, Depth]:
    """From the rows of `depth_query`."""
    found = {row.kind: Depth(row.ready, row.leased, row.waiting, row.oldest, row.head, row.failed) for row in rows}
    return {kind: found.get(kind, Depth()) for kind in KINDS}
