"""tusd, the reference server of the resumable upload protocol tus: the peer for large files.

An upload is a POST with its length, and one PATCH with all of it. Its file store neither hashes nor syncs, and does not
check the caller. It is built from its Go module, pinned in `tusd/`, like the tests' tools.
"""

import math
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from tests.tools import build

from bench.clients import Answer, Client, Content
from bench.resources import MIB, Resources
from media_operator.local.processes import die_with_parent

MODULE = "github.com/tus/tusd/v2"
TOOL = build.Tool(
    "tusd",
    folder=str(Path(__file__).resolve().parent / "tusd"),
    module=MODULE,
    package=f"{MODULE}/cmd/tusd",
    link=f"-X {MODULE}/cmd/tusd/cli.VersionName={{version}}",
)
START_SECONDS = 30.0
PROTOCOL = {"Tus-Resumable": "1.0.0"}


class NoTusd(Exception):
    """It cannot be built here; the text is a sentence for people."""


def resumable_upload(client: Client, where: str, content: Content, piece: int) -> tuple[str, Answer]:
    """Makes an upload at `where`, and sends `piece` bytes a PATCH. Returns its path and the last answer."""
    made = client.send("POST", where, headers={**PROTOCOL, "Upload-Length": str(content.size)})
    path = urlsplit(made.headers["location"]).path
    chunks = iter(content)
    for offset in range(0, content.size, piece):
        size = min(piece, content.size - offset)
        head = {**PROTOCOL, "Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
        sent = client.send("PATCH", path, islice(chunks, math.ceil(size / MIB)), size, head)
    if sent.headers["upload-offset"] != str(content.size):
        raise RuntimeError(f"{sent.headers['upload-offset']} of {content.size} bytes were taken")
    return path, sent


@dataclass(frozen=True)
class Tusd:
    address: tuple[str, int]
    used: Resources
    folder: Path

    def client(self) -> Client:
        return Client(self.address)

    def upload(self, client: Client, content: Content) -> str:
        """The path of the new file."""
        return self.upload_in_pieces(client, content, content.size)

    def upload_in_pieces(self, client: Client, content: Content, piece: int) -> str:
        path, _ = resumable_upload(client, "/files/", content, piece)
        return path

    def remove(self, paths: list[str]) -> None:
        for path in paths:
            name = path.rpartition("/")[2]
            for file in (self.folder / name, self.folder / f"{name}.info"):
                file.unlink()


def install() -> Path:
    """The executable: from the cache, or built now. Raises NoTusd."""
    try:
        return build.provide(TOOL)
    except build.BuildFailed as failed:
        raise NoTusd(f"tusd could not be built: {str(failed).splitlines()[-1]}") from None


@contextmanager
def started(folder: Path) -> Iterator[Tusd]:
    """Answers. Call `install` before, and this from a thread that lives as long as tusd shall: it ends with it."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = ("127.0.0.1", free.getsockname()[1])
    command = [str(install()), "-host", address[0], "-port", str(address[1]), "-upload-dir", str(folder)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    try:
        _wait_until_ready(address, child)
        yield Tusd(address, Resources.tree(child.pid), folder)
    finally:
        child.kill()
        child.wait()


def _wait_until_ready(address: tuple[str, int], child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(address, 1).close()
        except OSError:
            if child.poll() is not None or time.monotonic() > deadline:
                raise NoTusd("tusd was built, but does not answer") from None
            time.sleep(0.05)
        else:
            return
