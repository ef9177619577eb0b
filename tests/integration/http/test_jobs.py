"""Transcription over HTTP: asking, watching, its formats, cancelling. The worker's part is done by the test."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from media_api.routes import jobs
from media_api.routes.jobs import Kind, answer_of
from media_core.auth.tokens import Claims
from media_core.jobs.kinds import KINDS
from media_core.jobs.queue import Cancelled, Queue
from media_core.transcripts import formats
from media_core.transcripts.requests import Jobs
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import film, photo, recording
from tests.integration.servers.api import Api, left, problem, serving, upload
from tests.integration.tenancy import ADMIN, GENEROUS

NO_JOB = "job-01JD0Z3V5QH7W8K2M4N6P8R0T3"
SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 1.5, "text": "Hello there."},
    {"id": 1, "start": 1.5, "end": 3.25, "text": "Grüße & <b>thanks</b>."},
]


def speech(seconds: int = 2, first: int = 440) -> bytes:
    """A recording; a different `first` makes different content."""
    return recording([first] * seconds, "wav", "pcm_s16le")


async def submit(client: httpx.AsyncClient, data: bytes, **fields: str) -> str:
    answer = await client.post("/v1/transcribe", files={"file": ("talk.wav", data)}, data=fields)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["data"]["job_id"]
    return job_id


async def job_of(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    answer = await client.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()["data"]
    return job


async def transcribe(api: Api, job_id: str) -> None:
    """Completes a job, as a worker does."""
    queue = Queue(api.database)
    lease = await api.lease(job_id)
    for number, segment in enumerate(SEGMENTS):
        stored = {"number": number, "words": None, **{n: segment[n] for n in ("start", "end", "text")}}
        await queue.append_segments(lease, [stored])
        await queue.renew(lease, seconds=60, progress=(number + 1) / 2)
    await queue.finish(lease, formats.result([dict(s) for s in SEGMENTS], "en", 3.25))


# -- asking ----------------------------------------------------------------------------------------------------------


async def test_a_recording_becomes_a_job_and_then_a_transcript_as_published(api: Api) -> None:
    async with api.client() as client:
        answer = await client.post("/v1/transcribe", files={"file": ("meeting.wav", speech())}, data={"language": "en"})
        assert answer.status_code == 202
        job = answer.json()["data"]
        assert job == {"job_id": job["job_id"], "status": "queued"}
        assert answer.headers["location"] == f"/v1/jobs/{job['job_id']}"
        queued = await job_of(client, job["job_id"])
        assert (queued["kind"], queued["status"], queued["progress"], queued["error"]) == (
            "transcribe",
            "queued",
            0,
            None,
        )
        assert queued["queue_position"] >= 1
        assert queued["media_id"].startswith("med-")
        assert "transcript" not in queued
        await transcribe(api, job["job_id"])
        done = await job_of(client, job["job_id"])
    assert (done["status"], done["progress"], done["queue_position"]) == ("completed", 1, None)
    assert (done["transcript"], done["segments"], done["language"], done["duration"]) == (
        "Hello there. Grüße & <b>thanks</b>.",
        SEGMENTS,
        "en",
        3.25,
    )
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]


async def test_what_was_uploaded_before_can_be_transcribed_by_whoever_sees_it(api: Api) -> None:
    async with api.client() as client, api.client("bob") as bob, api.client("eve", rooms=[]) as eve:
        uploaded = await upload(client, speech(1, 450), "a.wav", room_id="garden")
        by_id = {"media_id": (None, uploaded["media_id"])}
        answer = await bob.post("/v1/transcribe", files=by_id)
        assert answer.status_code == 202
        assert (await job_of(bob, answer.json()["data"]["job_id"]))["media_id"] == uploaded["media_id"]
        problem(await eve.post("/v1/transcribe", files=by_id), 404, "not_found")


async def test_the_wishes_reach_the_worker(api: Api) -> None:
    async with api.client() as client:
        wishes = {
            "language": "EN",
            "task": "translate",
            "word_timestamps": "true",
            "prompt": "About gardens",
            "hotwords": "rose, tulip",
            "vad": "false",
            "track": "2",
            "channel": "1",
        }
        job_id = await submit(client, speech(1, 460), **wishes)
    lease = await api.lease(job_id)
    await Queue(api.database).release(lease)
    assert {name: lease.payload[name] for name in wishes} == {
        "language": "en",
        "task": "translate",
        "word_timestamps": True,
        "prompt": "About gardens",
        "hotwords": "rose, tulip",
        "vad": False,
        "track": 2,
        "channel": 1,
    }
    assert lease.request_id


async def test_empty_fields_are_as_good_as_none(api: Api) -> None:
    empty = dict.fromkeys(("room_id", "tenant_scope", "language", "task", "prompt", "hotwords", "vad"), "")
    async with api.client() as client:
        uploaded = await upload(client, speech(1, 462), "a.wav")
        job_id = await submit(client, speech(1, 463), media_id="", **empty)
        by_id = {name: (None, value) for name, value in {**empty, "file": "", "media_id": uploaded["media_id"]}.items()}
        assert (await client.post("/v1/transcribe", files=by_id)).status_code == 202
    lease = await api.lease(job_id)
    await Queue(api.database).release(lease)
    wishes = {name: lease.payload[name] for name in ("language", "task", "prompt", "hotwords", "vad")}
    assert wishes == {"language": None, "task": "transcribe", "prompt": None, "hotwords": None, "vad": True}


async def test_the_request_id_travels_to_the_worker(api: Api) -> None:
    async with api.client() as client:
        answer = await client.post(
            "/v1/transcribe", files={"file": ("a.wav", speech(1, 465))}, headers={"X-Request-Id": "trace-7"}
        )
        lease = await api.lease(answer.json()["data"]["job_id"])
        await Queue(api.database).release(lease)
    assert lease.request_id == "trace-7"
    queued = await api.database.call(
        "SELECT kind, request_id FROM job WHERE payload->>'sha256' = %s", (lease.payload["sha256"],)
    )
    assert {(job.kind, job.request_id) for job in queued} == {("scan", "trace-7"), ("transcribe", "trace-7")}


async def test_what_can_not_be_transcribed_is_refused_and_not_kept(fresh_api: Api) -> None:
    before = await left(fresh_api)
    async with fresh_api.client() as client:

        async def post(file: bytes | None = None, **fields: str) -> httpx.Response:
            parts: dict[str, Any] = {name: (None, value) for name, value in fields.items()}
            if file is not None:
                parts["file"] = ("a.bin", file)
            return await client.post("/v1/transcribe", files=parts)

        problem(await post(photo(20, 20)), 415, "not_audio_or_video")
        problem(await post(b"just words"), 415, "not_audio_or_video")
        problem(await post(task="translate"), 422, "missing_file")
        both = problem(await post(speech(), media_id=NO_JOB), 422, "invalid_request")
        assert both["detail"] == "Send `file` or `media_id`, not both."
        unknown = problem(await post(speech(), lang="en"), 422, "invalid_request")
        assert unknown["detail"] == "`lang` is not a field of this form; did you mean `language`?"
        problem(await post(speech(), room_id="a/b"), 422, "invalid_request")
        problem(await post(b""), 422, "empty_file")
        problem(await post(speech(), language="klingon"), 422, "invalid_request")
        problem(await post(speech(), task="sing"), 422, "invalid_request")
        problem(await post(speech(), vad="perhaps"), 422, "invalid_request")
        for number in ("0", "-1", "17", "1.5", "two", "²"):
            problem(await post(speech(), track=number), 422, "invalid_request")
        problem(await post(speech(), channel="65"), 422, "invalid_request")
        problem(await client.post("/v1/transcribe", json={"media_id": NO_JOB}), 415, "unsupported_media_type")
    assert await left(fresh_api) == before


async def test_a_video_with_sound_can_be_transcribed(api: Api) -> None:
    async with api.client() as client:
        assert await submit(client, film(2))


async def test_a_recording_over_the_limits_is_refused_before_a_worker_sees_it(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    short_days = replace(GENEROUS, max_transcription_seconds_per_day=5)
    async with serving(postgres, tmp_path, applied=short_days) as api, api.client() as client:
        before = await left(api)
        answer = await client.post("/v1/transcribe", files={"file": ("a.wav", speech(6))})
        body = problem(answer, 429, "transcription_limit_exceeded")
        assert "5 seconds are left, and this recording has 6. The count starts anew at 00:00 UTC" in body["detail"]
        assert 0 < int(answer.headers["Retry-After"]) <= 24 * 3600
        assert await left(api) == before
        assert (await client.get("/v1/usage")).json()["data"]["transcribed_seconds_today"] == 0
        await api.apply(replace(GENEROUS, max_transcription_seconds_per_day=0))
        answer = await client.post("/v1/transcribe", files={"file": ("a.wav", speech(1))})
        body = problem(answer, 429, "transcription_limit_exceeded")
        assert body["detail"] == "This tenant may transcribe no audio: its limit is 0 minutes a day."
        await api.apply(replace(GENEROUS, transcription_enabled=False))
        answer = await client.post("/v1/transcribe", files={"file": ("a.wav", speech(1))})
        problem(answer, 403, "transcription_disabled")


async def test_a_recording_longer_than_is_taken_at_once_is_refused(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIA_TRANSCRIPTION_MAX_SECONDS", "2")
    async with serving(postgres, tmp_path) as api, api.client() as client:
        assert await submit(client, speech(2))
        answer = await client.post("/v1/transcribe", files={"file": ("a.wav", speech(4))})
        body = problem(answer, 422, "duration_exceeds_limit")
        assert (body["limit"], body["detail"]) == (2, "This recording has 4 seconds; 2 are the most here.")


async def test_a_translation_that_the_model_can_not_make_is_refused_and_nothing_kept(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIA_WHISPER_MODEL", "turbo")
    async with serving(postgres, tmp_path) as api, api.client() as client:
        before = await left(api)
        answer = await client.post("/v1/transcribe", files={"file": ("a.wav", speech())}, data={"task": "translate"})
        body = problem(answer, 422, "translation_unavailable")
        assert body["detail"].startswith("This tenant's speech model (turbo) writes down what is said")
        answer = await client.post("/v1/audio/translations", files={"file": ("a.wav", speech())})
        problem(answer, 422, "translation_unavailable")
        assert await left(api) == before
        assert await submit(client, speech())


async def test_a_completed_job_says_which_tracks_there_are_and_which_was_heard(api: Api) -> None:
    tracks = [
        {"number": 1, "codec": "aac", "channels": 2, "language": "eng", "title": "Game", "decodes": True},
        {"number": 2, "codec": None, "channels": None, "language": None, "title": None, "decodes": False},
    ]
    async with api.client() as client:
        job_id = await submit(client, speech(1, 466))
        heard = {"tracks": tracks, "track": 1, "channel": None}
        result = formats.result([dict(s) for s in SEGMENTS], "en", 3.25, heard)
        await Queue(api.database).finish(await api.lease(job_id), result)
        job = await job_of(client, job_id)
        assert (job["tracks"], job["track"], job["channel"]) == (tracks, 1, None)
        listed = json.loads((await client.get(f"/v1/jobs/{job_id}/transcript.json")).text)
        unknown = problem(await client.get(f"/v1/jobs/{job_id}/transcript.pdf"), 404, "not_found")
        assert unknown["detail"] == "A transcript is there as json, txt, srt, vtt, and as nothing else."
    assert listed["track"] == 1


async def test_a_refusal_says_what_the_file_is(api: Api) -> None:
    raw = b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(range(256)) * 16
    async with api.client() as client:
        answer = await client.post("/v1/transcribe", files={"file": ("a.CR3", raw)})
        assert problem(answer, 415, "not_audio_or_video")["detail"] == (
            "This is a Canon raw photo (image/x-canon-cr3); nothing in it can be transcribed."
        )
        uploaded = await upload(client, raw, "a.CR3")
        assert (uploaded["mime_type"], uploaded["thumbnail_id"]) == ("image/x-canon-cr3", None)
        media_id = uploaded["media_id"]
        await api.verdict(hashlib.sha256(raw).hexdigest(), "clean")
        answer = await client.get(f"/v1/media/download/{media_id}/thumbnail")
        assert problem(answer, 404, "no_thumbnail")["detail"] == (
            "This is a Canon raw photo (image/x-canon-cr3); it is kept, and has no thumbnail."
        )
        download = await client.get(f"/v1/media/download/{media_id}")
        assert download.headers["content-disposition"].startswith("attachment")


async def test_an_idempotency_key_makes_one_job(api: Api) -> None:
    async with api.client() as client:
        answers = [
            await client.post(
                "/v1/transcribe", files={"file": ("a.wav", speech(1, 470))}, headers={"Idempotency-Key": "transcript-1"}
            )
            for _ in range(2)
        ]
        assert answers[0].json()["data"]["job_id"] == answers[1].json()["data"]["job_id"]
        assert await submit(client, speech(1, 470)) != answers[0].json()["data"]["job_id"]


async def test_a_repeated_submission_has_the_first_ones_answer_though_its_job_has_ended(api: Api) -> None:
    async with api.client() as client:
        uploaded = await upload(client, speech(1, 475), "a.wav")
        for form in ({"files": {"file": ("a.wav", speech(1, 474))}}, {"data": {"media_id": uploaded["media_id"]}}):
            key = {"Idempotency-Key": f"transcript-{next(iter(form))}"}
            first = await client.post("/v1/transcribe", headers=key, **form)
            assert first.json() == {"data": {"job_id": first.json()["data"]["job_id"], "status": "queued"}}
            await client.delete(first.headers["Location"])
            assert (await job_of(client, first.json()["data"]["job_id"]))["status"] == "cancelled"
            again = await client.post("/v1/transcribe", headers=key, **form)
            assert (again.status_code, again.content) == (first.status_code, first.content)
            assert again.headers["Location"] == first.headers["Location"]


async def test_a_transcript_is_gone_with_its_recording_when_that_is_found_infected(api: Api) -> None:
    async with api.client("jill") as jill:
        data = speech(1, 613)
        job_id = await submit(jill, data)
        lease = await api.lease(job_id)
        await Queue(api.database).finish(lease, formats.result([dict(s) for s in SEGMENTS], "en", 3.25))
        assert (await jill.get(f"/v1/jobs/{job_id}")).status_code == 200
        await api.verdict(hashlib.sha256(data).hexdigest(), "infected")
        for path in ("", "/transcript.txt", "/events"):
            problem(await jill.get(f"/v1/jobs/{job_id}{path}"), 404, "not_found")
        assert (await jill.get("/v1/jobs")).json()["data"] == []


async def test_a_recording_that_is_found_infected_while_its_transcript_is_asked_for_is_not_found(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict comes after the check that the caller may see the file, and before the job is written."""
    data = speech(1, 617)
    check_share = Jobs._check_share

    async def found_infected(jobs: Jobs, caller: Claims) -> None:
        await check_share(jobs, caller)
        await api.verdict(hashlib.sha256(data).hexdigest(), "infected")

    monkeypatch.setattr(Jobs, "_check_share", found_infected)
    async with api.client("jack") as jack:
        problem(await jack.post("/v1/transcribe", files={"file": ("talk.wav", data)}), 404, "not_found")
        assert (await jack.get("/v1/jobs")).json()["data"] == []


async def test_one_caller_can_not_fill_the_queue(fresh_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media_core.transcripts.requests.MAX_OPEN_JOBS", 1)
    async with fresh_api.client("alice") as alice, fresh_api.client("bob") as bob:
        await submit(alice, speech(1, 471))
        answer = await alice.post("/v1/transcribe", files={"file": ("a.wav", speech(1, 472))})
        assert problem(answer, 429, "too_many_jobs")["limit"] == 1
        await submit(bob, speech(1, 473))


# -- looking ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_the_same_under_the_same_idempotency_key(api: Api) -> None:
    async with api.client("ivy") as ivy:
        answers = [
            await ivy.post(
                "/v1/transcribe", files={"file": ("a.txt", b"no speech here")}, headers={"Idempotency-Key": "refused"}
            )
            for _ in range(2)
        ]
    assert [answer.status_code for answer in answers] == [415, 415]
    assert answers[0].json() == answers[1].json()


async def test_a_repeated_request_keeps_its_job_though_the_days_limit_is_used_up_since(fresh_api: Api) -> None:
    async with fresh_api.client("alice") as alice:

        async def ask() -> httpx.Response:
            return await alice.post(
                "/v1/transcribe", files={"file": ("a.wav", speech(2, 470))}, headers={"Idempotency-Key": "once"}
            )

        first = await ask()
        await fresh_api.apply(replace(GENEROUS, max_transcription_seconds_per_day=1))
        again = await ask()
        assert (again.status_code, again.json()) == (202, first.json())
        assert len((await alice.get("/v1/jobs")).json()["data"]) == 1


async def test_a_job_is_its_owners_and_admins_only(api: Api) -> None:
    async with api.client() as client, api.client("bob") as bob, api.client("root") as admin:
        job_id = await submit(client, speech(1, 480))
        for path in ("", "/events", "/transcript.json", "/transcript.txt"):
            theirs = await bob.get(f"/v1/jobs/{job_id}{path}")
            problem(theirs, 404, "not_found")
            assert theirs.content == (await bob.get(f"/v1/jobs/{NO_JOB}{path}")).content
        assert (await bob.delete(f"/v1/jobs/{job_id}")).status_code == 404
        assert (await job_of(admin, job_id))["status"] == "queued"
        assert job_id not in [job["job_id"] for job in (await bob.get("/v1/jobs")).json()["data"]]


async def test_own_jobs_are_listed_newest_first_page_by_page(api: Api) -> None:
    async with api.client("lister") as client:
        job_ids = [await submit(client, speech(1, 490)) for _ in range(5)][::-1]
        await transcribe(api, job_ids[0])
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = (await client.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
            found += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        for bad in ("nonsense", "WyJhIl0x", "WzFd"):
            answer = await client.get("/v1/jobs", params={"cursor": bad})
            assert answer.status_code in (200, 422)
        problem(await client.get("/v1/jobs", params={"limit": 201}), 422, "invalid_request")
        for wanted, those in (
            ({"status": "completed"}, job_ids[:1]),
            ({"status": ["queued", "running"], "kind": "transcribe"}, job_ids[1:]),
            ({"kind": "scan"}, []),
            ({"media_id": found[3]["media_id"]}, job_ids[3:4]),
        ):
            page = (await client.get("/v1/jobs", params=wanted)).json()
            assert [job["job_id"] for job in page["data"]] == those
        for name, wrong in (("status", "done"), ("kind", "upload")):
            problem(await client.get("/v1/jobs", params={name: wrong}), 422, "invalid_request")
        problem(await client.get("/v1/jobs", params={"media_id": "7"}), 404, "not_found")
    assert get_args(Kind) == KINDS
    assert [job["job_id"] for job in found] == job_ids
    assert found[0]["status"] == "completed"
    assert "transcript" not in found[0]


async def test_a_failed_job_says_why(api: Api) -> None:
    async with api.client() as client:
        job_id = await submit(client, speech(1, 500))
        await Queue(api.database).fail(await api.lease(job_id), "corrupt", "The recording is damaged.", retry=False)
        failed = await job_of(client, job_id)
        problem(await client.get(f"/v1/jobs/{job_id}/transcript.txt"), 409, "not_completed")
    assert (failed["status"], failed["error"]) == ("failed", {"code": "corrupt", "detail": "The recording is damaged."})


async def test_a_job_that_an_outage_keeps_waiting_says_what_for_and_that_is_no_error(api: Api) -> None:
    async with api.client() as client:
        job_id = await submit(client, speech(1, 505))
        queue = Queue(api.database)
        await queue.postpone(await api.lease(job_id), "object store", "it does not answer")
        waiting = await job_of(client, job_id)
        async with api.database.transaction() as tx:
            await tx.execute("UPDATE job SET run_after = now() WHERE job_id = %(id)s", {"id": job_id})
        running = await api.lease(job_id)
        tried_again = await job_of(client, job_id)
        await queue.fail(running, "corrupt", "The recording is damaged.", retry=False)
        failed = await job_of(client, job_id)
    assert (waiting["status"], waiting["error"]) == ("queued", None)
    assert waiting["waits_for"] == "object store: it does not answer"
    assert (tried_again["status"], tried_again["error"], tried_again["waits_for"]) == ("running", None, None)
    assert (failed["error"]["code"], failed["waits_for"]) == ("corrupt", None)


async def test_a_transcript_comes_in_four_formats(api: Api) -> None:
    async with api.client() as client:
        job_id = await submit(client, speech(1, 510))
        problem(await client.get(f"/v1/jobs/{job_id}/transcript.srt"), 409, "not_completed")
        await transcribe(api, job_id)
        got = {name: await client.get(f"/v1/jobs/{job_id}/transcript.{name}") for name in ("json", "txt", "srt", "vtt")}
        for unknown in ("pdf", "", "srt.exe"):
            problem(await client.get(f"/v1/jobs/{job_id}/transcript.{unknown}"), 404, "not_found")
    assert {name: answer.headers["content-type"] for name, answer in got.items()} == {
        "json": "application/json",
        "txt": "text/plain; charset=utf-8",
        "srt": "application/x-subrip; charset=utf-8",
        "vtt": "text/vtt; charset=utf-8",
    }
    assert got["json"].json()["segments"] == SEGMENTS
    assert got["txt"].text == "Hello there.\nGrüße & <b>thanks</b>.\n"
    assert got["srt"].text.startswith("1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n")
    assert "Grüße &amp; &lt;b&gt;thanks&lt;/b&gt;." in got["vtt"].text
    for answer in got.values():
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith(f'inline; filename="{job_id}.')


async def test_subtitles_have_the_segments_or_the_shape_that_is_asked_for(api: Api) -> None:
    said = "good evening team please open the new report"
    async with api.client() as client:
        job_id = await submit(client, speech(1, 515))
        heard = [{"id": 0, "start": 0.25, "end": 2.75, "text": said}]
        await Queue(api.database).finish(await api.lease(job_id), formats.result(heard, "en", 3.0))

        async def srt(query: str) -> str:
            return (await client.get(f"/v1/jobs/{job_id}/transcript.srt{query}")).text

        assert await srt("") == f"1\n00:00:00,250 --> 00:00:02,750\n{said}\n"
        for query in ("?max_chars=42", "?max_lines=2", "?max_seconds=7"):
            assert "\ngood evening team please\nopen the new report\n" in await srt(query)


# -- stopping --------------------------------------------------------------------------------------------------------


async def test_others_are_served_while_a_long_transcript_is_written(api: Api) -> None:
    async with api.client() as client:
        job_id = await submit(client, speech(first=700))
        words = [{"word": "said", "start": n / 4, "end": n / 4 + 0.25, "probability": 0.98} for n in range(12)]
        said = [
            {"id": n, "start": 3.0 * n, "end": 3.0 * n + 3, "text": "said " * 12, "words": words} for n in range(5000)
        ]
        await Queue(api.database).finish(await api.lease(job_id), formats.result(said, "en", 15000.0))
        assert (await job_of(client, job_id))["segments"] == said
    job = await Jobs(database=api.database, library=api.library, max_seconds=20000).find(ADMIN, job_id)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    written = await answer_of(job)
    other.cancel()
    assert len(json.loads(written.body)["data"]["segments"]) == 5000
    assert turns > 10


async def test_a_queued_job_is_cancelled_at_once_and_a_running_one_at_its_next_segment(api: Api) -> None:
    async with api.client() as client:
        queued = await submit(client, speech(1, 520))
        for _ in range(2):
            answer = await client.delete(f"/v1/jobs/{queued}")
            assert (answer.status_code, answer.json()["data"]["status"]) == (202, "cancelled")
        running = await submit(client, speech(1, 521))
        lease = await api.lease(running)
        assert (await client.delete(f"/v1/jobs/{running}")).json()["data"]["status"] == "running"
        queue = Queue(api.database)
        with pytest.raises(Cancelled):
            await queue.renew(lease, seconds=60)
        await queue.cancelled(lease)
        assert (await job_of(client, running))["status"] == "cancelled"
        done = await submit(client, speech(1, 522))
        await transcribe(api, done)
        assert (await client.delete(f"/v1/jobs/{done}")).json()["data"]["status"] == "completed"
        problem(await client.delete(f"/v1/jobs/{NO_JOB}"), 404, "not_found")


# -- watching --------------------------------------------------------------------------------------------------------


class Events:
    """A job's server-sent events as they come."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> tuple[str, str | None, dict[str, Any]] | None:
        """The next event's name, id and data; None at the end."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line and fields:
                return fields["event"], fields.get("id"), json.loads(fields["data"])
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        return None

    async def rest(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


@asynccontextmanager
async def watching(client: httpx.AsyncClient, job_id: str, **headers: str) -> AsyncIterator[Events]:
    async with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield Events(answer)


async def test_a_watcher_sees_the_segments_as_they_are_heard_and_the_end(api: Api) -> None:
    queue = Queue(api.database)
    async with api.client() as client:
        job_id = await submit(client, speech(1, 530))
        async with watching(client, job_id) as events, asyncio.timeout(60):
            first = await events.next()
            assert first is not None
            assert (first[0], first[2]["job_id"], first[2]["status"]) == ("progress", job_id, "queued")
            lease = await api.lease(job_id)
            await queue.append_segments(lease, [{"number": 0, "start": 0, "end": 1.5, "text": "Hello", "words": None}])
            await queue.renew(lease, seconds=60, progress=0.5)
            seen = []
            while not any(name == "segment" for name, _, _ in seen):
                event = await events.next()
                assert event is not None
                seen.append(event)
            assert seen[-1] == ("segment", "0", {"id": 0, "start": 0.0, "end": 1.5, "text": "Hello"})
            await queue.finish(lease, formats.result([dict(SEGMENTS[0])], "en", 1.5))
            rest = await events.rest()
    assert rest[-1][0] == "progress"
    assert (rest[-1][2]["status"], rest[-1][2]["progress"]) == ("completed", 1)
    assert "transcript" not in rest[-1][2]


async def test_an_ended_job_is_told_whole_and_a_late_watcher_goes_on_where_it_was(api: Api) -> None:
    async with api.client() as client:
        job_id = await submit(client, speech(1, 540))
        await transcribe(api, job_id)
        async with watching(client, job_id) as events:
            whole = await events.rest()
        async with watching(client, job_id, **{"Last-Event-ID": "0"}) as events:
            late = await events.rest()
        async with client.stream("GET", f"/v1/jobs/{job_id}/events?lastEventId=0") as answer:
            assert [line async for line in answer.aiter_lines() if line.startswith("id: ")] == ["id: 1"]
        async with watching(client, job_id, **{"Last-Event-ID": "nonsense"}) as events:
            confused = await events.rest()
    assert [(name, identifier) for name, identifier, _ in whole] == [
        ("segment", "0"),
        ("segment", "1"),
        ("progress", None),
    ]
    assert late == whole[1:]
    assert confused == whole


async def test_a_watched_job_that_vanishes_ends_the_stream(api: Api) -> None:
    async with api.client() as client:
        job_id = await submit(client, speech(1, 550))
        async with watching(client, job_id) as events, asyncio.timeout(60):
            await events.next()
            async with api.database.transaction() as tx:
                await tx.execute("DELETE FROM job WHERE job_id = %(job_id)s", {"job_id": job_id})
            await events.rest()


async def test_a_watcher_hears_nothing_of_a_tenant_that_was_suspended_meanwhile(fresh_api: Api) -> None:
    queue = Queue(fresh_api.database)
    async with fresh_api.client() as client:
        job_id = await submit(client, speech(1, 555))
        lease = await fresh_api.lease(job_id)
        async with watching(client, job_id) as events, asyncio.timeout(60):
            await events.next()
            await fresh_api.apply(replace(GENEROUS, suspended=True))
            await queue.append_segments(lease, [{"number": 0, "start": 0, "end": 1.5, "text": "Hello", "words": None}])
            await queue.renew(lease, seconds=60, progress=0.5)
            assert not any(name == "segment" for name, _, _ in await events.rest())


async def test_a_watcher_whose_token_ends_is_cut_off_though_nothing_happens(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "KEEP_ALIVE_SECONDS", 0.3)
    async with api.client() as client:
        job_id = await submit(client, speech(1, 557))
    async with api.client(lifetime=timedelta(seconds=2)) as client, watching(client, job_id) as events:
        async with asyncio.timeout(60):
            told = await events.rest()
    assert {event[2]["status"] for event in told if event[0] == "progress"} == {"queued"}


async def test_many_watchers_ask_the_database_once_for_all(api: Api) -> None:
    async with api.client() as client:
        job_id = await submit(client, speech(1, 560))

        async def last() -> str:
            async with watching(client, job_id) as events:
                status: str = (await events.rest())[-1][2]["status"]
                return status

        watchers = [asyncio.create_task(last()) for _ in range(20)]
        await asyncio.sleep(0)
        await transcribe(api, job_id)
        async with asyncio.timeout(60):
            assert await asyncio.gather(*watchers) == ["completed"] * 20
