"""What is measured: one function a row or group of rows, by the names that `--only` takes."""

import asyncio
import hashlib
import io
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import clamd
import psutil
from faster_whisper import WhisperModel
from PIL import Image
from sqlalchemy import text

from bench.clients import UPLOAD, Answer, Client, Content, Crowd, name_in
from bench.measure import BYTES, ITEMS, SPEECH, Contender, Row, compare
from bench.parts import Parts, Served
from bench.resources import MIB, Resources
from media_core.database import Database
from media_core.decoding import BytesSource, DecodingPool
from media_core.library import Library
from media_core.policy import PolicyReader
from media_core.queue import Queue, enqueue
from media_core.settings import TranscriptionSettings
from media_core.thumbnails import make_thumbnail
from media_workers.drain import Drain, Handler, Work
from media_workers.scan import Scanner
from media_workers.settings import ClamdSettings, DrainSettings, WhisperSettings
from media_workers.transcribe import Transcriber
from media_workers.whisper import Whisper

SMALL_BYTES = 10 * 1024
CROWD = 16
FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "whisper-tiny-words"


@dataclass(frozen=True)
class Effort:
    """How much is done in a turn, and in how many turns."""

    turns: int
    large: int
    small: int
    pictures: int
    scanned: int
    scanned_small: int
    gigabyte: int


QUICK = Effort(3, 128 * MIB, 200, 3, 16 * MIB, 15, 256 * MIB)
FULL = Effort(5, 512 * MIB, 500, 8, 64 * MIB, 40, 1024 * MIB)


class _Sent:
    """What one turn left with a server, and how to take it away again."""

    def __init__(self, remove: Callable[[list[str]], object]) -> None:
        self._remove = remove
        self._names: list[str] = []

    def note(self, answer: Answer) -> None:
        self._names.append(name_in(answer))

    def tidy(self) -> None:
        self._remove(self._names)
        self._names = []


def _uploader(
    connect: Callable[[], Client],
    remove: Callable[[list[str]], object],
    used: Resources,
    path: str,
    content: Callable[[], Content],
    sha256: bytes | None = None,
) -> Contender:
    """One upload a turn."""
    sent = _Sent(remove)

    def work() -> float:
        new = content()
        with connect() as client:
            sent.note(client.upload(new, new.size, path=path, sha256=sha256))
        return new.size

    return Contender(work, used, sent.tidy)


def _at(served: Served) -> Callable[[], Client]:
    return lambda: Client(served.address)


async def upload(parts: Parts, effort: Effort) -> list[Row]:
    def content() -> Content:
        return Content(effort.large)

    return [
        await compare(
            f"upload, {effort.large // MIB} MiB",
            BYTES,
            effort.turns,
            ours=_uploader(parts.client, parts.delete, parts.used, UPLOAD, content),
            bare=_uploader(_at(parts.bare), parts.bare.remove, parts.bare.used, "/store", content),
            peer=_uploader(_at(parts.peer), parts.peer.remove, parts.peer.used, "/upload", content),
            legend="bare: socket to file, fsync, rename; no hash. peer: FastAPI UploadFile; no hash, no fsync, no row",
        )
    ]


async def duplicate(parts: Parts, effort: Effort) -> list[Row]:
    content = Content(effort.large)
    with parts.client() as client:
        original = name_in(client.upload(content, content.size))

    def hashed() -> float:
        with Client(parts.bare.address) as client:
            client.upload(content, content.size, path="/hash")
        return content.size

    def ours(sha256: bytes | None) -> Contender:
        return _uploader(parts.client, parts.delete, parts.used, UPLOAD, lambda: content, sha256)

    bare = Contender(hashed, parts.bare.used)
    legend = "bare: socket to sha-256, which has to be known"
    rows = [
        await compare("duplicate", BYTES, effort.turns, ours=ours(None), bare=bare, legend=legend),
        await compare(
            "duplicate, digest announced", BYTES, effort.turns, ours=ours(content.sha256()), bare=bare, legend=legend
        ),
    ]
    await asyncio.to_thread(parts.delete, [original])
    return rows


async def download(parts: Parts, effort: Effort) -> list[Row]:
    with _stored(parts, Content(effort.large)) as (media_id, name):

        def from_(connect: Callable[[], Client], path: str) -> Callable[[], float]:
            def work() -> float:
                with connect() as client:
                    return client.download(path)

            return work

        return [
            await compare(
                f"download, {effort.large // MIB} MiB",
                BYTES,
                effort.turns,
                ours=Contender(from_(parts.client, f"/v1/media/download/{media_id}"), parts.used),
                bare=Contender(from_(_at(parts.bare), f"/{name}"), parts.bare.used),
                peer=Contender(from_(_at(parts.peer), f"/{name}"), parts.peer.used),
                legend="bare: sendfile. peer: Starlette FileResponse",
            )
        ]


@contextmanager
def _stored(parts: Parts, content: Content) -> Iterator[tuple[str, str]]:
    """The same content with all three: its media id with us, its file's name with the others."""
    with parts.client() as client:
        media_id = name_in(client.upload(content, content.size))
    name = secrets.token_hex(16)
    with (parts.bare.folder / name).open("wb") as file:
        file.writelines(content)
    (parts.peer.folder / name).hardlink_to(parts.bare.folder / name)
    try:
        yield media_id, name
    finally:
        parts.bare.remove([name])
        parts.peer.remove([name])
        parts.delete([media_id])


async def small(parts: Parts, effort: Effort) -> list[Row]:
    size = f"{SMALL_BYTES // 1024} KiB, {CROWD} at once"

    def uploads(
        connect: Callable[[], Client], remove: Callable[[list[str]], object], used: Resources, path: str
    ) -> Contender:
        sent = _Sent(remove)

        def work() -> float:
            contents = [Content(SMALL_BYTES) for _ in range(effort.small)]
            with Crowd(CROWD, connect) as crowd:
                answers = crowd.share(contents, lambda client, one: client.upload(one, one.size, path=path))
            for answer in answers:
                sent.note(answer)
            return len(answers)

        return Contender(work, used, sent.tidy)

    def downloads(connect: Callable[[], Client], used: Resources, path: str) -> Contender:
        def work() -> float:
            with Crowd(CROWD, connect) as crowd:
                return len(crowd.share([path] * effort.small * 2, lambda client, wanted: client.download(wanted)))

        return Contender(work, used)

    rows = [
        await compare(
            f"upload, {size}",
            ITEMS,
            effort.turns,
            ours=uploads(parts.client, parts.delete, parts.used, UPLOAD),
            bare=uploads(_at(parts.bare), parts.bare.remove, parts.bare.used, "/store"),
            peer=uploads(_at(parts.peer), parts.peer.remove, parts.peer.used, "/upload"),
            legend="bare and peer: as for large ones",
        )
    ]
    with _stored(parts, Content(SMALL_BYTES)) as (media_id, name):
        rows.append(
            await compare(
                f"download, {size}",
                ITEMS,
                effort.turns,
                ours=downloads(parts.client, parts.used, f"/v1/media/download/{media_id}"),
                bare=downloads(_at(parts.bare), parts.bare.used, f"/{name}"),
                peer=downloads(_at(parts.peer), parts.peer.used, f"/{name}"),
                legend="bare and peer: as for large ones; neither asks who calls",
            )
        )
    return rows


async def thumbnails(parts: Parts, effort: Effort) -> list[Row]:
    photo = _photo()
    before = _children()
    async with DecodingPool(processes=1) as pool:
        pids = [os.getpid(), *(_children() - before)]

        async def ours() -> float:
            for _ in range(effort.pictures):
                await make_thumbnail(pool, BytesSource(photo), "image/jpeg")
            return effort.pictures

        def bare() -> float:
            for _ in range(effort.pictures):
                image = Image.open(io.BytesIO(photo))
                image.draft(None, (1024, 1024))
                image.thumbnail((1024, 1024), Image.Resampling.LANCZOS, reducing_gap=2.0)
                image.save(io.BytesIO(), "WEBP", quality=80, method=2)
            return effort.pictures

        return [
            await compare(
                "thumbnail of 12 megapixels",
                ITEMS,
                effort.turns,
                ours=Contender(ours, Resources(lambda: pids)),
                bare=Contender(bare, Resources.of(os.getpid())),
                legend="bare: the same Pillow calls without a limited child",
            )
        ]


def _photo() -> bytes:
    """A JPEG with the detail and grain of a camera's, about 4 MB."""
    noise = Image.frombytes("RGB", (100, 75), os.urandom(100 * 75 * 3)).resize((4000, 3000), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((4000, 3000), 24).convert("RGB")
    file = io.BytesIO()
    Image.blend(noise, grain, 0.2).save(file, "JPEG", quality=85)
    return file.getvalue()


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


class _Worker:
    """A worker in this process: the real drain loop, without the second that a process takes to start."""

    def __init__(self, parts: Parts, decoder: DecodingPool) -> None:
        api = parts.api
        self.database = Database(api.tenant.url, pool_size=4, relaxed=True)
        policy = PolicyReader(self.database)
        library = Library(tenant_id=api.tenant.tenant_id, database=self.database, store=api.store, policy=policy)
        self._work = Work(self.database, Queue(self.database), library, api.store, decoder, policy)

    async def drain(self, kind: str, handler: Handler) -> None:
        drain = Drain(kind, handler, self._work, DrainSettings(linger_seconds=0))
        await drain.run()


@asynccontextmanager
async def _worker(parts: Parts) -> AsyncIterator[tuple[_Worker, Resources]]:
    before = _children()
    async with DecodingPool(processes=1) as decoder:
        pids = [os.getpid(), *(_children() - before)]
        worker = _Worker(parts, decoder)
        yield worker, Resources(lambda: pids)
        await worker.database.aclose()


async def scan(parts: Parts, effort: Effort) -> list[Row]:
    if parts.clamd is None:
        print("no scan row: clamd is not installed")
        return []
    async with _worker(parts) as (worker, used):
        return [
            await _scan(parts, worker, used, effort.turns, 1, effort.scanned),
            await _scan(parts, worker, used, effort.turns, effort.scanned_small, 100 * 1024),
        ]


async def _scan(parts: Parts, worker: _Worker, used: Resources, turns: int, count: int, size: int) -> Row:
    assert parts.clamd is not None
    host, port = parts.clamd.host, parts.clamd.port
    scanner = Scanner(ClamdSettings(host=host, port=port))
    contents = [Content(size) for _ in range(count)]
    digests = [content.sha256().hex() for content in contents]
    with ExitStack() as stack:
        names = [stack.enter_context(_stored(parts, content))[1] for content in contents]
        files = [parts.bare.folder / name for name in names]
        amount = count * size if count == 1 else count

        async def queue_again() -> None:
            async with worker.database.transaction() as tx:
                await tx.execute(text("DELETE FROM job"))
                await tx.execute(text("UPDATE blob SET scan_status = 'pending'"))
                for digest in digests:
                    await enqueue(tx, "scan", {"sha256": digest}, dedupe_key=digest)

        async def ours() -> float:
            await worker.drain("scan", scanner)
            return amount

        def bare() -> float:
            for file in files:
                _instream(host, port, file)
            return amount

        def peer() -> float:
            for file in files:
                with file.open("rb") as opened:
                    clamd.ClamdNetworkSocket(host, port).instream(opened)
            return amount

        await queue_again()
        row = await compare(
            f"scan, {size // MIB} MiB" if count == 1 else f"scan, {size // 1024} KiB each",
            BYTES if count == 1 else ITEMS,
            turns,
            ours=Contender(ours, used, queue_again),
            bare=Contender(bare, Resources.of(os.getpid())),
            peer=Contender(peer, Resources.of(os.getpid())),
            legend="bare: a file to clamd's INSTREAM by the MiB. peer: the clamd package. CPU without clamd's own",
        )
        async with worker.database.transaction() as tx:
            verdicts = (await tx.execute(text("SELECT DISTINCT status FROM job"))).scalars().all()
            assert list(verdicts) == ["queued"], verdicts
        return row


def _instream(host: str, port: int, file: Path) -> None:
    with socket.create_connection((host, port)) as connection, file.open("rb") as opened:
        connection.sendall(b"nINSTREAM\n")
        while chunk := opened.read(MIB):
            connection.sendall(len(chunk).to_bytes(4, "big"))
            connection.sendall(chunk)
        connection.sendall(bytes(4))
        if (reply := connection.recv(4096)) != b"stream: OK\n":
            raise RuntimeError(f"clamd answered {reply!r}")


async def transcription(parts: Parts, effort: Effort) -> list[Row]:
    recording = FIXTURE / "samples" / "long_en.m4a"
    seconds = json.loads((FIXTURE / "samples" / "transcripts.json").read_text())[recording.name]["duration"]
    settings = WhisperSettings(model=str(FIXTURE / "model"), local_files_only=True)
    handler = Transcriber(Whisper(settings), TranscriptionSettings(), lease_seconds=DrainSettings().lease_seconds)
    model = WhisperModel(settings.model, device="cpu", compute_type=settings.compute_type, local_files_only=True)
    content = recording.read_bytes()
    with parts.client() as client:
        media_id = name_in(client.upload([content], len(content)))
    payload = {"sha256": hashlib.sha256(content).hexdigest(), "media_id": media_id, "language": "en"}
    jobs: list[str] = []
    async with _worker(parts) as (worker, used):

        async def queue_again() -> None:
            async with worker.database.transaction() as tx:
                await tx.execute(text("DELETE FROM job"))
                await tx.execute(text("UPDATE blob SET scan_status = 'clean'"))
                jobs.append(await enqueue(tx, "transcribe", payload, owner="alice", media_id=media_id))

        async def ours() -> float:
            await worker.drain("transcribe", handler)
            async with worker.database.transaction() as tx:
                status = (
                    await tx.execute(text("SELECT status FROM job WHERE job_id = :id"), {"id": jobs[-1]})
                ).scalar()
            assert status == "completed", status
            return float(seconds)

        def bare() -> float:
            segments, _ = model.transcribe(
                str(recording), language="en", vad_filter=True, condition_on_previous_text=False
            )
            assert list(segments)
            return float(seconds)

        await queue_again()
        return [
            await compare(
                "transcription, 70 s of speech",
                SPEECH,
                effort.turns,
                ours=Contender(ours, used, queue_again),
                bare=Contender(bare, Resources.of(os.getpid())),
                legend="bare: faster-whisper on the file, with the same options. The model is tiny (2.6 MB)",
            )
        ]


MEASUREMENTS: dict[str, Callable[[Parts, Effort], Awaitable[list[Row]]]] = {
    "upload": upload,
    "download": download,
    "duplicate": duplicate,
    "small": small,
    "thumbnails": thumbnails,
    "scan": scan,
    "transcription": transcription,
}
