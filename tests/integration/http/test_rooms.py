"""A room's files: listed newest first and page by page, attached, detached."""

import secrets
from urllib.parse import quote

import httpx
import pytest

from media_core.items import library
from tests.fixtures.media import film, photo, recording
from tests.integration.servers.api import Api, problem, upload

UNKNOWN = "med-01JD0Z3V5QH7W8K2M4N6P8R0T2"


def new_room() -> str:
    return f"!{secrets.token_hex(4)}:example.org"


def files(room: str, media_id: str = "") -> str:
    return f"/v1/rooms/{room}/files" + (f"/{media_id}" if media_id else "")


async def listed(client: httpx.AsyncClient, room: str, **params: str | int) -> list[str]:
    """The media ids of all pages."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        answer = await client.get(files(room), params={**params, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        found += [entry["media_id"] for entry in answer.json()["data"]]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return found


async def test_a_room_lists_its_files_newest_first_with_all_there_is_to_know(api: Api) -> None:
    room = new_room()
    async with api.client(rooms=[room]) as client, api.client("bob", rooms=[room]) as bob:
        first = await upload(client, photo(24, 24), "a.jpg", room_id=room)
        second = await upload(bob, b"words", "b.txt", room_id=room)
        answer = (await client.get(files(room))).json()
        info = (await client.get(f"/v1/media/{first['media_id']}/info")).json()["data"]
    assert answer["next_cursor"] is None
    assert [entry["media_id"] for entry in answer["data"]] == [second["media_id"], first["media_id"]]
    oldest = answer["data"][1]
    assert info.items() <= oldest.items()
    assert oldest["added_by"] == "alice"
    assert oldest["added_at"].endswith("Z")
    assert oldest["rooms"] == [room]


async def test_pages_join_without_a_gap_while_files_come_and_go(api: Api) -> None:
    room = new_room()
    async with api.client(rooms=[room]) as client:
        ids = [(await upload(client, b"%d" % number, room_id=room))["media_id"] for number in range(7)]
        newest_first = ids[::-1]
        for limit in (1, 2, 3, 7, 200):
            assert await listed(client, room, limit=limit) == newest_first
        page = (await client.get(files(room), params={"limit": 3})).json()
        await upload(client, b"newer", room_id=room)
        await client.delete(files(room, newest_first[2]))
        rest = (await client.get(files(room), params={"limit": 200, "cursor": page["next_cursor"]})).json()
        assert [entry["media_id"] for entry in rest["data"]] == newest_first[3:]


async def test_a_kind_of_file_can_be_asked_for(api: Api) -> None:
    room = new_room()
    async with api.client(rooms=[room]) as client:
        ids = {
            "image": (await upload(client, photo(25, 24), "a.jpg", room_id=room))["media_id"],
            "audio": (await upload(client, recording([440.0], "wav", "pcm_s16le"), "a.wav", room_id=room))["media_id"],
            "video": (await upload(client, film(1), "a.mp4", room_id=room))["media_id"],
            "document": (await upload(client, b"%PDF-1.7\n", "a.pdf", room_id=room))["media_id"],
        }
        for kind, media_id in ids.items():
            assert await listed(client, room, type=kind) == [media_id]
        problem(await client.get(files(room), params={"type": "song"}), 422, "invalid_request")


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 201},
        {"limit": "many"},
        {"cursor": "nonsense"},
        {"cursor": "WyJhIiwgImIiXQ"},
        {"cursor": "WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwgIm1lZC0xIl0"},
        {"cursor": "x" * 600},
        {"cursor": "WzEsIDJd"},
        {"cursor": "ÄÖ"},
    ],
)
async def test_a_limit_or_cursor_that_can_not_be_is_refused(api: Api, params: dict[str, str | int]) -> None:
    async with api.client() as client:
        problem(await client.get(files("garden"), params=params), 422, "invalid_request")


async def test_a_room_without_files_is_empty_and_a_room_of_others_is_not_there(api: Api) -> None:
    room = new_room()
    async with api.client(rooms=[room]) as client:
        assert (await client.get(files(room))).json() == {"data": [], "next_cursor": None}
    async with api.client("bob") as bob:
        bodies = {
            (await bob.get(files(room))).content,
            (await bob.post(files(room), json={"media_id": UNKNOWN})).content,
            (await bob.delete(files(room, UNKNOWN))).content,
        }
        assert len(bodies) == 1
        problem(await bob.get(files(room)), 404, "not_found")


@pytest.mark.parametrize(
    "room", ["👩\u200d💻 team", "全角\u3000空白", "می\u200cخواهم", "!abc:matrix.example", "#général?"]
)
async def test_a_room_is_called_whatever_people_write(api: Api, room: str) -> None:
    address = files(quote(room, safe=""))
    async with api.client(rooms=[room]) as client:
        one = await upload(client, b"in a room", room_id=room)
        assert [entry["media_id"] for entry in (await client.get(address)).json()["data"]] == [one["media_id"]]
        assert (await client.delete(f"{address}/{one['media_id']}")).status_code == 204
        assert (await client.post(address, json={"media_id": one["media_id"]})).json()["data"]["rooms"] == [room]


@pytest.mark.parametrize("room", ["x" * 256, "a%00b", "a%0Ab", "%E2%80%AE"])
async def test_what_can_not_be_a_room_is_as_unknown_as_a_room_of_others(api: Api, room: str) -> None:
    """http-api.md: unknown ids and ids that the caller may not see are the same 404, byte for byte."""
    async with api.client(rooms=["garden"]) as client, api.client("root") as admin:
        unknown = await client.get(files("a-room-of-others"))
        for caller in (client, admin):
            for answer in (
                await caller.get(files(room)),
                await caller.post(files(room), json={"media_id": UNKNOWN}),
                await caller.delete(files(room, UNKNOWN)),
            ):
                problem(answer, 404, "not_found")
                assert answer.content == unknown.content


async def test_what_was_uploaded_before_can_be_attached_once_or_twice(api: Api) -> None:
    room = new_room()
    async with api.client(rooms=[room]) as client:
        uploaded = await upload(client, b"uploaded before")
        first = await client.post(files(room), json={"media_id": uploaded["media_id"]})
        again = await client.post(files(room), json={"media_id": uploaded["media_id"]})
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()
        assert first.json()["data"]["rooms"] == [room]
        assert await listed(client, room) == [uploaded["media_id"]]
    async with api.client("bob", rooms=[room]) as bob:
        assert (await bob.get(f"/v1/media/{uploaded['media_id']}/info")).status_code == 200


async def test_only_what_one_may_see_can_be_attached(api: Api) -> None:
    room = new_room()
    async with api.client(rooms=["attic"]) as client, api.client("bob", rooms=[room]) as bob:
        hidden = await upload(client, b"alice's own")
        problem(await bob.post(files(room), json={"media_id": hidden["media_id"]}), 404, "not_found")
        assert await listed(bob, room) == []


async def test_detaching_leaves_the_file_and_asks_that_it_was_there(api: Api) -> None:
    room = new_room()
    async with api.client(rooms=[room]) as client:
        uploaded = await upload(client, b"attached", room_id=room)
        gone = await client.delete(files(room, uploaded["media_id"]))
        assert (gone.status_code, gone.content, gone.headers.get("content-type")) == (204, b"", None)
        problem(await client.delete(files(room, uploaded["media_id"])), 404, "not_found")
        problem(await client.delete(files(room, UNKNOWN)), 404, "not_found")
        assert await listed(client, room) == []
        assert (await client.get(f"/v1/media/{uploaded['media_id']}/info")).json()["data"]["rooms"] == []


async def test_infected_files_are_never_listed(api: Api) -> None:
    room = new_room()
    async with api.client(rooms=[room]) as client:
        uploaded = await upload(client, secrets.token_bytes(40), room_id=room)
        assert await listed(client, room) == [uploaded["media_id"]]
        await api.verdict(uploaded["sha256"], "infected")
        assert await listed(client, room) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"media_id": 5}', b'{"media_id": "x", "more": 1}', b"{}", b" " * 5000, b"\xff"],
)
async def test_an_attachment_that_is_no_attachment_is_refused(api: Api, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    async with api.client() as client:
        problem(await client.post(files("garden"), content=content, headers=headers), 422, "invalid_request")
        problem(await client.post(files("garden"), content=content), 415, "unsupported_media_type")


async def test_a_file_that_is_attached_in_a_loop_is_refused_after_a_while(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MOST_CHANGES", 3)
    room, other = new_room(), new_room()
    async with api.client(rooms=[room, other]) as client, api.client("bob", rooms=[room, other]) as bob:
        media_id = (await upload(client, b"in and out"))["media_id"]
        for _ in range(3):
            assert (await client.post(files(room), json={"media_id": media_id})).status_code == 201
            assert (await client.delete(files(room, media_id))).status_code == 204
        refused = await client.post(files(room), json={"media_id": media_id})
        assert problem(refused, 429, "too_many_changes")["limit"] == 3
        assert 0 < int(refused.headers["retry-after"]) <= 24 * 3600
        assert await listed(client, room) == []
        # It is shown to bob, who may still attach it, and once it is there nothing is refused.
        assert (await client.patch(f"/v1/media/{media_id}", json={"tenant_scope": True})).status_code == 200
        assert (await bob.post(files(other), json={"media_id": media_id})).status_code == 201
        assert (await client.post(files(other), json={"media_id": media_id})).status_code == 201
        assert (await client.delete(files(other, media_id))).status_code == 204
        await api.database.call(
            "UPDATE event SET created_at = created_at - interval '1 day' WHERE number ="
            " (SELECT min(number) FROM event WHERE media_id = %s AND type = 'attached')",
            (media_id,),
        )
        assert (await client.post(files(room), json={"media_id": media_id})).status_code == 201


async def test_a_file_that_is_changed_in_a_loop_is_refused_after_a_while_but_can_be_hidden(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MOST_CHANGES", 2)
    async with api.client() as client:
        media_id = (await upload(client, b"here and there", tenant_scope="true"))["media_id"]
        path = f"/v1/media/{media_id}"
        for name in ("a.txt", "b.txt"):
            assert (await client.patch(path, json={"filename": name})).status_code == 200
        problem(await client.patch(path, json={"labels": {"a": "b"}}), 429, "too_many_changes")
        info = (await client.get(f"{path}/info")).json()["data"]
        assert (info["filename"], info.get("labels")) == ("b.txt", None)
        assert (await client.patch(path, json={"filename": "b.txt"})).status_code == 200
        assert (await client.patch(path, json={"tenant_scope": False})).status_code == 200
        problem(await client.patch(path, json={"tenant_scope": True}), 429, "too_many_changes")
        assert (await client.delete(path)).status_code == 204
