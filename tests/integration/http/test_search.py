"""Search in transcripts over HTTP. The worker's part is done by the test."""

import asyncio
import gc
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import httpx
import pytest

from media_api.routes.parameters import next_cursor
from media_core.jobs import queue
from media_core.jobs.queue import Queue
from media_core.transcripts import formats, passages
from media_core.transcripts.search import Search, Wanted
from media_core.upkeep.sweep import sweep
from tests.fixtures.media import recording
from tests.integration.servers.api import Api, problem, upload
from tests.integration.tenancy import ADMIN

Said = Sequence[tuple[float, float, str]]

MEETING: Said = [
    (0.0, 4.0, "Welcome to the quarterly budget meeting."),
    (4.0, 9.0, "The marketing department has spent more than we planned."),
    (9.0, 15.0, "Universities in Berlin & <b>Paris</b> asked for money."),
    (15.0, 20.0, "Next year the budgets will be smaller."),
]


async def finish(api: Api, job_id: str, said: Said, language: str | None = "en", *, keeps: bool = True) -> None:
    """Completes a job, as a worker does; without `keeps` as one of the version before the search."""
    lease = await api.lease(job_id)
    segments = [{"id": n, "start": start, "end": end, "text": words} for n, (start, end, words) in enumerate(said)]
    result = formats.result(segments, language, said[-1][1] if said else 1.0)
    async with api.database.transaction() as tx:
        await queue.finish(tx, lease, result)
        if keeps:
            await passages.try_to_keep(tx, job_id, lease.payload["media_id"], lease.payload, result)


async def transcribed(
    api: Api, client: httpx.AsyncClient, said: Said, language: str | None = "en", *, name: str = "a.wav", **fields: str
) -> str:
    """The id of a new recording in which this is said, scanned and transcribed."""
    transcribed.number += 1  # type: ignore[attr-defined]
    sound = recording([200 + transcribed.number], "wav", "pcm_s16le")  # type: ignore[attr-defined]
    uploaded = await upload(client, sound, name, **fields)
    await api.verdict(uploaded["sha256"])
    await again(api, client, uploaded["media_id"], said, language)
    return str(uploaded["media_id"])


transcribed.number = 0  # type: ignore[attr-defined]


async def again(
    api: Api, client: httpx.AsyncClient, media_id: str, said: Said, language: str | None = "en", **fields: str
) -> str:
    form = {name: (None, value) for name, value in {"media_id": media_id, **fields}.items()}
    answer = await client.post("/v1/transcribe", files=form)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["data"]["job_id"]
    await finish(api, job_id, said, language)
    return job_id


async def search(client: httpx.AsyncClient, q: str, **params: Any) -> list[dict[str, Any]]:
    """All hits, over all pages."""
    hits: list[dict[str, Any]] = []
    cursor = {}
    while True:
        answer = await client.get("/v1/transcripts/search", params={"q": q, **params, **cursor})
        assert answer.status_code == 200, answer.text
        hits += answer.json()["data"]
        if answer.json()["next_cursor"] is None:
            return hits
        cursor = {"cursor": answer.json()["next_cursor"]}


def marked(hit: dict[str, Any]) -> list[str]:
    return [part["text"] for part in hit["snippet"] if part["marked"]]


async def test_a_hit_says_where_it_was_said(api: Api) -> None:
    async with api.client() as client:
        media_id = await transcribed(api, client, MEETING, name="meeting.wav", room_id="garden")
        (hit,) = await search(client, "departments", room="garden")
        assert (hit["media_id"], hit["filename"], hit["rooms"]) == (media_id, "meeting.wav", ["garden"])
        assert (hit["segment"], hit["start"], hit["end"], hit["language"]) == (1, 4.0, 9.0, "en")
        assert hit["snippet"] == [
            {"text": "The marketing ", "marked": False},
            {"text": "department", "marked": True},
            {"text": " has spent more than we planned.", "marked": False},
        ]
        job = (await client.get(f"/v1/jobs/{hit['job_id']}")).json()["data"]
        assert job["segments"][hit["segment"]]["text"] == MEETING[1][2]
        (html,) = await search(client, "paris", room="garden")
        assert "".join(part["text"] for part in html["snippet"]) == MEETING[2][2]
        await client.delete(f"/v1/media/{media_id}")


@pytest.mark.parametrize(
    ("q", "segments"),
    [
        ("budget", [0, 3]),
        ("BUDGETS", [0, 3]),
        ('"quarterly budget"', [0]),
        ('"budget quarterly"', []),
        ('"spent more than we"', [1]),
        ('"spent less than we"', []),
        ("quart*", [0]),
        ("universit*", [2]),
        ('"berlin paris"', []),
        ('"meeting the marketing"', [0]),  # from one segment into the next
        ("department smaller", [1]),  # a run of segments
        ("the budget", [0, 3]),
        ("“quarterly budget”", [0]),
        ("„budget quarterly“", []),
        ("« quarterly budget »", [0]),
        ("quart＊", [0]),
        ("nowhere", []),
        ("budget nowhere", []),
        ("zebr*", []),
        ("budget -zebra", [0, 3]),
        ("budget -university", []),
        ("-depart* budget", []),
        ('budget -"budget quarterly" -"spent less"', [0, 3]),
        ('budget -"quarterly budget"', []),
        ("budget - quarterly", [0]),
        ("' & | ! \\ :* <-> (budget", [0, 3]),
    ],
)
async def test_words_phrases_and_beginnings(api: Api, q: str, segments: list[int]) -> None:
    async with api.client("searcher", rooms=[]) as client:
        if not await search(client, "welcome"):
            await transcribed(api, client, MEETING)
        hits = await search(client, q)
    assert sorted(hit["segment"] for hit in hits) == segments
    assert all(marked(hit) for hit in hits)


async def test_a_phrase_is_found_across_the_end_of_a_passage(api: Api) -> None:
    said = [(n * 9.0, n * 9.0 + 9, f"sentence number n{n} ends and") for n in range(30)]
    async with api.client("across", rooms=[]) as client:
        await transcribed(api, client, said)
        for n in range(29):
            (hit,) = await search(client, f'"n{n} ends and sentence"')
            assert (hit["segment"], hit["start"], hit["end"]) == (n, n * 9.0, n * 9.0 + 18)
        assert len(await search(client, "sentence", limit=4)) == 30


@pytest.mark.parametrize(
    ("language", "said", "q", "found"),
    [
        ("de", "Die Häuser in der Königstraße wurden verkauft.", "haus konigstrasse", ["Häuser", "Königstraße"]),
        ("fr", "Les élèves étaient passionnés.", "eleve", ["élèves"]),
        ("es", "Mañana empezaremos la reunión.", "reuniones", ["reunión"]),
        ("ru", "Мы обсудили новые бюджеты.", "бюджет", ["бюджеты"]),
        ("pl", "Wrócę jutro do Łodzi.", "lodzi", ["Łodzi"]),
        ("zh", "我们明天讨论预算。", "预算", ["预算"]),
        ("ja", "ガンダムを見た。", "ｶﾞﾝﾀﾞﾑ", ["ガンダム"]),
        ("th", "เราจะคุยเรื่องงบประมาณ", "งบประมาณ", ["งบประมาณ"]),
        ("hi", "हम बजट पर चर्चा करेंगे", "बजट", ["बजट"]),
        (None, "Someone mumbles.", "mumbles", ["mumbles"]),
    ],
)
async def test_each_language_by_its_own_rules(
    api: Api, language: str | None, said: str, q: str, found: list[str]
) -> None:
    async with api.client(f"speaks-{language}", rooms=[]) as client:
        await transcribed(api, client, [(0.0, 5.0, said)], language)
        (hit,) = await search(client, q)
        assert (hit["language"], marked(hit)) == (language, found)
        if language is not None:
            assert len(await search(client, q, language=language)) == 1
            assert await search(client, q, language="nn") == []


async def test_only_what_the_caller_may_read_is_found(api: Api) -> None:
    secret = [(0.0, 3.0, "The xylophone is hidden.")]
    everybody = {"alice", "bob", "eve", "root"}
    async with (
        api.client() as alice,
        api.client("bob") as bob,
        api.client("eve", rooms=["cellar"]) as eve,
        api.client("root") as root,
    ):
        clients = {"alice": alice, "bob": bob, "eve": eve, "root": root}

        async def seen_by() -> set[str]:
            return {name for name, client in clients.items() if await search(client, "xylophone")}

        media_id = await transcribed(api, alice, secret)
        assert await seen_by() == {"alice", "root"}
        (hit,) = await search(root, "xylophone")
        assert hit["job_id"] is not None
        attached = await alice.post("/v1/rooms/garden/files", json={"media_id": media_id})
        assert attached.is_success
        assert await seen_by() == {"alice", "bob", "root"}
        (hit,) = await search(bob, "xylophone", room_id="garden")
        assert hit["job_id"] is None  # bob cannot open the job of alice
        assert await search(bob, "xylophone", owner="me") == []
        assert len(await search(bob, "xylophone", owner="alice")) == 1
        problem(await eve.get("/v1/transcripts/search", params={"q": "x", "room": "garden"}), 404, "not_found")
        await alice.delete(f"/v1/rooms/garden/files/{media_id}")
        assert await seen_by() == {"alice", "root"}
        changed = await alice.patch(f"/v1/media/{media_id}", json={"tenant_scope": True, "labels": {"a": "b"}})
        assert changed.is_success
        assert await seen_by() == everybody
        assert len(await search(eve, "xylophone", label="a=b")) == 1
        assert await search(eve, "xylophone", label="a=c") == []
        sha256 = (await alice.get(f"/v1/media/{media_id}/info")).json()["data"]["sha256"]
        for status, seen in (("error", set()), ("clean", everybody), ("infected", set())):
            async with api.database.transaction() as tx:
                await tx.execute(
                    "UPDATE blob SET scan_status = %(status)s WHERE sha256 = %(sha256)s",
                    {"status": status, "sha256": sha256},
                )
            assert await seen_by() == seen, status


async def test_a_hit_tells_as_many_rooms_of_a_file_as_one_can_use(api: Api) -> None:
    async with api.client("announcer", rooms=["room 7", "elsewhere"]) as client, api.client("root") as root:
        media_id = await transcribed(api, client, [(0.0, 3.0, "A marimba for all.")])
        await api.database.call(
            "INSERT INTO room_file (room_id, media_id, added_by)"
            " SELECT 'room ' || number, %s, 'ann' FROM generate_series(1, 3000) AS number",
            (media_id,),
        )
        (own,) = await search(client, "marimba")
        assert own["rooms"] == ["room 7"]
        assert "more_rooms" not in own
        (seen,) = await search(root, "marimba")
        assert (len(seen["rooms"]), seen["more_rooms"]) == (100, True)


async def test_what_was_said_goes_with_the_file(api: Api) -> None:
    async with api.client("forgetful", rooms=[]) as client:
        media_id = await transcribed(api, client, [(0.0, 3.0, "A quokka and a wombat.")])
        await transcribed(api, client, [(0.0, 3.0, "Another wombat.")])
        assert len(await search(client, "quok*")) == 1
        assert (await client.delete(f"/v1/media/{media_id}")).status_code == 204
        assert await search(client, "quokka") == []
        async with api.database.transaction() as tx:
            assert await tx.value("SELECT count(*) FROM transcript WHERE media_id = %s", (media_id,)) == 0
        for sweep_number in range(passages.SHARES):
            await passages.forget_words(api.database, sweep_number)
        async with api.database.transaction() as tx:
            known = await tx.execute("SELECT word FROM vocabulary WHERE word IN ('quokka', 'wombat')")
            assert [row.word for row in known] == ["wombat"]


async def test_a_newer_transcript_takes_the_place_of_the_older_one(api: Api) -> None:
    async with api.client("twice", rooms=[]) as client:
        media_id = await transcribed(api, client, [(0.0, 3.0, "Wreck a nice beach.")])
        await again(api, client, media_id, [(0.0, 3.0, "Recognize speech.")])
        await again(api, client, media_id, [(0.0, 3.0, "Recognise the other speech.")], task="translate")
        assert await search(client, "beach") == []
        hits = await search(client, "speech")
        assert sorted((hit["task"], hit["language"]) for hit in hits) == [("transcribe", "en"), ("translate", "en")]


async def test_older_transcripts_are_taken_in_by_the_sweep(api: Api) -> None:
    async with api.client("earlier", rooms=[]) as client:
        media_id = await transcribed(api, client, [])
        form = {"media_id": (None, media_id)}
        job_id = (await client.post("/v1/transcribe", files=form)).json()["data"]["job_id"]
        await finish(api, job_id, [(0.0, 2.0, "An old zither.")], keeps=False)
        assert await search(client, "zither") == []
        assert (await sweep(api.library)).transcripts >= 1
        (hit,) = await search(client, "zither")
        assert (hit["job_id"], hit["segment"]) == (job_id, 0)
        assert (await sweep(api.library)).transcripts == 0


async def test_a_transcript_that_can_not_be_searched_is_not_lost_and_the_sweep_tries_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api.client("unlucky", rooms=[]) as client:
        before = await transcribed(api, client, [])
        after = await transcribed(api, client, [])
        with monkeypatch.context() as broken:
            broken.setattr(passages, "_VOCABULARY", "SELECT 1 / 0 WHERE %(stems)s::text IS NOT NULL")
            job_id = await again(api, client, before, [(0.0, 2.0, "A broken balalaika.")])
            other = await again(api, client, after, [(0.0, 2.0, "An old balalaika.")])
            assert (await sweep(api.library)).transcripts == 0
        for job, said in ((job_id, "A broken balalaika."), (other, "An old balalaika.")):
            ended = (await client.get(f"/v1/jobs/{job}")).json()["data"]
            assert (ended["status"], ended["transcript"]) == ("completed", said)
        assert await search(client, "balalaika") == []
        await again(api, client, after, [(0.0, 2.0, "A new balalaika.")])
        assert (await sweep(api.library)).transcripts == 2
        hits = await search(client, "balalaika")
        assert {hit["media_id"] for hit in hits} == {before, after}
        assert other not in {hit["job_id"] for hit in hits}, "an older transcript took the place of a newer one"
        assert (await sweep(api.library)).transcripts == 0


async def test_the_transcript_of_a_file_that_was_deleted_meanwhile_is_not_kept(api: Api) -> None:
    async with api.client("meanwhile", rooms=[]) as client:
        media_id = await transcribed(api, client, [])
        form = {"media_id": (None, media_id)}
        job_id = (await client.post("/v1/transcribe", files=form)).json()["data"]["job_id"]
        lease = await api.lease(job_id)
        await client.delete(f"/v1/media/{media_id}")
        result = formats.result([{"id": 0, "start": 0.0, "end": 1.0, "text": "Gone."}], "en", 1.0)
        async with api.database.transaction() as tx:
            await passages.keep(tx, job_id, media_id, lease.payload, result)
        await Queue(api.database).release(lease)
        assert await search(client, "gone") == []


async def test_pages_neither_repeat_nor_leave_out(api: Api) -> None:
    async with api.client("pages", rooms=[]) as client:
        for n in range(7):
            said = [(m * 20.0, m * 20.0 + 20, "melon " * (1 + (n + m) % 3)) for m in range(7)]
            await transcribed(api, client, said, name=f"{n}.wav")
        whole = await search(client, "melon", limit=200)
        assert len(whole) == 49
        assert [hit["rank"] for hit in whole] == sorted((hit["rank"] for hit in whole), reverse=True)
        for limit in (1, 3, 48):
            assert await search(client, "melon", limit=limit) == whole


async def test_a_cursor_far_beyond_the_newest_transcript_costs_no_more_than_none(api: Api) -> None:
    async with api.client("far") as writer, api.client("root") as reader:
        await transcribed(api, writer, [(0.0, 2.0, "A platypus.")])
        for transcript in (2**40, 2**62 - 1):
            params = {"q": "platypus", "cursor": next_cursor(str(transcript), "0", "", "", "", "")}
            (hit,) = (await reader.get("/v1/transcripts/search", params=params)).json()["data"]
            assert hit["filename"] == "a.wav"


async def test_others_are_served_while_many_passages_are_marked(api: Api) -> None:
    said = [(n * 60.0, n * 60.0 + 59, "oha " * 299) for n in range(210)]
    async with api.client() as client:
        await transcribed(api, client, said)
    turns: list[float] = []

    async def others() -> None:
        while True:
            turns.append(time.thread_time())
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    gc.disable()  # the tests' own objects are many
    try:
        hits, _ = await Search(api.library).find(ADMIN, Wanted("oha " * 8 + "oh*"), limit=200)
        turns.append(time.thread_time())
    finally:
        gc.enable()
        other.cancel()
    assert len(hits) == 200
    assert max(after - before for before, after in pairwise(turns)) < 0.25


async def test_a_whole_sentence_without_spaces_is_found(api: Api) -> None:
    said = "明日の午後三時から第二会議室で来年度の予算について話し合う予定です"
    async with api.client(rooms=["sentences"]) as client:
        await transcribed(api, client, [(0.0, 5.0, f"はい、{said}。")], "ja", room_id="sentences")
        (hit,) = await search(client, said, room="sentences")
        assert marked(hit) == [said]
        assert len(await search(client, f"はい {said}", room="sentences")) == 1
        assert await search(client, f"{said}ね", room="sentences") == []
        assert await search(client, f"{said} いいえ", room="sentences") == []


async def test_a_sound_mark_alone_is_no_word(api: Api) -> None:
    """Whisper writes a scream as `あ` and the halfwidth mark that voices a consonant."""
    async with api.client() as client:
        await transcribed(api, client, [(0.0, 2.0, "あ\uff9e \uff9e もう")], "ja", room_id="garden")
        assert len(await search(client, "もう", room="garden")) == 1
        problem(await client.get("/v1/transcripts/search", params={"q": "\uff9e"}), 422, "invalid_request")


async def test_a_phrase_that_is_too_common_in_its_language_is_said_where_no_other_language_has_it(api: Api) -> None:
    async with api.client("hamlet", rooms=[]) as client:
        await transcribed(api, client, [(0.0, 2.0, "To be or not to be.")])
        await transcribed(api, client, [(0.0, 2.0, "Das ist die Frage.")], "de")
        for q in ('"to be or not to be"', "to be"):
            refused = await client.get("/v1/transcripts/search", params={"q": q})
            assert "too common" in problem(refused, 422, "invalid_request")["detail"]
        assert await search(client, '"to be or not to be"', language="de") == []
        await transcribed(api, client, [(0.0, 2.0, "To be: zwei englische Wörter.")], "de")
        assert [marked(hit) for hit in await search(client, '"to be"')] == [["To be"]]


async def test_what_cannot_be_searched_is_said(api: Api) -> None:
    async with api.client("wrong", rooms=[]) as client:
        await transcribed(api, client, [(0.0, 1.0, "Something."), (1.0, 2.0, " ".join(f"q{n:03}" for n in range(300)))])
        for params, words in (
            ({"q": "..."}, "no word"),
            ({"q": "-budget"}, "no word"),
            ({"language": "en", "q": "the"}, "too common"),
            ({"q": "q*"}, "more than 200 words begin with 'q'"),
            ({"q": "a " * 17}, "more than 16 words"),
            ({"q": "a", "language": "klingon"}, "ISO 639-1"),
            ({"q": "a", "cursor": "bm8"}, "cursor"),
            ({"q": "a\0b"}, "NUL"),
            ({"q": "a", "label": "b"}, "key=value"),
        ):
            told = problem(await client.get("/v1/transcripts/search", params=params), 422, "invalid_request")
            assert words in told["detail"]
            assert told["errors"][0]["where"] == [*params][-1]
        problem(await client.get("/v1/transcripts/search"), 422, "invalid_request")
