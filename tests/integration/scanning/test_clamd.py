"""The real clamd's verdicts on real content, and scans while it is down or slow, or dies."""

import asyncio
import bz2
import contextlib
import gzip
import hashlib
import itertools
import os
import signal
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import psutil
import pytest

from media_core.errors import Unavailable, Unfinished
from media_core.store import ObjectMissing
from media_core.upkeep.canary import EICAR
from media_operator.local import clamd as embedded
from media_operator.local.clamd import HOW_TO_INSTALL, ClamdAddress, EmbeddedClamd, ScanLimits
from media_workers.scanning import clamd as clamd_client
from media_workers.scanning.clamd import SMALL_BYTES, Clamd, ClamdVerdict
from media_workers.scanning.known_verdicts import TEST_VIRUS
from media_workers.scanning.session import ClamdSession
from tests.integration.scanning.test_scanner_version import daily_database
from tests.integration.servers.clamd import (
    LIMIT,
    LIMITS,
    MARKER,
    RULES,
    chunks,
    encrypted_zip,
    nested,
    settings_for,
    tar_gz,
    xz,
    zipped,
)
from tests.integration.tenancy import MIB
from tests.ports import free_port
from tests.stopwatch import Stopwatch

TEXT = b"An ordinary text of some length. " * 1000


async def scan(clamd: ClamdAddress, content: bytes, **settings: float) -> ClamdVerdict:
    return await Clamd(settings_for(clamd, **settings)).scan(chunks(content), len(content))


@pytest.fixture
async def own_clamd(tmp_path: Path) -> AsyncIterator[EmbeddedClamd]:
    """A clamd that a test may break."""
    if EmbeddedClamd.find() is None:
        pytest.skip(HOW_TO_INSTALL)
    server = EmbeddedClamd(limits=LIMITS, rules=RULES, official=None, mirror=None)
    await server.start(tmp_path)
    yield server
    await server.stop()


# --- verdicts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        b"x",
        zipped(TEXT, TEXT),
        zipped(TEXT, zip64=True, streamed=True),
        nested(TEXT, 3),
        tar_gz(TEXT),
        b"\x89PNG\r\n\x1a\n" + bytes(1000),
        bytes(LIMIT),
    ],
    ids=["text", "one byte", "zip", "streamed zip", "nested zips", "tar.gz", "broken png", "exactly the limit"],
)
async def test_ordinary_content_is_clean(clamd: ClamdAddress, content: bytes) -> None:
    verdict = await scan(clamd, content)
    assert (verdict.status, verdict.detail) == ("clean", None)
    assert verdict.engine.startswith("ClamAV ")


@pytest.mark.parametrize(
    "content",
    [
        EICAR,
        EICAR + bytes(LIMIT - len(EICAR)),
        bytes(LIMIT - len(EICAR)) + EICAR,
        b"\xff\xd8\xff\xe0" + bytes(5000) + EICAR,
        zipped(TEXT, EICAR),
        zipped(EICAR, method=zipfile.ZIP_BZIP2),
        zipped(EICAR, zip64=True, streamed=True),
        nested(EICAR, 4),
        tar_gz(EICAR),
        gzip.compress(tar_gz(zipped(EICAR))),
        xz(EICAR),
        zipped(encrypted_zip(TEXT), EICAR),
        zipped(EICAR, zipped(TEXT, zip64=True)),
    ],
    ids=[
        "plain",
        "padded to the limit",
        "at the very end",
        "after a jpeg header",
        "zip",
        "zip with bzip2",
        "streamed zip",
        "zips in zips",
        "tar.gz",
        "zip in tar.gz in gz",
        "xz",
        "beside an encrypted zip",
        "beside a zip64",
    ],
)
async def test_eicar_is_found_wherever_clamd_can_look(clamd: ClamdAddress, content: bytes) -> None:
    verdict = await scan(clamd, content)
    assert (verdict.status, verdict.detail) == ("infected", "Eicar-Test-Signature.UNOFFICIAL")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (EICAR + bytes(LIMIT), "StreamMaxLength"),
        (zipped(EICAR + bytes(LIMIT)), "Limits.Exceeded"),
        (zipped(bytes(LIMIT) + EICAR), "Limits.Exceeded"),
        (zipped(bytes(LIMIT) + EICAR, method=zipfile.ZIP_BZIP2), "Limits.Exceeded"),
        (zipped(bytes(LIMIT // 2), bytes(LIMIT // 2), EICAR), "Limits.Exceeded"),
        (nested(zipped(EICAR + bytes(LIMIT)), 2), "Limits.Exceeded"),
        (gzip.compress(bytes(LIMIT) + EICAR), "Limits.Exceeded"),
        (bz2.compress(bytes(LIMIT) + EICAR), "Limits.Exceeded"),
        (xz(bytes(LIMIT) + EICAR), "Limits.Exceeded"),
        (nested(EICAR, LIMITS.recursion + 1), "Limits.Exceeded.MaxRecursion"),
        (zipped(*[TEXT + bytes([n]) for n in range(LIMITS.files + 1)], EICAR), "Limits.Exceeded.MaxFiles"),
        (encrypted_zip(EICAR), "Encrypted.Zip"),
        (nested(encrypted_zip(EICAR), 2), "Encrypted.Zip"),
        (zipped(EICAR, zip64=True), "Skipped.Zip64"),
        (tar_gz(nested(zipped(EICAR, zip64=True), 1)), "Skipped.Zip64"),
        (zipped(EICAR, method=zipfile.ZIP_LZMA), "Skipped.ZipMethod"),
    ],
    ids=[
        "stream over the limit",
        "zip member padded behind",
        "zip member padded before",
        "bzip2 member padded before",
        "behind members that use the limit up",
        "padded in nested zips",
        "gz bomb",
        "bz2 bomb",
        "xz bomb",
        "nested too deep",
        "too many files",
        "encrypted zip",
        "encrypted zip in zips",
        "zip64",
        "zip64 in a zip in a tar.gz",
        "zip with lzma",
    ],
)
async def test_what_clamd_does_not_look_into_is_unscannable(clamd: ClamdAddress, content: bytes, reason: str) -> None:
    verdict = await scan(clamd, content)
    assert verdict.status == "unscannable"
    assert reason in str(verdict.detail)


async def test_a_rar_is_unscannable_where_libclamav_has_no_unrar(own_clamd: EmbeddedClamd, tmp_path: Path) -> None:
    rules = (tmp_path / "clamd" / "signatures" / "local.ndb").read_text()
    if embedded.SKIPPED_RAR not in rules:
        pytest.skip("this libclamav opens RAR archives itself")
    assert (await scan(own_clamd.address, b"Rar!\x1a\x07\x01\x00" + EICAR[::-1])).status == "unscannable"


async def test_a_scan_that_takes_too_long_is_unscannable(tmp_path: Path) -> None:
    server = EmbeddedClamd(limits=ScanLimits(content_mib=8, seconds=0.005), official=None, mirror=None)
    try:
        address = await server.start(tmp_path)
        verdict = None
        async with asyncio.timeout(120):
            while verdict is None:
                try:
                    verdict = await scan(address, TEXT * 200)
                except Unavailable as error:  # a busy machine may take 5 ms for the test virus, too
                    if "MaxScanTime" not in error.detail:
                        raise
    finally:
        await server.stop()
    assert (verdict.status, verdict.detail) == ("unscannable", "Heuristics.Limits.Exceeded.MaxScanTime")


async def test_content_over_our_own_limit_is_unscannable_without_being_sent(clamd: ClamdAddress) -> None:
    content = chunks(EICAR)
    verdict = await Clamd(settings_for(clamd, max_bytes=67)).scan(content, len(EICAR))
    assert verdict.status == "unscannable"
    assert await anext(content) == EICAR


async def test_the_reason_is_seen_each_time_clamd_cuts_a_stream_off(clamd: ClamdAddress) -> None:
    verdicts = [await scan(clamd, bytes(LIMIT + MIB * n)) for n in range(1, 21)]
    assert {verdict.status for verdict in verdicts} == {"unscannable"}


async def test_of_two_contents_with_one_md5_the_second_is_read_too(tmp_path: Path) -> None:
    """By default clamd caches clean content by MD5, and would not read the second of Wang's collision of 2004."""
    first = bytes.fromhex(
        "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f8955ad340609f4b30283e488832571415a"
        "085125e8f7cdc99fd91dbdf280373c5bd8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
        "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
    )
    second = bytes(byte ^ 0x80 if at in (19, 45, 59, 83, 109, 123) else byte for at, byte in enumerate(first))
    assert hashlib.md5(first).digest() == hashlib.md5(second).digest()  # noqa: S324
    server = EmbeddedClamd(limits=LIMITS, rules=[f"Second.Twin:0:*:{second[16:64].hex()}"], official=None, mirror=None)
    address = await server.start(tmp_path)
    try:
        assert [(await scan(address, content)).status for content in (first, second)] == ["clean", "infected"]
    finally:
        await server.stop()


async def test_scans_at_once_do_not_mix_their_verdicts(clamd: ClamdAddress) -> None:
    kinds = {"clean": TEXT, "Eicar": zipped(EICAR), "Marker": TEXT + MARKER, "Encrypted": encrypted_zip(TEXT)}
    names = list(kinds) * 10
    verdicts = await asyncio.gather(*(scan(clamd, kinds[name]) for name in names))
    for name, verdict in zip(names, verdicts, strict=True):
        assert name in (verdict.detail or verdict.status)


async def test_a_stream_of_200_mb_leaves_memory_flat(tmp_path: Path) -> None:
    server = EmbeddedClamd(limits=ScanLimits(content_mib=256), rules=RULES, official=None, mirror=None)
    address = await server.start(tmp_path)
    process, sizes = psutil.Process(), list[int]()

    async def content() -> AsyncIterator[bytes]:
        for _ in range(200):
            sizes.append(process.memory_info().rss)
            yield bytes(MIB)
        yield MARKER

    try:
        verdict = await Clamd(settings_for(address)).scan(content(), 200 * MIB + len(MARKER))
    finally:
        await server.stop()
    assert verdict.detail == "Test.Marker.UNOFFICIAL"
    assert max(sizes) - sizes[0] < 16 * MIB


# --- nothing becomes clean by accident ------------------------------------------------------------------------------


async def refused(scanning: Awaitable[ClamdVerdict], dependency: str = "clamd") -> str:
    with pytest.raises(Unavailable) as caught:
        await scanning
    assert caught.value.dependency == dependency
    return caught.value.detail


async def test_an_object_that_ends_early_gets_no_verdict(clamd: ClamdAddress) -> None:
    await refused(Clamd(settings_for(clamd)).scan(chunks(TEXT), len(TEXT) + 1), "object store")


async def test_an_object_longer_than_its_row_gets_no_verdict(clamd: ClamdAddress) -> None:
    await refused(Clamd(settings_for(clamd)).scan(chunks(TEXT), len(TEXT) - 1), "object store")


async def test_an_empty_chunk_does_not_end_the_stream(clamd: ClamdAddress) -> None:
    async def content() -> AsyncIterator[bytes]:
        for chunk in (TEXT, b"", EICAR):
            yield chunk

    assert (await Clamd(settings_for(clamd)).scan(content(), len(TEXT + EICAR))).status == "infected"


async def test_what_the_store_raises_ends_the_scan_and_closes_the_stream(clamd: ClamdAddress) -> None:
    closed = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        try:
            yield TEXT
            raise ObjectMissing("tenant/acme/0")
        finally:
            closed.set()

    with pytest.raises(ObjectMissing):
        await Clamd(settings_for(clamd)).scan(content(), 2 * len(TEXT))
    assert closed.is_set()


async def test_a_cancelled_scan_ends_at_once_and_closes_the_stream(clamd: ClamdAddress) -> None:
    sent, closed = asyncio.Event(), asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        try:
            yield TEXT
            sent.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    scanning = asyncio.create_task(Clamd(settings_for(clamd)).scan(content(), 2 * len(TEXT)))
    await sent.wait()
    scanning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scanning
    assert closed.is_set()


async def test_without_clamd_there_is_no_verdict() -> None:
    address = ClamdAddress("127.0.0.1", free_port(), "local")
    await refused(scan(address, TEXT))
    with pytest.raises(Unavailable):
        await Clamd(settings_for(address)).ping()


@pytest.mark.parametrize("content", [EICAR, TEXT, zipped(EICAR)], ids=["plain", "text", "zip"])
async def test_an_ok_for_want_of_a_temporary_folder_is_not_believed(
    own_clamd: EmbeddedClamd, tmp_path: Path, content: bytes
) -> None:
    """clamd 1.4 answers OK, EICAR or not, when it can't make the folder of a scan, as on a full disk."""
    temporary = tmp_path / "clamd" / "temporary"
    client = Clamd(settings_for(own_clamd.address))
    assert (await client.scan(chunks(TEXT), len(TEXT))).status == "clean"

    async def whole() -> AsyncIterator[bytes]:
        yield content
        while sum(entry.stat().st_size for entry in os.scandir(temporary)) < len(content):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        os.rename(temporary, tmp_path / "gone")  # noqa: PTH104  # received, and not looked into yet

    await refused(client.scan(whole(), len(content)))


async def test_a_clamd_that_can_not_keep_what_it_receives_decides_nothing(
    own_clamd: EmbeddedClamd, tmp_path: Path
) -> None:
    (tmp_path / "clamd" / "temporary").rmdir()
    await refused(scan(own_clamd.address, TEXT))


@pytest.mark.parametrize("content", [TEXT, EICAR], ids=["clean", "infected"])
async def test_a_clamd_that_is_killed_mid_stream_decides_nothing(own_clamd: EmbeddedClamd, content: bytes) -> None:
    async def killing() -> AsyncIterator[bytes]:
        yield content
        assert own_clamd.pid is not None
        os.kill(own_clamd.pid, signal.SIGKILL)
        yield content

    await refused(Clamd(settings_for(own_clamd.address)).scan(killing(), 2 * len(content)))


async def test_a_clamd_that_is_killed_while_it_scans_decides_nothing(own_clamd: EmbeddedClamd) -> None:
    assert own_clamd.pid is not None
    process = psutil.Process(own_clamd.pid)

    async def content() -> AsyncIterator[bytes]:
        yield TEXT
        process.suspend()  # clamd cannot read the end of the stream any more

    scanning = asyncio.create_task(Clamd(settings_for(own_clamd.address)).scan(content(), len(TEXT)))
    while process.status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    process.kill()
    await refused(scanning)


async def test_a_clamd_that_answers_to_nothing_counts_as_away(own_clamd: EmbeddedClamd) -> None:
    assert own_clamd.pid is not None
    process = psutil.Process(own_clamd.pid)
    process.suspend()
    try:
        await refused(scan(own_clamd.address, TEXT, connect_timeout=0.2))
    finally:
        process.resume()


Relay = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


class Front:
    """A proxy before one or several real clamds; each connection goes to the next of them."""

    def __init__(self, *clamds: ClamdAddress) -> None:
        self._sent = list[bytes]()
        self._clamds = itertools.cycle(clamds)
        self._server: asyncio.Server | None = None
        self._relays = set[asyncio.Task[None]]()
        self._broken = asyncio.Event()
        self._switched = list[asyncio.Event]()
        self.ended = asyncio.Event()
        """Some client has closed its connection."""
        self._there: Relay = passing
        self._back: Relay = passing

    async def __aenter__(self) -> "Front":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    @property
    def sent(self) -> list[bytes]:
        """What clients sent, by session. (Another process may also connect to this port.)"""
        return [sent for sent in self._sent if sent.startswith(b"zIDSESSION")]

    @property
    def address(self) -> ClamdAddress:
        assert self._server is not None
        return ClamdAddress("127.0.0.1", self._server.sockets[0].getsockname()[1], "local")

    async def break_with(self, there: Relay, back: Relay) -> None:
        """Makes the present connections behave like this; later ones work."""
        self._there, self._back = there, back
        self._broken.set()
        await asyncio.gather(*(switched.wait() for switched in self._switched))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clamd = next(self._clamds)
        to_clamd, from_clamd = await asyncio.open_connection(clamd.host, clamd.port)
        number = len(self._sent)
        self._sent.append(b"")

        async def noting(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                self._sent[number] += data
                sink.write(data)
                await sink.drain()
            sink.close()
            self.ended.set()

        self._start(reader, from_clamd, noting, lambda: self._there)
        self._start(to_clamd, writer, passing, lambda: self._back)

    def _start(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, whole: Relay, broken: Callable[[], Relay]
    ) -> None:
        switched = asyncio.Event()
        self._switched.append(switched)

        async def relay() -> None:
            relaying = asyncio.create_task(whole(source, sink))
            try:
                await asyncio.gather(relaying) if self._broken.is_set() else await self._broken.wait()
            finally:
                relaying.cancel()
                await asyncio.gather(relaying, return_exceptions=True)
                switched.set()
            await broken()(source, sink)

        self._relays.add(asyncio.create_task(relay()))


@contextlib.asynccontextmanager
async def between(clamd: ClamdAddress, there: Relay, back: Relay) -> AsyncIterator[Clamd]:
    """A client that has scanned once through a proxy in front of the real clamd. Then the proxy becomes faulty."""
    async with Front(clamd) as front:
        client = Clamd(settings_for(front.address))
        assert (await client.scan(chunks(TEXT), len(TEXT))).status == "clean"
        await front.break_with(there, back)
        yield client


async def passing(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()


async def stalled(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    await source.readexactly(4)
    await asyncio.Event().wait()


async def cut(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    sink.write((await source.read(65536))[:-1])  # all but the line's end
    sink.close()


async def closing(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    await source.readexactly(4)
    sink.close()


async def garbling(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    sink.write((await source.read(65536)).replace(b"stream:", b"dream:"))
    await passing(source, sink)


async def misnumbering(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    number, _, reply = (await source.read(65536)).partition(b": ")
    sink.write(b"%d: %s" % (int(number) - 1, reply))
    await passing(source, sink)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (stalled, passing),
        (passing, stalled),
        (passing, cut),
        (passing, closing),
        (closing, passing),
        (passing, misnumbering),
    ],
    ids=[
        "takes no more bytes",
        "never answers",
        "half a reply",
        "breaks off with the reply",
        "breaks off mid-stream",
        "answers with another scan's number",
    ],
)
@pytest.mark.parametrize("size", [1000, LIMIT], ids=["in one write", "in a stream"])
async def test_a_clamd_that_stalls_or_breaks_off_decides_nothing(
    clamd: ClamdAddress, there: Relay, back: Relay, size: int
) -> None:
    """It may be this content's fault, so it counts as an attempt."""
    async with between(clamd, there, back) as client:
        (connection,) = client._idle
        connection.session._reply_timeout = 0.5
        content = bytes(size)
        with pytest.raises(Unfinished) as caught:
            await client.scan(content if size < SMALL_BYTES else chunks(content), size)
        assert caught.value.dependency == "clamd"


async def test_a_reply_that_is_not_understood_is_an_error(clamd: ClamdAddress) -> None:
    async with between(clamd, passing, garbling) as client:
        verdict = await client.scan(chunks(TEXT), len(TEXT))
    assert (verdict.status, verdict.detail) == ("error", "clamd answered 'dream: OK'")


async def test_a_reply_that_nobody_asked_for_ends_the_connection(clamd: ClamdAddress) -> None:
    """Otherwise it would be taken for the reply to the next content."""
    async with Front(clamd) as front:
        client = Clamd(settings_for(front.address))
        assert (await client.scan(TEXT, len(TEXT))).status == "clean"
        (first,) = front.sent
        await front.break_with(passing, lambda _, sink: ahead(sink, 1 + first.count(b"zINSTREAM") + 1))
        assert (await client.scan(MARKER, len(MARKER))).status == "infected"
        assert len(front.sent) == 2


async def test_what_clamd_says_before_all_was_sent_is_heard_though_it_takes_nothing_more(clamd: ClamdAddress) -> None:
    """clamd does not close the connection either."""
    async with Front(clamd) as front, asyncio.timeout(60):
        client = Clamd(settings_for(front.address))
        assert (await client.scan(TEXT, len(TEXT))).status == "clean"
        (first,) = front.sent
        number = 1 + first.count(b"zINSTREAM") + 1

        begun = asyncio.Event()

        async def taking_little(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            await source.readexactly(4)
            begun.set()
            await asyncio.Event().wait()

        async def refusing(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            await begun.wait()
            sink.write(b"%d: INSTREAM size limit exceeded. ERROR\0" % number)
            await asyncio.Event().wait()

        await front.break_with(taking_little, refusing)
        assert (await client.scan(chunks(bytes(LIMIT)), LIMIT)).status == "unscannable"


async def ahead(sink: asyncio.StreamWriter, number: int) -> None:
    sink.write(b"%d: stream: OK\0" % number)
    await sink.drain()
    await asyncio.Event().wait()


# --- the test virus behind many scans -------------------------------------------------------------------------------


def canaries(sent: bytes) -> int:
    return sent.count(TEST_VIRUS.content)


async def test_scans_of_one_connection_share_a_test_virus_that_comes_after_them(clamd: ClamdAddress) -> None:
    async with Front(clamd) as front:
        client = Clamd(settings_for(front.address, at_once=1))
        contents = [b"content %d" % number for number in range(20)]
        verdicts = await asyncio.gather(*(client.scan(content, len(content)) for content in contents))
        assert {verdict.status for verdict in verdicts} == {"clean"}
        (sent,) = front.sent
    last = max(sent.index(content) for content in contents)
    assert sent.rindex(TEST_VIRUS.content) > last
    assert canaries(sent) < len(contents) / 2


async def test_no_scan_of_a_connection_is_clean_where_the_test_virus_after_it_is_not_found(
    own_clamd: EmbeddedClamd, tmp_path: Path
) -> None:
    """An earlier test virus that was found on the same connection does not count."""
    client = Clamd(settings_for(own_clamd.address, at_once=1))
    assert (await client.scan(TEXT, len(TEXT))).status == "clean"
    (tmp_path / "clamd" / "temporary").rename(tmp_path / "gone")
    contents = [b"content %d" % number for number in range(20)]
    outcomes = await asyncio.gather(
        *(client.scan(content, len(content)) for content in contents), return_exceptions=True
    )
    assert all(isinstance(outcome, Unavailable) and not isinstance(outcome, Unfinished) for outcome in outcomes)
    (tmp_path / "gone").rename(tmp_path / "clamd" / "temporary")
    assert (await client.scan(TEXT, len(TEXT))).status == "clean"


async def test_a_scan_that_is_cancelled_takes_no_verdict_from_the_others_of_its_connection(clamd: ClamdAddress) -> None:
    """Its connection is closed, since its reply may still come; the others are scanned again on another one."""
    async with Front(clamd) as front:
        client = Clamd(settings_for(front.address, at_once=1))
        first = asyncio.create_task(client.scan(TEXT, len(TEXT)))
        begun = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            begun.set()
            await asyncio.Event().wait()
            yield b""

        second = asyncio.create_task(client.scan(endless(), MIB))
        await begun.wait()
        second.cancel()
        assert (await first).status == "clean"
        assert (await client.scan(MARKER, len(MARKER))).status == "infected"
        assert len(front.sent) == 2


async def test_what_is_slow_delays_no_other_verdict(clamd: ClamdAddress) -> None:
    async with asyncio.timeout(60):
        client = Clamd(settings_for(clamd, at_once=3))
        never, begun = asyncio.Event(), asyncio.Semaphore(0)

        async def slow() -> AsyncIterator[bytes]:
            begun.release()
            await never.wait()
            yield b""

        large = [asyncio.create_task(client.scan(slow(), MIB)) for _ in range(4)]
        await begun.acquire()
        small = [asyncio.create_task(client.scan(TEXT, len(TEXT))) for _ in range(20)]
        assert {verdict.status for verdict in await asyncio.gather(*small)} == {"clean"}
        for task in large:
            task.cancel()
        assert {type(each) for each in await asyncio.gather(*large, return_exceptions=True)} == {asyncio.CancelledError}


async def test_who_waits_for_the_test_virus_behind_something_slow_is_scanned_again(
    clamd: ClamdAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small content can take a minute: an archive of archives."""
    monkeypatch.setattr(clamd_client, "CONFIRMED_SECONDS", 0.1)
    scan_of, blocked, never = ClamdSession.scan, asyncio.Event(), asyncio.Event()

    async def scan(session: ClamdSession, content: bytes) -> str:
        if content == b"slow":
            blocked.set()
            await never.wait()
        return await scan_of(session, content)

    monkeypatch.setattr(ClamdSession, "scan", scan)
    client = Clamd(settings_for(clamd, at_once=2))
    others = [b"content %d" % number for number in range(3)]
    quick = [asyncio.create_task(client.scan(content, len(content))) for content in others]
    slow = asyncio.create_task(client.scan(b"slow", 4))
    await blocked.wait()
    assert {verdict.status for verdict in await asyncio.gather(*quick)} == {"clean"}
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_an_idle_connection_is_given_back(clamd: ClamdAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    """clamd limits connections, idle ones included, and others may need one."""
    monkeypatch.setattr(clamd_client, "IDLE_SECONDS", 0.05)
    async with Front(clamd) as front, asyncio.timeout(60):
        client = Clamd(settings_for(front.address, at_once=1))
        assert (await client.scan(TEXT, len(TEXT))).status == "clean"
        await front.ended.wait()
        assert (await client.scan(MARKER, len(MARKER))).status == "infected"
        assert len(front.sent) == 2


async def test_many_workers_that_are_idle_keep_nobody_from_clamd(clamd: ClamdAddress) -> None:
    workers = [Clamd(settings_for(clamd)) for _ in range(120)]
    verdicts = [await worker.scan(MARKER, len(MARKER)) for worker in workers]
    assert {verdict.status for verdict in verdicts} == {"infected"}


async def test_the_version_is_that_of_the_clamd_that_scanned(clamd: ClamdAddress, tmp_path: Path) -> None:
    """Two clamds are behind one address, and one of them has newer signatures."""
    signatures = tmp_path / "clamd" / "signatures"
    signatures.mkdir(parents=True)
    (signatures / "daily.cud").write_bytes(daily_database(time.time()))
    newer = EmbeddedClamd(limits=LIMITS, official=None, mirror=None)
    try:
        async with Front(clamd, await newer.start(tmp_path)) as front:
            client = Clamd(settings_for(front.address, at_once=2))
            contents = [MARKER + b" %d" % number for number in range(20)]
            verdicts = await asyncio.gather(*(client.scan(content, len(content)) for content in contents))
    finally:
        await newer.stop()
    of_each = {verdict.status: verdict.engine for verdict in verdicts}
    assert len({(verdict.status, verdict.engine) for verdict in verdicts}) == 2
    assert "/27444/" in of_each["clean"]  # the newer ones do not know the marker
    assert "/27444/" not in of_each["infected"]


async def test_a_version_is_never_newer_than_the_scan_that_bears_it(
    clamd: ClamdAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = list[str]()
    for name in ("version", "scan"):

        def noted(method: Callable[..., Awaitable[str]], name: str) -> Callable[..., Awaitable[str]]:
            async def call(session: ClamdSession, *arguments: bytes) -> str:
                if arguments[:1] in ((), (TEXT,)):
                    order.append(name)
                return await method(session, *arguments)

            return call

        monkeypatch.setattr(ClamdSession, name, noted(getattr(ClamdSession, name), name))
    monkeypatch.setattr(clamd_client, "ENGINE_SECONDS", 0.0)
    client = Clamd(settings_for(clamd, at_once=1))
    for _ in range(3):
        await client.scan(TEXT, len(TEXT))
    assert order == ["version", *["version", "scan"] * 3]


async def test_when_clamd_does_not_answer_all_that_wait_for_it_are_told_at_once(own_clamd: EmbeddedClamd) -> None:
    """All at once, not one after the other after a timeout each."""
    assert own_clamd.pid is not None
    process = psutil.Process(own_clamd.pid)
    client = Clamd(settings_for(own_clamd.address, connect_timeout=0.5, at_once=2))
    process.suspend()
    try:
        began = Stopwatch()
        await asyncio.gather(*(refused(client.scan(TEXT, len(TEXT))) for _ in range(50)))
        assert began.seconds() < 5
    finally:
        process.resume()
    client._settings.connect_timeout = 60
    assert (await client.scan(TEXT, len(TEXT))).status == "clean"


@pytest.mark.parametrize("content", [TEXT, bytes(LIMIT)], ids=["in one write", "in a stream"])
async def test_what_clamd_can_do_with_no_content_is_no_contents_fault(
    own_clamd: EmbeddedClamd, tmp_path: Path, content: bytes
) -> None:
    """On a full disk clamd closes the connection without a reply, but still answers VERSION."""
    client = Clamd(settings_for(own_clamd.address))
    assert (await client.scan(TEXT, len(TEXT))).status == "clean"
    (tmp_path / "clamd" / "temporary").rename(tmp_path / "gone")
    with pytest.raises(Unavailable) as caught:
        await client.scan(chunks(content), len(content))
    assert not isinstance(caught.value, Unfinished)


async def test_a_scan_has_a_deadline_whatever_keeps_it_busy(clamd: ClamdAddress) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"drop by drop"
            await asyncio.sleep(0.01)

    client = Clamd(settings_for(clamd, scan_timeout=0.3))
    assert "0.3 s" in await refused(client.scan(endless(), MIB))


async def test_a_clamd_without_signatures_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_EICAR", "something else that it looks for")
    server = EmbeddedClamd(limits=LIMITS, official=None, mirror=None)
    try:
        assert "EICAR" in await refused(scan(await server.start(tmp_path), TEXT))
    finally:
        await server.stop()


@pytest.mark.parametrize("content", [b"A quick text", b"quick" + bytes(MIB)], ids=["in one write", "in a stream"])
async def test_a_clamd_that_finds_what_is_harmless_decides_nothing(tmp_path: Path, content: bytes) -> None:
    """What the first scan finds is removed, and a signature may have been published that finds everything."""
    server = EmbeddedClamd(limits=LIMITS, rules=(f"Too.Much:0:*:{b'quick'.hex()}",), official=None, mirror=None)
    try:
        client = Clamd(settings_for(await server.start(tmp_path)))
        for _ in range(2):
            sent = content if len(content) < SMALL_BYTES else chunks(content)
            assert "harmless" in await refused(client.scan(sent, len(content)))
        assert (await client.scan(b"slow text", 9)).status == "clean"
    finally:
        await server.stop()


@pytest.mark.parametrize("setting", ["AlertExceedsMax", "AlertEncrypted"])
async def test_a_clamd_that_is_configured_to_skip_in_silence_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    production = embedded.configuration
    monkeypatch.setattr(
        embedded,
        "configuration",
        lambda *arguments: "".join(
            line for line in production(*arguments).splitlines(keepends=True) if not line.startswith(setting)
        ),
    )
    server = EmbeddedClamd(limits=LIMITS, official=None, mirror=None)
    try:
        assert f"{setting} yes" in await refused(scan(await server.start(tmp_path), TEXT))
    finally:
        await server.stop()


# --- the embedded server ----------------------------------------------------------------------------------------


async def test_a_killed_clamd_is_started_again_on_its_port(own_clamd: EmbeddedClamd) -> None:
    client = Clamd(settings_for(own_clamd.address))
    assert own_clamd.pid is not None
    os.kill(own_clamd.pid, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while True:
        try:
            await client.ping()
            break
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    assert (await scan(own_clamd.address, EICAR)).status == "infected"


async def test_clamd_dies_with_its_parent_and_is_not_root(tmp_path: Path) -> None:
    if EmbeddedClamd.find() is None:
        pytest.skip(HOW_TO_INSTALL)
    script = (
        "import asyncio, sys; from pathlib import Path; from media_operator.local.clamd import EmbeddedClamd\n"
        "async def main():\n"
        "    server = EmbeddedClamd(official=None, mirror=None); await server.start(Path(sys.argv[1]))\n"
        "    print(server.pid, flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    assert child.uids().real != 0
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(psutil.wait_procs, [child], 10)
    assert not child.is_running()


async def test_clamd_keeps_to_its_folder_and_leaves_nothing_unpacked(own_clamd: EmbeddedClamd, tmp_path: Path) -> None:
    await scan(own_clamd.address, nested(EICAR, 3))
    assert own_clamd.pid is not None
    written = [Path(file.path) for file in psutil.Process(own_clamd.pid).open_files() if file.mode != "r"]
    assert all(path.is_relative_to(tmp_path / "clamd") for path in written)
    async with asyncio.timeout(60):
        while list((tmp_path / "clamd" / "temporary").iterdir()):  # noqa: ASYNC110  # it cleans up right after it has answered
            await asyncio.sleep(0.01)


async def test_without_the_official_signatures_it_starts_with_those_that_know_eicar(tmp_path: Path) -> None:
    if EmbeddedClamd.find() is None:
        pytest.skip(HOW_TO_INSTALL)
    server = EmbeddedClamd(limits=LIMITS, official=None, mirror="http://127.0.0.1:1")
    try:
        address = await server.start(tmp_path)
        assert address.signatures == "local"
        assert (await scan(address, EICAR)).status == "infected"
    finally:
        await server.stop()


async def test_a_download_that_stalls_does_not_hold_the_start_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if EmbeddedClamd.find() is None:
        pytest.skip(HOW_TO_INSTALL)
    monkeypatch.setattr(embedded, "DOWNLOAD_SECONDS", 0.2)
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    mirror = await asyncio.start_server(silent, "127.0.0.1", 0)
    server = EmbeddedClamd(
        limits=LIMITS, official=None, mirror=f"http://127.0.0.1:{mirror.sockets[0].getsockname()[1]}"
    )
    try:
        assert (await server.start(tmp_path)).signatures == "local"
        await asked.wait()
    finally:
        await server.stop()
        mirror.close()


async def test_a_machine_without_clamd_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "_FOLDERS", ())
    with pytest.raises(embedded.ClamdFailed, match="apt-get install clamav-daemon"):
        await EmbeddedClamd().start(tmp_path)
