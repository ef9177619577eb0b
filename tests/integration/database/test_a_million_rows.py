"""A tenant with a million of everything: no statement that runs by itself or in a request takes long.

The rows are generated in the tables. The statements of the product's own methods are measured, each by the time that
its backend computes, so that a busy machine makes little difference; all rows are in memory. The shortest of some runs
counts, so another run follows only while one statement was too long in all runs. A statement that is sent for many
batches of rows counts by the first quartile of its batches.

The rows are kept from run to run (`kept_postgres`). So most of what the sweep removes when it is old comes of age by
one row in a minute.
"""

import asyncio
import itertools
import re
import secrets
import statistics
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import psycopg
import pytest

from media_core.contents.life import Verdict
from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.events.feed import EventPosition, Events
from media_core.examination.examination import Examination
from media_core.examination.media_types import Category
from media_core.items.library import Library
from media_core.items.listing import Filter, Order
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.store.base import ObjectInfo
from media_core.store.folder import FolderStore
from media_core.store.object_keys import content_key
from media_core.upkeep import births, sweep
from media_core.uploads.upload import Uploads
from media_workers.scanning import rescan
from tests.integration.acting import upload
from tests.integration.servers.kept_postgres import filled_postgres
from tests.integration.tenancy import ADMIN, ALICE, GENEROUS, TenantDatabase, person

MANY = 1_000_000
ORPHANS = 20_000
LOST = "0004"
"""Contents before this hash have lost their object: a few."""
MOST_MILLISECONDS = 20.0
RUNS = 7
SWEEPS = 3
BATCHES = 15
"""A statement that is sent at least this often counts by its first quartile: other load makes some of them slower."""

_HASH = "lpad(to_hex((n * 2654435761) % 4294967296), 8, '0') || lpad(to_hex(n), 56, '0')"
_SIZE = "1000 + n % 1000 * 7919 % 1000"
_MEDIA = "'med-' || lpad(n::text, 26, '0')"
_ROWS = f"""
INSERT INTO blob (sha256, size, mime_type, scan_status, scan_detail, scan_engine, scanned_at, thumbnail_status,
    thumbnail_size, doomed_at, remove_after, created_at)
SELECT {_HASH}, {_SIZE}, CASE WHEN n % 3 = 0 THEN 'image/jpeg' ELSE 'application/pdf' END,
    CASE WHEN n % 100 < 90 THEN 'clean' WHEN n % 100 < 94 THEN 'pending' WHEN n % 100 < 96 THEN 'error'
         WHEN n % 100 < 98 THEN 'unscannable' ELSE 'infected' END,
    CASE WHEN n % 100 >= 98 THEN 'Rule.' || n % 7 END, 'ClamAV 1.4.3/27' || n % 300,
    CASE WHEN n % 100 BETWEEN 90 AND 93 THEN NULL ELSE now() - n * interval '1 second' END,
    CASE WHEN n % 50 = 7 THEN 'pending' WHEN n % 3 = 0 THEN 'ready' ELSE 'none' END,
    CASE WHEN n % 3 = 0 AND n % 50 <> 7 THEN 100 ELSE 0 END,
    CASE WHEN n % 200 = 198 THEN now() END, CASE WHEN n % 200 = 198 THEN now() + interval '1 year' END,
    now() - n * interval '1 second'
FROM generate_series(1, {MANY}) AS n;
INSERT INTO media (media_id, sha256, filename, claimed_type, uploaded_by, tenant_scope, created_at, content_size,
    category, folded)
SELECT {_MEDIA}, {_HASH}, n || '.jpg', 'image/jpeg', CASE WHEN n % 2 = 0 THEN 'alice' ELSE 'user-' || n % 1000 END,
    n % 5 = 0, now() - n * interval '1 second', {_SIZE}, CASE WHEN n % 3 = 0 THEN 'image' ELSE 'document' END,
    n || '.jpg'
FROM generate_series(1, {MANY}) AS n;
INSERT INTO label (media_id, key, value)
SELECT {_MEDIA}, 'project', CASE WHEN n % 10 < 9 THEN 'atlas' ELSE 'project-' || n % 1000 END
FROM generate_series(1, {MANY}) AS n;
INSERT INTO room_file (room_id, media_id, added_by, added_at, category)
SELECT CASE WHEN n % 10 < 9 THEN 'garden' ELSE 'room-' || n % 1000 END, {_MEDIA}, 'alice',
    now() - n * interval '1 second', CASE WHEN n % 3 = 0 THEN 'image' ELSE 'document' END
FROM generate_series(1, {MANY}) AS n;
INSERT INTO job (job_id, kind, status, priority, dedupe_key, payload, run_after, created_at)
SELECT 'job-' || lpad(n::text, 26, '0'), 'scan', 'queued', CASE WHEN n <= 900 THEN -2 ELSE n % 2 - 1 END, {_HASH},
    jsonb_build_object('sha256', {_HASH}), now() - n % 1000 * interval '1 second', now()
FROM generate_series(1, {MANY}) AS n;
INSERT INTO job (job_id, kind, status, owner, payload, result, run_after, created_at, finished_at)
SELECT 'job-done-' || lpad(n::text, 26, '0'), CASE WHEN n % 2 = 0 THEN 'scan' ELSE 'transcribe' END,
    CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'completed' END, 'alice', jsonb_build_object('sha256', {_HASH}),
    '{{"scan_status": "clean"}}', now(), now(),
    CASE WHEN n % 20 = 0 THEN now() - n * interval '0.65 seconds'
         ELSE now() - interval '7 days' + (n - 67000) * interval '1 minute' END
FROM generate_series(1, {MANY}) AS n;
INSERT INTO idempotency (subject, key, fingerprint, answer, created_at)
SELECT 'alice', 'key-' || n, 'f', jsonb_build_object('media_id', {_MEDIA}),
    now() - interval '24 hours' + (n - 40000) * interval '1 minute'
FROM generate_series(1, {MANY}) AS n;
INSERT INTO media_tombstone (media_id, uploaded_by, deleted_at)
SELECT 'med-gone-' || n, 'alice', now() - interval '30 days' + (n - 3000) * interval '1 minute'
FROM generate_series(1, {MANY}) AS n;
INSERT INTO reservation (reservation_id, sha256, bytes, expires_at)
SELECT 'reservation-' || n, {_HASH}, 1000, now() + (n - 500) * interval '1 minute'
FROM generate_series(1, 10000) AS n;
INSERT INTO orphan (sha256, size, first_seen)
SELECT 'f' || lpad(to_hex(n), 63, '0'), 1000, now() - n * interval '1 minute' FROM generate_series(1, {ORPHANS}) AS n;
INSERT INTO swept (id, listed, orphans, orphan_bytes, orphans_kept, orphans_released_at)
VALUES (1, {ORPHANS}, {ORPHANS}, {ORPHANS} * 1000, true, now() - ({ORPHANS} - 50) * interval '1 minute');
INSERT INTO event (position, type, media_id, owner, data, created_at)
SELECT CASE WHEN n <= {MANY} - 20000 THEN n END, 'stored', {_MEDIA}, CASE WHEN n % 2 = 0 THEN 'alice' ELSE 'user-9' END,
    '{{"filename": "a.jpg"}}', now() - interval '7 days' + (n - 600) * interval '1 minute'
FROM generate_series(1, {MANY}) AS n;
UPDATE event_head SET placed = {MANY} - 20000;
UPDATE usage SET max_bytes = 1000000000000000, reserved_bytes = (SELECT sum(bytes) FROM reservation);
{sweep._COUNT_ANEW};
UPDATE birth SET epoch = 100"""  # noqa: S608 (constants)

_REFERENCE = """
SELECT count(size) FROM media JOIN blob USING (sha256)
WHERE media_id = ANY(ARRAY(SELECT 'med-' || lpad((n * 2497)::text, 26, '0') FROM generate_series(1, 400) AS n))
"""
REFERENCE_MILLISECONDS = 12.0
"""What this takes on a machine of two cores without other load. Other load makes each look into memory slower, also of
what only counts computed time.
"""
_FILLED = re.findall(r"^INSERT INTO (\w+) ", _ROWS, re.MULTILINE)


def _computed_ms(backend: int) -> float:
    """How long the process has run on a CPU, in milliseconds (proc(5), schedstat)."""
    return int(Path(f"/proc/{backend}/schedstat").read_text().split()[0]) / 1e6


class Measured:
    """Milliseconds of each statement, by its text."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.took: defaultdict[str, list[float]] = defaultdict(list)
        self.doing = ""
        execute = psycopg.AsyncCursor.execute

        async def timed(cursor: psycopg.AsyncCursor[Any], query: Any, *arguments: Any, **options: Any) -> Any:
            backend = cursor.connection.info.backend_pid
            began = _computed_ms(backend)
            try:
                return await execute(cursor, query, *arguments, **options)
            finally:
                words = query.decode() if isinstance(query, bytes) else str(query)
                words = f"{self.doing}: {' '.join(words.split())}"
                self.took[words].append(_computed_ms(backend) - began)

        patch.setattr(psycopg.AsyncCursor, "execute", timed)

    def least(self, query: str) -> float:
        """Milliseconds of the fastest run of this statement."""
        words = " ".join(query.split())
        return min(ms for statement, took in self.took.items() for ms in took if statement.endswith(words))

    def milliseconds(self, times: int) -> dict[str, float]:
        """The slowest first, of the statements that were sent so many times: others are sent once, when a connection
        begins.
        """
        found = {
            statement: statistics.quantiles(took)[0] if len(took) >= BATCHES else min(took)
            for statement, took in self.took.items()
            if len(took) >= times
        }
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    def too_long(self, times: int) -> dict[str, float]:
        """Those of them that take too long for this machine as it is now."""
        most = MOST_MILLISECONDS * max(1.0, self.least(_REFERENCE) / REFERENCE_MILLISECONDS)
        return {words: took for words, took in self.milliseconds(times).items() if took > most}


@pytest.fixture(scope="module")
def tenant_database() -> Iterator[TenantDatabase]:
    """Its server is on the disk: these are gigabytes."""
    with filled_postgres(_fill, Path(__file__)) as (_, tenant):
        yield tenant


def _fill(tenant: TenantDatabase) -> None:
    """Its indexes are made after the rows, which is faster."""
    asyncio.run(tenant.declare(GENEROUS))
    with psycopg.connect(tenant.owner_url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute(f"SET search_path = {tenant.schema}")
        owner.execute("SET maintenance_work_mem = '256MB'")
        owner.execute("SET session_replication_role = replica")  # generated rows need no check of their keys
        with owner.transaction():
            # Rows of a table that was emptied in the same transaction need no write-ahead log (wal_level=minimal).
            owner.execute(f"TRUNCATE {', '.join(_FILLED)} CASCADE")
            # Those of constraints too, which could not be dropped. REINDEX makes such indexes whole.
            owner.execute(
                "UPDATE pg_index SET indisready = false, indisvalid = false WHERE indrelid = ANY(%s::regclass[])",
                (list(_FILLED),),
            )
            for statement in _ROWS.strip().split(";\n"):
                owner.execute(statement)
        owner.execute(f"REINDEX SCHEMA {tenant.schema}")
        assert owner.execute("SELECT FROM pg_index WHERE NOT indisvalid").fetchall() == []
        owner.execute("VACUUM ANALYZE")


async def test_nothing_takes_long(
    tenant_database: TenantDatabase,
    folder_store: FolderStore,
    decoding_pool: DecodingPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = Database(tenant_database.url, pool_size=4)
    tenant_id = tenant_database.tenant_id
    policy = PolicyReader(database)
    library = Library(tenant_id=tenant_id, database=database, store=folder_store, policy=policy)
    uploads = Uploads(
        tenant_id=tenant_id, database=database, store=folder_store, examiner=Examination(decoding_pool), policy=policy
    )
    measured = Measured(monkeypatch)
    for _ in range(RUNS):
        await database.call(_REFERENCE, ())
    for run in range(RUNS):
        await _requests(uploads, library, run, measured)
        await database.call(_REFERENCE, ())
        measured.doing = "work"
        await _workers(Queue(database), library)
        measured.doing = "rescan"
        await _rescans(database, run)
        if not measured.too_long(run + 1):
            break
    measured.doing = "sweep"
    assert await births.meet(database, folder_store, tenant_id) == "same"
    monkeypatch.setattr(folder_store, "list", _orphans_of(tenant_id))
    monkeypatch.setattr(folder_store, "head", _all_but_the_first)
    removed = 0
    for sweeps in range(1, SWEEPS + 1):
        swept = await sweep.sweep(library)
        assert (swept.mismatch, swept.orphans_seen, swept.orphans_kept) == ("", ORPHANS, True)
        assert BATCHES <= swept.lost < 10 * BATCHES
        removed += swept.orphans
        if not (long := measured.too_long(sweeps)):
            break
    assert removed >= BATCHES
    await database.aclose()
    milliseconds = measured.milliseconds(1)
    print(f"{measured.least(_REFERENCE):6.2f} ms  reference")
    print(*(f"{took:6.2f} ms  {words[:150]}" for words, took in milliseconds.items()), sep="\n")
    assert len(milliseconds) > 50
    assert long == {}


async def _all_but_the_first(key: str) -> ObjectInfo | None:
    """The `head` of a bucket that has the object of each row but for the first, and so many that the sweep believes it
    sooner than a listing that shows none of them.
    """
    sha256 = key.rpartition("/")[2]
    n = int(sha256[8:], 16)
    return None if sha256 < LOST else ObjectInfo(key, 1000 + n % 1000 * 7919 % 1000, datetime.now(UTC))


def _orphans_of(tenant_id: str) -> Callable[[str], AsyncIterator[ObjectInfo]]:
    """A `list` of a bucket in which all noted orphans are still there."""
    contents = content_key(tenant_id, "")

    async def listed(prefix: str) -> AsyncIterator[ObjectInfo]:
        if prefix == contents:
            for n in range(1, ORPHANS + 1):
                yield ObjectInfo(f"{prefix}f{n:063x}", 1000, datetime.now(UTC))

    return listed


def _item(n: int) -> str:
    return f"med-{n:026}"


async def _requests(uploads: Uploads, library: Library, run: int, measured: Measured) -> None:
    measured.doing = "upload"
    data = secrets.token_bytes(1000)
    one = await upload(uploads, data, room_id="garden", idempotency_key=secrets.token_hex(8))
    two = await upload(uploads, data)
    n = 1000 * run + 111
    measured.doing = "look"
    await library.find(ADMIN, _item(n), "see")
    categories: tuple[Category | None, ...] = (None, "image", "audio")
    for category in categories:
        for days in (None, 5, 9):
            measured.doing = f"list {category} before {days} days"
            before = None if days is None else (datetime.now(UTC) - timedelta(days=days), "med-0")
            await library.list_room(ALICE, "garden", category=category, before=before)
    measured.doing = "list nothing"
    await library.list_room(person("x", "nowhere"), "nowhere")
    await _lists(library, measured)
    measured.doing = "events"
    await _events(Events(library.database), run)
    measured.doing = "change"
    await library.change(ALICE, one.media_id, filename="b.jpg", labels={"project": "atlas", "run": str(run)})
    measured.doing = "sign"
    await library.find_all(ADMIN, [_item(1000 * n + 7) for n in range(200)], "share")
    measured.doing = "usage"
    await library.totals()
    measured.doing = "attach"
    await library.attach(ADMIN, "garden", one.media_id)
    measured.doing = "delete"
    for item in (two, one):
        await library.delete(ALICE, item.media_id)
    await library.delete(ALICE, one.media_id)
    await library.delete(ADMIN, _item(n), forget_key=f"key-{n}")


async def _events(events: Events, run: int) -> None:
    """From the oldest on, from the middle on, and what comes last."""
    first = await events.first()
    for position in (
        first,
        EventPosition(first.incarnation, MANY // 2 + run),
        EventPosition(first.incarnation, MANY - 20_000),
    ):
        await events.checked(position)
        await events.page(person("nobody"), position, limit=50)


FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "many of a kind": {"category": "image"},
    "none of a kind": {"category": "audio"},
    "many of a verdict": {"scan_status": "clean"},
    "some of a verdict": {"scan_status": "error"},
    "many of a name": {"name": "JPG"},
    "one of a name": {"name": "77777.jpg"},
    "none of a name": {"name": "nobody"},
    "some days": {
        "created_after": datetime.now(UTC) - timedelta(days=9),
        "created_before": datetime.now(UTC) - timedelta(days=3),
    },
    "no days": {"created_after": datetime.now(UTC) + timedelta(days=3)},
    "a large room": {"room_id": "garden"},
    "a small room": {"room_id": "room-9"},
    "no room": {"room_id": "nowhere"},
    "a usual label": {"labels": (("project", "atlas"),)},
    "a rare label": {"labels": (("project", "project-9"),)},
    "no label": {"labels": (("project", "nowhere"),)},
    "all of them": {
        "category": "image",
        "scan_status": "pending",
        "name": "7",
        "created_before": datetime.now(UTC) - timedelta(days=3),
        "room_id": "garden",
        "labels": (("project", "atlas"), ("run", "1")),
    },
}


async def _lists(library: Library, measured: Measured) -> None:
    """Every order and filter, of one who has half of the files and of all; first pages and a later one."""
    for filtered, order, descending, owner in itertools.product(
        FILTERS, get_args(Order), (True, False), ("alice", "user-9", None)
    ):
        after = None
        for page in ("first", "next"):
            measured.doing = f"{page} files of {owner} by {order} {'down' if descending else 'up'}, {filtered}"
            wanted = Filter(owner, **FILTERS[filtered])
            _, after = await library.list_files(ADMIN, wanted, order=order, descending=descending, after=after)
            if after is None or filtered != "no filter":
                break


async def _workers(queue: Queue, library: Library) -> None:
    leases = await queue.lease_many("scan", worker="w", seconds=60, most=18)
    await queue.reap("scan")
    assert await queue.lease("thumbnail", worker="w", seconds=60) is None
    *leases, failing, waiting = leases
    await queue.renew(failing, seconds=60)
    await queue.fail(failing, "broken", "broken", retry=True)
    await queue.postpone(waiting, "clamd", "away")
    await library.contents.record_verdicts(
        [
            Verdict(lease.job_id, lease.token, lease.payload["sha256"], status, "Rule.1", "ClamAV 1.4.3/27999")
            for lease, status in zip(leases, itertools.cycle(("clean", "infected")))
        ]
    )
    await queue.depth()


async def _rescans(database: Database, run: int) -> None:
    started = datetime.now(UTC) + timedelta(days=1)
    engine = "ClamAV 1.4.3/27999"
    await database.call(rescan._SUSPICIOUS, ())
    async with database.transaction() as tx:
        await tx.execute(rescan._OPEN)
    for at in (rescan._BEGINNING, started - timedelta(days=run)):
        await database.call(rescan._SCANNED, (engine, started, at, "", rescan.BATCH))
    for after in ("", f"{run:x}"):
        await database.call(rescan._FOUND, (engine, after, rescan.BATCH))
