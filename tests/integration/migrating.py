"""The tables of a new tenant, made by one script: what the migrations sent for the first tenant of this process.

Almost every test has a tenant of its own, and Alembic takes seven times as long to find its statements as it takes to
send them. `test_migrations.py` migrates.
"""

from typing import Any

import psycopg
from sqlalchemy import Engine, event

from media_core.schema import migrate

_SENT: list[str] = []
"""The statements, for the schema and role `_NAME`."""
_NAME = "tenant_of_the_first_test"


def make_tables(admin_url: str, schema: str) -> None:
    """As `migrate` does for an empty schema and the role of the same name."""
    if not _SENT:
        _record(admin_url, schema)
        return
    url = admin_url.replace("+psycopg", "")
    # The server has checked the functions when they were made for the first tenant.
    with psycopg.connect(url, options=f"-c search_path={schema} -c check_function_bodies=off") as connection:
        connection.execute(";\n".join(_SENT).replace(_NAME, schema).encode())


def _record(admin_url: str, schema: str) -> None:
    def note(*about: Any) -> None:
        statement, parameters = about[2:4]
        if not statement.startswith("SELECT"):
            assert not parameters, statement
            _SENT.append(statement.replace("%%", "%").replace(schema, _NAME))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        migrate(admin_url, schema, schema)
    except BaseException:
        _SENT.clear()
        raise
    finally:
        event.remove(Engine, "before_cursor_execute", note)
