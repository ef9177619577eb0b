"""The operator's information on a real clamd's signatures, and on a clamd that does not answer."""

import asyncio
import contextlib
import hashlib
import io
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from media_operator.backends import scanner_version
from media_operator.backends.scanner_version import ScannerVersion
from media_operator.local.clamd import HOW_TO_INSTALL, ClamdAddress, EmbeddedClamd
from tests.integration.servers.clamd import LIMITS
from tests.ports import free_port

DAY = 86400


def daily_database(built: float) -> bytes:
    """An unsigned daily.cud, as `sigtool --unsigned` makes it. Its header has the build time, as in a .cvd."""
    header = f"ClamAV-VDB:23 Nov 2026 10-00 +0000:27444:1:90:X:X:test:{built:.0f}"
    rules = f"Test.Only:0:*:{b'only in this test'.hex()}\n"
    listed = f"{header}\ndaily.ndb:{len(rules)}:{hashlib.sha256(rules.encode()).hexdigest()}\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("daily.info", listed), ("daily.ndb", rules)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return header.encode().ljust(512) + packed.getvalue()


@asynccontextmanager
async def answering(answer: Callable[[asyncio.StreamReader], Awaitable[bytes]]) -> AsyncIterator[ScannerVersion]:
    """The operator's information on a server that is no clamd."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            writer.write(await answer(reader))
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield ScannerVersion(*server.sockets[0].getsockname()[:2])


async def test_a_clamd_tells_when_its_signatures_were_built(tmp_path: Path) -> None:
    if EmbeddedClamd.find() is None:
        pytest.skip(HOW_TO_INSTALL)
    signatures = tmp_path / "clamd" / "signatures"
    signatures.mkdir(parents=True)
    (signatures / "daily.cud").write_bytes(daily_database(time.time() - 3 * DAY))
    server = EmbeddedClamd(limits=LIMITS, official=None, mirror=None)
    try:
        address = await server.start(tmp_path)
        scanner = ScannerVersion(address.host, address.port)
        await scanner.look()
        age = scanner.age()
        assert scanner.up
        assert age is not None
        assert 2 * DAY < age < 4 * DAY  # exact where the machine's time zone, in which clamd tells it, is UTC
    finally:
        await server.stop()


async def test_a_clamd_without_official_signatures_is_up_and_their_age_is_unknown(clamd: ClamdAddress) -> None:
    scanner = ScannerVersion(clamd.host, clamd.port)
    await scanner.look()
    assert (scanner.up, scanner.age()) == (True, None)


async def test_a_clamd_that_went_away_is_down_and_its_signatures_are_no_longer_known() -> None:
    async def dated(reader: asyncio.StreamReader) -> bytes:
        assert await reader.readuntil(b"\0") == b"zVERSION\0"
        return b"ClamAV 1.4.6/27444/Mon Nov 23 10:00:00 2026\0"

    async with answering(dated) as scanner:
        await scanner.look()
        assert scanner.up
        assert scanner.age() is not None
    await scanner.look()
    assert (scanner.up, scanner.age()) == (False, None)


@pytest.mark.parametrize(
    "answer",
    [b"", b"ClamAV 1.4.6", b"UNKNOWN COMMAND\0", b"\xff\xfe\0", b"ClamAV " + b"x" * 10_000 + b"\0"],
    ids=["nothing", "cut off", "another command", "not ascii", "without end"],
)
async def test_whoever_does_not_say_a_version_is_no_clamd_that_is_up(answer: bytes) -> None:
    async def say(reader: asyncio.StreamReader) -> bytes:
        await reader.readuntil(b"\0")
        return answer

    async with answering(say) as scanner:
        await scanner.look()
        assert (scanner.up, scanner.age()) == (False, None)


async def test_a_clamd_that_accepts_and_stays_silent_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner_version, "ANSWER_SECONDS", 0.1)

    async def silent(reader: asyncio.StreamReader) -> bytes:
        return await reader.read(-1) * 0  # until the operator hangs up

    async with answering(silent) as scanner:
        await scanner.look()
        assert scanner.up is False


@pytest.mark.parametrize("host", ["clamd.invalid", "x" * 64 + ".invalid", "127.0.0.1"])
async def test_it_goes_on_asking_where_nobody_answers(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner_version, "ASK_AGAIN_SECONDS", 0.01)
    scanner = ScannerVersion(host, free_port())
    asking = asyncio.create_task(scanner.run())
    try:
        async with asyncio.timeout(60):
            while scanner.up is None:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not asking.done()
        assert scanner.up is False
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
