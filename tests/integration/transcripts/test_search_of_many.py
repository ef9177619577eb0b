"""A search's cost is that of its hits, whatever the number of transcripts. Transcripts are generated in the tables.

`MEDIA_SEARCH_HOURS=100000` sets their number: that takes half an hour and 15 GB of the disk. Those beyond the first
10,000 are copies of these.
"""

import asyncio
import os
from collections.abc import Iterator

import psycopg
import pytest

from media_core.auth.tokens import Claims
from media_core.database import Database
from media_core.items.library import Library
from media_core.policy import PolicyReader
from media_core.store.folder import FolderStore
from media_core.transcripts.passages import SPANS
from media_core.transcripts.search import Search, Wanted
from media_operator.local.postgres import EmbeddedPostgres
from tests.cluster.machine import slowness
from tests.integration.database.test_a_million_rows import Measured
from tests.integration.servers.postgres_folder import CopiedPostgres, postgres_folder
from tests.integration.tenancy import ADMIN, ALICE, GENEROUS, TenantDatabase, person

MANY = int(os.environ.get("MEDIA_SEARCH_HOURS", "600"))
FEW = MANY // 5
"""Transcripts, of an hour each."""
IN_MEMORY = 2_000
"""Of more the rows are on the disk: an hour takes 150 KB."""
DISTINCT = 10_000
"""To generate more would take hours."""
MOST_MILLISECONDS = 50.0
RUNS = 4
WORDS = 20_000
"""Of the generated language. As in real ones, the n-th is said about 1/n times as often as the first."""

_MEDIA = "'med-' || lpad(n::text, 26, '0')"
_TRANSCRIPTS = f"""
INSERT INTO blob (sha256, size, mime_type, scan_status)
SELECT 'content-' || n, 1000, 'audio/mpeg', 'clean' FROM generate_series(%(first)s::int, %(last)s::int) AS n;
INSERT INTO media (media_id, sha256, filename, uploaded_by, tenant_scope, content_size, category, folded)
SELECT {_MEDIA}, 'content-' || n, n || '.mp3', CASE WHEN n %% 2 = 0 THEN 'alice' ELSE 'user-' || n %% 50 END,
    n %% 5 = 0, 1000, 'audio', n || '.mp3'
FROM generate_series(%(first)s::int, %(last)s::int) AS n;
INSERT INTO room_file (room_id, media_id, added_by, category)
SELECT CASE WHEN n %% 10 < 9 THEN 'garden' ELSE 'room-' || n %% 100 END, {_MEDIA}, 'alice', 'audio'
FROM generate_series(%(first)s::int, %(last)s::int) AS n;
INSERT INTO transcript (media_id, job_id, task, track, channel)
SELECT {_MEDIA}, 'job-' || n, 'transcribe', 1, 0 FROM generate_series(%(first)s::int, %(last)s::int) AS n ORDER BY n
"""  # noqa: S608 (constants)
_PASSAGES = f"""
INSERT INTO passage (transcript, number, language, stemmer, segments, own, words)
SELECT transcript, number, 'en', 'english', jsonb_build_array(
        jsonb_build_array(number, number * 60.0, number * 60.0 + 60.0, array_to_string(said, ' '), NULL)
    ), 1, (SELECT string_agg(word || ':' || place, ' ') FROM unnest(said) WITH ORDINALITY AS at(word, place))::tsvector
FROM (
    SELECT transcript, number, ARRAY(
        SELECT 'w' || floor(power({WORDS}, random()))::int FROM generate_series(1, 90)
        WHERE transcript IS NOT NULL AND number IS NOT NULL
    ) AS said
    FROM generate_series(%(first)s::int, %(last)s::int) AS transcript, generate_series(0, 59) AS number OFFSET 0
) AS made
"""  # noqa: S608 (constants)
_COPIES = """
INSERT INTO passage (transcript, number, language, stemmer, segments, own, words)
SELECT transcript + %(shift)s, number, language, stemmer, segments, own, words
FROM passage WHERE transcript BETWEEN %(first)s AND %(last)s
"""

QUERIES = (
    "w1",
    "w100",
    "w1000",
    "w19000",
    "w1 w3",
    "w100 w1000",
    '"w1 w2"',
    '"w3 w17"',
    "w123*",
    "nothing",
    '"w9 w1" w2',
)
CALLERS = {"an admin": ADMIN, "one who sees most": ALICE, "one who sees few": person("user-7", "room-9")}


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with (
        postgres_folder(in_memory=MANY <= IN_MEMORY) as folder,
        CopiedPostgres(folder / "data") as server,
    ):
        yield server


def _fill(tenant: TenantDatabase, first: int, last: int) -> None:
    with psycopg.connect(tenant.owner_url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute(f"SET search_path = {tenant.schema}")
        owner.execute("SET session_replication_role = replica")
        owner.execute("SET maintenance_work_mem = '512MB'")
        owner.execute("DROP INDEX passage_words")
        for statement in _TRANSCRIPTS.strip().split(";\n"):
            owner.execute(statement, {"first": first, "last": last})
        if first <= DISTINCT:
            owner.execute(_PASSAGES, {"first": first, "last": min(last, DISTINCT)})
        for shift in range(DISTINCT, last, DISTINCT):
            begin, end = max(first, shift + 1), min(last, shift + DISTINCT)
            owner.execute(_COPIES, {"shift": shift, "first": begin - shift, "last": end - shift})
        owner.execute(f"CREATE INDEX passage_words ON passage USING gin (words, ({SPANS})) WITH (fastupdate = off)")
        owner.execute(
            "INSERT INTO vocabulary SELECT 'english', 'w' || n, 'w' || n FROM generate_series(1, %s) AS n"
            " ON CONFLICT DO NOTHING",
            (WORDS,),
        )
        owner.execute("VACUUM ANALYZE")


async def _milliseconds(search: Search, caller: Claims, query: str, measured: Measured) -> float:
    """Of all statements of a search, computed by PostgreSQL."""
    took = []
    for _ in range(RUNS):
        measured.took.clear()
        await search.find(caller, Wanted(query))
        took.append(sum(map(sum, measured.took.values())))
    return min(took)


async def test_a_search_costs_as_much_as_its_hits(
    tenant_database: TenantDatabase, folder_store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tenant_database.declare(GENEROUS)
    database = Database(tenant_database.url, pool_size=1)
    library = Library(
        tenant_id=tenant_database.tenant_id, database=database, store=folder_store, policy=PolicyReader(database)
    )
    measured = Measured(monkeypatch)
    took: dict[int, dict[str, float]] = {}
    first = 1
    for size in (FEW, MANY):
        await asyncio.to_thread(_fill, tenant_database, first, size)
        first = size + 1
        search = Search(library)
        took[size] = {
            f"{query} by {who}": await _milliseconds(search, caller, query, measured)
            for who, caller in CALLERS.items()
            for query in QUERIES
        }
    await database.aclose()
    print(*(f"{took[FEW][name]:6.1f} {took[MANY][name]:6.1f} ms  {name}" for name in took[FEW]), sep="\n")
    most = MOST_MILLISECONDS * slowness()
    assert {name: ms for name, ms in took[MANY].items() if ms > most} == {}
    assert sum(took[MANY].values()) < 3 * sum(took[FEW].values())
