"""`mediactl` against the real api, with jobs handled by the real workers' code.

If a terminal, a signal or memory matters, it is a process of its own. Otherwise it runs in this one, which is faster.
"""

import asyncio
import hashlib
import json
import math
import os
import pty
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from typer.testing import CliRunner

from media_core.auth.tokens import LEEWAY, save_signing_keys
from media_core.decoding.pool import DecodingPool
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.settings import TranscriptionSettings
from media_operator.local.postgres import EmbeddedPostgres
from media_workers.drain import Drain, Work
from media_workers.settings import DrainSettings, WhisperSettings
from media_workers.speech.transcribe import Transcriber
from media_workers.speech.whisper import Whisper
from mediactl.commands import app
from tests.integration.servers.api import Api, eventually, serving
from tests.integration.tenancy import FIXTURES, GENEROUS, MIB

SPEECH = FIXTURES / "whisper-tiny-words" / "samples"
SPOKEN: dict[str, dict[str, Any]] = json.loads((SPEECH / "transcripts.json").read_text())


@pytest.fixture(scope="module")
async def api(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    before = structlog.get_config()
    with (folder / "log").open("w") as log:
        # The api and the worker are in this process; their lines must not land in what `mediactl` prints.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log), cache_logger_on_first_use=False)
        async with serving(postgres, folder) as api:
            yield api
        structlog.configure(**before)


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@dataclass
class Cli:
    """The command line of one person, in a folder of their own."""

    api: Api
    token: str
    folder: Path

    async def __call__(
        self, *arguments: str | Path, code: int = 0, stdin: bytes | None = None, base: str | None = None
    ) -> Ran:
        env = {"BASE": base or self.api.base, "TOKEN": self.token}
        result = await asyncio.to_thread(CliRunner().invoke, app, [str(a) for a in arguments], input=stdin, env=env)
        ran = Ran(result.exit_code, result.stdout, result.stderr)
        assert ran.code == code, ran
        assert "Traceback" not in ran.err
        assert ran.err.count("\n") == (1 if code else 0), ran.err
        return ran

    async def start(self, *arguments: str | Path, **options: Any) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        streams: dict[str, Any] = {name: options.pop(name, pipe) for name in ("stdin", "stdout", "stderr")}
        environment = {**os.environ, "BASE": self.api.base, "TOKEN": self.token, "TERM": "xterm-256color", **options}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mediactl", *map(str, arguments), cwd=self.folder, env=environment, **streams
        )

    @asynccontextmanager
    async def on_a_terminal(self, *arguments: str | Path) -> AsyncIterator["Terminal"]:
        """Runs it on a pseudo-terminal of 100 columns; `shown` is what a person has seen, without the colours."""
        mine, its = pty.openpty()
        try:
            process = await self.start(*arguments, stdin=its, stdout=its, stderr=its, COLUMNS="100", LINES="30")
        finally:
            os.close(its)
        terminal = Terminal(process, mine)
        try:
            yield terminal
        finally:
            asyncio.get_running_loop().remove_reader(mine)
            os.close(mine)
            if process.returncode is None:
                process.kill()
            await process.wait()

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


class Terminal:
    def __init__(self, process: asyncio.subprocess.Process, descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._seen = b""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            self._seen += os.read(self._descriptor, 65536)
        except OSError:  # Linux: the other end is closed
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._more.set()

    @property
    def shown(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._seen.decode(errors="replace"))

    async def until(self, words: str) -> None:
        async with asyncio.timeout(60):
            while words not in self.shown:
                self._more.clear()
                await self._more.wait()

    async def end(self) -> int:
        async with asyncio.timeout(60):
            return await self.process.wait()


@pytest.fixture
def alice(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Cli(api, api.token("alice"), tmp_path)


@asynccontextmanager
async def transcribing(api: Api, decoder: DecodingPool) -> AsyncIterator[None]:
    """A transcription worker as in production, but in this process."""
    model = str(FIXTURES / "whisper-tiny-words" / "model")
    whisper = Whisper(WhisperSettings(model=model, chunk_seconds=12, local_files_only=True))
    work = Work(api.database, Queue(api.database), api.library, api.store, decoder, PolicyReader(api.database))
    drain = Drain(
        "transcribe",
        Transcriber(whisper, TranscriptionSettings(), lease_seconds=10),
        work,
        DrainSettings(linger_seconds=60, lease_seconds=10, poll_seconds=0.05),
    )
    running = asyncio.create_task(drain.run())
    try:
        yield
    finally:
        drain.stop.set()
        await running


async def test_a_file_goes_up_is_listed_comes_down_and_goes(api: Api, alice: Cli) -> None:
    data = secrets.token_bytes(3 * MIB)
    file = alice.file("Grüße.bin", data)
    media_id, status, size, mime_type, name = (await alice("upload", file, "--room", "garden")).out.split("\t")
    assert (status, size, mime_type, name) == ("pending", "3 MiB", "application/octet-stream", "Grüße.bin\n")
    await api.verdict(hashlib.sha256(data).hexdigest())

    assert (await alice("ls", "garden")).out.split("\t")[0] == "Grüße.bin"
    info = (await alice("info", media_id, "--json")).data
    assert (info["scan_status"], info["rooms"], info["uploaded_by"]) == ("clean", ["garden"], "alice")

    (alice.folder / "elsewhere").mkdir()
    assert (await alice("download", media_id, "-o", "elsewhere")).out == "elsewhere/Grüße.bin\t3 MiB\tverified\n"
    assert (alice.folder / "elsewhere" / "Grüße.bin").read_bytes() == data

    url = (await alice("url", media_id)).out.strip()
    async with httpx.AsyncClient(timeout=120) as nobody:
        assert (await nobody.get(url)).content == data

    assert (await alice("rm", media_id)).out == f"deleted\t{media_id}\n"
    assert "There is nothing here under this id" in (await alice("info", media_id, code=1)).err


async def test_a_download_goes_on_from_the_part_that_is_there(api: Api, alice: Cli) -> None:
    data = secrets.token_bytes(2 * MIB)
    sha256 = hashlib.sha256(data).hexdigest()
    media_id = (await alice("upload", alice.file("a.bin", data), "--json")).data["media_id"]
    await api.verdict(sha256)
    part = alice.folder / f"b.bin.{sha256[:12]}.part"

    part.write_bytes(data[: MIB + 7])
    assert "verified" in (await alice("download", media_id, "-o", "b.bin")).out
    assert (alice.folder / "b.bin").read_bytes() == data

    # The same with a wrong first half: the digest error shows that the first half was not fetched anew.
    part.write_bytes(bytes(MIB + 7))
    assert "does not have the sha256" in (await alice("download", media_id, "-o", "b.bin", code=1)).err
    assert not part.exists()
    assert (alice.folder / "b.bin").read_bytes() == data


async def test_a_download_waits_for_the_verdict_as_the_api_asks(api: Api, alice: Cli) -> None:
    data = secrets.token_bytes(1000)
    media_id = (await alice("upload", "-", "--name", "piped.bin", "--json", stdin=data)).data["media_id"]
    async with alice.on_a_terminal("download", media_id) as terminal:
        await terminal.until("; trying again in ")
        await api.verdict(hashlib.sha256(data).hexdigest())
        assert await terminal.end() == 0
    assert (alice.folder / "piped.bin").read_bytes() == data


@dataclass
class Line:
    """A network between `mediactl` and the api that takes `most` bytes and then stalls, or breaks."""

    base: str = ""
    most: float = 18 * MIB
    breaks: bool = False
    connections: int = 0
    """Those under way."""


@asynccontextmanager
async def line(api: Api, how: Line) -> AsyncIterator[Line]:
    async def up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            while how.most <= 0:
                if how.breaks:
                    how.most = math.inf
                    raise ConnectionResetError
                await asyncio.sleep(0.05)
            how.most -= len(data)
            writer.write(data)
            await writer.drain()

    async def down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*api.address)
        how.connections += 1
        ways = {asyncio.ensure_future(up(reader, far_writer)), asyncio.ensure_future(down(far_reader, writer))}
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, far_writer):
            end.transport.abort()
        how.connections -= 1

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    how.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield how
    server.close()


async def uploads_of(api: Api, size: int) -> list[int]:
    """How many bytes have come of each upload of this length."""
    return [row.received for row in await api.database.call("SELECT received FROM upload WHERE length = %s", (size,))]


async def test_a_large_upload_goes_on_where_it_was_interrupted(api: Api, alice: Cli) -> None:
    data = secrets.token_bytes(24 * MIB + 1)
    file = alice.file("large.bin", data)

    async def is_stuck() -> bool:  # at 18 MiB
        return network.most <= 0 and any(await uploads_of(api, len(data)))

    async def is_cut() -> bool:  # or the api has ended it
        return network.most == math.inf or not network.connections

    async with line(api, Line()) as network:
        sending = await alice.start("upload", file, "--room", "garden", BASE=network.base)
        await eventually(is_stuck)
        sending.send_signal(signal.SIGINT)
        _, err = await sending.communicate()
        assert sending.returncode == 130, err
        network.breaks = True  # else what the stalled connection still holds would go on, beside the next one
        await eventually(is_cut)
        network.breaks, network.most = False, 12 * MIB
        sent = await alice("upload", file, "--room", "garden", "--json", base=network.base)
        assert sent.data["sha256"] == hashlib.sha256(data).hexdigest()
    assert await uploads_of(api, len(data)) == [len(data)]
    info = (await alice("info", sent.data["media_id"], "--json")).data
    assert (info["filename"], info["rooms"]) == ("large.bin", ["garden"])
    again = await alice("upload", file, "--room", "garden", "--json")
    assert again.data["media_id"] != sent.data["media_id"], "what was stored is forgotten"


async def test_a_large_upload_goes_on_by_itself_after_the_network_broke(api: Api, alice: Cli) -> None:
    data = secrets.token_bytes(24 * MIB + 2)
    async with line(api, Line(breaks=True)) as network:
        sent = await alice("upload", alice.file("large.bin", data), "--json", base=network.base)
        assert network.most == math.inf
    assert sent.data["sha256"] == hashlib.sha256(data).hexdigest()
    assert await uploads_of(api, len(data)) == [len(data)]


async def test_a_large_upload_whose_token_expires_goes_on_with_another_token(api: Api, alice: Cli) -> None:
    data = secrets.token_bytes(24 * MIB + 3)
    file = alice.file("large.bin", data)

    async def is_stuck_or_ended() -> bool:
        return sending.returncode is not None or (network.most <= 0 and any(await uploads_of(api, len(data))))

    async def is_over() -> bool:
        headers = {"Authorization": f"Bearer {expiring}"}
        async with httpx.AsyncClient(base_url=api.base, headers=headers, timeout=120) as client:
            return (await client.get("/v1/usage")).status_code == 401

    async with line(api, Line()) as network:
        for seconds in (5, 20, 60):  # on a busy machine the upload may begin late
            expiring = api.token("alice", lifetime=timedelta(seconds=seconds) - LEEWAY)
            sending = await alice.start("upload", file, BASE=network.base, TOKEN=expiring)
            await eventually(is_stuck_or_ended)
            if sending.returncode is None:
                break
        await eventually(is_over)
        network.most = math.inf  # the request under way ends, and the next one is refused
        _, err = await sending.communicate()
        assert (sending.returncode, b"The token has expired; `source" in err) == (1, True), err
        refused = await Cli(api, expiring, alice.folder)("upload", file, code=1, base=network.base)
        assert "The token has expired; `source" in refused.err
        sent = await alice("upload", file, "--json", base=network.base)
    assert sent.data["sha256"] == hashlib.sha256(data).hexdigest()
    assert await uploads_of(api, len(data)) == [len(data)]


async def test_infected_content_is_a_failure_when_found_and_when_it_comes_again(api: Api, alice: Cli) -> None:
    data = secrets.token_bytes(1000)
    file = alice.file("bad.bin", data)
    waiting = await alice.start("upload", "--wait", file)
    sha256 = hashlib.sha256(data).hexdigest()

    async def is_to_be_scanned() -> bool:
        query = "SELECT 1 AS found FROM job WHERE kind = 'scan' AND payload ->> 'sha256' = %s"
        return bool(await api.database.call(query, (sha256,)))

    await eventually(is_to_be_scanned)
    await api.verdict(sha256, "infected")
    out, _ = await waiting.communicate()
    assert waiting.returncode == 1
    assert "\tinfected\t" in out.decode()
    assert "found infected before" in (await alice("upload", file, code=1)).err


async def test_a_file_over_the_limit_is_refused_before_it_has_gone_out(api: Api, alice: Cli) -> None:
    with (alice.folder / "huge.bin").open("wb") as file:
        file.truncate(1 << 40)
    shown = (await alice("upload", "huge.bin", code=1)).err
    assert re.fullmatch(r"mediactl: .*at most 1.5 GiB.*\n", shown), shown


async def test_a_full_quota_is_told_in_human_units(api: Api, alice: Cli) -> None:
    await api.apply(replace(GENEROUS, max_bytes=MIB))
    try:
        shown = (await alice("upload", alice.file("big.bin", bytes(3 * MIB)), code=1)).err
    finally:
        await api.apply(GENEROUS)
    assert re.search(r"3 MiB do not fit: this tenant stores .* of 1 MiB.*`mediactl usage`", shown), shown


async def test_memory_stays_flat_however_large_the_file(api: Api, alice: Cli) -> None:
    """Peak RSS of the whole process, for 192 MiB up and down. The interpreter with its libraries takes about 50."""
    with (alice.folder / "large.bin").open("wb") as file:
        file.truncate(192 * MIB)
    measured = (
        "import re, sys; from mediactl.commands import app\n"
        "try: app()\n"
        "finally: print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1], file=sys.stderr)"
    )

    async def peak(*arguments: str) -> tuple[str, int]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", measured, *arguments,
            cwd=alice.folder, env={**os.environ, "BASE": api.base, "TOKEN": alice.token},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err
        return out.decode(), int(err) // 1024

    out, up = await peak("upload", "large.bin", "--json")
    await api.verdict(json.loads(out)["sha256"])
    _, down = await peak("download", json.loads(out)["media_id"], "-o", "again.bin")
    assert max(up, down) < 100


async def test_files_are_attached_to_rooms_and_detached(api: Api, tmp_path: Path) -> None:
    ann = Cli(api, api.token("ann", rooms=("attic",)), tmp_path)
    media_id = (await ann("upload", ann.file("a.txt", secrets.token_hex(20).encode()), "--json")).data["media_id"]
    assert (await ann("ls", "attic")).out == ""
    assert (await ann("rooms", "attach", "attic", media_id)).out == f"attached\t{media_id}\tattic\n"
    assert [item["media_id"] for item in (await ann("ls", "attic", "--json")).data] == [media_id]
    assert (await ann("ls", "attic", "--type", "video", "--json")).data == []
    await ann("rooms", "detach", "attic", media_id)
    await ann("rooms", "detach", "attic", media_id, code=1)
    assert (await ann("info", media_id, "--json")).data["rooms"] == []


async def test_ls_follows_the_apis_cursors(api: Api, tmp_path: Path) -> None:
    bob = Cli(api, api.token("bob", rooms=("library",)), tmp_path)
    files = [bob.file(f"{number}.txt", secrets.token_hex(20).encode()) for number in range(3)]
    await bob("upload", *files, "--room", "library")
    assert (await bob("ls", "library", "--limit", "2")).out.count("\n") == 2
    async with bob.on_a_terminal("ls", "library", "--limit", "2") as terminal:
        await terminal.until("These are the newest 2; --all shows all.")
        assert "NAME" in terminal.shown
    assert [item["filename"] for item in (await bob("ls", "library", "--all", "--json")).data] == [
        "2.txt", "1.txt", "0.txt"
    ]  # fmt: skip


async def test_an_admin_scans_a_file_again(api: Api, alice: Cli) -> None:
    data = secrets.token_bytes(1000)
    media_id = (await alice("upload", alice.file("a.bin", data), "--json")).data["media_id"]
    await api.verdict(hashlib.sha256(data).hexdigest())
    assert "admin" in (await alice("rescan", media_id, code=1)).err
    root = Cli(api, api.token("root", scopes=["admin"]), alice.folder)
    job_id, status = (await root("rescan", media_id)).out.strip().split("\t")
    assert status == "queued"
    await api.verdict(hashlib.sha256(data).hexdigest())
    assert (await root("jobs", "get", job_id, "--wait")).out == f"{job_id}\tclean\n"


async def test_a_recording_is_transcribed_and_printed_in_every_format(
    api: Api, alice: Cli, decoding_pool: DecodingPool
) -> None:
    recording = SPEECH / "two_phrases_en.wav"
    async with transcribing(api, decoding_pool):
        job_id, _, status = (await alice("transcribe", recording, "--language", "en")).out.strip().partition("\t")
        assert status == "queued"
        await api.verdict(hashlib.sha256(recording.read_bytes()).hexdigest())
        text = (await alice("jobs", "get", job_id, "--wait")).out
    said = SPOKEN["two_phrases_en.wav"]["text"]
    assert re.findall(r"\w+", text.lower()) == re.findall(r"\w+", said.lower())
    assert (await alice("jobs", "get", job_id, "--format", "srt")).out.startswith("1\n00:00:0")
    assert (await alice("jobs", "get", job_id, "--format", "vtt")).out.startswith("WEBVTT\n")
    assert re.findall(r"\w+", (await alice("jobs", "get", job_id, "--format", "txt")).out) == re.findall(r"\w+", text)
    assert json.loads((await alice("jobs", "get", job_id, "--format", "json")).out)["language"] == "en"
    assert (await alice("jobs", "ls")).out.split("\t")[:4] == [job_id, "transcribe", "completed", "100%"]


async def test_segments_are_shown_as_they_come_and_ctrl_c_leaves_the_job(api: Api, tmp_path: Path) -> None:
    carl = Cli(api, api.token("carl"), tmp_path)
    data = (SPEECH / "digits_en.wav").read_bytes()
    media_id = (await carl("upload", carl.file("a.wav", data), "--json")).data["media_id"]
    await api.verdict(hashlib.sha256(data).hexdigest())
    async with carl.on_a_terminal("transcribe", media_id, "--wait") as terminal:
        await terminal.until("queued")
        job_id = (await carl("jobs", "ls", "--json")).data[0]["job_id"]
        queue, lease = Queue(api.database), await api.lease(job_id)
        segment = {"number": 0, "start": 61.0, "end": 63.0, "text": "one two three", "words": None}
        await queue.append_segments(lease, [segment])
        await queue.renew(lease, seconds=60, progress=0.5)
        await terminal.until("1:01  one two three")
        await terminal.until("50 %")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.end() == 130
        await terminal.until(f"{job_id} goes on running")
    assert (await carl("jobs", "get", job_id, "--json")).data["status"] == "running"
    assert job_id in (await carl("jobs", "cancel", job_id)).out


async def test_a_recording_is_stored_in_a_room_and_with_labels_as_it_is_transcribed(api: Api, alice: Cli) -> None:
    dora = Cli(api, api.token("dora", rooms=["standups"]), alice.folder)
    recording = alice.file("standup.wav", (SPEECH / "greeting_en.wav").read_bytes())
    how = "--room", "standups", "--tenant-scope", "--label", "project=atlas", "--name", "monday.wav"
    await dora("transcribe", recording, *how)
    (item,) = (await dora("ls", "standups", "--json")).data
    assert (item["filename"], item["labels"], item["tenant_scope"]) == ("monday.wav", {"project": "atlas"}, True)
    refused = await dora("transcribe", item["media_id"], "--room", "standups", code=2)
    assert "is stored already: --name, --room" in refused.err


async def test_what_cannot_be_transcribed_says_why(alice: Cli) -> None:
    shown = (await alice("transcribe", alice.file("a.txt", b"no sound in here"), code=1)).err
    assert "text/plain" in shown


async def test_usage_names_the_limits(alice: Cli) -> None:
    shown = (await alice("usage")).out
    assert re.search(r"^storage\t.* of 2 GiB", shown, re.MULTILINE)
    assert "one upload\tup to 1.5 GiB\n" in shown
    assert "transcription\tup to 10 h of audio a day\n" in shown
    assert (await alice("usage", "--json")).data["limits"]["max_storage_mb"] == 2048


async def test_the_api_takes_a_token_that_mediactl_minted(api: Api, alice: Cli) -> None:
    keys = alice.folder / api.tenant.tenant_id / "signing-keys.json"
    keys.parent.mkdir()
    save_signing_keys(keys, [api.key])
    minted = (await alice("token", "--signing-key", keys, "--sub", "dora", "--room", "garden")).out.strip()
    dora = Cli(api, minted, alice.folder)
    media_id = (await dora("upload", dora.file("d.txt", secrets.token_bytes(50)), "--json")).data["media_id"]
    assert (await dora("info", media_id, "--json")).data["uploaded_by"] == "dora"


async def test_a_token_that_will_not_do_is_told_apart(api: Api, alice: Cli) -> None:
    expired = Cli(api, api.token("alice", lifetime=timedelta(hours=-1)), alice.folder)
    shown = (await expired("usage", code=1)).err
    assert "expired" in shown
    assert "mediactl token --signing-key" in shown
    reader = Cli(api, api.token("alice", scopes=["media:read"]), alice.folder)
    shown = (await reader("upload", reader.file("a.txt", b"a"), code=1)).err
    assert "media:write" in shown


async def test_watch_prints_events_as_they_come(api: Api, tmp_path: Path) -> None:
    walt = Cli(api, api.token("walt"), tmp_path)
    media_id = (await walt("upload", walt.file("a.bin", b"watched"), "--json")).data["media_id"]
    async with walt.on_a_terminal("watch", "--from-start", "--file", media_id) as terminal:
        await terminal.until(f"stored  {media_id}")
        await walt("rm", media_id)
        await terminal.until(f"deleted  {media_id}")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.end() == 130


async def test_watch_says_that_it_waits_for_a_file_that_nobody_showed_it(api: Api, alice: Cli, tmp_path: Path) -> None:
    media_id = (await alice("upload", alice.file("a.bin", b"of alice"), "--json")).data["media_id"]
    walt = Cli(api, api.token("walt"), tmp_path)
    process = await walt.start("watch", "--file", media_id)
    assert process.stderr is not None
    async with asyncio.timeout(60):
        said = (await process.stderr.readline()).decode()
    assert said == f"mediactl: there is no file {media_id} that you may see; waiting for one\n"
    process.send_signal(signal.SIGINT)
    await process.wait()
