"""What the real clamd says of real content, and what becomes of a scan when it is down, slow, or dies."""

import asyncio
import bz2
import contextlib
import gzip
import hashlib
import os
import signal
import socket
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import psutil
import pytest

from media_core.canary import EICAR
from media_core.errors import Unavailable
from media_core.store import ObjectMissing
from media_operator.embedded import clamd as embedded
from media_operator.embedded.clamd import HOW_TO_INSTALL, ClamdAddress, EmbeddedClamd, ScanLimits
from media_workers.clamd import Clamd, Verdict
from tests.integration.clamd_server import (
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

TEXT = b"An ordinary text of some length. " * 1000


async def scan(clamd: ClamdAddress, content: bytes, **settings: float) -> Verdict:
    return await Clamd(settings_for(clamd, **settings)).scan(chunks(content), len(content))


@pytest.fixture
async def own_clamd(tmp_path: Path) -> AsyncIterator[EmbeddedClamd]:
    """One that a test may break."""
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
        verdict = await scan(await server.start(tmp_path), TEXT * 200)
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
    """clamd remembers clean content by MD5; Wang's collision of 2004 would then pass the second unread."""
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


async def refused(scanning: Awaitable[Verdict], dependency: str = "clamd") -> str:
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
    with socket.socket() as closed_port:
        closed_port.bind(("127.0.0.1", 0))
        address = ClamdAddress("127.0.0.1", closed_port.getsockname()[1], "local")
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
        process.suspend()  # it can't read the end of the stream any more

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


@contextlib.asynccontextmanager
async def between(clamd: ClamdAddress, there: Relay, back: Relay) -> AsyncIterator[Clamd]:
    """A client that has had one scan through a proxy in front of the real clamd. From now on the proxy is faulty."""
    relays = set[asyncio.Task[None]]()
    faulty = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_clamd, from_clamd = await asyncio.open_connection(clamd.host, clamd.port)
        command = await reader.readline()
        from_clamd.write(command)
        broken = faulty and command == b"nINSTREAM\n"
        relays.add(asyncio.create_task((there if broken else passing)(reader, from_clamd)))
        relays.add(asyncio.create_task((back if broken else passing)(to_clamd, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Clamd(settings_for(clamd, port=server.sockets[0].getsockname()[1], reply_timeout=0.5))
    try:
        assert (await client.scan(chunks(TEXT), len(TEXT))).status == "clean"
        faulty = True
        yield client
    finally:
        server.close()
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


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
    sink.close()


@pytest.mark.parametrize(
    ("there", "back"),
    [(stalled, passing), (passing, stalled), (passing, cut), (passing, closing), (closing, passing)],
    ids=["takes no more bytes", "never answers", "half a reply", "breaks off with the reply", "breaks off mid-stream"],
)
async def test_a_clamd_that_stalls_or_breaks_off_decides_nothing(
    clamd: ClamdAddress, there: Relay, back: Relay
) -> None:
    async with between(clamd, there, back) as client:
        await refused(client.scan(chunks(bytes(LIMIT)), LIMIT))


async def test_a_reply_that_is_not_understood_is_an_error(clamd: ClamdAddress) -> None:
    async with between(clamd, passing, garbling) as client:
        verdict = await client.scan(chunks(TEXT), len(TEXT))
    assert (verdict.status, verdict.detail) == ("error", "clamd answered 'dream: OK'")


async def test_a_scan_has_a_deadline_whatever_keeps_it_busy(clamd: ClamdAddress) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"drop by drop"
            await asyncio.sleep(0.01)

    assert "0.3 s" in await refused(Clamd(settings_for(clamd, scan_timeout=0.3)).scan(endless(), MIB))


async def test_a_clamd_without_signatures_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_EICAR", "something else that it looks for")
    server = EmbeddedClamd(limits=LIMITS, official=None, mirror=None)
    try:
        assert "EICAR" in await refused(scan(await server.start(tmp_path), TEXT))
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
    deadline = time.monotonic() + 20
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
        "import asyncio, sys; from pathlib import Path; from media_operator.embedded.clamd import EmbeddedClamd\n"
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
    async with asyncio.timeout(10):
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
