"""Events: which there are, who hears of them, and that none is missed, whatever order transactions commit in."""

import asyncio
import secrets
import tracemalloc
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from media_core.auth.tokens import CANARY, Claims
from media_core.database import Database
from media_core.errors import Refused
from media_core.events.feed import AT_ONCE, Event, EventPosition, Events
from media_core.items.library import Library
from media_core.jobs.queue import Queue
from media_core.settings import RetentionSettings
from media_core.transcripts.requests import Jobs, TranscriptionRequest
from media_core.upkeep.sweep import sweep
from media_core.uploads.upload import Uploads
from tests.fixtures.media import photo
from tests.integration.acting import judge, upload
from tests.integration.tenancy import ADMIN, ALICE, BOB, MIB, STRANGER, TenantDatabase, person

ANN = person("ann")


@pytest.fixture
def events(database: Database) -> Events:
    return Events(database)


async def told(events: Events, caller: Claims) -> list[tuple[str, str]]:
    page = await events.page(caller, await events.first(), limit=200)
    assert not page.more
    return [(event.type, event.media_id) for event in page.events]


async def test_a_file_has_an_event_of_all_that_happens_to_it(
    uploads: Uploads, library: Library, database: Database, events: Events
) -> None:
    one = await upload(uploads, secrets.token_bytes(100), room_id="garden")
    await judge(library, database, one, "clean")
    await library.attach(ADMIN, "cellar", one.media_id)
    await library.attach(ADMIN, "cellar", one.media_id)
    await library.detach(ADMIN, "cellar", one.media_id)
    await library.change(ALICE, one.media_id, labels={"year": "1912"})
    await library.delete(ALICE, one.media_id)
    page = await events.page(ADMIN, await events.first(), limit=200)
    assert [(event.type, event.facts) for event in page.events] == [
        ("stored", {"filename": "a.bin", "mime_type": one.mime_type, "size": 100, "sha256": one.sha256}),
        ("attached", {"room_id": "garden", "added_by": "alice"}),
        ("scanned", {"scan_status": "clean"}),
        ("attached", {"room_id": "cellar", "added_by": "root"}),
        ("removed", {"room_id": "cellar"}),
        ("changed", {}),
        ("deleted", {}),
    ]
    assert {event.media_id for event in page.events} == {one.media_id}
    assert len({event.event_id for event in page.events}) == 7
    assert [event.position for event in page.events] == [1, 2, 3, 4, 5, 6, 7]


async def test_who_loses_sight_of_a_file_hears_that_it_changed_and_who_never_saw_it_does_not(
    uploads: Uploads, library: Library, events: Events
) -> None:
    one = await upload(uploads, secrets.token_bytes(100))
    await library.change(ALICE, one.media_id, filename="draft.txt")
    await library.change(ALICE, one.media_id, tenant_scope=True)
    await library.change(ALICE, one.media_id, tenant_scope=False)
    assert [type_ for type_, _ in await told(events, ALICE)] == ["stored", "changed", "changed", "changed"]
    assert await told(events, BOB) == [("changed", one.media_id)]


async def test_a_change_that_changes_nothing_is_no_event(uploads: Uploads, library: Library, events: Events) -> None:
    one = await upload(uploads, b"as it is", filename="a.bin", caller=ANN)
    await library.change(ANN, one.media_id, labels={"a": "1", "b": "2"})
    before = await told(events, ANN)
    await library.change(ANN, one.media_id)
    await library.change(ANN, one.media_id, filename="a.bin", tenant_scope=False, labels={"b": "2", "a": "1"})
    assert await told(events, ANN) == before
    for changed in ({"filename": "b.bin"}, {"tenant_scope": True}, {"labels": {"a": "1"}}, {"labels": {}}):
        await library.change(ANN, one.media_id, **changed)  # type: ignore[arg-type]
    assert (await told(events, ANN))[len(before) :] == [("changed", one.media_id)] * 4


async def test_a_name_that_a_file_had_before_it_was_shared_is_told_to_nobody(
    uploads: Uploads, library: Library, events: Events
) -> None:
    one = await upload(uploads, secrets.token_bytes(100), filename="salaries.txt")
    await library.change(ALICE, one.media_id, filename="notes.txt")
    await library.attach(ALICE, "garden", one.media_id)
    page = await events.page(person("gardener", "garden"), await events.first(), limit=200)
    assert [event.facts.get("filename") for event in page.events if event.type == "stored"] == ["notes.txt"]


async def test_a_file_whose_content_is_known_has_events_of_its_verdict_and_its_thumbnail_at_once(
    uploads: Uploads, library: Library, database: Database, events: Events
) -> None:
    picture = photo(64, 48)
    first = await upload(uploads, picture)
    await judge(library, database, first, "clean")
    second = await upload(uploads, picture)
    assert await told(events, ALICE) == [
        ("stored", first.media_id),
        ("thumbnail", first.media_id),
        ("scanned", first.media_id),
        ("stored", second.media_id),
        ("scanned", second.media_id),
        ("thumbnail", second.media_id),
    ]


async def test_each_file_of_a_content_hears_of_its_verdict(
    uploads: Uploads, library: Library, database: Database, events: Events
) -> None:
    data = secrets.token_bytes(100)
    mine = await upload(uploads, data)
    hers = await upload(uploads, data, caller=ANN)
    await judge(library, database, mine, "clean")
    assert await told(events, ALICE) == [("stored", mine.media_id), ("scanned", mine.media_id)]
    assert await told(events, ANN) == [("stored", hers.media_id), ("scanned", hers.media_id)]


@pytest.mark.parametrize(("priority", "told_again"), [(-2, False), (1, True)])
async def test_the_nightly_rescan_that_confirms_a_verdict_is_no_event_and_one_that_was_asked_for_is(
    uploads: Uploads, library: Library, database: Database, events: Events, priority: int, told_again: bool
) -> None:
    one = await upload(uploads, secrets.token_bytes(100))
    await judge(library, database, one, "clean")
    await library.rescan(ADMIN, one.media_id)
    await database.call("UPDATE job SET priority = %s WHERE status = 'queued'", (priority,))
    await judge(library, database, one, "clean")
    assert (await told(events, ALICE)).count(("scanned", one.media_id)) == 1 + told_again


async def test_an_infected_file_is_told_of_to_its_owner_and_admins_only(
    uploads: Uploads, library: Library, database: Database, events: Events
) -> None:
    one = await upload(uploads, secrets.token_bytes(100), room_id="garden", tenant_scope=True)
    assert ("stored", one.media_id) in await told(events, BOB)
    await judge(library, database, one, "infected")
    for caller in (ALICE, ADMIN):
        assert await told(events, caller) == [
            ("stored", one.media_id),
            ("attached", one.media_id),
            ("scanned", one.media_id),
        ]
    assert await told(events, BOB) == await told(events, STRANGER) == []
    await library.contents.delete_item(one.media_id)
    assert await told(events, BOB) == await told(events, STRANGER) == []
    assert ("deleted", one.media_id) in await told(events, ALICE)


async def test_events_are_told_to_those_who_may_see_the_file(
    uploads: Uploads, library: Library, events: Events
) -> None:
    private = await upload(uploads, b"private")
    shared = await upload(uploads, b"shared", room_id="garden")
    public = await upload(uploads, b"public", tenant_scope=True)
    in_room = [("stored", shared.media_id), ("attached", shared.media_id)]
    assert await told(events, BOB) == [*in_room, ("stored", public.media_id)]
    assert await told(events, STRANGER) == [("stored", public.media_id)]
    assert await told(events, ALICE) == [("stored", private.media_id), *in_room, ("stored", public.media_id)]

    await library.detach(ALICE, "garden", shared.media_id)
    for item in (private, public):
        await library.delete(ALICE, item.media_id)
    assert await told(events, BOB) == [("removed", shared.media_id), ("deleted", public.media_id)]
    assert await told(events, STRANGER) == [("deleted", public.media_id)]


async def test_a_room_that_the_owner_is_not_in_is_not_told_to_him(
    uploads: Uploads, library: Library, events: Events
) -> None:
    one = await upload(uploads, b"mine", caller=ANN)
    await library.attach(ADMIN, "cellar", one.media_id)
    await library.detach(ADMIN, "cellar", one.media_id)
    assert await told(events, ANN) == [("stored", one.media_id)]
    assert await told(events, STRANGER) == [("removed", one.media_id)]


async def test_a_transcript_is_told_to_whoever_asked_for_it(
    uploads: Uploads, library: Library, database: Database, events: Events
) -> None:
    one = await upload(uploads, b"words", room_id="garden")
    await database.call("UPDATE blob SET mime_type = 'audio/mpeg' WHERE sha256 = %s", (one.sha256,))
    jobs = Jobs(database=database, library=library, max_seconds=3600)
    queue = Queue(database)
    for outcome in ("completed", "failed"):
        job = await jobs.transcribe(BOB, one.media_id, TranscriptionRequest())
        lease = await queue.lease("transcribe", worker="test", seconds=30)
        assert lease is not None
        if outcome == "completed":
            await queue.finish(lease, {"transcript": ""})
        else:
            await queue.fail(lease, "broken", "broken", retry=False)
        page = await events.page(BOB, await events.first(), limit=200, types=["transcript"])
        assert page.events[-1].facts == {"job_id": job.job_id, "status": outcome}
    assert "transcript" in {kind for kind, _ in await told(events, ADMIN)}
    assert "transcript" not in {kind for kind, _ in await told(events, ALICE)}


async def test_the_operators_test_virus_makes_no_event(uploads: Uploads, library: Library, events: Events) -> None:
    one = await upload(uploads, secrets.token_bytes(100), caller=person(CANARY))
    await library.contents.delete_item(one.media_id)
    assert await told(events, ADMIN) == []


async def test_an_event_whose_transaction_commits_late_is_not_missed(
    tenant_database: TenantDatabase, database: Database, events: Events
) -> None:
    """Two real transactions: the first takes the lower number, and commits after the second one has been read."""
    connecting = tenant_database.url.replace("+psycopg", "")
    async with (
        await psycopg.AsyncConnection.connect(connecting) as slow,
        await psycopg.AsyncConnection.connect(connecting) as quick,
    ):
        await _insert(slow, "slow")
        await _insert(quick, "quick")
        await quick.commit()
        first = await events.page(ADMIN, await events.first(), limit=200)
        assert [event.media_id for event in first.events] == ["quick"]
        await slow.commit()
    second = await events.page(ADMIN, first.after, limit=200)
    assert [event.media_id for event in second.events] == ["slow"]
    assert second.events[0].number < first.events[0].number
    assert (await events.page(ADMIN, second.after, limit=200)).events == []


async def _insert(connection: psycopg.AsyncConnection[Any], media_id: str) -> None:
    await connection.execute(
        "INSERT INTO event (type, media_id, owner, data) VALUES ('stored', %s, 'alice', '{}')", (media_id,)
    )


async def test_an_event_that_is_rolled_back_is_none(
    tenant_database: TenantDatabase, database: Database, events: Events
) -> None:
    async with await psycopg.AsyncConnection.connect(tenant_database.url.replace("+psycopg", "")) as one:
        await _insert(one, "never")
        await one.rollback()
    assert await told(events, ADMIN) == []


async def test_readers_at_the_same_time_see_every_event_once_and_in_the_same_order(
    tenant_database: TenantDatabase,
) -> None:
    """Writers commit in any order while several readers give positions."""
    many, writers = 120, 4
    done = asyncio.Event()

    async def write(writer: int) -> None:
        async with await psycopg.AsyncConnection.connect(tenant_database.url.replace("+psycopg", "")) as connection:
            for number in range(many):
                await _insert(connection, f"{writer}-{number}")
                if number % 3 == writer % 3:
                    await connection.commit()
            await connection.commit()

    async def read() -> list[Event]:
        other = Database(tenant_database.url, pool_size=1)
        events, found = Events(other), []
        position = await events.first()
        while True:
            last_look = done.is_set()
            page = await events.page(ADMIN, position, limit=50)
            found += page.events
            position = page.after
            if last_look and not page.more:
                await other.aclose()
                return found

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.gather(*(write(writer) for writer in range(writers)))
    done.set()
    seen = await asyncio.gather(*readers)
    for events_seen in seen:
        assert len(events_seen) == many * writers
        assert events_seen == seen[0]
        for writer in range(writers):
            mine = [event.media_id for event in events_seen if event.media_id.startswith(f"{writer}-")]
            assert mine == [f"{writer}-{number}" for number in range(many)]


async def test_a_reader_sees_what_was_committed_before_also_while_another_gives_positions(
    tenant_database: TenantDatabase, events: Events
) -> None:
    start = await events.first()
    async with await psycopg.AsyncConnection.connect(tenant_database.url.replace("+psycopg", "")) as other:
        await _insert(other, "before")
        await other.commit()
        await other.execute("SELECT event_place(200)")
        reading = asyncio.create_task(events.page(ADMIN, start, limit=200))
        await other.execute("SELECT pg_sleep(0.1)")
        assert not reading.done()
        await other.commit()
    assert [event.media_id for event in (await reading).events] == ["before"]


async def test_a_cursor_of_another_database_or_of_events_that_are_gone_is_refused(
    uploads: Uploads, library: Library, database: Database, events: Events
) -> None:
    await upload(uploads, b"one")
    start = await events.first()
    position = (await events.page(ALICE, start, limit=1)).after
    assert await events.checked(position) == position
    incarnation, number = position.incarnation, position.position
    for wrong in (EventPosition(incarnation + 1, number), EventPosition(incarnation, number + 1)):
        with pytest.raises(Refused, match="not kept any more"):
            await events.checked(wrong)
    await upload(uploads, b"two")
    await database.call("UPDATE event SET created_at = created_at - interval '8 days'", ())
    await upload(uploads, b"three")
    swept = await sweep(library, RetentionSettings())
    assert swept.events == 2
    with pytest.raises(Refused, match="not kept any more"):
        await events.checked(position)
    assert [event.facts["filename"] for event in (await events.page(ALICE, await events.first(), limit=9)).events] == [
        "a.bin"
    ]


async def test_old_events_go_in_small_batches_and_those_that_nobody_read_go_too(
    database: Database, events: Events
) -> None:
    await database.call(
        "INSERT INTO event (type, media_id, owner, data, created_at) SELECT 'stored', n::text, 'alice', '{}',"
        " now() - CASE WHEN n <= %s THEN interval '8 days' ELSE interval '0' END FROM generate_series(1, %s) AS n",
        (2 * AT_ONCE + 7, 2 * AT_ONCE + 17),
    )
    assert await events.forget(timedelta(days=7)) == 2 * AT_ONCE + 7
    assert len(await told(events, ADMIN)) == 10


async def test_a_page_is_bounded_and_its_cursor_goes_on(database: Database, events: Events) -> None:
    await database.call(
        "INSERT INTO event (type, media_id, owner, data)"
        " SELECT 'stored', n::text, CASE WHEN n = 4500 THEN 'bob' ELSE 'alice' END, '{}'"
        " FROM generate_series(1, 5000) AS n",
        (),
    )
    await events.place_all()
    first = await events.page(BOB, await events.first(), limit=10)
    assert (first.events, first.more) == ([], True)
    second = await events.page(BOB, first.after, limit=10)
    assert ([event.media_id for event in second.events], second.more) == (["4500"], False)


@pytest.mark.parametrize("status", ["ready", "failed"])
async def test_an_item_that_is_added_while_its_thumbnail_is_made_has_that_event_too(
    uploads: Uploads, library: Library, database: Database, tenant_database: TenantDatabase, events: Events, status: str
) -> None:
    """The upload of known content has not committed when the worker writes the thumbnail's status."""
    first = await upload(uploads, secrets.token_bytes(100))
    async with database.transaction() as tx:
        await tx.execute("UPDATE blob SET thumbnail_status = 'pending'")
    async with (
        await psycopg.AsyncConnection.connect(tenant_database.url.replace("+psycopg", "")) as adding,
        await psycopg.AsyncConnection.connect(tenant_database.url.replace("+psycopg", ""), autocommit=True) as telling,
    ):
        begun = "SELECT state FROM content_begin('r', %s, 100, '1 hour', false, 'med-2', 'b', 'b', 'alice', false, "
        answer = await adding.execute(begun + "NULL, NULL, NULL, 'b')", (first.sha256,))
        assert await answer.fetchone() == ("stored",)
        statement = "UPDATE blob SET thumbnail_status = %s"
        writing = asyncio.create_task(telling.execute(statement, (status,)))
        await asyncio.wait([writing], timeout=0.5)  # it waits for the upload; without that it would end at once
        await adding.commit()
        await writing
    assert {media_id for kind, media_id in await told(events, ALICE) if kind == "thumbnail"} == {
        first.media_id,
        "med-2",
    }


async def test_an_upload_sends_no_further_statement_for_its_events(
    uploads: Uploads, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    call = Database.call

    async def noted(self: Database, query: Any, arguments: Any) -> list[Any]:
        sent.append(str(query).split("(")[0])
        return await call(self, query, arguments)

    monkeypatch.setattr(Database, "call", noted)
    await upload(uploads, secrets.token_bytes(100))
    assert [each for each in sent if "content_" in each] == [
        "SELECT * FROM content_begin",
        "SELECT * FROM content_commit",
    ]
    async with database.transaction() as tx:
        assert (await tx.value("SELECT count(*) FROM event")) == 1


async def test_the_events_of_a_file_that_is_in_many_rooms_take_little_memory_and_are_told_as_ever(
    uploads: Uploads, database: Database, events: Events
) -> None:
    one = await upload(uploads, secrets.token_bytes(100), caller=ANN)
    other = await upload(uploads, secrets.token_bytes(100), caller=ANN, filename="other.bin")
    await database.call(
        "INSERT INTO room_file (room_id, media_id, added_by)"
        " SELECT 'room ' || number, %s, 'ann' FROM generate_series(1, 3000) AS number",
        (one.media_id,),
    )
    await events.place_all()
    tracemalloc.start()
    try:
        read = await events.after((await events.first()).position + 100)
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()
    assert len(read) == AT_ONCE
    (last,) = read[-1].rooms or ()
    assert [event for event in read if event.is_told_to(person("b", last))] == [read[-1]]
    assert not any(event.is_told_to(STRANGER) for event in read)
    assert await told(events, person("b", "room 7")) == [("stored", one.media_id), ("attached", one.media_id)]
    assert len([event for event in read if event.is_told_to(ADMIN)]) == AT_ONCE
    assert ("stored", other.media_id) in await told(events, ANN)
