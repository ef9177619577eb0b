"""The rows of scans: the drain loop against clients of clamd that do nothing else.

The limit is the fastest of three bare clients: one with a connection for each file, one file at a time; one with as
many connections at once as clamd has threads; one with a session (IDSESSION) that sends the next files during a scan.
"""

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench.clients import Content
from bench.measure import BYTES, ITEMS, Contender, Effort, Goal, Row, compare
from bench.parts import Parts, stored
from bench.resources import MIB, Resources
from bench.worker import Worker, scans, worker
from media_operator.local.clamd import ClamdAddress, ScanLimits

SMALL = 100 * 1024
GOAL = Goal(must=0.7, aim=0.9)
AT_ONCE = ScanLimits().threads
WINDOW = 2 * AT_ONCE
"""Files that a session may have unanswered: clamd has a temporary file of each."""
ONE, SEVERAL, SESSION = "clamd, one at a time", f"clamd, {AT_ONCE} at once", "clamd, one session"


async def scan(parts: Parts, effort: Effort) -> list[Row]:
    async with parts.clamd() as clamd:
        if clamd is None:
            return []
        async with worker(parts.tenant) as one:
            return [
                *await _scan(parts, one, clamd, effort.turns, 1, effort.scanned),
                *await _scan(parts, one, clamd, effort.turns, effort.scanned_small, SMALL),
            ]


async def _scan(parts: Parts, one: Worker, clamd: ClamdAddress, turns: int, count: int, size: int) -> list[Row]:
    contents = [Content(size) for _ in range(count)]
    digests = [content.sha256().hex() for content in contents]
    amount = count * size if count == 1 else count
    task = scans(clamd)

    async def ours() -> float:
        await one.drain(task)
        return amount

    async def queue_again() -> None:
        await one.queue_scans(digests)

    async def check() -> None:
        await one.check(count)

    with ExitStack() as stack:
        names = [stack.enter_context(stored(parts, content)).name for content in contents]
        files = [parts.bare.folder / name for name in names]

        def bare(scan_all: Callable[[ClamdAddress, list[Path]], None]) -> Contender:
            def work() -> float:
                scan_all(clamd, files)
                return amount

            return Contender(work, Resources.of(os.getpid()))

        limits = {ONE: bare(_one_by_one)}
        if count > 1:
            limits |= {SEVERAL: bare(_several_at_once), SESSION: bare(_session)}
        seen = await compare(turns, {"ours": Contender(ours, one.used, check, queue_again), **limits})
    best = max(limits, key=lambda name: seen[name].rate)
    legend = {
        ONE: "a connection and an INSTREAM for each file. CPU without clamd's own",
        SEVERAL: f"the same by {AT_ONCE} threads, as many as clamd has",
        SESSION: "IDSESSION: all files over one connection, of which clamd scans some at once",
    }
    what = f"scan, {size // MIB} MiB" if count == 1 else f"scan, {size // 1024} KiB each"
    return [
        Row(
            what,
            BYTES if count == 1 else ITEMS,
            seen["ours"],
            f"{name} (best)" if name == best and count > 1 else name,
            seen[name],
            legend[name] + ("; the strongest, so the limit" if name == best and count > 1 else ""),
            GOAL if name == best and count > 1 else None,
        )
        for name in limits
    ]


def _one_by_one(clamd: ClamdAddress, files: list[Path]) -> None:
    for file in files:
        with socket.create_connection((clamd.host, clamd.port)) as connection:
            connection.sendall(b"nINSTREAM\n")
            _send(connection, file)
            if (reply := connection.recv(4096)) != b"stream: OK\n":
                raise RuntimeError(f"clamd answered {reply!r}")


def _several_at_once(clamd: ClamdAddress, files: list[Path]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(lambda file: _one_by_one(clamd, [file]), files):
            pass


def _session(clamd: ClamdAddress, files: list[Path]) -> None:
    with socket.create_connection((clamd.host, clamd.port)) as connection:
        answers = connection.makefile("rb")
        connection.sendall(b"nIDSESSION\n")
        for number, file in enumerate(files):
            if number >= WINDOW:
                _expect_ok(answers.readline())
            connection.sendall(b"nINSTREAM\n")
            _send(connection, file)
        for _ in range(min(WINDOW, len(files))):
            _expect_ok(answers.readline())
        connection.sendall(b"nEND\n")


def _expect_ok(reply: bytes) -> None:
    if not reply.endswith(b": stream: OK\n"):
        raise RuntimeError(f"clamd answered {reply!r}")


def _send(connection: socket.socket, file: Path) -> None:
    """Its content as INSTREAM wants it: chunks, each after its length, and an empty one."""
    with file.open("rb") as opened:
        while chunk := opened.read(MIB):
            connection.sendall(len(chunk).to_bytes(4, "big"))
            connection.sendall(chunk)
    connection.sendall(bytes(4))
