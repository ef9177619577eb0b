"""The migrations and the declared tables agree, and several processes may migrate at the same time."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlmodel import SQLModel

from media_core import tables
from media_core.contents.life import Verdict
from media_core.database import Database
from media_core.items.library import Library
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.schema import migrate
from media_core.store.folder import FolderStore
from media_core.store.object_keys import content_key
from media_core.upkeep import births
from media_core.upkeep.sweep import sweep
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.database.revisions import migrate_to
from tests.integration.servers.api import new_tenant
from tests.integration.tenancy import TenantDatabase


def differences(tenant: TenantDatabase) -> list[object]:
    """Differences between the database and the declared tables."""
    assert tables.contents.BlobRow.__tablename__ in SQLModel.metadata.tables
    engine = create_engine(tenant.owner_url, connect_args={"options": f"-c search_path={tenant.schema}"})
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        found = compare_metadata(context, SQLModel.metadata)
    engine.dispose()
    return list(found)


def test_the_migrated_schema_is_the_declared_one(tenant_database: TenantDatabase) -> None:
    assert differences(tenant_database) == []


def test_migrating_again_and_at_once_changes_nothing(tenant_database: TenantDatabase) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bring_up, [tenant_database] * 4))
    assert differences(tenant_database) == []


def test_a_migration_imports_no_declared_table(
    tenant_database: TenantDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sqlmodel", None)
    bring_up(tenant_database)


def test_an_empty_schema_may_be_migrated_by_several_at_once(tenant_database: TenantDatabase) -> None:
    empty(tenant_database)
    assert differences(tenant_database) != []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bring_up, [tenant_database] * 4))
    assert differences(tenant_database) == []


# --- an installation of the version before ----------------------------------------------------------------------------

CONTENTS = """
INSERT INTO blob (sha256, size, mime_type, scan_status, scanned_at, thumbnail_status, thumbnail_size, doomed_at) VALUES
    ('pending',      100, 'text/plain', 'pending',     NULL,  'none',      0, NULL),
    ('clean',        200, 'image/png',  'clean',       now(), 'ready',    50, NULL),
    ('unscannable',  300, 'text/plain', 'unscannable', now(), 'failed',    0, NULL),
    ('error',        400, 'text/plain', 'error', now() - interval '1 hour', 'none', 0, NULL),
    ('film',         500, 'video/mp4',  'clean',       now(), 'pending',   0, NULL),
    ('tombstone',    600, 'text/plain', 'infected',    now(), 'none',      0, NULL),
    ('found',        700, 'image/png',  'infected',    now(), 'ready',    70, now()),
    ('deleted',      800, 'image/png',  'clean',       now(), 'ready',    80, now() - interval '1 hour');
INSERT INTO media (media_id, sha256, filename, uploaded_by, tenant_scope)
    SELECT 'med-' || sha256, sha256, sha256, 'alice', false FROM blob WHERE sha256 <> 'deleted';
INSERT INTO media (media_id, sha256, filename, uploaded_by, tenant_scope)
    VALUES ('med-again', 'clean', 'again', 'bob', false);
INSERT INTO policy (id) VALUES (1);
INSERT INTO room_file (room_id, media_id, added_by) SELECT 'lobby', media_id, 'alice' FROM media;
INSERT INTO media_tombstone (media_id, uploaded_by) VALUES ('med-deleted', 'alice');
INSERT INTO reservation (reservation_id, bytes, expires_at) VALUES
    ('dead', 1000, now() - interval '1 hour'), ('under way', 30, now() + interval '1 hour');
INSERT INTO idempotency (subject, key, fingerprint, answer) VALUES ('alice', 'k', 'f', '{"media_id": "med-clean"}');
INSERT INTO job (job_id, kind, status, dedupe_key, payload) VALUES
    ('job-1', 'scan', 'queued', 'pending', '{"sha256": "pending"}'),
    ('job-2', 'transcribe', 'queued', NULL, '{"sha256": "film"}'),
    ('job-3', 'scan', 'completed', 'clean', '{"sha256": "clean"}');
UPDATE job SET finished_at = now() WHERE status = 'completed';
"""
STANDING = {"pending": 100, "clean": 200, "unscannable": 300, "error": 400, "film": 500}
"""Contents that count, with their bytes. `clean` has two items, and a thumbnail of 50 bytes."""


@pytest.fixture
def of_before(postgres: EmbeddedPostgres) -> Iterator[TenantDatabase]:
    """A tenant of the version before births, with a content in every state."""
    with new_tenant(postgres) as tenant:
        empty(tenant)
        migrate_to("0004", tenant.owner_url, tenant.schema, tenant.schema)
        engine = create_engine(tenant.owner_url, connect_args={"options": f"-c search_path={tenant.schema}"})
        with engine.begin() as connection:
            connection.exec_driver_sql(CONTENTS)
            # A content that the previous version revived while it had no size: it counts less than its bytes.
            connection.exec_driver_sql("INSERT INTO usage VALUES (1, 1600, 1030, 1 << 30)")
        engine.dispose()
        yield tenant


async def counted(database: Database) -> dict[str, int]:
    (row,) = await database.call("SELECT * FROM usage", ())
    return {name: value for name, value in row._asdict().items() if name not in ("id", "max_bytes", "max_items")}


async def as_the_rows_say(database: Database) -> dict[str, int]:
    (row,) = await database.call(AS_THE_ROWS_SAY, ())
    return dict(row._asdict())


AS_THE_ROWS_SAY: Final = """
WITH standing AS (SELECT * FROM blob WHERE doomed_at IS NULL AND scan_status <> 'infected')
SELECT (SELECT sum(size + thumbnail_size)::bigint FROM standing) AS stored_bytes,
    (SELECT coalesce(sum(bytes), 0)::bigint FROM reservation) AS reserved_bytes,
    (SELECT count(*) FROM standing) AS objects, (SELECT sum(size)::bigint FROM standing) AS object_bytes,
    (SELECT count(*) FROM media JOIN standing USING (sha256)) AS items,
    (SELECT sum(size)::bigint FROM media JOIN standing USING (sha256)) AS item_bytes
"""


async def test_an_installation_of_the_version_before_is_migrated_with_all_that_it_holds(
    of_before: TenantDatabase,
) -> None:
    bring_up(of_before)
    assert differences(of_before) == []
    database = Database(of_before.url)
    try:
        assert await counted(database) == {
            "stored_bytes": 1550,
            "reserved_bytes": 1030,
            "objects": 5,
            "object_bytes": sum(STANDING.values()),
            "items": 6,
            "item_bytes": sum(STANDING.values()) + STANDING["clean"],
        }
        assert await counted(database) == await as_the_rows_say(database)
        marked = await database.call(
            "SELECT sha256, remove_after = doomed_at AS at_once FROM blob WHERE doomed_at > %s", ("-infinity",)
        )
        assert {row.sha256: row.at_once for row in marked} == {"found": True, "deleted": True}
        (birth,) = await database.call(births.READ, ())
        assert (len(birth.birth_id), birth.epoch) == (36, 0)
    finally:
        await database.aclose()


async def test_what_was_under_way_in_the_version_before_goes_on(of_before: TenantDatabase, tmp_path: Path) -> None:
    bring_up(of_before)
    database = Database(of_before.url)
    store = FolderStore(tmp_path, of_before.tenant_id, b"", "")
    library = Library(tenant_id=of_before.tenant_id, database=database, store=store, policy=PolicyReader(database))
    try:
        for name in (*STANDING, "found", "deleted"):
            await store.put(content_key(of_before.tenant_id, name), name.encode())
        swept = await sweep(library)
        assert (swept.mismatch, swept.reservations, swept.marked, swept.orphans_seen) == ("", 1, 2, 0)
        assert (swept.scans, swept.thumbnails) == (1, 1)  # `error` and `film`; `pending` has its job
        assert await births.of_bucket(store, of_before.tenant_id) == await births.of_schema(database)
        there = {entry.key.rpartition("/")[2] async for entry in store.list()}
        assert there == {*STANDING, ".birth"}
        rows = {row.sha256 for row in await database.call("SELECT sha256 FROM blob", ())}
        assert rows == {*STANDING, "tombstone", "found"}

        queue = Queue(database)
        lease = await queue.lease("scan", worker="test", seconds=30)
        assert lease is not None
        await library.contents.record_verdicts(
            [Verdict(lease.job_id, lease.token, "pending", "infected", "Eicar", "1")]
        )
        for media_id in ("med-again", "med-clean", "med-tombstone"):
            assert await library.contents.delete_item(media_id)
        assert await counted(database) == await as_the_rows_say(database)
        assert {entry.key.rpartition("/")[2] async for entry in store.list()} == {
            "unscannable",
            "error",
            "film",
            ".birth",
        }
    finally:
        await database.aclose()
        await store.aclose()


async def test_what_pods_of_the_version_before_do_not_count_is_counted_by_the_first_sweeps(
    of_before: TenantDatabase, tmp_path: Path
) -> None:
    bring_up(of_before)
    database = Database(of_before.url)
    store = FolderStore(tmp_path, of_before.tenant_id, b"", "")
    library = Library(tenant_id=of_before.tenant_id, database=database, store=store, policy=PolicyReader(database))
    try:
        await database.call("INSERT INTO blob (sha256, size, mime_type) VALUES ('late', 10, 'text/plain')", ())
        await database.call(
            "INSERT INTO media (media_id, sha256, filename, uploaded_by, tenant_scope)"
            " VALUES ('med-late', 'late', 'late', 'bob', false)",
            (),
        )
        await database.call("UPDATE usage SET stored_bytes = stored_bytes + 10", ())
        assert await counted(database) != await as_the_rows_say(database)
        await sweep(library)
        assert await counted(database) == await as_the_rows_say(database)
    finally:
        await database.aclose()
        await store.aclose()


def bring_up(tenant: TenantDatabase) -> None:
    migrate(tenant.owner_url, tenant.schema, tenant.schema)


def empty(tenant: TenantDatabase) -> None:
    engine = create_engine(tenant.owner_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        there = connection.execute(
            text("SELECT tablename FROM pg_tables WHERE schemaname = :schema"), {"schema": tenant.schema}
        ).scalars()
        for table in list(there):
            connection.execute(text(f"DROP TABLE {tenant.schema}.{table} CASCADE"))
    engine.dispose()


def test_migrations_of_many_tenants_at_once_do_not_meet(postgres: EmbeddedPostgres) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        tenants = [stack.enter_context(new_tenant(postgres)) for _ in range(8)]
        for tenant in tenants:
            empty(tenant)
        list(pool.map(bring_up, tenants))
        assert [differences(tenant) for tenant in tenants] == [[]] * 8


def test_a_tenants_role_sees_nothing_of_another_tenant(tenant_database: TenantDatabase) -> None:
    engine = create_engine(tenant_database.url)
    with engine.connect() as connection:
        schemas = connection.execute(
            text("SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_schema LIKE 'tenant_%'")
        ).scalars()
        assert list(schemas) == [tenant_database.schema]
    engine.dispose()


def test_the_tests_own_script_makes_what_the_migrations_make(postgres: EmbeddedPostgres) -> None:
    url = postgres.admin_url.replace("+psycopg", "")
    with (
        new_tenant(postgres),
        new_tenant(postgres, anew=True) as scripted,
        new_tenant(postgres) as migrated,
        psycopg.connect(url, autocommit=True) as admin,
    ):
        admin.execute(f"DROP SCHEMA {migrated.schema} CASCADE")
        admin.execute(f"CREATE SCHEMA {migrated.schema}")
        admin.execute(f"GRANT USAGE ON SCHEMA {migrated.schema} TO {migrated.schema}")
        migrate(postgres.admin_url, migrated.schema, migrated.schema)
        assert _described(admin, scripted.schema) == _described(admin, migrated.schema)


def test_the_tests_own_tenant_has_nothing_of_the_one_that_had_its_tables(postgres: EmbeddedPostgres) -> None:
    url = postgres.admin_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as admin, new_tenant(postgres, anew=True) as new:
        with new_tenant(postgres) as earlier:
            births = {_birth(admin, new.schema), _birth(admin, earlier.schema)}
            admin.execute(f"INSERT INTO {earlier.schema}.orphan VALUES ('a', 1)")  # noqa: S608
            admin.execute(f"SELECT nextval('{earlier.schema}.event_number_seq')")
            number = _number(admin, earlier.schema)
        with new_tenant(postgres) as again:
            assert _number(admin, again.schema) == number
            assert again.schema != earlier.schema
            assert _birth(admin, again.schema) not in births
            assert _described(admin, again.schema) == _described(admin, new.schema)
            with psycopg.connect(again.url.replace("+psycopg", "")) as tenant:
                assert tenant.execute("SELECT count(*) FROM orphan").fetchone() == (0,)
            assert admin.execute(f"SELECT nextval('{again.schema}.event_number_seq')").fetchone() == (1,)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE OR REPLACE FUNCTION {0}.content_release_expired() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
        "ALTER TABLE {0}.orphan ALTER size DROP NOT NULL",
        "ALTER TABLE {0}.orphan ADD note text",
        "ALTER TABLE {0}.orphan ALTER seen_in SET DEFAULT 1",
        "DROP INDEX {0}.passage_words",
        "GRANT TRUNCATE ON {0}.orphan TO {0}",
        "ALTER TABLE {0}.job DISABLE TRIGGER USER",
        "CREATE SEQUENCE {0}.another",
        "ALTER ROLE {0} CONNECTION LIMIT 5",
        "ALTER ROLE {0} SET work_mem = '1MB'",
        "GRANT pg_monitor TO {0}",
        "CREATE TYPE {0}.kind AS ENUM ('a')",
        "ANALYZE {0}.alembic_version",
    ],
)
def test_the_tests_use_no_tables_again_of_which_more_than_rows_has_changed(
    postgres: EmbeddedPostgres, change: str
) -> None:
    url = postgres.admin_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as admin:
        with new_tenant(postgres) as changed:
            number = _number(admin, changed.schema)
            admin.execute(change.format(changed.schema).encode())
        assert admin.execute("SELECT FROM pg_namespace WHERE oid = %s", [number]).fetchone() is None


def _number(admin: psycopg.Connection, schema: str) -> int:
    (row,) = admin.execute("SELECT %s::regnamespace::oid", [schema]).fetchall()
    return int(row[0])


def _birth(admin: psycopg.Connection, schema: str) -> str:
    (row,) = admin.execute(f"SELECT birth_id FROM {schema}.birth").fetchall()  # noqa: S608
    return str(row[0])


def _described(admin: psycopg.Connection, schema: str) -> list[str]:
    """Columns, indexes, constraints, functions and rights of a schema, and the rows that it begins with."""
    rows = admin.execute(
        """
        SELECT format('%%s.%%s %%s %%s %%s', table_name, column_name, data_type, column_default, is_nullable)
        FROM information_schema.columns WHERE table_schema = %(schema)s
        UNION ALL
        SELECT indexdef FROM pg_indexes WHERE schemaname = %(schema)s
        UNION ALL
        SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = %(schema)s::regnamespace
        UNION ALL
        SELECT pg_get_functiondef(oid) || coalesce(proacl::text, '') FROM pg_proc
        WHERE pronamespace = %(schema)s::regnamespace
        UNION ALL
        SELECT relname || coalesce(relacl::text, '') FROM pg_class WHERE relnamespace = %(schema)s::regnamespace
        """,
        {"schema": schema},
    ).fetchall()
    for table in ("alembic_version", "policy", "usage"):
        rows += admin.execute(f"SELECT row_to_json(one)::text FROM {schema}.{table} AS one").fetchall()  # noqa: S608
    return sorted(str(row[0]).replace(schema, "SCHEMA") for row in rows)
