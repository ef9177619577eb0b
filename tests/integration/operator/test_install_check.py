"""The part of `helm test` that calls a tenant's api, against the real api. The test does the worker's part."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from media_core.jobs.queue import Lease, Queue
from media_core.transcripts import formats
from media_operator.helm_hooks import install_check
from media_operator.helm_hooks.install_check import CheckFailed, Client
from tests.integration.servers.api import Api, eventually

SAMPLE = Path(__file__).parents[2] / "fixtures" / "whisper-tiny-words" / "samples" / "greeting_en.wav"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_check, "POLL_SECONDS", 0.02)


async def heard(api: Api, work: Callable[[Queue, Lease], Awaitable[None]] | None) -> str:
    """Runs the check, while `work` does the worker's part for its job. Returns what the check got."""
    client = Client(api.base, api.token(f"helm-test-{secrets.token_hex(4)}", rooms=()))
    said = asyncio.create_task(asyncio.to_thread(install_check.transcript, client))
    if work is not None:
        await eventually(lambda: queued(api))
        (job_id,) = await queued(api)
        await work(Queue(api.database), await api.lease(job_id))
    return await said


async def queued(api: Api) -> list[str]:
    async with api.database.transaction() as tx:
        found = await tx.execute("SELECT job_id FROM job WHERE kind = 'transcribe' AND status = 'queued'")
        return [row.job_id for row in found]


async def say(queue: Queue, lease: Lease, words: str) -> None:
    segments = [{"id": 0, "start": 0.0, "end": 2.5, "text": words}] if words else []
    for segment in segments:
        stored = {"number": 0, "words": None, **{name: segment[name] for name in ("start", "end", "text")}}
        await queue.append_segments(lease, [stored])
    await queue.finish(lease, formats.result(segments, "en" if words else None, 3.3))


async def test_it_prints_what_was_heard_whatever_the_words(fresh_api: Api, soon: None) -> None:
    assert await heard(fresh_api, lambda queue, lease: say(queue, lease, "good evening")) == "good evening"


async def test_a_transcription_without_a_word_fails(fresh_api: Api, soon: None) -> None:
    with pytest.raises(CheckFailed, match="no word was heard"):
        await heard(fresh_api, lambda queue, lease: say(queue, lease, ""))


async def test_a_job_that_fails_is_quoted_with_the_values_to_change(fresh_api: Api, soon: None) -> None:
    sentence = "MEDIA_WHISPER_MODEL is 'small', which is not on this machine and could not be downloaded."
    with pytest.raises(CheckFailed) as failed:
        await heard(fresh_api, lambda queue, lease: queue.fail(lease, "model_unavailable", sentence, retry=False))
    assert f"the transcription is failed (model_unavailable: {sentence})" in str(failed.value)
    assert "installCheck.transcription.model may be the path" in str(failed.value)
    assert "installCheck.transcription.enabled=false turns this part of the check off" in str(failed.value)


async def test_a_job_that_no_worker_takes_up_is_given_up(
    fresh_api: Api, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_check, "QUEUED_SECONDS", 0.1)
    with pytest.raises(CheckFailed) as failed:
        await heard(fresh_api, None)
    assert "the transcription is still queued after 0 s: do worker Jobs start" in str(failed.value)
    assert "installCheck.transcription.enabled=false" in str(failed.value)


def test_the_recording_is_one_that_the_tests_know_the_words_of() -> None:
    assert install_check.RECORDING.read_bytes() == SAMPLE.read_bytes()
