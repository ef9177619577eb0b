"""`/v1/audio`, called by OpenAI's own client. The worker's part is done by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import openai
import pytest
from openai.types.audio.transcription_create_params import TranscriptionCreateParamsNonStreaming

from media_api.background.job_watch import JobWatch
from media_api.routes import openai_audio
from media_core.jobs.queue import Lease, Queue
from media_core.transcripts import formats
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import recording
from tests.integration.http.test_jobs import SEGMENTS, job_of, speech
from tests.integration.servers.api import Api, problem, serving
from tests.integration.tenancy import GENEROUS

WORDS = [
    [
        {"word": "Hello", "start": 0.1, "end": 0.6, "probability": 0.9},
        {"word": "there.", "start": 0.6, "end": 1.2, "probability": 0.8},
    ],
    [{"word": "Grüße", "start": 1.6, "end": 2.0, "probability": 0.9}],
]
TEXT = "Hello there. Grüße & <b>thanks</b>."
FILE = ("meeting.wav", speech())
TRANSCRIPTIONS = "/v1/audio/transcriptions"


@pytest.fixture(autouse=True)
async def _nothing_is_queued(api: Api) -> None:
    """What other tests have left: a worker here takes the next job, whosever it is."""
    async with api.database.transaction() as tx:
        await tx.execute("UPDATE job SET status = 'cancelled', finished_at = now() WHERE status = 'queued'")


@asynccontextmanager
async def client_of(api: Api, **claims: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    token = api.token(**claims)
    async with openai.AsyncOpenAI(api_key=token, base_url=f"{api.base}/v1", max_retries=0, timeout=120) as client:
        yield client


async def next_lease(api: Api) -> Lease:
    queue = Queue(api.database)
    async with asyncio.timeout(60):
        while (lease := await queue.lease("transcribe", worker="test", seconds=60)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return lease


async def work(api: Api) -> Lease:
    """What a worker does with the next transcription."""
    lease, queue = await next_lease(api), Queue(api.database)
    segments: list[dict[str, Any]] = [dict(segment) for segment in SEGMENTS]
    for number, segment in enumerate(segments):
        if lease.payload["word_timestamps"]:
            segment["words"] = WORDS[number]
        stored = {"number": number, "words": segment.get("words"), **{n: segment[n] for n in ("start", "end", "text")}}
        await queue.append_segments(lease, [stored])
    await queue.finish(lease, formats.result(segments, "de", 3.25))
    return lease


async def test_the_official_client_gets_its_text(api: Api) -> None:
    async with client_of(api) as client, asyncio.TaskGroup() as beside:
        working = beside.create_task(work(api))
        answer = await client.audio.transcriptions.create(
            file=FILE, model="whisper-1", language="de", prompt="names", temperature=0
        )
    assert answer.text == TEXT
    payload = working.result().payload
    assert (payload["language"], payload["prompt"], payload["task"]) == ("de", "names", "transcribe")


@pytest.mark.parametrize(
    ("wanted", "begin"),
    [
        ("text", TEXT + "\n"),
        ("srt", "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 -->"),
    ],
)
async def test_the_official_client_gets_the_format_that_it_asks_for(
    api: Api, wanted: Literal["text", "srt", "vtt"], begin: str
) -> None:
    async with client_of(api) as client, asyncio.TaskGroup() as beside:
        beside.create_task(work(api))
        answer = await client.audio.transcriptions.create(file=FILE, model="whisper-1", response_format=wanted)
    assert str(answer).startswith(begin)


async def test_verbose_json_has_segments_and_words(api: Api) -> None:
    async with client_of(api) as client, asyncio.TaskGroup() as beside:
        beside.create_task(work(api))
        answer = await client.audio.transcriptions.create(
            file=FILE, model="whisper-1", response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
    assert (answer.text, answer.language, answer.duration) == (TEXT, "german", 3.25)
    assert answer.segments is not None
    assert answer.words is not None
    assert [(each.id, each.start, each.end, each.text) for each in answer.segments] == [
        (each["id"], each["start"], each["end"], each["text"]) for each in SEGMENTS
    ]
    assert [(each.word, each.start, each.end) for each in answer.words] == [
        (each["word"], each["start"], each["end"]) for words in WORDS for each in words
    ]


async def test_a_stream_has_a_delta_for_each_segment_and_then_the_text(api: Api) -> None:
    async with client_of(api) as client, asyncio.TaskGroup() as beside:
        beside.create_task(work(api))
        stream = await client.audio.transcriptions.create(file=FILE, model="gpt-4o-transcribe", stream=True)
        events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == TEXT


async def test_a_silent_stream_says_that_it_is_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_audio, "KEEP_ALIVE_SECONDS", 0.1)
    asked = {"files": {"file": FILE}, "data": {"stream": "true"}}
    async with api.client() as client, client.stream("POST", TRANSCRIPTIONS, timeout=120, **asked) as answer:
        lines = answer.aiter_lines()
        assert [await anext(lines) for _ in range(4)] == [": still here", ""] * 2
        lease = await next_lease(api)
        await Queue(api.database).finish(lease, formats.result([dict(each) for each in SEGMENTS], "de", 3.25))
        rest = [line async for line in lines]
    assert "event: transcript.text.done" in rest
    async with client_of(api) as official:
        stream = await official.audio.transcriptions.create(file=FILE, model="whisper-1", stream=True)
        await asyncio.sleep(0.5)  # some comments come before the first event
        await work(api)
        assert [event.type async for event in stream][-1] == "transcript.text.done"


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> set[JobWatch]:
    """Those with which jobs were watched."""
    seen: set[JobWatch] = set()
    watched = JobWatch.watched

    def noted(watch: JobWatch, job_id: str) -> Any:
        seen.add(watch)
        return watched(watch, job_id)

    monkeypatch.setattr(JobWatch, "watched", noted)
    return seen


async def nothing_is_watched(watches: set[JobWatch]) -> None:
    (watch,) = watches
    async with asyncio.timeout(60):
        while watch._watched:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_the_job_of_a_client_that_goes_away_goes_on_and_nothing_waits_for_it(
    api: Api, watches: set[JobWatch]
) -> None:
    async with api.client() as client:
        asking = asyncio.ensure_future(client.post(TRANSCRIPTIONS, files={"file": FILE}, timeout=120))
        lease = await next_lease(api)
        asking.cancel()
    await nothing_is_watched(watches)
    await Queue(api.database).finish(lease, formats.result([dict(each) for each in SEGMENTS], "de", 3.25))
    async with api.client() as client:
        assert (await job_of(client, lease.job_id))["transcript"] == TEXT


async def test_the_job_of_a_stream_that_its_client_cuts_goes_on_and_nothing_waits_for_it(
    api: Api, watches: set[JobWatch]
) -> None:
    for while_segments_come in (False, True):
        async with client_of(api) as client:
            stream = await client.audio.transcriptions.create(file=FILE, model="whisper-1", stream=True)
            lease = await next_lease(api)
            if while_segments_come:
                stored = {"number": 0, "words": None, "start": 0.0, "end": 1.0, "text": "Hello"}
                await Queue(api.database).append_segments(lease, [stored])
                assert (await anext(aiter(stream))).type == "transcript.text.delta"
            await stream.close()
        await nothing_is_watched(watches)
        await Queue(api.database).finish(lease, formats.result([dict(each) for each in SEGMENTS], "de", 3.25))
        async with api.client() as client:
            assert (await job_of(client, lease.job_id))["transcript"] == TEXT


async def test_a_stream_whose_job_vanishes_ends_with_an_error(api: Api) -> None:
    asked = {"files": {"file": FILE}, "data": {"stream": "true"}}
    async with api.client() as client, client.stream("POST", TRANSCRIPTIONS, timeout=120, **asked) as answer:
        lease = await next_lease(api)
        async with api.database.transaction() as tx:
            await tx.execute("DELETE FROM job WHERE job_id = %(job_id)s", {"job_id": lease.job_id})
        lines = [line async for line in answer.aiter_lines()]
    assert "event: error" in lines
    assert any('"code": "not_found"' in line for line in lines)


async def test_a_translation_is_into_english(api: Api) -> None:
    async with client_of(api) as client, asyncio.TaskGroup() as beside:
        working = beside.create_task(work(api))
        answer = await client.audio.translations.create(file=FILE, model="whisper-1", response_format="verbose_json")
    assert (answer.text, answer.language) == (TEXT, "english")
    assert working.result().payload["task"] == "translate"


async def test_a_client_that_asks_for_the_models_first_finds_one_and_transcribes_with_it(api: Api) -> None:
    async with client_of(api) as client, asyncio.TaskGroup() as beside:
        (model,) = (await client.models.list()).data
        assert (model.id, model.object) == ("whisper-1", "model")
        assert await client.models.retrieve(model.id) == model
        for unknown in ("gpt-4o", "Systran/faster-whisper-small"):
            with pytest.raises(openai.NotFoundError) as refused:
                await client.models.retrieve(unknown)
            assert (refused.value.code, refused.value.type) == ("not_found", "invalid_request_error")
        beside.create_task(work(api))
        answer = await client.audio.transcriptions.create(file=FILE, model=model.id)
    assert answer.text == TEXT


async def test_a_tenant_without_transcription_has_no_model(fresh_api: Api) -> None:
    await fresh_api.apply(replace(GENEROUS, transcription_enabled=False))
    async with client_of(fresh_api) as client:
        assert (await client.models.list()).data == []
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("whisper-1")


async def test_what_takes_longer_is_answered_with_its_job(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with serving(postgres, tmp_path, sync_seconds=0.2) as api, api.client() as client:
        answer = await client.post(TRANSCRIPTIONS, files={"file": FILE})
        assert answer.status_code == 202
        job_id = answer.json()["data"]["job_id"]
        assert answer.headers["location"] == f"/v1/jobs/{job_id}"
        await work(api)
        assert (await job_of(client, job_id))["transcript"] == TEXT


async def test_a_failed_job_is_a_422_that_says_why(api: Api) -> None:
    async def fail() -> None:
        lease = await next_lease(api)
        await Queue(api.database).fail(lease, "corrupt", "The sound of this file can't be decoded.", retry=False)

    async with api.client() as client, asyncio.TaskGroup() as beside:
        beside.create_task(fail())
        body = problem(await client.post(TRANSCRIPTIONS, files={"file": FILE}), 422, "transcription_failed")
    assert (body["detail"], body["job_error"]) == ("The sound of this file can't be decoded.", "corrupt")


async def test_a_limit_that_the_worker_meets_is_the_429_of_one_that_is_met_at_once(api: Api) -> None:
    """The official client leaves it at one request: its further ones would send the file again, in vain."""

    async def fail() -> None:
        lease = await next_lease(api)
        await Queue(api.database).fail(lease, "transcription_limit_exceeded", "Used up today.", retry=False)

    async with client_of(api) as client, asyncio.TaskGroup() as beside:
        beside.create_task(fail())
        with pytest.raises(openai.RateLimitError, match="Used up today") as refused:
            await client.with_options(max_retries=2).audio.transcriptions.create(file=FILE, model="whisper-1")
    assert refused.value.code == "transcription_limit_exceeded"
    assert 0 < int(refused.value.response.headers["Retry-After"]) <= 24 * 3600
    assert refused.value.response.headers["x-should-retry"] == "false"


async def test_errors_are_what_the_official_client_expects(api: Api) -> None:
    async with client_of(api) as client:
        with pytest.raises(openai.APIStatusError) as no_sound:
            await client.audio.transcriptions.create(file=("a.txt", b"text"), model="whisper-1")
        with pytest.raises(openai.UnprocessableEntityError):
            await client.audio.transcriptions.create(file=FILE, model="whisper-1", language="martian")
        with pytest.raises(openai.UnprocessableEntityError):
            await client.audio.transcriptions.create(file=("a.wav", b""), model="whisper-1")
    assert no_sound.value.status_code == 415
    async with client_of(api, scopes=["media:read"]) as reader:
        with pytest.raises(openai.PermissionDeniedError):
            await reader.audio.transcriptions.create(file=FILE, model="whisper-1")


async def test_an_error_is_a_problem_that_has_openais_shape_too(api: Api) -> None:
    async with api.client() as client, api.client(scopes=["media:read"]) as reader:
        file = {"file": ("a.wav", b"RIFF")}
        wrong = ("language", "response_format", "stream", "timestamp_granularities[]")
        forms = [(await client.post(TRANSCRIPTIONS, files=file, data={name: "x"}), name) for name in wrong]
        for answer, status, code, param in (
            *((answer, 422, "invalid_request", name) for answer, name in forms),
            (await client.post(TRANSCRIPTIONS, files={"file": ("a.wav", b"")}), 422, "empty_file", "file"),
            (await client.post(TRANSCRIPTIONS, files={"model": (None, "x")}), 422, "missing_file", "file"),
            (await client.post(TRANSCRIPTIONS, json={}), 415, "unsupported_media_type", None),
            (await reader.post(TRANSCRIPTIONS, json={}), 403, "insufficient_scope", None),
        ):
            body = problem(answer, status, code)
            kind = "invalid_request_error"
            assert body["error"] == {"message": body["detail"], "type": kind, "param": param, "code": code}
    async with client_of(api) as official:
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            await official.audio.transcriptions.create(file=FILE, model="whisper-1", language="martian")
    assert (refused.value.code, refused.value.type) == ("invalid_request", "invalid_request_error")
    assert "ISO 639-1" in refused.value.body["message"]  # type: ignore[index]


async def test_an_address_that_openai_has_and_this_api_lacks_is_an_error_in_its_shape(api: Api) -> None:
    async with api.client() as client:
        for method, path, status, code in (
            ("POST", "/v1/audio/speech", 404, "not_found"),
            ("GET", TRANSCRIPTIONS, 405, "method_not_allowed"),
            ("DELETE", "/v1/models/whisper-1", 405, "method_not_allowed"),
        ):
            answer = await client.request(method, path)
            body = problem(answer, status, code)
            told = {"message": body["detail"], "type": "invalid_request_error", "param": None, "code": code}
            assert body["error"] == told
            assert ("allow" in answer.headers) is (status == 405)
        assert "error" not in problem(await client.get("/v1/nothing"), 404, "not_found")
    async with client_of(api) as official:
        with pytest.raises(openai.NotFoundError) as refused:
            await official.audio.speech.create(model="tts-1", voice="alloy", input="Hello")
    assert (refused.value.code, refused.value.type) == ("not_found", "invalid_request_error")


async def test_every_field_that_the_official_client_can_send_is_taken(api: Api) -> None:
    """Those of its newest version: one that it has gained is missing here, and this fails."""
    fields: dict[str, Any] = {
        "model": "gpt-transcribe",
        "file": FILE,
        "language": "de",
        "languages": ["de", "en"],
        "prompt": "A meeting.",
        "keywords": ["Grüße", *(f"word {number}" for number in range(20))],
        "temperature": 0.2,
        "include": ["logprobs"],
        "known_speaker_names": ["agent"],
        "known_speaker_references": ["data:audio/wav;base64,UklGRg=="],
        "timestamp_granularities": ["word", "segment"],
        "response_format": "json",
        "stream": False,
        "chunking_strategy": {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 200,
        },
    }
    assert set(fields) == set(get_type_hints(TranscriptionCreateParamsNonStreaming))
    async with client_of(api) as client, asyncio.TaskGroup() as beside:
        working = beside.create_task(work(api))
        answer = await client.audio.transcriptions.create(**fields)
    assert answer.text == TEXT
    assert (await working).payload["hotwords"].startswith("Grüße, word 0, word 1")


async def test_the_file_is_kept_and_counted_like_any_other(api: Api) -> None:
    data = recording([550, 660], "wav", "pcm_s16le")
    async with api.client() as client, asyncio.TaskGroup() as beside:
        before = (await client.get("/v1/usage")).json()["data"]
        working = beside.create_task(work(api))
        await client.post(TRANSCRIPTIONS, files={"file": ("two.wav", data)})
        after = (await client.get("/v1/usage")).json()["data"]
        info = (await client.get(f"/v1/media/{(await working).payload['media_id']}/info")).json()["data"]
    assert (info["filename"], info["size"], info["scan_status"]) == ("two.wav", len(data), "pending")
    assert after["stored_bytes"] - before["stored_bytes"] == len(data)
