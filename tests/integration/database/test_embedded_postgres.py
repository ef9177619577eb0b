"""The supervisor of the real embedded server: which states it survives, and which it refuses."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from media_operator.local import postgres as embedded
from media_operator.local.postgres import EmbeddedPostgres, PostgresFailed

only_as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: as root the server runs as another user, who must be able to reach it."""
    made = Path(tempfile.mkdtemp(prefix="media-test-pg-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def test_data_written_by_one_run_is_there_in_the_next(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        ask(server.admin_url, "CREATE TABLE kept AS SELECT 7 AS n")
    with EmbeddedPostgres(folder) as server:
        assert ask(server.admin_url, "SELECT n FROM kept") == 7
        assert ask(server.admin_url, "SHOW fsync") == "on"


def test_nobody_gets_in_without_a_password(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        ask(server.admin_url, "CREATE ROLE guest LOGIN PASSWORD 'p@ss/w:rd'")
        assert ask(server.url("postgres", "guest", "p@ss/w:rd"), "SELECT current_user") == "guest"
        for user, password in (("guest", "wrong"), ("guest", ""), ("postgres", "wrong")):
            with pytest.raises(psycopg.OperationalError, match="password"):
                ask(server.url("postgres", user, password), "SELECT 1")


def test_the_server_listens_on_no_port_and_its_socket_is_private(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        assert server.socket_folder is not None
        assert server.socket_folder.stat().st_mode & 0o777 == 0o700
        assert server.pid is not None
        assert [c for c in psutil.Process(server.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
        assert (folder / "admin-password").stat().st_mode & 0o777 == 0o600


def test_stop_leaves_no_process_and_no_socket(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    pid, sockets = server.pid, server.socket_folder
    assert pid is not None
    assert sockets is not None
    server.stop()
    server.stop()
    assert not psutil.pid_exists(pid)
    assert not sockets.exists()


def test_a_second_start_in_the_same_folder_is_refused_in_words(folder: Path) -> None:
    with (
        EmbeddedPostgres(folder, durable=False),
        pytest.raises(PostgresFailed, match="in use by another process"),
    ):
        EmbeddedPostgres(folder, durable=False).start()


def test_a_killed_server_starts_again_with_its_data_at_the_same_address(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        url = server.admin_url
        ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
        assert server.pid is not None
        process = psutil.Process(server.pid)
        process.kill()
        process.wait(60)
        assert not server.running
        server.start()
        assert server.admin_url == url
        assert ask(url, "SELECT n FROM kept") == 7


class OutspokenByASession(EmbeddedPostgres):
    """Behind all that a new server says stands the last line of the former server's session."""

    def _launch(self, postgres: Path) -> None:
        super()._launch(postgres)
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        with self.log.open("a") as log:
            log.write("FATAL:  terminating connection due to unexpected postmaster exit\n")


@pytest.mark.parametrize("server_class", [EmbeddedPostgres, OutspokenByASession])
def test_a_killed_server_starts_again_once_its_last_session_has_ended(
    folder: Path, server_class: type[EmbeddedPostgres]
) -> None:
    with server_class(folder, durable=False) as server:
        with psycopg.connect(server.admin_url.replace("+psycopg", ""), autocommit=True) as connection:
            session = psutil.Process(connection.info.backend_pid)
            session.suspend()  # so it does not see that the server is gone
            assert server.pid is not None
            process = psutil.Process(server.pid)
            process.kill()
            process.wait(60)
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(server.start)
            while "shared memory block" not in server.log.read_text():
                assert not starting.done(), starting.result()
                threading.Event().wait(0.01)
            session.resume()
            starting.result()
            assert ask(server.admin_url, "SELECT 1") == 1
            server.stop()


STARTER = """
import sys, signal
from pathlib import Path
from media_operator.local.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print(server.pid, server.socket_folder, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_dies_with_whoever_started_it_and_the_next_one_takes_over(folder: Path, how: int) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid, sockets = starter.stdout.readline().split()
    server_process = psutil.Process(int(pid))
    starter.send_signal(how)
    starter.wait()
    with EmbeddedPostgres(folder, durable=False) as server:  # at once: the old one may still be shutting down
        assert ask(server.admin_url, "SELECT 1") == 1
        with contextlib.suppress(psutil.NoSuchProcess):
            assert server_process.status() == psutil.STATUS_ZOMBIE
        assert not Path(sockets).exists()


def test_a_stale_pid_file_that_names_a_foreign_process_stops_nothing(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        data = server.data
    stranger = subprocess.Popen(["sleep", "60"], **_as_server_user())
    try:
        # PostgreSQL itself refuses to start here: the pid is alive and belongs to its user.
        (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n1\n5432\n/nowhere\n\n0 0\nready\n")
        with EmbeddedPostgres(folder, durable=False) as server:
            assert ask(server.admin_url, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def _as_server_user() -> dict[str, object]:
    return {"user": "nobody"} if os.geteuid() == 0 else {}


def test_an_interrupted_first_start_is_made_good_by_the_next(folder: Path) -> None:
    (folder / "data.unfinished" / "base").mkdir(parents=True)
    with EmbeddedPostgres(folder, durable=False) as server:
        assert ask(server.admin_url, "SELECT 1") == 1


def test_a_server_that_cannot_start_says_why_in_one_sentence(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        data = server.data
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresFailed, match=r"FATAL: .*incompatible"):
        EmbeddedPostgres(folder, durable=False).start()


def test_data_without_its_password_is_not_overwritten(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False):
        pass
    (folder / "admin-password").unlink()
    with pytest.raises(PostgresFailed, match="admin-password is missing"):
        EmbeddedPostgres(folder, durable=False).start()


@pytest.fixture
def private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that only root can enter, so data and binaries are moved."""
    monkeypatch.setattr(embedded, "DATA", folder / "lib")
    monkeypatch.setattr(embedded, "CACHE", folder / "cache")
    made = folder / "root-only"
    made.mkdir(mode=0o700)
    return made


@only_as_root
def test_a_checkout_that_only_root_can_enter_moves_data_and_binaries_to_where_the_server_can_reach_them(
    folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all = embedded._open_to_all
    monkeypatch.setattr(embedded, "_open_to_all", lambda path: "site-packages" not in str(path) and open_to_all(path))
    for query in ("CREATE TABLE kept AS SELECT 7 AS n", "SELECT n FROM kept"):  # the second start finds both
        with EmbeddedPostgres(private / "run", durable=False) as server:
            ask(server.admin_url, query)
            assert server.pid is not None
            assert Path(psutil.Process(server.pid).exe()).is_relative_to(folder / "cache")
            assert server.data.is_relative_to(folder / "lib")


@only_as_root
def test_a_folder_that_was_removed_and_made_again_begins_without_data_and_the_old_data_stays(private: Path) -> None:
    with EmbeddedPostgres(private / "run", durable=False) as server:
        ask(server.admin_url, "CREATE TABLE kept AS SELECT 7 AS n")
        old = server.data
    shutil.rmtree(private / "run")
    with EmbeddedPostgres(private / "run", durable=False) as server:
        assert ask(server.admin_url, "SELECT to_regclass('kept')") is None
    assert (old / "PG_VERSION").exists()


@only_as_root
def test_moved_data_follows_its_folder_and_serves_one_of_two_copies_at_a_time(private: Path) -> None:
    with EmbeddedPostgres(private / "run", durable=False) as server:
        ask(server.admin_url, "CREATE TABLE kept AS SELECT 7 AS n")
    (private / "run").rename(private / "moved")
    with EmbeddedPostgres(private / "moved", durable=False) as server:
        assert ask(server.admin_url, "SELECT n FROM kept") == 7
        shutil.copytree(private / "moved", private / "copy")
        with pytest.raises(PostgresFailed, match="in use by another process"):
            EmbeddedPostgres(private / "copy", durable=False).start()
        assert ask(server.admin_url, "SELECT n FROM kept") == 7


@only_as_root
def test_data_that_was_moved_before_the_folder_named_it_is_found(private: Path) -> None:
    with EmbeddedPostgres(private / "run", durable=False) as server:
        ask(server.admin_url, "CREATE TABLE kept AS SELECT 7 AS n")
    record = private / "run" / "data-folder"
    named = Path(record.read_text())
    named.rename(named.with_name(named.name.partition("-")[0]))
    record.unlink()
    with EmbeddedPostgres(private / "run", durable=False) as server:
        assert ask(server.admin_url, "SELECT n FROM kept") == 7
