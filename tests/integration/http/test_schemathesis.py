"""schemathesis calls the api with all that its OpenAPI document allows, and with what it does not allow.

`schemathesis.toml` says which checks are left out, and why. `MEDIA_SCHEMATHESIS_EXAMPLES=30` makes ten times as many
calls, with a seed of its own.
"""

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from media_core.auth.tokens import ALL
from media_core.jobs.queue import Queue
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import photo
from tests.integration.acting import verdict
from tests.integration.http.schemathesis_hooks import SOUND
from tests.integration.servers.api import USER, Api, serving, upload
from tests.integration.tenancy import GENEROUS

HERE = Path(__file__).parent
SEED = 1
EXAMPLES = 3
LISTS = ("/v1/media", "/v1/jobs", "/v1/rooms/lobby/files")
HEARD = {
    "transcript": "Hello.",
    "segments": [{"id": 0, "start": 0.0, "end": 1.0, "text": "Hello."}],
    "language": "en",
    "duration": 1.0,
}


@pytest.fixture
async def api(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Api]:
    # Without a scan all content can be read; a verdict for each would take a worker.
    applied = replace(GENEROUS, scan_enabled=False)
    async with serving(postgres, tmp_path, applied=applied, signed_url_max_seconds=604800) as api, hearing(api):
        yield api


@asynccontextmanager
async def hearing(api: Api) -> AsyncIterator[None]:
    """A worker that hears the same in every recording, and finds every file clean."""
    queue = Queue(api.database)

    async def work() -> None:
        while True:
            while lease := await queue.lease("transcribe", worker="test", seconds=60):
                await queue.finish(lease, HEARD)
            while lease := await queue.lease("scan", worker="test", seconds=60):
                await verdict(api.library, lease, "clean")
            await asyncio.sleep(0.1)

    worker = asyncio.ensure_future(work())
    yield
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker


async def known(api: Api) -> dict[str, list[str]]:
    """Ids by the name of their format, of what an admin has."""
    async with api.client("alice", scopes=[*USER, "admin"], rooms=ALL) as client:
        files = [await upload(client, b"%d" % number, f"{number}.txt", room_id="lobby") for number in range(40)]
        files += [await upload(client, photo(30 + number, 30), "a.jpg") for number in range(10)]
        recording = {"file": ("a.wav", SOUND.read_bytes())}
        accepted = [await client.post("/v1/transcribe", files=recording) for _ in range(5)]
        uploads = [
            await client.post("/v1/media/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "9"})
            for _ in range(10)
        ]
        lists = [await client.get(path, params={"limit": 3}) for path in LISTS]
    ids = [file["media_id"] for file in files] + [file["thumbnail_id"] for file in files if file["thumbnail_id"]]
    return {
        "cursor": [page.json()["next_cursor"] for page in lists],
        "med-id": ids,
        "job-id": [answer.json()["data"]["job_id"] for answer in accepted],
        "upl-id": [begun.headers["location"].rpartition("/")[2] for begun in uploads],
    }


async def test_no_call_that_the_document_allows_or_forbids_finds_a_fault(api: Api, tmp_path: Path) -> None:
    examples = int(os.environ.get("MEDIA_SCHEMATHESIS_EXAMPLES", EXAMPLES))
    seed = SEED if examples == EXAMPLES else secrets.randbelow(1 << 32)
    token = api.token("alice", scopes=[*USER, "admin"], rooms=ALL)
    command = [
        *(str(Path(sys.executable).with_name("st")), "--config-file", str(HERE / "schemathesis.toml"), "run"),
        *(f"{api.base}/openapi.json", "--no-color"),
        *("--seed", str(seed), "--max-examples", str(examples), "--continue-on-failure", "--no-shrink"),
        *os.environ.get("MEDIA_SCHEMATHESIS_OPTIONS", "").split(),
    ]
    environment = {
        **os.environ,
        "MEDIA_KNOWN": json.dumps(await known(api)),
        "MEDIA_TOKEN": token,
        "PYTHONPATH": str(HERE.parents[2]),
    }
    with (tmp_path / "shown").open("w+") as shown:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=environment, stdout=shown, stderr=subprocess.STDOUT
        )
        await process.wait()
        shown.seek(0)
        assert process.returncode == 0, shown.read()
