"""`/v1/events`: pages with a cursor, and a stream that goes on where it was interrupted."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from media_api.routes import events
from media_core.auth.tokens import CANARY
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.servers.api import Api, problem, serving, upload
from tests.integration.tenancy import GENEROUS

STREAM = {"Accept": "text/event-stream"}


@dataclass
class Stream:
    """A stream of events as they come: (type, id, data)."""

    lines: AsyncIterator[str]
    last_id: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    async def next(self) -> tuple[str, str, dict[str, Any]]:
        """As an EventSource reads: a block without data only sets the id."""
        async for line in self.lines:
            name, _, value = line.partition(": ")
            if line and name:
                self.fields[name] = value
                continue
            if line:
                continue
            fields, self.fields = self.fields, {}
            self.last_id = fields.get("id", self.last_id)
            if "data" in fields:
                return fields["event"], fields["id"], json.loads(fields["data"])
        raise AssertionError("the stream has ended")

    async def take(self, count: int) -> list[tuple[str, str, dict[str, Any]]]:
        async with asyncio.timeout(60):
            return [await self.next() for _ in range(count)]


@asynccontextmanager
async def listening(client: httpx.AsyncClient, last_id: str | None = None, **query: Any) -> AsyncIterator[Stream]:
    headers = STREAM | ({"Last-Event-ID": last_id} if last_id else {})
    async with client.stream("GET", "/v1/events", headers=headers, params=query) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        yield Stream(answer.aiter_lines())


async def test_a_cursor_tells_every_event_once(api: Api) -> None:
    async with api.client("pager") as client:
        uploaded = [(await upload(client, f"page {n}".encode(), room_id="garden"))["media_id"] for n in range(3)]
        seen: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            body = (await client.get("/v1/events", params=query)).json()
            seen += body["data"]
            cursor = body["next_cursor"]
            if not body["more"]:
                break
        mine = [(event["type"], event["media_id"]) for event in seen if event["media_id"] in uploaded]
        assert mine == [(kind, media_id) for media_id in uploaded for kind in ("stored", "attached")]
        assert set(seen[-1]) == {"event_id", "type", "media_id", "created_at", "data"}
        nothing = (await client.get("/v1/events", params={"cursor": cursor})).json()
        assert (nothing["data"], nothing["more"]) == ([], False)
        later = (await upload(client, b"later"))["media_id"]
        found = (await client.get("/v1/events", params={"cursor": nothing["next_cursor"]})).json()["data"]
        assert [event["media_id"] for event in found] == [later]


async def test_events_can_be_asked_for_by_type_and_file_and_from_now_on(api: Api) -> None:
    async with api.client("asker") as client:
        begin = (await client.get("/v1/events", params={"start": "now"})).json()["next_cursor"]
        one = await upload(client, b"asked for", room_id="garden")
        # A page that looks through all events of other tests may find none of these.
        query = {"media_id": one["media_id"], "type": ["attached", "deleted"], "cursor": begin}
        found = (await client.get("/v1/events", params=query)).json()["data"]
        assert [event["type"] for event in found] == ["attached"]
        now = (await client.get("/v1/events", params={"start": "now"})).json()
        assert (now["data"], now["more"]) == ([], False)
        await client.delete(f"/v1/media/{one['media_id']}")
        found = (await client.get("/v1/events", params={"cursor": now["next_cursor"]})).json()["data"]
        assert [event["type"] for event in found] == ["deleted"]


async def test_wrong_cursors_are_refused_and_one_of_another_database_is_gone(api: Api) -> None:
    async with api.client() as client:
        for wrong in ("x", "bm90IGEgY3Vyc29y", "WyJhIiwiYiJd", "WyIxIl0", "WyItMSIsIjEiXQ"):
            problem(await client.get("/v1/events", params={"cursor": wrong}), 422, "invalid_request")
            problem(await client.get("/v1/events", headers=STREAM | {"Last-Event-ID": wrong}), 422, "invalid_request")
        other = "WyIxIiwiMSJd"  # ["1","1"]
        problem(await client.get("/v1/events", params={"cursor": other}), 410, "cursor_expired")
        problem(await client.get("/v1/events", params={"type": "exploded"}), 422, "invalid_request")
        problem(await client.get("/v1/events", params={"media_id": "med-x"}), 404, "not_found")


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream, */*;q=0.1", True),
        ("application/json, text/event-stream", True),
        ("application/json, text/event-stream;q=0.5", False),
        ("text/event-stream;q=0, application/json", False),
        ("text/event-stream;q=0", False),
        ("*/*", False),
    ],
)
async def test_a_stream_is_for_who_prefers_one(api: Api, accept: str, is_stream: bool) -> None:
    async with api.client() as client, client.stream("GET", "/v1/events", headers={"Accept": accept}) as answer:
        kind = answer.headers["content-type"].partition(";")[0]
    assert kind == ("text/event-stream" if is_stream else "application/json")


async def test_a_stream_tells_what_happens_and_goes_on_after_the_last_event(api: Api) -> None:
    async with api.client("listener") as client:
        async with listening(client) as stream:
            await stream.lines.__anext__()  # it listens
            one = await upload(client, b"streamed", room_id="garden")
            await api.verdict(one["sha256"])
            first = await stream.take(3)
        assert [kind for kind, _, _ in first] == ["stored", "attached", "scanned"]
        assert first[2][2]["data"] == {"scan_status": "clean"}
        # Meanwhile nobody listens.
        await client.delete(f"/v1/media/{one['media_id']}")
        async with listening(client, lastEventId=first[1][1], cursor=first[0][1]) as stream:
            by_query = await stream.take(2)
        async with listening(client, first[1][1]) as stream:
            rest = await stream.take(2)
        assert rest == by_query
        assert [kind for kind, _, _ in rest] == ["scanned", "deleted"]
        async with listening(client, rest[-1][1]) as stream:
            await stream.lines.__anext__()
            two = await upload(client, b"another")
            assert (await stream.take(1))[0][2]["media_id"] == two["media_id"]


async def test_a_stream_can_begin_with_the_oldest_or_at_a_cursor(api: Api) -> None:
    async with api.client("beginner") as client:
        now = (await client.get("/v1/events", params={"start": "now"})).json()["next_cursor"]
        one = await upload(client, b"the oldest of mine")
        for query in ({"start": "oldest"}, {"cursor": now}):
            async with listening(client, **query, media_id=one["media_id"]) as stream:
                assert [kind for kind, _, _ in await stream.take(1)] == ["stored"]


async def test_listeners_hear_only_what_they_may_see(api: Api) -> None:
    async with (
        api.client("speaker") as speaker,
        api.client("room-mate") as mate,
        api.client("root") as admin,
        listening(mate) as heard,
        listening(admin) as all_heard,
    ):
        for stream in (heard, all_heard):
            await stream.lines.__anext__()
        secret = await upload(speaker, b"secret")
        shared = await upload(speaker, b"shared in the garden", room_id="garden")
        found = await heard.take(2)
        assert [event["media_id"] for _, _, event in found] == [shared["media_id"]] * 2
        events = await all_heard.take(3)
        assert [event["media_id"] for _, _, event in events] == [secret["media_id"], *[shared["media_id"]] * 2]


async def test_a_stream_says_that_it_is_alive_also_while_only_others_files_change(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 1.0)
    async with api.client("silent", rooms=[]) as client, api.client("busy") as other, listening(client) as stream:
        ids = (line async for line in stream.lines if line.startswith("id: "))
        begin = await anext(ids)
        busy = asyncio.create_task(_uploads_for_ever(other))
        try:
            async with asyncio.timeout(60):
                while await anext(ids) == begin:
                    pass
        finally:
            busy.cancel()


async def _uploads_for_ever(client: httpx.AsyncClient) -> None:
    number = 0
    while True:
        await upload(client, f"busy {number}".encode())
        number += 1


async def test_a_stream_tells_nothing_of_a_tenant_that_was_suspended_meanwhile(fresh_api: Api) -> None:
    async with fresh_api.client() as client:
        one = await upload(client, b"before")
        async with listening(client) as stream:
            await stream.lines.__anext__()  # it listens
            await fresh_api.apply(replace(GENEROUS, suspended=True))
            await fresh_api.library.contents.delete_item(one["media_id"])
            async with asyncio.timeout(60):
                assert [line async for line in stream.lines if line.startswith("data")] == []


async def test_an_infected_file_is_told_to_its_uploader_only_and_its_bytes_to_nobody(api: Api) -> None:
    async with api.client("unlucky") as unlucky, api.client("room-mate") as mate:
        async with listening(unlucky) as mine, listening(mate) as others:
            for stream in (mine, others):
                await stream.lines.__anext__()
            bad = await upload(unlucky, b"bad", room_id="garden")
            await mine.take(2)
            await others.take(2)
            await api.verdict(bad["sha256"], "infected")
            ((kind, _, event),) = await mine.take(1)
            assert (kind, event["media_id"], event["data"]) == (
                "scanned",
                bad["media_id"],
                {"scan_status": "infected"},
            )
            after = await upload(unlucky, b"good", room_id="garden")
            assert {event["media_id"] for _, _, event in await others.take(2)} == {after["media_id"]}
        assert (await unlucky.get(f"/v1/media/download/{bad['media_id']}")).status_code == 404


async def test_a_listener_hears_at_once(api: Api) -> None:
    """The bound is generous: on a quiet machine it takes half a second at most."""
    async with api.client("quick") as client, listening(client) as stream:
        await stream.lines.__anext__()
        took = []
        for n in range(5):
            one = await upload(client, f"quick {n}".encode())
            began = time.perf_counter()
            assert (await stream.take(1))[0][2]["media_id"] == one["media_id"]
            took.append(time.perf_counter() - began)
    print(f"a listener heard after {sorted(took)[2]:.2f} s (median), {max(took):.2f} s at most")
    assert min(took) < 10


async def test_a_stream_ends_with_the_process_and_while_nobody_listens_the_database_is_not_asked(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with serving(postgres, tmp_path) as api, api.client() as client:
        async with listening(client) as stream:
            await stream.lines.__anext__()
            await upload(client, b"one")
            await stream.take(1)
        await _until_nothing_is_asked(api)
        await upload(client, b"two")
        (row,) = await api.database.call("SELECT count(*) AS unplaced FROM event WHERE position IS NULL", ())
        assert row.unplaced == 1


async def _until_nothing_is_asked(api: Api) -> None:
    """The feed notices that its last listener has left when it is asked to look again."""
    async with asyncio.timeout(60):
        while True:
            await api.database.call(
                "INSERT INTO event (type, media_id, owner, data) VALUES ('stored', 'x', %s, '{}')", (CANARY,)
            )
            await asyncio.sleep(1)
            (row,) = await api.database.call("SELECT count(*) AS n FROM event WHERE position IS NULL", ())
            if row.n:
                await api.database.call("DELETE FROM event WHERE position IS NULL", ())
                return
