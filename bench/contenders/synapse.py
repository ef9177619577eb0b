"""Synapse, the most common Matrix homeserver: the peer for small files.

Its media repository does for a chat what our api does: it checks a token, stores a file, writes a row. It runs as one
process, with a database on the same PostgreSQL server as ours and files on the same disk, without rate limits,
federation and previews. It comes from PyPI, by `synapse.lock`, into its own venv in the tools' cache.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from tests.tools import build

from bench.load import Target
from bench.resources import Resources
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.local.processes import die_with_parent

LOCK = Path(__file__).parent / "synapse.lock"
SERVER_NAME = "bench.localhost"
START_SECONDS = 120.0
"""Its first start makes some two hundred tables."""


class NoSynapse(Exception):
    """It cannot be installed here; the text is a sentence for people."""


@dataclass(frozen=True)
class Synapse:
    target: Target
    used: Resources

    def download_path(self, answer: bytes) -> str:
        """Of what an upload was answered with: the authenticated download."""
        _, _, media_id = json.loads(answer)["content_uri"].rpartition("/")
        return f"/_matrix/client/v1/media/download/{SERVER_NAME}/{media_id}"


def install() -> Path:
    """The venv's Python: from the cache, or installed now. Raises NoSynapse."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = build.cache() / f"synapse-{digest}"
    python = home / "bin" / "python"
    if python.exists():
        return python
    build.cache().mkdir(parents=True, exist_ok=True)
    uv = str(Path(sys.executable).parent / "uv")
    print("synapse: installing once from PyPI ... ", end="", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".synapse-", dir=build.cache()) as scratch:
        unfinished = Path(scratch) / "venv"
        venv = [uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(unfinished)]
        sync = [uv, "pip", "sync", "--quiet", "--python", str(unfinished / "bin" / "python")]
        for command in (venv, [*sync, "--require-hashes", "--only-binary", ":all:", str(LOCK)]):
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode != 0:
                print("failed", file=sys.stderr)
                raise NoSynapse(f"Synapse could not be installed from PyPI: {_last_line(ran.stderr)}")
        shutil.rmtree(home, ignore_errors=True)
        unfinished.rename(home)
    print("done", file=sys.stderr)
    return python


def version() -> str:
    """As the lock pins it."""
    return next(
        line.split("==")[1].split()[0] for line in LOCK.read_text().splitlines() if line.startswith("matrix-synapse==")
    )


@contextmanager
def started(postgres: EmbeddedPostgres, folder: Path) -> Iterator[Synapse]:
    """Answers, with one user who is logged in. Call `install` before. Raises NoSynapse. Blocks.

    Call it from a thread that lives as long as Synapse shall: it ends with it.
    """
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    registration = secrets.token_hex(32)
    configuration = folder / "homeserver.yaml"
    # YAML, since JSON is a part of it.
    configuration.write_text(json.dumps(_configuration(folder, port, _database(postgres), registration), indent=1))
    (folder / "signing.key").write_text(f"ed25519 a_bench {_unpadded(secrets.token_bytes(32))}\n")
    with (folder / "synapse.log").open("wb") as log:
        child = subprocess.Popen(
            [install(), "-m", "synapse.app.homeserver", "--config-path", configuration],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(base, child, folder / "synapse.log")
        token = _register(base, registration)
        upload = "/_matrix/media/v3/upload?filename=bench.bin"
        yield Synapse(Target(("127.0.0.1", port), token, upload, form=False), Resources.tree(child.pid))
    finally:
        child.kill()
        child.wait()


def _database(postgres: EmbeddedPostgres) -> dict[str, str]:
    """A database as Synapse asks for: its own, in the locale C. How to reach it."""
    password = secrets.token_hex(16)
    with psycopg.connect(postgres.admin_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE synapse LOGIN PASSWORD {}").format(password))
        admin.execute("CREATE DATABASE synapse OWNER synapse ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0")
    host = str(postgres.socket_folder)
    return {"host": host, "port": "5432", "user": "synapse", "password": password, "dbname": "synapse"}


def _configuration(folder: Path, port: int, database: dict[str, str], registration: str) -> dict[str, Any]:
    unlimited = {"per_second": 1_000_000, "burst_count": 1_000_000}
    return {
        "server_name": SERVER_NAME,
        "pid_file": str(folder / "homeserver.pid"),
        "listeners": [
            {
                "port": port,
                "bind_addresses": ["127.0.0.1"],
                "type": "http",
                "tls": False,
                "resources": [{"names": ["client"], "compress": False}],  # no federation; media belong to the client's
            }
        ],
        "database": {"name": "psycopg2", "args": {**database, "cp_min": 5, "cp_max": 10}},
        "media_store_path": str(folder / "media"),
        "max_upload_size": "1G",
        "signing_key_path": str(folder / "signing.key"),
        "registration_shared_secret": registration,
        "macaroon_secret_key": secrets.token_hex(32),
        "form_secret": secrets.token_hex(32),
        "log_config": str(_log_configuration(folder)),
        "report_stats": False,
        "trusted_key_servers": [],
        "federation_domain_whitelist": [],
        "url_preview_enabled": False,
        "presence": {"enabled": False},
        "rc_login": {"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
        "rc_registration": unlimited,
        "rc_media_create": unlimited,
        "rc_message": unlimited,
    }


def _log_configuration(folder: Path) -> Path:
    """Warnings only, so that Synapse does not have to log each request as our api does."""
    path = folder / "log.yaml"
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    root = {"level": "WARNING", "handlers": ["console"]}
    path.write_text(json.dumps({"version": 1, "handlers": {"console": handler}, "root": root}))
    return path


def _wait_until_ready(base: str, child: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            _call(f"{base}/health")
        except (OSError, ValueError):
            if child.poll() is not None:
                raise NoSynapse(f"Synapse did not start: {_last_line(log.read_text(errors='replace'))}") from None
            if time.monotonic() > deadline:
                raise NoSynapse(f"Synapse did not answer within {START_SECONDS:.0f} s") from None
            time.sleep(0.1)
        else:
            return


def _register(base: str, secret: str) -> str:
    """The token of a new user, by the shared secret."""
    url = f"{base}/_synapse/admin/v1/register"
    nonce, user, password = json.loads(_call(url))["nonce"], "bench", secrets.token_hex(16)
    told = "\0".join((nonce, user, password, "notadmin")).encode()
    body = {
        "nonce": nonce,
        "username": user,
        "password": password,
        "admin": False,
        "mac": hmac.new(secret.encode(), told, hashlib.sha1).hexdigest(),
    }
    return str(json.loads(_call(url, json.dumps(body).encode()))["access_token"])


def _call(url: str, body: bytes | None = None) -> bytes:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url} answered {error.code}: {error.read()[:300]!r}") from None


def _unpadded(key: bytes) -> str:
    return base64.b64encode(key).decode().rstrip("=")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]
