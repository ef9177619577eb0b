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


def make_tables(owner: psycopg.Connection[Any], admin_url: str, schema: str) -> None:
    """As `migrate` does for an empty schema and the role of the same name. `owner`: a session in autocommit."""
    if not _SCRIPTS:
        url = admin_url.replace("+psycopg", "")
        migrate(admin_url, schema, schema)
        dumped = [_dump(url, schema).replace(schema, _NAME), *grants(_NAME, _NAME), "RESET ALL"]
        _SCRIPTS.append(";\n".join(dumped))
        return
    owner.execute(_SCRIPTS[0].replace(_NAME, schema).encode())


def _dump(url: str, schema: str) -> str:
    command = [_PG_DUMP, "--inserts", "--no-owner", "--no-privileges", "--schema", schema, url]
    dumped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Commands of psql, and the schema, which is there.
    dumped = re.sub(r"^(\\.*|CREATE SCHEMA .*)\n", "", dumped, flags=re.MULTILINE)
    # What the migrations draw at random is each tenant's own.
    for values, drawn in _DRAWN.items():
        dumped, found = re.subn(values, drawn, dumped)
        assert found == 1, values
    return dumped
