"""A tenant's schema: its migrations, and what the tenant's role may do in it. The operator's side.

It stands on SQLAlchemy and Alembic, which take 25 MB of memory. The data plane does without them.
"""

import threading
from importlib.resources import files
from typing import Any

from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import Engine, create_engine, event, make_url

SESSION = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "array_nulls": "on",
    "default_transaction_isolation": "read committed",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
}
"""What our statements and the driver rely on, under PostgreSQL's own names. A server, a database or a role may have
other defaults. The tenant's role has these, since PgBouncer lets no connection name its own."""
SESSION_OPTIONS = "-c quote_all_identifiers=off " + " ".join(
    "-c " + f"{name}={value}".replace(" ", "\\ ") for name, value in SESSION.items()
)
"""The same for a direct connection, as libpq's `options` has it. Names that the operator compares are not quoted."""
TRANSACTION_TIMEOUT_SINCE = 170_000
"""The version of PostgreSQL that has `transaction_timeout`. An older one refuses a role or a connection that names it,
so it stands in neither of the above."""

_MIGRATING = threading.Lock()
"""Alembic keeps the current migration in a module's globals: two at once would migrate each other's schemas."""


def lift_transaction_timeout(engine: Engine) -> None:
    """The engine's transactions take as long as their statements, whatever the server or the role sets."""

    @event.listens_for(engine, "connect", insert=True)  # before SQLAlchemy's own first transaction
    def _connected(connection: Any, record: Any) -> None:
        if record.driver_connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SET transaction_timeout = 0")
            cursor.close()
            connection.autocommit = False


def migrate(url: str, schema: str, tenant: str) -> None:
    """Migrates the schema to the newest version as the role of `url`, which owns its tables, and grants the role
    `tenant` its rights. Threads may call it at the same time; for one schema, only one process at a time may.
    """
    config = Config()
    config.set_main_option("script_location", str(files("media_core") / "migrations"))
    # The tenant can hold locks or have many rows. The timeouts keep other tenants from waiting for it.
    own = make_url(url).query.get("options", "")
    options = f"{own} {SESSION_OPTIONS} -c search_path={schema} -c lock_timeout=1s -c statement_timeout=300s"
    engine = create_engine(url, connect_args={"connect_timeout": 5, "options": options})
    lift_transaction_timeout(engine)
    try:
        with _MIGRATING, engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            for statement in grants(schema, tenant):
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def grants(schema: str, tenant: str) -> list[str]:
    """The statements that let the role `tenant` use the existing tables: it reads and writes rows, and owns nothing.

    So it cannot raise its limits, change a table, or add code of its own (a trigger, a view, a row policy) that others
    would run. It counts its own usage, so a leaked password lets somebody falsify that count.
    """
    names = {
        "schema": sql.Identifier(schema),
        "tenant": sql.Identifier(tenant),
        "birth": sql.Literal(f'"{schema}".birth'),
        "url_key": sql.Literal(f'"{schema}".url_key'),
    }
    return [sql.SQL(each).format(**names).as_string(None) for each in _GRANTS]


_GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {tenant}",
    "REVOKE ALL ON {schema}.alembic_version FROM {tenant}",
    "REVOKE INSERT, UPDATE, DELETE ON {schema}.policy, {schema}.usage FROM {tenant}",
    "GRANT UPDATE (stored_bytes, reserved_bytes) ON {schema}.usage TO {tenant}",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {tenant}",  # where a server takes it from everybody
    # Of later migrations. A dump of an earlier version is restored without these, and then migrated.
    """DO $$ BEGIN
    IF to_regclass({birth}) IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON {schema}.birth FROM {tenant};
        GRANT UPDATE (epoch) ON {schema}.birth TO {tenant};
        GRANT UPDATE (objects, object_bytes, items, item_bytes) ON {schema}.usage TO {tenant};
    END IF;
    IF to_regclass({url_key}) IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON {schema}.url_key FROM {tenant};
    END IF;
    END $$""",
)
