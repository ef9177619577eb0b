"""The services on loopback: PostgreSQL (durable), folder store, `python -m media_api`, clamd; and the others that they
are measured against: the bare server, FastAPI, Synapse and tusd. Each ends with its context.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from tests.integration.servers.api import Api, process

from bench.clients import Client, Content, name_in
from bench.contenders import synapse, tusd
from bench.contenders.synapse import NoSynapse, Synapse
from bench.contenders.tusd import NoTusd, Tusd
from bench.load import Target
from bench.resources import Resources
from media_api.processes import MOST
from media_core.policy import Policy
from media_operator.local.clamd import ClamdAddress, EmbeddedClamd
from media_operator.local.postgres import EmbeddedPostgres
from media_operator.local.processes import die_with_parent

POLICY = Policy(
    max_bytes=1 << 40, max_upload_bytes=1 << 40, max_transcription_seconds_per_day=1 << 30, pending_access="All"
)
"""Scans are queued as for any tenant. Nothing scans here, so downloads need no verdict."""

Address = tuple[str, int]


@dataclass(frozen=True)
class Served:
    """A server of files in a folder of its own."""

    address: Address
    used: Resources
    folder: Path

    def client(self) -> Client:
        return Client(self.address)

    def remove(self, names: list[str]) -> None:
        for name in names:
            (self.folder / name).unlink()


@dataclass(frozen=True)
class Tenant:
    """A tenant's api, and a user of it."""

    api: Api
    token: str
    used: Resources
    """By the api's process and its children."""

    @property
    def target(self) -> Target:
        return Target(self.api.address, self.token)

    def client(self) -> Client:
        return Client(self.api.address, self.token)

    def delete(self, media_ids: list[str]) -> None:
        with self.client() as client:
            for media_id in media_ids:
                client.request("DELETE", f"/v1/media/{media_id}")


@dataclass
class Parts:
    """What every measurement stands on, and what some of them start for themselves."""

    folder: Path
    postgres: EmbeddedPostgres
    database_used: Resources
    bare: Served
    fastapi: Served
    tenant: Tenant
    """The one that most is measured on: POLICY, a folder store."""
    missing: list[str] = field(default_factory=list)
    """Sentences on what could not be had, for the report."""

    @asynccontextmanager
    async def another(self, policy: Policy = POLICY, **environment: str) -> AsyncIterator[Tenant]:
        """A further tenant, with an api of its own."""
        async with tenant(self.postgres, self.place("api"), policy, **environment) as started:
            yield started

    @asynccontextmanager
    async def clamd(self) -> AsyncIterator[ClamdAddress | None]:
        """clamd with EICAR's signature only, so that a scan is as short as possible; None: it is not installed."""
        if EmbeddedClamd.find() is None:
            self.without("clamd is not installed, so nothing is scanned")
            yield None
            return
        embedded = EmbeddedClamd(official=None, mirror=None)
        try:
            yield await embedded.start(self.place("clamd"))
        finally:
            await embedded.stop()

    @contextmanager
    def synapse(self) -> Iterator[Synapse | None]:
        """None where it can't be had."""
        with ExitStack() as stack:
            try:
                started = stack.enter_context(synapse.started(self.postgres, self.place("synapse") / "home"))
            except NoSynapse as why:
                self.without(str(why))
                yield None
            else:
                yield started

    @contextmanager
    def tusd(self) -> Iterator[Tusd | None]:
        """None where it can't be had."""
        with ExitStack() as stack:
            try:
                started = stack.enter_context(tusd.started(self.place("tusd") / "files"))
            except NoTusd as why:
                self.without(str(why))
                yield None
            else:
                yield started

    def place(self, name: str) -> Path:
        """A folder that others may pass: as root PostgreSQL and clamd run as other users."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        path.chmod(0o755)
        return path

    def without(self, why: str) -> None:
        if why not in self.missing:
            self.missing.append(why)


@asynccontextmanager
async def started() -> AsyncIterator[Parts]:
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
        bare = stack.enter_context(_served("bench.contenders.bare", folder / "bare"))
        fastapi = stack.enter_context(_served("bench.contenders.peer", folder / "fastapi"))
        (folder / "api").mkdir()
        async with tenant(postgres, folder / "api", POLICY) as first:
            yield Parts(folder, postgres, database_used(postgres), bare, fastapi, first)


@asynccontextmanager
async def tenant(postgres: EmbeddedPostgres, folder: Path, policy: Policy, **environment: str) -> AsyncIterator[Tenant]:
    """Whatever the installation is called, its api logs as always, into a file in `folder`.

    It has as many processes as this machine has cores, and prepares statements, as `make run` has it; `environment` may
    say otherwise.
    """
    processes = str(min(MOST, len(os.sched_getaffinity(0))))
    environment = {"MEDIA_API_PROCESSES": processes, "MEDIA_DATABASE_PREPARE": "true", **environment}
    async with process(postgres, folder, applied=policy, preloaded=False, **environment) as api:
        assert api.process is not None
        yield Tenant(api, api.token(lifetime=timedelta(hours=12)), Resources.tree(api.process.pid))


def database_used(postgres: EmbeddedPostgres) -> Resources:
    """By the server and all its sessions; one that has ended counts too."""
    assert postgres.pid is not None
    return Resources.tree(postgres.pid)


@dataclass(frozen=True)
class Stored:
    """One content, stored by all."""

    media_id: str
    """Ours."""
    name: str
    """Of the bare server's and FastAPI's file."""


@contextmanager
def stored(parts: Parts, content: Content) -> Iterator[Stored]:
    with parts.tenant.client() as client:
        media_id = name_in(client.upload(content, content.size))
    name = secrets.token_hex(16)
    with (parts.bare.folder / name).open("wb") as file:
        file.writelines(content)
    (parts.fastapi.folder / name).hardlink_to(parts.bare.folder / name)
    try:
        yield Stored(media_id, name)
    finally:
        parts.bare.remove([name])
        parts.fastapi.remove([name])
        parts.tenant.delete([media_id])


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="media-bench-") as name:
        Path(name).chmod(0o755)  # as root PostgreSQL and clamd run as other users, who must pass
        yield Path(name)


@contextmanager
def _served(module: str, folder: Path) -> Iterator[Served]:
    folder.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-m", module, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    try:
        assert child.stdout is not None
        address = ("127.0.0.1", int(child.stdout.readline()))
        socket.create_connection(address, 10).close()
        yield Served(address, Resources.of(child.pid), folder)
    finally:
        child.kill()
        child.wait()
