"""Many small requests: by wrk, or by threads of this process if wrk is missing.

wrk costs a few percent of a core for as many requests as our servers can answer. Eight Python threads cost as much as
the server, on the same cores, and flatten every ratio. In both cases the number of clients is the same for all servers.
A turn takes a fixed time, in which a slower server does less.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from bench.clients import UPLOAD, Client, Content, Crowd

CLIENTS = 8
SIZE = 10 * 1024
HERE = Path(__file__).parent
WRK = shutil.which("wrk")
WITHOUT_WRK = (
    f"wrk is not installed (Debian: apt-get install wrk), so {CLIENTS} Python threads made the load of the small rows: "
    "that takes most of the machine and flattens their ratios"
)


class LoadFailed(Exception):
    """Not every request was answered with success; the text says how many."""


@dataclass(frozen=True)
class Target:
    """A server of small files, and how it wants to be asked."""

    address: tuple[str, int]
    token: str = ""
    path: str = UPLOAD
    """Of uploads."""
    form: bool = True
    """Whether an upload is a multipart form; else it is the bare body."""

    def client(self) -> Client:
        return Client(self.address, self.token)

    def upload(self, client: Client, content: Content, sha256: bytes | None = None) -> bytes:
        """The answer's body."""
        if self.form:
            return client.upload(content, content.size, path=self.path, sha256=sha256).body
        return client.send("POST", self.path, content, content.size).body


@dataclass(frozen=True)
class Load:
    """One turn: `seconds` of requests by CLIENTS at once. Its methods return how many were answered. They block."""

    seconds: int

    def new(self, target: Target) -> float:
        """Uploads of SIZE bytes, each of new content."""
        if WRK is None:
            return self._crowd(target, lambda client: target.upload(client, Content(SIZE)))
        return self._uploads(target, Content(SIZE), NEW="1")

    def same(self, target: Target, content: Content, *, announced: bool = False) -> float:
        """Uploads of one content, again and again; `announced`: a header has its digest."""
        digest = content.sha256() if announced else None
        if WRK is None:
            return self._crowd(target, lambda client: target.upload(client, content, digest))
        return self._uploads(target, content, DIGEST=f"sha-256=:{base64.b64encode(digest).decode()}:" if digest else "")

    def downloads(self, target: Target, paths: list[str]) -> float:
        """In turn, each by whoever is free."""
        if WRK is None:
            endless = cycle(paths)
            return self._crowd(target, lambda client: client.download(next(endless)))
        with _file("\n".join(paths).encode()) as name:
            return self._wrk(target, "download.lua", PATHS=name)

    def _crowd(self, target: Target, once: Callable[[Client], object]) -> float:
        until = time.monotonic() + self.seconds

        def one(client: Client, _: int) -> int:
            done = 0
            while time.monotonic() < until:
                once(client)
                done += 1
            return done

        with Crowd(CLIENTS, target.client) as crowd:
            return sum(crowd.share(range(CLIENTS), one))

    def _uploads(self, target: Target, content: Content, **environment: str) -> float:
        with _file(b"".join(content)) as name:
            return self._wrk(target, "upload.lua", CONTENT=name, **environment)

    def _wrk(self, target: Target, script: str, **environment: str) -> float:
        assert WRK
        host, port = target.address
        told = {
            "TOKEN": target.token,
            "UPLOAD_PATH": target.path,
            "FORM": "1" if target.form else "",
            "NEW": "",
            "DIGEST": "",
            "REPORT": str(HERE / "report.lua"),
        }
        command = [WRK, "-t1", f"-c{CLIENTS}", f"-d{self.seconds}s", "--timeout", "30s", "-s", str(HERE / script)]
        done = subprocess.run(
            [*command, f"http://{host}:{port}/"],
            env={"PATH": os.defpath, **told, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=self.seconds + 60,
        )
        try:
            seen = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            raise LoadFailed(f"wrk failed: {done.stdout.strip()[-500:]} {done.stderr.strip()[-500:]}") from None
        if seen["refused"] or seen["broken"] or not seen["requests"]:
            raise LoadFailed(
                f"wrk, {script} at port {port}: {seen['requests']} answers, {seen['refused']} of them errors, and "
                f"{seen['broken']} requests that broke"
            )
        return float(seen["requests"])


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="media-bench-") as file:
        file.write(content)
        file.flush()
        yield file.name
