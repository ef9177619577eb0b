"""A real PgBouncer between a process of ours and the embedded PostgreSQL: transaction mode, few server connections.

Its settings are its defaults apart from addresses, credentials and what a test asks for. Users are looked up in
PostgreSQL (`auth_query`), so a tenant that is made later can log in.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from media_operator.local.postgres import SUPERUSER, EmbeddedPostgres
from media_operator.local.processes import die_with_parent
from tests.ports import free_port

HOW_TO_INSTALL = "no PgBouncer here; `make pgbouncer` installs it, or says how"
SERVER_CONNECTIONS = 2
"""Server connections of one tenant's role, however many clients it has."""
START_SECONDS = 60.0


class PgBouncer:
    """A PgBouncer. It runs as PostgreSQL's user, since only that reaches the socket."""

    def __init__(self, postgres: EmbeddedPostgres, **settings: object) -> None:
        self.port = 0
        self._postgres = postgres
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="media-test-pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def find() -> str | None:
        return shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")

    @classmethod
    def version(cls) -> tuple[int, ...]:
        told = subprocess.run([cls.find() or "pgbouncer", "--version"], capture_output=True, text=True, check=True)
        return tuple(int(part) for part in told.stdout.split()[1].split("."))

    def url(self, url: str) -> str:
        """From a URL of the server, the URL of the same database through PgBouncer."""
        return make_url(url).set(host="127.0.0.1", port=self.port, query={}).render_as_string(hide_password=False)

    def start(self) -> None:
        executable = self.find()
        if executable is None:
            pytest.skip(HOW_TO_INSTALL)
        self.port = free_port()
        admin = make_url(self._postgres.admin_url)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": self._folder / "users",
            "pool_mode": "transaction",
            "default_pool_size": SERVER_CONNECTIONS,
            **self._settings,
        }
        database = f"* = host={self._postgres.socket_folder} port=5432 auth_user={SUPERUSER}"
        lines = ["[databases]", database, "[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        (self._folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        (self._folder / "users").write_text(f'"{SUPERUSER}" "{admin.password}"\n')
        self._folder.chmod(0o755)
        owner = self._postgres.data.stat()
        as_owner: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [executable, self._folder / "pgbouncer.ini"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(SIGKILL),
                **(as_owner if os.geteuid() == 0 else {}),
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        url = self.url(self._postgres.admin_url).replace("+psycopg", "")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(url, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"PgBouncer did not start: {self.log}") from error
                time.sleep(0.02)
            else:
                return


@contextmanager
def pooled(postgres: EmbeddedPostgres, **settings: object) -> Iterator[PgBouncer]:
    """A PgBouncer for one test; `settings` are its own."""
    bouncer = PgBouncer(postgres, **settings)
    try:
        bouncer.start()
        yield bouncer
    finally:
        bouncer.stop()


@pytest.fixture(scope="module")
def pgbouncer(postgres: EmbeddedPostgres) -> Iterator[PgBouncer]:
    with pooled(postgres) as bouncer:
        yield bouncer
