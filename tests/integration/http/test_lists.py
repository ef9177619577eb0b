"""Lists of files by uploader, in their orders and with their filters; changing and labelling a file."""

import asyncio
import secrets
from typing import Any

import httpx
import pytest

from media_core.items import listing
from tests.fixtures.media import film, photo, recording
from tests.integration.servers.api import Api, anybody, problem, upload


def somebody() -> str:
    return f"user-{secrets.token_hex(4)}"


async def listed(client: httpx.AsyncClient, **params: Any) -> list[str]:
    """The media ids of all pages."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        answer = await client.get("/v1/media", params={**params, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        found += [entry["media_id"] for entry in answer.json()["data"]]
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return found


async def change(client: httpx.AsyncClient, media_id: str, **changes: Any) -> dict[str, Any]:
    answer = await client.patch(f"/v1/media/{media_id}", json=changes)
    assert answer.status_code == 200, answer.text
    info: dict[str, Any] = answer.json()["data"]
    assert (await client.get(f"/v1/media/{media_id}/info")).json()["data"] == info
    return info


async def test_a_list_has_what_its_caller_uploaded_newest_first_as_info_tells_it(api: Api) -> None:
    me, other = somebody(), somebody()
    async with api.client(me) as client, api.client(other) as somebody_else:
        await upload(somebody_else, b"not mine", tenant_scope="true")
        ids = [(await upload(client, b"mine %d" % number, f"{number}.txt"))["media_id"] for number in range(5)]
        answer = (await client.get("/v1/media")).json()
        assert [entry["media_id"] for entry in answer["data"]] == ids[::-1]
        assert answer["next_cursor"] is None
        assert answer["data"][-1] == (await client.get(f"/v1/media/{ids[0]}/info")).json()["data"]
        for limit in (1, 2, 5, 200):
            assert await listed(client, limit=limit) == ids[::-1]
            assert await listed(client, limit=limit, sort="created", owner=me) == ids
        problem(await client.get("/v1/media", params={"owner": other}), 403, "insufficient_scope")
        problem(await client.get("/v1/media", params={"owner": "all"}), 403, "insufficient_scope")
    async with api.client("root", scopes=["admin"], rooms=[]) as admin:
        assert await listed(admin, owner=me, limit=3) == ids[::-1]
        assert await listed(admin) == []
        everything = await listed(admin, owner="all", limit=200)
        assert {*ids} < {*everything}
        assert len(everything) == len({*everything})


async def test_lists_are_sorted_by_name_and_size_and_pages_join_among_equals(api: Api) -> None:
    async with api.client(somebody()) as client:
        names = ["Zebra.txt", "ärger.txt", "Apfel.txt", "apfel.txt", "Birne\u200d.txt", "\U0001f600.txt"]
        ids = {
            name: (await upload(client, b"x" * (10 if number % 2 else 20 + number), name))["media_id"]
            for number, name in enumerate(names)
        }
        by_name = ["Apfel.txt", "apfel.txt", "ärger.txt", "Birne\u200d.txt", "Zebra.txt", "\U0001f600.txt"]
        for limit in (1, 2, 6):
            assert await listed(client, sort="name", limit=limit) == [ids[name] for name in by_name]
            assert await listed(client, sort="-name", limit=limit) == [ids[name] for name in by_name][::-1]
            sizes = [
                entry["size"] for entry in (await client.get("/v1/media", params={"sort": "-size"})).json()["data"]
            ]
            assert sizes == sorted(sizes, reverse=True) == [24, 22, 20, 10, 10, 10]
            up = await listed(client, sort="size", limit=limit)
            assert up == (await listed(client, sort="-size", limit=limit))[::-1]
            assert sorted(up) == sorted(ids.values())


async def test_filters_are_kind_room_verdict_name_and_time_and_all_of_them_hold(api: Api) -> None:
    room = f"room-{secrets.token_hex(4)}"
    me = somebody()
    async with api.client(me, rooms=[room]) as client, api.client("bob", rooms=[room]) as bob:
        picture = (await upload(client, photo(20, 21), "Urlaub in Köln.jpg", room_id=room))["media_id"]
        sound = (await upload(client, recording([1], "wav", "pcm_s16le"), "kölsch.wav"))["media_id"]
        clip = (await upload(client, film(size=(318, 238)), "film.mp4"))["media_id"]
        text = await upload(client, secrets.token_bytes(99), "rest")
        await upload(bob, b"of bob, in the same room", room_id=room)
        await api.verdict(text["sha256"])
        for kind, wanted in (("image", picture), ("audio", sound), ("video", clip), ("document", text["media_id"])):
            for sort in ("created", "-name", "size"):
                assert await listed(client, type=kind, sort=sort) == [wanted]
        assert await listed(client, room_id=room) == await listed(client, room=room) == [picture]
        assert await listed(client, scan_status="clean") == [text["media_id"]]
        assert {*await listed(client, scan_status="pending")} == {picture, sound, clip}
        for name, found in (("KOLN", [picture]), ("köl", [sound, picture]), ("o\u0308l", [sound, picture]), ("%", [])):
            assert await listed(client, name=name) == found
        at = (await client.get(f"/v1/media/{clip}/info")).json()["data"]["created_at"]
        assert await listed(client, created_after=at) == [text["media_id"], clip]
        assert await listed(client, created_before=at, sort="created") == [picture, sound]
        assert {*await listed(client, created_before=at, sort="size")} == {picture, sound}
        assert await listed(client, name="kol", type="image", room=room, created_before=at) == [picture]
        assert await listed(client, name="kol", type="video") == []
        problem(await client.get("/v1/media", params={"room": "cellar"}), 404, "not_found")


async def test_a_name_is_found_by_who_has_not_its_letters_on_the_keyboard(api: Api) -> None:
    async with api.client(somebody()) as client:
        wanted = (await upload(client, b"travels", "Łódź, København, Đà Nẵng, Isparta ılıca, Ærø, Œuvre.txt"))[
            "media_id"
        ]
        for name in ("lodz", "KOBENHAVN", "da nang", "ılıca", "ilica", "aero", "Ærø", "oeuvre", "łódź, kobenh"):
            assert await listed(client, name=name) == [wanted], name
        assert await listed(client, name="lods") == []


async def test_labels_are_given_replaced_and_listed_by(api: Api) -> None:
    async with api.client(somebody()) as client:
        one, two, three = [(await upload(client, b"labelled %d" % n))["media_id"] for n in range(3)]
        labels = {"project": "atlas", "state.v-1_x": "a=b & ü"}
        assert "labels" not in (await client.get(f"/v1/media/{one}/info")).json()["data"]
        assert (await change(client, one, labels=labels))["labels"] == labels
        await change(client, two, labels={"project": "atlas"})
        await change(client, three, labels={"project": "other"})
        assert await listed(client, label="project=atlas") == [two, one]
        assert await listed(client, label=["project=atlas", "state.v-1_x=a=b & ü"]) == [one]
        assert await listed(client, label=["project=atlas", "project=other"]) == []
        assert (await change(client, one, labels={"project": "other"}))["labels"] == {"project": "other"}
        assert await listed(client, label="project=other", sort="created") == [one, three]
        assert (await change(client, one, filename="kept.txt"))["labels"] == {"project": "other"}
        ordinary = {"a": "می\u200cخواهم", "b": "👩\u200d👩\u200d👧", "c": "全角\u3000空白", "d": "5\u202fkm"}
        assert (await change(client, one, labels=ordinary))["labels"] == ordinary
        assert await listed(client, label=[f"{key}={value}" for key, value in ordinary.items()]) == [one]
        assert "labels" not in await change(client, one, labels={})
        assert (await client.delete(f"/v1/media/{three}")).status_code == 204
        assert await listed(client, label="project=other") == []


async def test_a_long_list_is_looked_through_in_steps_and_nothing_is_left_out(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "EXAMINED", 4)
    monkeypatch.setattr(listing, "EXAMINED_ELSEWHERE", 3)
    monkeypatch.setattr(listing, "FEW", 2)
    room = f"room-{secrets.token_hex(4)}"
    async with api.client(somebody(), rooms=[room]) as client:
        ids = []
        for number in range(13):
            fields = {"room_id": room} if number % 5 else {}
            made = await upload(client, b"x" * (number + 1), f"{'odd' if number % 2 else 'even'} {number}", **fields)
            ids.append(made["media_id"])
            if number % 3 == 0:
                await change(client, made["media_id"], labels={"third": "yes", f"n{number}": "yes"})
        for sort in ("created", "name", "size"):
            order = await listed(client, sort=sort)
            assert sorted(order) == sorted(ids)
            for limit in (1, 2, 4, 9):
                for down in (False, True):
                    seen = order[::-1] if down else order
                    how = {"sort": f"-{sort}" if down else sort, "limit": limit}
                    assert await listed(client, **how) == seen
                    assert await listed(client, name="ODD", **how) == [each for each in seen if ids.index(each) % 2]
                    assert await listed(client, room=room, **how) == [each for each in seen if ids.index(each) % 5]
                    third = [each for each in seen if ids.index(each) % 3 == 0]
                    assert await listed(client, label="third=yes", **how) == third
                    assert await listed(client, label=["third=yes", "n6=yes"], **how) == [ids[6]]
                    assert await listed(client, name="nobody", **how) == []


async def test_infected_files_and_the_canary_are_in_no_list(fresh_api: Api) -> None:
    async with fresh_api.client() as client, fresh_api.client("root", scopes=["admin"], rooms=[]) as admin:
        bad = await upload(client, b"bad", room_id="garden")
        good = await upload(client, b"good", room_id="garden")
        await change(client, bad["media_id"], labels={"a": "b"})
        async with fresh_api.database.transaction() as tx:
            await tx.execute("UPDATE media SET uploaded_by = 'system:canary' WHERE media_id = %s", (good["media_id"],))
        assert await listed(client) == [bad["media_id"]]
        assert await listed(admin, owner="all") == [bad["media_id"]]
        assert await listed(admin, owner="system:canary") == []
        await fresh_api.verdict(bad["sha256"], "infected")
        for params in ({}, {"room": "garden"}, {"label": "a=b"}, {"sort": "size"}, {"name": "a"}):
            assert await listed(client, **params) == []
            assert await listed(admin, owner="all", **params) == []
        problem(await client.patch(f"/v1/media/{bad['media_id']}", json={"filename": "x"}), 404, "not_found")


WRONG: tuple[dict[str, Any], ...] = (
    {"cursor": "nonsense"},
    {"cursor": "x" * 3000},
    {"sort": "colour"},
    {"limit": 0},
    {"limit": 201},
    {"type": "sculpture"},
    {"scan_status": "infected"},
    {"name": ""},
    {"name": "a\0b"},
    {"owner": "a\0b"},
    {"owner": ""},
    {"room": "a/b"},
    {"room_id": "a/b"},
    {"room": "garden", "room_id": "garden"},
    {"created_after": "yesterday"},
    {"created_after": "2026-05-17T14:00:00"},
    {"label": "project"},
    {"label": "Project=x"},
    {"label": "=x"},
    {"label": "a=" + "x" * 256},
    {"label": [f"k{n}=x" for n in range(17)]},
)


async def test_what_no_list_can_be_made_of_is_refused(api: Api) -> None:
    async with api.client(somebody(), scopes=["admin"]) as client:
        for params in WRONG:
            told = problem(await client.get("/v1/media", params=params), 422, "invalid_request")
            assert told["errors"][0]["where"].removesuffix("_id") == next(iter(params)).removesuffix("_id")
        for number in range(2):
            await upload(client, b"%d" % number)
        cursor = (await client.get("/v1/media", params={"limit": 1})).json()["next_cursor"]
        problem(await client.get("/v1/media", params={"cursor": cursor, "sort": "size"}), 422, "invalid_request")


async def test_a_file_is_renamed_and_opened_by_its_uploader_and_admins_only(api: Api) -> None:
    async with (
        api.client(somebody()) as owner,
        api.client("stranger", rooms=[]) as stranger,
        api.client("root", scopes=["admin"], rooms=[]) as admin,
    ):
        media_id = (await upload(owner, secrets.token_bytes(50), "before.bin"))["media_id"]
        path = f"/v1/media/{media_id}"
        problem(await stranger.patch(path, json={"filename": "mine"}), 404, "not_found")
        info = await change(owner, media_id, filename="../Größe \u202ex.txt", tenant_scope=True)
        assert (info["filename"], info["tenant_scope"]) == ("Größe x.txt", True)
        problem(await stranger.patch(path, json={"filename": "mine"}), 403, "not_yours")
        assert (await change(admin, media_id, tenant_scope=False))["filename"] == "Größe x.txt"
        assert (await stranger.get(f"{path}/info")).status_code == 404
        assert await change(owner, media_id) == (await owner.get(f"{path}/info")).json()["data"]
        assert await listed(owner, name="GROSSE X") == [media_id]
        assert await listed(owner, name="before") == []
        await api.verdict(info["sha256"])
        assert "x.txt" in (await owner.get(f"/v1/media/download/{media_id}")).headers["content-disposition"]


async def test_a_file_is_renamed_by_the_word_that_lists_filter_by_as_well(api: Api) -> None:
    async with api.client(somebody()) as client:
        media_id = (await upload(client, b"renamed", "a.txt"))["media_id"]
        assert (await change(client, media_id, name="b.txt"))["filename"] == "b.txt"


async def test_a_change_that_can_not_be_is_refused_as_a_whole(api: Api) -> None:
    async with api.client(somebody()) as client:
        media_id = (await upload(client, b"unchanged", "a.txt"))["media_id"]
        before = await change(client, media_id, labels={"a": "b"})
        path = f"/v1/media/{media_id}"
        for wrong in (
            {"filename": ""},
            {"filename": 1},
            {"name": ""},
            {"filename": "b.txt", "name": "c.txt"},
            {"tenant_scope": "yes"},
            {"uploaded_by": "me"},
            {"filename": "b.txt", "labels": {"Bad": "x"}},
            {"filename": "b.txt", "labels": {"a": "line\nbreak"}},
            {"filename": "b.txt", "labels": {"a": "x\u202ey"}},
            {"filename": "b.txt", "labels": {"a": "x" * 256}},
            {"filename": "b.txt", "labels": {"a": 1}},
            {"filename": "b.txt", "labels": {f"k{n}": "x" for n in range(17)}},
            [],
        ):
            body = problem(await client.patch(path, json=wrong), 422, "invalid_request")
            assert body["detail"].startswith("The body must be")
        json_type = {"Content-Type": "application/json"}
        problem(await client.patch(path, content=b"{", headers=json_type), 422, "invalid_request")
        problem(await client.patch(path, content=b'{"filename": "\\ud800"}', headers=json_type), 422, "invalid_request")
        problem(await client.patch(path, content=b" " * 70_000, headers=json_type), 422, "invalid_request")
        problem(await client.patch(path, data={"filename": "b.txt"}), 415, "unsupported_media_type")
        assert (await client.get(f"{path}/info")).json()["data"] == before
        await client.delete(path)
        problem(await client.patch(path, json={"filename": "late"}), 404, "not_found")


async def test_changes_at_once_leave_one_of_them(api: Api) -> None:
    async with api.client(somebody()) as client:
        media_id = (await upload(client, b"contended"))["media_id"]
        sets = [{"a": str(n), f"b{n % 3}": "x"} for n in range(8)]
        answers = await asyncio.gather(
            *(client.patch(f"/v1/media/{media_id}", json={"labels": labels}) for labels in sets)
        )
        assert {answer.status_code for answer in answers} == {200}
        assert (await client.get(f"/v1/media/{media_id}/info")).json()["data"]["labels"] in sets


async def test_a_list_tells_as_many_rooms_of_a_file_as_one_can_use_and_info_tells_all(api: Api) -> None:
    me, mark = somebody(), secrets.token_hex(4)
    rooms = [f"{mark} {number:04}" for number in range(3000)]
    async with api.client(me, rooms=[rooms[7], rooms[2999], "elsewhere"]) as client:
        media_id = (await upload(client, b"shown everywhere"))["media_id"]
        await api.database.call(
            "INSERT INTO room_file (room_id, media_id, added_by)"
            " SELECT room, %s, 'ann' FROM unnest(%s::text[]) AS room",
            (media_id, rooms),
        )
        (mine,) = (await client.get("/v1/media")).json()["data"]
        assert mine["rooms"] == [rooms[7], rooms[2999]]
        assert "more_rooms" not in mine
        assert (await client.get(f"/v1/media/{media_id}/info")).json()["data"] == mine
    async with api.client("root", scopes=["admin"], rooms=[]) as admin:
        (seen,) = (await admin.get("/v1/media", params={"owner": me})).json()["data"]
        assert (seen["rooms"], seen["more_rooms"]) == (rooms[:100], True)
        info = (await admin.get(f"/v1/media/{media_id}/info")).json()["data"]
        (in_room,) = (await admin.get(f"/v1/rooms/{rooms[7]}/files")).json()["data"]
        for complete in (info, in_room):
            assert complete["rooms"] == rooms
            assert "more_rooms" not in complete
    async with api.client("bob", rooms=[rooms[2999]]) as in_the_last_room:
        assert (await in_the_last_room.get(f"/v1/media/{media_id}/info")).json()["data"]["rooms"] == [rooms[2999]]


JOB_ID = "job-01JD0Z3V5QH7W8K2M4N6P8R0T3"
TYPOS = (
    (
        "/v1/media",
        "scan_staus=clean",
        "`scan_staus` is not a query parameter of this call; did you mean `scan_status`?",
    ),
    ("/v1/media", "lable=a=b", "`lable` is not a query parameter of this call; did you mean `label`?"),
    ("/v1/media", "Type=image", "`Type` is not a query parameter of this call; did you mean `type`?"),
    ("/v1/events", "types=stored", "`types` is not a query parameter of this call; did you mean `type`?"),
    (
        "/v1/transcripts/search",
        "q=x&langauge=en",
        "`langauge` is not a query parameter of this call; did you mean `language`?",
    ),
    ("/v1/media", "%00=x", "That is not a query parameter of this call; it has `owner`, "),
    ("/v1/media", "type=image&type=video", "type: it was sent twice; this call takes it once."),
    ("/v1/media", "room_id=a&room_id=b", "room_id: it was sent twice; this call takes it once."),
    ("/v1/media", "name=caf%E9", "name: it must be a text in UTF-8."),
    ("/v1/transcripts/search", "utm_term=caf%E9&q=caf%E9", "q: it must be a text in UTF-8."),
    ("/v1/jobs", "limt=2", "`limt` is not a query parameter of this call; did you mean `limit`?"),
    (f"/v1/jobs/{JOB_ID}/transcript.srt", "max_char=20", "`max_char` is not a query parameter of this call; did you "),
    (f"/v1/jobs/{JOB_ID}/events", "last_event_id=7", "`last_event_id` is not a query parameter of this call; did you "),
    ("/v1/usage", "tenant=acme", "`tenant` is not a query parameter of this call; it has none."),
)


@pytest.mark.parametrize(("path", "query", "said"), TYPOS)
async def test_a_parameter_that_a_call_does_not_take_is_refused_and_the_nearest_named(
    api: Api, path: str, query: str, said: str
) -> None:
    async with api.client() as client, anybody(api.base) as nobody:
        assert problem(await client.get(f"{path}?{query}"), 422, "invalid_request")["detail"].startswith(said)
        problem(await nobody.get(f"{path}?{query}"), 401, "unauthorized")


async def test_a_parameter_that_a_change_does_not_take_is_refused_before_anything_changes(api: Api) -> None:
    async with api.client(somebody(), scopes=["admin", "media:read", "media:write", "transcribe"]) as client:
        media_id = (await upload(client, b"stays"))["media_id"]
        file = f"/v1/media/{media_id}"
        for call in (
            client.delete(file, params={"room": "garden"}),
            client.patch(file, params={"filename": "b.txt"}, json={"filename": "c.txt"}),
            client.post(f"{file}/rescan", params={"wait": "true"}),
            client.post("/v1/media/sign", params={"expires_in": 600}, json={"media_ids": [media_id]}),
            client.post("/v1/rooms/garden/files", params={"media_id": media_id}, json={"media_id": media_id}),
            client.delete(f"/v1/jobs/{JOB_ID}", params={"force": "true"}),
        ):
            said = problem(await call, 422, "invalid_request")["detail"]
            assert "is not a query parameter of this call; it has none." in said
        info = (await client.get(f"{file}/info")).json()["data"]
        assert (info["filename"], info["rooms"]) == ("a.bin", [])
        assert (await client.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("path", ["/v1/media", "/v1/jobs", "/v1/rooms/garden/files", "/v1/events"])
async def test_what_says_nothing_of_a_list_is_passed_over(api: Api, path: str) -> None:
    neutral = "_=1795964215&_=2&utm_source=mail&cb=7&fbclid=x"
    if path == "/v1/rooms/garden/files":  # the published page leaves open what else they may be sent
        neutral += "&whatever=1"
    async with api.client() as client:
        plain, decorated = [await client.get(f"{path}?limit=2&{added}") for added in ("", neutral)]
    assert decorated.status_code == 200
    assert decorated.json() == plain.json()


async def test_what_may_come_several_times_may(api: Api) -> None:
    async with api.client() as client:
        for query in ("/v1/media?label=a=b&label=c=d", "/v1/events?type=stored&type=scanned"):
            assert (await client.get(query)).status_code == 200
