"""OpenAI's own client, the api and a worker with a small model: files as people have them, in each format."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import openai
import pytest

from media_core.decoding.pool import DecodingPool
from media_core.items.library import Library
from media_core.jobs.queue import Lease, Queue
from media_core.policy import PolicyReader
from media_core.settings import TranscriptionSettings
from media_workers.drain import Drain, Work
from media_workers.settings import DrainSettings
from media_workers.speech.transcribe import Transcriber
from media_workers.speech.whisper import Whisper
from tests.integration.http.test_openai import client_of
from tests.integration.servers.api import Api
from tests.integration.transcripts.test_transcribe import LEASE_SECONDS, SPOKEN, encoded, samples_of, wav
from tests.integration.transcripts.test_transcribe import whisper as whisper

FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
SAID = SPOKEN["digits_en.wav"]["text"]


@pytest.fixture
async def _worker(api: Api, decoding_pool: DecodingPool, whisper: Whisper) -> AsyncIterator[None]:
    """One that finds each file clean, and waits for jobs until the test ends."""
    policy = PolicyReader(api.database)
    library = Library(tenant_id=api.tenant.tenant_id, database=api.database, store=api.store, policy=policy)
    work = Work(api.database, Queue(api.database), library, api.store, decoding_pool, policy)
    handler = Transcriber(whisper, TranscriptionSettings(), lease_seconds=LEASE_SECONDS)

    async def scanned(lease: Lease, work: Work) -> None:
        async with work.database.transaction() as tx:
            await tx.execute("UPDATE blob SET scan_status = 'clean' WHERE sha256 = %(sha256)s", lease.payload)
        await handler(lease, work)

    async with api.database.transaction() as tx:
        await tx.execute("UPDATE job SET status = 'cancelled', finished_at = now() WHERE status = 'queued'")
    drain = Drain("transcribe", scanned, work, DrainSettings(linger_seconds=60, lease_seconds=LEASE_SECONDS))
    draining = asyncio.create_task(drain.run())
    yield
    drain.stop.set()
    await draining


async def answers(api: Api, name: str, content: bytes) -> dict[str, Any]:
    async with client_of(api) as client:
        given = [
            await client.audio.transcriptions.create(file=(name, content), model="whisper-1", response_format=wanted)
            for wanted in FORMATS
        ]
    return dict(zip(FORMATS, given, strict=True))


@pytest.mark.usefixtures("_worker")
@pytest.mark.parametrize(
    ("name", "container", "codec", "picture", "options"),
    [
        ("clip.mp4", "mp4", "aac", True, {}),
        ("memo.m4a", "ipod", "aac", False, {}),
        ("blob", "webm", "libopus", False, {"live": "1"}),  # as MediaRecorder writes it, without a duration
    ],
)
async def test_each_format_of_a_file_that_a_phone_or_a_browser_made(
    api: Api, name: str, container: str, codec: str, picture: bool, options: dict[str, str]
) -> None:
    given = await answers(api, name, encoded("digits_en.wav", container, codec, 48000, picture, **options))
    assert given["json"].text == SAID
    assert given["text"] == SAID + "\n"
    verbose = given["verbose_json"]
    assert (verbose.text, verbose.language) == (SAID, "english")
    assert verbose.duration == pytest.approx(SPOKEN["digits_en.wav"]["duration"], abs=0.15)
    assert " ".join(segment.text for segment in verbose.segments) == SAID
    assert given["srt"].startswith("1\n00:00:0")
    assert given["vtt"].startswith("WEBVTT\n\n00:00:0")


@pytest.mark.usefixtures("_worker")
async def test_each_format_of_a_click_is_without_text(api: Api) -> None:
    click = samples_of("digits_en.wav")[:3200] * 0
    click[1600:1610] = 0.9
    given = await answers(api, "click.wav", wav(click))
    assert (given["json"].text, given["text"], given["srt"], given["vtt"]) == ("", "\n", "", "WEBVTT\n")
    verbose = given["verbose_json"]
    assert (verbose.text, verbose.segments) == ("", [])
    assert verbose.duration == pytest.approx(0.2)


async def test_a_text_file_is_refused_with_a_sentence(api: Api) -> None:
    async with client_of(api) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.audio.transcriptions.create(
                file=("notes.txt", b"No sound at all.\n"), model="whisper-1", response_format="srt"
            )
    assert (refused.value.status_code, refused.value.code) == (415, "not_audio_or_video")
    assert "This is a text (text/plain); nothing in it can be transcribed." in str(refused.value)
