"""The tables of a new tenant, made by one script: a dump of the first tenant of this process, which was migrated.

Almost every test has a tenant of its own, and the migrations take several times as long. `test_migrations.py` migrates.
"""

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import psycopg

from media_core.schema import grants, migrate
from media_operator.local.postgres import BINARIES

_PG_DUMP = Path(sysconfig.get_path("purelib")) / BINARIES / "pg_dump"
_DRAWN = {
    r"(?<=\.birth VALUES \(1, )'[\w-]{36}'": "gen_random_uuid()::text",
    r"(?<=\.url_key VALUES \(1, )'\w{64}'": "replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')",
}
_NAME = "tenant_of_the_first_test"
_SCRIPTS: list[str] = []
"""The script, for the schema and role `_NAME`."""


def make_tables(owner: psycopg.Connection[Any], owner_url: str, schema: str) -> None:
    """As `migrate` does for an empty schema and the role of the same name. `owner`: a session in autocommit."""
    if not _SCRIPTS:
        url = owner_url.replace("+psycopg", "")
        migrate(owner_url, schema, schema)
        dumped = [_dump(url, schema).replace(schema, _NAME), *grants(_NAME, _NAME), "RESET ALL"]
        _SCRIPTS.append(";\n".join(dumped))
        return
    owner.execute(_SCRIPTS[0].replace(_NAME, schema).encode())


_SHAPE = """
WITH own AS (SELECT oid, xmin, relkind, relnamespace FROM pg_class WHERE relnamespace = %(schema)s::text::regnamespace)
SELECT md5(string_agg(line, ' ' ORDER BY line)) FROM (
    SELECT format('%%s %%s', oid, xmin) FROM own
    UNION ALL SELECT format('%%s %%s %%s', attrelid, attnum, xmin) FROM pg_attribute
        WHERE attrelid IN (SELECT oid FROM own WHERE relkind = 'r')
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM own)
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_constraint WHERE connamespace = %(schema)s::text::regnamespace
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM own)
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_policy WHERE polrelid IN (SELECT oid FROM own)
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM own)
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_type WHERE typnamespace = %(schema)s::text::regnamespace
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_proc WHERE pronamespace = %(schema)s::text::regnamespace
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_namespace WHERE oid = %(schema)s::text::regnamespace
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_authid WHERE oid = %(schema)s::text::regrole
    UNION ALL SELECT format('%%s %%s', setdatabase, xmin) FROM pg_db_role_setting
        WHERE setrole = %(schema)s::text::regrole
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_auth_members
        WHERE %(schema)s::text::regrole IN (roleid, member)
    UNION ALL SELECT format('%%s %%s', oid, xmin) FROM pg_default_acl WHERE defaclrole = %(schema)s::text::regrole
        OR defaclnamespace = %(schema)s::text::regnamespace
    UNION ALL SELECT format('%%s %%s %%s', starelid, staattnum, xmin) FROM pg_statistic
        WHERE starelid IN (SELECT oid FROM own)
) AS lines (line)
"""


def shape(owner: psycopg.Connection[Any], schema: str) -> str:
    """Changes with whatever defines the schema and its role, and with what is known of its rows, but not with rows."""
    (found,) = owner.execute(_SHAPE, {"schema": schema}).fetchone() or (None,)
    assert found is not None
    return str(found)


def empty_tables(owner: psycopg.Connection[Any], schema: str) -> None:
    """Afterwards the tables have the rows of a new tenant. `owner`: a session in autocommit."""
    touched = owner.execute(
        "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class "
        "WHERE relnamespace = %s::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0",
        [schema],
    ).fetchone()
    assert touched is not None
    first = re.findall(r"^(?:INSERT INTO|SELECT pg_catalog\.setval).*;$", _SCRIPTS[0], re.MULTILINE)
    statements = "\n".join((f"TRUNCATE {touched[0]} CASCADE;", *first))
    owner.execute(statements.replace(_NAME, schema).encode())


def _dump(url: str, schema: str) -> str:
    command = [_PG_DUMP, "--inserts", "--no-owner", "--no-privileges", "--schema", schema, url]
    dumped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Commands of psql, and the schema, which is there, with its owner's mark.
    dumped = re.sub(r"^(\\.*|CREATE SCHEMA .*|COMMENT ON SCHEMA .*)\n", "", dumped, flags=re.MULTILINE)
    # What the migrations draw at random is each tenant's own.
    for values, drawn in _DRAWN.items():
        dumped, found = re.subn(values, drawn, dumped)
        assert found == 1, values
    return dumped
