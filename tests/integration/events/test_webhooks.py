"""Webhooks: what is delivered, in which order, signed by whom, and what becomes of what is not taken."""

import asyncio
import contextlib
import ipaddress
import json
import secrets
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from media_api.background import webhook_delivery
from media_api.background.event_feed import EventFeed
from media_api.background.webhook_delivery import Delivery
from media_core.database import Database
from media_core.events import outgoing, webhooks
from media_core.events.feed import Events
from media_core.events.outgoing import Undelivered
from media_core.events.webhooks import Webhook
from media_core.items.library import Library
from media_core.policy import PolicyReader
from media_core.uploads.upload import Uploads
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.acting import upload
from tests.integration.servers.api import beside, eventually, process
from tests.integration.servers.api import upload as upload_over_http
from tests.integration.servers.webhook_receiver import Receiver, receiving, verified, write_secret
from tests.integration.tenancy import ALICE
from tests.ports import free_port

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short here."""
    monkeypatch.setattr(webhook_delivery, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(webhooks, "MOST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(webhooks, "MOST_REST_SECONDS", 0.2)


@asynccontextmanager
async def delivering(
    database: Database,
    url: str,
    secret: Path,
    *events: str,
    allowed: Any = LOOPBACK,
) -> AsyncIterator[None]:
    """A process that delivers, with its own feed. It has registered when the block begins."""
    told = Events(database)
    feed = EventFeed(told)
    delivery = Delivery(
        Webhook(url, frozenset(events), secret),
        tenant_id="acme",
        database=database,
        events=told,
        feed=feed,
        policy=PolicyReader(database),
        allowed=allowed,
    )
    tasks = [asyncio.create_task(feed.poll()), asyncio.create_task(delivery.run())]

    async def claimed() -> bool:
        return bool(await database.call("SELECT 1 FROM webhook WHERE claim IS NOT NULL", ()))

    try:
        await eventually(claimed)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def left(database: Database) -> list[Any]:
    return await database.call("SELECT * FROM webhook_delivery ORDER BY position", ())


async def all_recorded(database: Database) -> bool:
    rows = await database.call(
        "SELECT 1 FROM webhook, event_head WHERE webhook.position = placed"
        " AND NOT EXISTS (SELECT FROM webhook_delivery) AND NOT EXISTS (SELECT FROM event WHERE position IS NULL)",
        (),
    )
    return bool(rows)


async def test_an_event_is_delivered_as_a_signed_cloudevent(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        one = await upload(uploads, secrets.token_bytes(100), room_id="garden", filename="Grüße.bin")
        await receiver.until(lambda it: len(it.taken) == 2)
    stored = receiver.taken[0]
    assert stored.headers["content-type"] == "application/cloudevents+json"
    event = stored.event
    assert {name: event[name] for name in event if name not in ("id", "time")} == {
        "specversion": "1.0",
        "source": "urn:media-platform:tenant:acme",
        "type": "io.scaiwave.media.stored",
        "subject": one.media_id,
        "datacontenttype": "application/json",
        "data": {
            "media_id": one.media_id,
            "filename": "Grüße.bin",
            "mime_type": one.mime_type,
            "size": 100,
            "sha256": one.sha256,
        },
    }
    assert event["time"].endswith("Z")
    assert event["id"] == stored.headers["webhook-id"]
    assert verified(stored, 1)
    assert not verified(stored, 2)
    assert receiver.told() == [(one.media_id, "stored"), (one.media_id, "attached")]


async def test_while_secrets_are_exchanged_both_sign_and_a_new_one_is_taken_without_a_restart(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are exchanged while the delivery waits for an event."""
    monkeypatch.setattr(webhook_delivery, "LOOK_SECONDS", 60)
    after, waits = EventFeed.after, asyncio.Event()

    async def noted(feed: EventFeed, position: int) -> Any:
        waits.set()
        return await after(feed, position)

    monkeypatch.setattr(EventFeed, "after", noted)
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        for number, keys in enumerate(((1,), (2, 1), (2,)), start=1):
            await waits.wait()
            waits.clear()
            write_secret(tmp_path, *keys)
            await upload(uploads, b"with keys %d" % number)
            await receiver.until(lambda it, number=number: len(it.taken) == number)
    by_key = [[verified(each, key) for key in (1, 2)] for each in receiver.taken]
    assert by_key == [[True, False], [True, True], [False, True]]
    assert receiver.taken[1].headers["webhook-signature"].count("v1,") == 2


async def test_only_the_types_that_were_asked_for_are_delivered_and_none_of_before(
    uploads: Uploads, library: Library, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    before = await upload(uploads, b"before")
    async with delivering(database, receiver.url, write_secret(tmp_path, 1), "deleted"):
        await upload(uploads, b"after")
        await library.delete(ALICE, before.media_id)
        await receiver.until(lambda it: it.taken)
        await eventually(lambda: all_recorded(database))
    assert receiver.told() == [(before.media_id, "deleted")]


async def test_events_of_a_file_come_in_order_and_those_of_others_do_not_wait(
    uploads: Uploads, library: Library, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    """One file's events are refused for a while."""
    stuck = await upload(uploads, b"stuck")
    refused: list[str] = []

    def answer(delivered: Any) -> int:
        if delivered.media_id == stuck.media_id and len(refused) < 6:
            refused.append(delivered.type)
            return 500
        return 200

    receiver.answers = answer
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        await library.attach(ALICE, "garden", stuck.media_id)
        await library.detach(ALICE, "garden", stuck.media_id)
        others = [await upload(uploads, b"other %d" % n) for n in range(5)]
        await library.delete(ALICE, stuck.media_id)
        await receiver.until(lambda it: (stuck.media_id, "deleted") in it.told())
        await eventually(lambda: all_recorded(database))
    assert refused == ["attached"] * 6
    assert [kind for media_id, kind in receiver.told() if media_id == stuck.media_id] == [
        "attached",
        "removed",
        "deleted",
    ]
    taken = [each.media_id for each in receiver.taken]
    assert sorted(taken[:5]) == sorted(other.media_id for other in others)


async def test_a_receiver_that_was_away_gets_everything_in_order_once_it_is_back(
    uploads: Uploads, library: Library, database: Database, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hook?of=media"
    async with delivering(database, url, write_secret(tmp_path, 1)):
        files = [await upload(uploads, b"away %d" % n, room_id="garden") for n in range(12)]

        async def is_noticed() -> bool:
            return bool(await database.call("SELECT 1 FROM webhook WHERE failures >= %s", (webhooks.RESTS_AFTER,)))

        await eventually(is_noticed)
        (row,) = await database.call("SELECT host, error, failing_since FROM webhook", ())
        assert (row.host, row.error) == ("127.0.0.1", "the connection failed: nothing listens there")
        assert row.failing_since is not None
        with receiving(port) as back:
            await back.until(lambda it: len(it.told()) == 24)
            await eventually(lambda: all_recorded(database))
            for file in files:
                assert [kind for media_id, kind in back.told() if media_id == file.media_id] == ["stored", "attached"]
        (row,) = await database.call("SELECT failures, failing_since, error FROM webhook", ())
        assert tuple(row) == (0, None, None)


async def test_the_log_says_once_why_a_receiver_takes_nothing_and_once_that_it_does_again(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    path = write_secret(tmp_path, 1)
    path.unlink()
    with capture_logs() as logged:
        async with delivering(database, receiver.url, path):
            await upload(uploads, b"once")
            await eventually(lambda: _failing(database))
            receiver.answers = lambda _: 500 if len(receiver.requests) < 3 else 204
            write_secret(tmp_path, 1)
            await receiver.until(lambda it: it.taken)
            await eventually(lambda: all_recorded(database))
    lines = [(each["event"], each.get("reason", "")) for each in logged if each["event"].startswith("webhook_")]
    assert lines == [
        ("webhook_fails", "its secret app-hook/secret is not there"),
        ("webhook_fails", "answered 500"),
        ("webhook_recovered", ""),
    ]


async def test_what_is_not_taken_for_three_days_is_given_up_and_the_next_event_of_the_file_is_tried(
    uploads: Uploads, library: Library, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answers = lambda delivered: 400 if delivered.type == "attached" else 200
    one = await upload(uploads, b"one")
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        await library.attach(ALICE, "garden", one.media_id)
        await library.detach(ALICE, "garden", one.media_id)
        await eventually(lambda: _some(database, "attempts > 1 AND error = 'answered 400'"))
        await database.call("UPDATE webhook_delivery SET first_at = first_at - interval '73 hours'", ())
        await receiver.until(lambda it: it.told() == [(one.media_id, "removed")])

        async def one_is_left() -> bool:
            return len(await left(database)) == 1

        await eventually(one_is_left)
    (dead,) = await left(database)
    assert (dead.media_id, dead.error, dead.due_at) == (one.media_id, "answered 400", None)


async def _some(database: Database, condition: str) -> bool:
    return bool(await database.call(f"SELECT 1 FROM webhook_delivery WHERE {condition}", ()))  # type: ignore[arg-type]  # noqa: S608


async def test_a_receiver_that_takes_nothing_for_three_days_loses_the_old_events_and_not_the_new(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answers = lambda _: 503
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        for n in range(webhooks.RESTS_AFTER + 3):
            await upload(uploads, b"old %d" % n)
        await eventually(lambda: _failing(database))
    await database.call("UPDATE event SET created_at = created_at - interval '73 hours'", ())
    await database.call("UPDATE webhook_delivery SET first_at = first_at - interval '73 hours'", ())
    await database.call("UPDATE webhook SET failing_since = failing_since - interval '73 hours'", ())
    new = await upload(uploads, b"new")
    late = await upload(uploads, b"late")  # its transaction began before and was committed after
    await database.call(
        "UPDATE event SET created_at = created_at - interval '73 hours' WHERE media_id = %s", (late.media_id,)
    )
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):

        async def given_up() -> bool:
            return [row.dead_at is not None for row in await left(database)].count(True) == webhooks.RESTS_AFTER + 3

        await eventually(given_up)
        receiver.answers = lambda _: 200
        await receiver.until(lambda it: it.told() == [(new.media_id, "stored"), (late.media_id, "stored")])


@pytest.mark.parametrize("failures", [1, webhooks.RESTS_AFTER], ids=["once", "again and again"])
async def test_what_waited_while_nothing_was_delivered_for_days_is_tried_again_before_it_is_given_up(
    uploads: Uploads, library: Library, database: Database, receiver: Receiver, tmp_path: Path, failures: int
) -> None:
    """The receiver fails, the platform is away for more than three days, and then both are back."""
    receiver.answers = lambda _: 503
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        files = [await upload(uploads, b"before %d" % n, room_id="garden") for n in range(failures)]
        await receiver.until(lambda it: len(it.requests) >= failures)
        await eventually(lambda: _some(database, "attempts > 0"))
        if failures > 1:
            await eventually(lambda: _failing(database))
    files.append(await upload(uploads, b"never sent"))
    for table, *times in (
        ("event", "created_at"),
        ("webhook_delivery", "first_at", "due_at"),
        ("webhook", "failing_since", "retry_at", "seen_at"),
    ):
        aged = ", ".join(f"{time} = {time} - interval '73 hours'" for time in times)
        await database.call(f"UPDATE {table} SET {aged}", ())  # type: ignore[arg-type]  # noqa: S608
    receiver.answers = lambda _: 200
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        await eventually(lambda: all_recorded(database))
    for file in files:
        kinds = [kind for media_id, kind in receiver.told() if media_id == file.media_id]
        assert kinds == (["stored"] if file is files[-1] else ["stored", "attached"])


async def _failing(database: Database) -> bool:
    return bool(await database.call("SELECT 1 FROM webhook WHERE failures >= %s", (webhooks.RESTS_AFTER,)))


async def test_one_process_at_a_time_delivers(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    path = write_secret(tmp_path, 1)
    async with delivering(database, receiver.url, path), delivering(database, receiver.url, path):
        files = [await upload(uploads, b"one of %d" % n) for n in range(20)]
        await receiver.until(lambda it: len(it.told()) == 20)
        await eventually(lambda: all_recorded(database))
    assert sorted(each.media_id for each in receiver.taken) == sorted(file.media_id for file in files)


@pytest.mark.parametrize("written", [None, "", "secret", "whsec_c2hvcnQ=", "whsec_!", "three"])
async def test_without_a_good_secret_nothing_is_sent_and_the_reason_is_noted(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path, written: str | None
) -> None:
    path = write_secret(tmp_path, 1, 2, 3)
    if written is None:
        path.unlink()
    elif written != "three":
        path.write_text(written)
    async with delivering(database, receiver.url, path):
        await upload(uploads, b"unsigned")
        await eventually(lambda: _failing(database))
        assert receiver.requests == []
        (row,) = await database.call("SELECT error FROM webhook", ())
        assert "app-hook/secret" in row.error
        assert "whsec_c2hvcnQ" not in row.error
        write_secret(tmp_path, 1)
        await receiver.until(lambda it: it.taken)


async def test_a_secret_that_comes_late_leaves_no_long_pause_behind(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    path = write_secret(tmp_path, 1)
    path.unlink()
    async with delivering(database, receiver.url, path):
        await upload(uploads, b"unsigned")
        (known,) = await database.call("SELECT seen_at FROM webhook", ())

        async def looked_thrice() -> bool:
            return bool(
                await database.call("SELECT 1 FROM webhook WHERE seen_at > %s + interval '1 s'", (known.seen_at,))
            )

        await eventually(looked_thrice)
        (row,) = await database.call("SELECT failures FROM webhook", ())
    assert row.failures == webhooks.RESTS_AFTER


@pytest.mark.parametrize(("status", "counts_as_away"), [(429, False), (503, False), (410, True)])
async def test_a_receiver_that_asks_to_be_left_alone_is_and_then_gets_what_waits(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path, status: int, counts_as_away: bool
) -> None:
    """410 says that it is gone for good; a person learns that at once."""
    headers = {} if counts_as_away else {"Retry-After": "86400"}
    receiver.answers = lambda _: (status, headers) if not receiver.requests else 200
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        files = [await upload(uploads, b"first")]
        rests = (
            "SELECT failures, error FROM webhook WHERE retry_at > now() + interval '59 min' AND retry_at < now() + %s"
        )

        async def left_alone() -> list[Any]:
            return await database.call(rests, (timedelta(hours=1),))

        await eventually(left_alone)
        (row,) = await left_alone()
        assert (row.failures >= webhooks.RESTS_AFTER) is counts_as_away
        assert f"answered {status}" in row.error
        files.append(await upload(uploads, b"meanwhile"))
        assert len(receiver.requests) == 1
        await database.call("UPDATE webhook SET retry_at = now()", ())
        await receiver.until(lambda it: len(it.taken) == 2)
    assert {each.media_id for each in receiver.taken} == {file.media_id for file in files}


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("Retry-After: 120", 120),
        ("retry-after:7 ", 7),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("Retry-After: soon", None),
        ("Retry-After: -1", None),
        ("X-Retry-After: 5", None),
    ],
)
async def test_retry_after_is_read_in_both_of_its_forms(line: str, seconds: float | None) -> None:
    async def throttles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(f"HTTP/1.1 429 Too Many Requests\r\n{line}\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(throttles, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await outgoing.post(f"http://127.0.0.1:{port}/", b"{}", {}, LOOPBACK)
    assert answer == outgoing.Answer(429, seconds)


# --- where it may lead -----------------------------------------------------------------------------------------------


async def test_an_address_of_this_machine_is_refused_unless_the_platform_allows_it(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    async with delivering(database, receiver.url, write_secret(tmp_path, 1), allowed=()):
        await upload(uploads, b"to nobody")
        told = "error LIKE '%%private, loopback, link-local or metadata%%MEDIA_WEBHOOK_ALLOW_NETWORKS%%'"
        await eventually(lambda: _some(database, told))
    assert receiver.requests == []


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),  # noqa: S104
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "192.0.2.1"),
        *("64:ff9b:1::a9fe:a9fe", "::10.0.0.1", "fec0::1", "192.0.0.192", "168.63.129.16"),
        *("::ffff:0:a9fe:a9fe", "5f00::1", "4000::1", "3fff::1"),
    ],
)
def test_an_address_that_is_not_public_is_known_as_such(address: str) -> None:
    assert not outgoing.may_be_reached(ipaddress.ip_address(address), ())


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_may_be_reached(address: str) -> None:
    assert outgoing.may_be_reached(ipaddress.ip_address(address), ())


def test_an_allowed_network_covers_what_is_in_it_and_no_more() -> None:
    allowed = (ipaddress.ip_network("10.20.0.0/16"), ipaddress.ip_network("fd00::/16"))
    reached = {
        address: outgoing.may_be_reached(ipaddress.ip_address(address), allowed)
        for address in ("10.20.1.1", "::ffff:10.20.1.1", "10.21.1.1", "fd00::1", "fd01::1", "169.254.169.254")
    }
    assert [address for address, may in reached.items() if may] == ["10.20.1.1", "::ffff:10.20.1.1", "fd00::1"]


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers with an allowed address first, and with this machine's the second time."""
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *which: Any, **options: Any) -> Any:
        if host != "rebinding.example":
            return resolve(host, port, *which, **options)
        asked.append(host)
        address = "127.0.0.2" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    only_the_second = (ipaddress.ip_network("127.0.0.2/32"),)
    url = f"http://rebinding.example:{receiver.port}/"
    with pytest.raises(Undelivered, match="nothing listens there"):  # at 127.0.0.2
        await outgoing.post(url, b"{}", {}, only_the_second)
    with pytest.raises(Undelivered, match="private, loopback"):
        await outgoing.post(url, b"{}", {}, only_the_second)
    assert receiver.requests == []
    assert len(asked) == 2


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "."])
async def test_a_name_that_cannot_have_an_address_is_told_as_one_without(host: str) -> None:
    with pytest.raises(Undelivered, match="its name has no address"):
        await outgoing.post(f"https://{host}/", b"{}", {})


async def test_a_name_that_ends_with_a_dot_is_sought_in_the_certificate_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hello = asyncio.get_running_loop().create_future()

    async def hears(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello.set_result(await reader.read(64 * 1024))
        writer.close()

    async with await asyncio.start_server(hears, "127.0.0.1", 0) as server:
        here = server.sockets[0].getsockname()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", here)])
        with pytest.raises(Undelivered):
            await outgoing.post(f"https://hooks.example.:{here[1]}/", b"{}", {}, LOOPBACK)
    assert b"\x00\x0dhooks.example" in await hello  # after its length, 13


async def test_of_several_addresses_only_those_that_are_allowed_are_tried(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(host: Any, port: Any, *_which: Any, **_: Any) -> Any:
        assert not host[0].isdigit(), "a name is resolved once"
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("169.254.169.254", "127.0.0.1")
        ]

    connected: list[str] = []
    connect = asyncio.open_connection

    async def noted(host: str, port: int, **options: Any) -> Any:
        connected.append(host)
        monkeypatch.undo()
        return await connect(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", two)
    monkeypatch.setattr(asyncio, "open_connection", noted)
    assert (await outgoing.post(f"http://two.example:{receiver.port}/", b"{}", {}, LOOPBACK)).status == 204
    assert connected == ["127.0.0.1"]


async def test_an_address_that_says_nothing_leaves_time_for_the_next_one(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.2", receiver.port), backlog=0), contextlib.ExitStack() as full:
        for _ in range(2):  # its queue: further connections are not answered
            one = full.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", receiver.port))

        def two(_host: Any, port: Any, *_which: Any, **_: Any) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (2, 1)]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        assert (await outgoing.post(f"http://two.example:{receiver.port}/", b"{}", {}, LOOPBACK)).status == 204


async def test_a_name_server_that_is_silent_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 0.2)
    resolve, answered = socket.getaddrinfo, threading.Event()
    asked: list[str] = []

    def silent(host: Any, *which: Any, **options: Any) -> Any:
        if host != "silent.example":
            return resolve(host, *which, **options)
        asked.append(host)
        answered.wait(60)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        posts = (outgoing.post("http://silent.example/", b"{}", {}, LOOPBACK) for _ in range(100))
        errors = await asyncio.gather(*posts, return_exceptions=True)
        assert {str(error) for error in errors} == {"did not answer within 0.2 seconds"}
        async with asyncio.timeout(60):
            await asyncio.to_thread(asked.copy)
            assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)
        assert len(asked) == 1
    finally:
        answered.set()


async def test_a_redirect_to_the_metadata_service_is_not_followed(
    uploads: Uploads, database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answers = lambda _: (307, {"Location": "http://169.254.169.254/latest/meta-data/"})
    async with delivering(database, receiver.url, write_secret(tmp_path, 1)):
        await upload(uploads, b"redirected")
        await eventually(lambda: _some(database, "error = 'answered 307, and redirects are not followed'"))


async def test_a_receiver_that_does_not_speak_http_or_never_answers_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")  # what is left unread would reset the connection, and lose the answer
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        writer.close()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 4 * outgoing.MOST_HEAD_BYTES)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async def endless_hints(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)
                await writer.drain()

    wrong = [(nonsense, "no HTTP"), (endless_head, "headers have more than 65536")]
    wrong += [(endless_hints, "headers have more than 65536"), (silence, "did not answer within")]
    for behaviour, words in wrong:
        monkeypatch.setattr(outgoing, "SECONDS", 0.5 if behaviour is silence else 60)
        async with await asyncio.start_server(behaviour, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Undelivered, match=words):
                await outgoing.post(f"http://127.0.0.1:{port}/", b"{}", {}, LOOPBACK)

    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        writer.close()

    monkeypatch.setattr(outgoing, "SECONDS", 60)
    with pytest.raises(Undelivered, match="TLS failed"):
        async with await asyncio.start_server(no_tls, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await outgoing.post(f"https://127.0.0.1:{port}/", b"{}", {}, LOOPBACK)


async def test_an_answer_counts_though_its_connection_breaks_after_the_status() -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()  # a reset

    async with await asyncio.start_server(breaks, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await outgoing.post(f"http://127.0.0.1:{port}/", b"{}", {}, LOOPBACK)).status == 200


# --- as the processes of a tenant ------------------------------------------------------------------------------------


async def test_killed_between_the_delivery_and_its_record_another_process_goes_on_and_nothing_is_lost(
    postgres: EmbeddedPostgres, tmp_path: Path, receiver: Receiver
) -> None:
    """The receiver holds its answer back until the process that sent it is dead."""
    killed = asyncio.Event()
    loop = asyncio.get_running_loop()
    hold = True

    def answer(_: Any) -> int:
        if hold:
            asyncio.run_coroutine_threadsafe(killed.wait(), loop).result(60)
        return 200

    receiver.answers = answer
    write_secret(tmp_path / "secrets", 1)
    told = {
        "MEDIA_WEBHOOKS": json.dumps([{"url": receiver.url, "secret": "app-hook/secret"}]),
        "MEDIA_WEBHOOK_SECRETS": str(tmp_path / "secrets"),
        "MEDIA_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    async with process(postgres, tmp_path, **told) as api:
        await eventually(lambda: _claimed(api.database))
        async with beside(api, tmp_path, MEDIA_API_METRICS_PORT="0") as other:
            async with api.client() as client:
                client.base_url = other
                files = [await upload_over_http(client, b"killed %d" % n, room_id="garden") for n in range(3)]
                await receiver.until(lambda it: it.at_once)
                assert api.process is not None
                api.process.kill()
                api.process.wait()
                hold = False
                killed.set()
                files.append(await upload_over_http(client, b"after the kill"))
                assert await _claimed(api.database)
                async with api.tenant.as_owner() as tx:  # as when the time of the killed process's claim is over
                    await tx.execute("UPDATE webhook SET claimed_until = now()")
            await receiver.until(lambda it: len(it.told()) == 7)
            await eventually(lambda: all_recorded(api.database))
    for file in files[:3]:
        kinds = [kind for media_id, kind in receiver.told() if media_id == file["media_id"]]
        assert kinds == ["stored", "attached"]
    ids = [each.headers["webhook-id"] for each in receiver.requests]
    assert len(ids) > len(set(ids)), "what the killed process sent came again, with the same id"
    assert all(verified(each, 1) for each in receiver.requests)


async def _claimed(database: Database) -> bool:
    return bool(await database.call("SELECT 1 FROM webhook WHERE claim IS NOT NULL", ()))


async def test_a_webhook_hears_soon(postgres: EmbeddedPostgres, tmp_path: Path, receiver: Receiver) -> None:
    """The bound is generous; what it took is printed."""
    write_secret(tmp_path / "secrets", 1)
    told = {
        "MEDIA_WEBHOOKS": json.dumps([{"url": receiver.url, "events": ["stored"], "secret": "app-hook/secret"}]),
        "MEDIA_WEBHOOK_SECRETS": str(tmp_path / "secrets"),
        "MEDIA_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    took = []
    async with process(postgres, tmp_path, **told) as api, api.client() as client:
        await eventually(lambda: _claimed(api.database))
        for n in range(5):
            began = asyncio.get_running_loop().time()
            one = await upload_over_http(client, b"soon %d" % n)
            await receiver.until(lambda it, one=one: (one["media_id"], "stored") in it.told())
            took.append(asyncio.get_running_loop().time() - began)
    print(f"a webhook was told {sorted(took)[2]:.2f} s after the upload began (median), {max(took):.2f} s at most")
    assert min(took) < 10
