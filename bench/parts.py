"""The real parts on loopback: PostgreSQL (durable), folder store, `python -m media_api`, clamd; and what they are
measured against: the bare server and the peer. All end with their contexts, each by its own process id.
"""

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.api_server import Api, process

from bench.clients import Client
from bench.resources import Resources
from media_core.policy import Policy
from media_operator.embedded.clamd import ClamdAddress, EmbeddedClamd
from media_operator.embedded.postgres import EmbeddedPostgres
from media_operator.embedded.processes import die_with_parent

POLICY = Policy(
    max_bytes=1 << 40, max_upload_bytes=1 << 40, max_transcription_seconds_per_day=1 << 30, pending_access="All"
)
"""Scans are queued as for any tenant, and wait for nobody: so a download needs no verdict here."""

Address = tuple[str, int]


@dataclass(frozen=True)
class Served:
    """A server of files in a folder of its own."""

    address: Address
    used: Resources
    folder: Path

    def remove(self, names: list[str]) -> None:
        for name in names:
            (self.folder / name).unlink()


@dataclass(frozen=True)
class Parts:
    api: Api
    token: str
    used: Resources
    """By the api's process."""
    bare: Served
    peer: Served
    clamd: ClamdAddress | None
    folder: Path

    def client(self) -> Client:
        return Client(self.api.address, self.token)

    def delete(self, media_ids: list[str]) -> None:
        with self.client() as client:
            for media_id in media_ids:
                client.request("DELETE", f"/v1/media/{media_id}")


@asynccontextmanager
async def started(*, with_clamd: bool) -> AsyncIterator[Parts]:
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
        bare = stack.enter_context(_served("bench.bare", folder / "bare"))
        peer = stack.enter_context(_served("bench.peer", folder / "peer"))
        clamd = EmbeddedClamd(official=None, mirror=None) if with_clamd and EmbeddedClamd.find() else None
        (folder / "api").mkdir()
        async with process(postgres, folder / "api", applied=POLICY) as api:
            assert api.process is not None
            try:
                yield Parts(
                    api=api,
                    token=api.token(),
                    used=Resources.of(api.process.pid),
                    bare=bare,
                    peer=peer,
                    clamd=await clamd.start(folder) if clamd else None,
                    folder=folder,
                )
            finally:
                if clamd:
                    await clamd.stop()


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
