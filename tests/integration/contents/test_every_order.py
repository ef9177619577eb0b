"""Every order of uploads of the same bytes, deletions, removals, verdicts, rescans and sweeps: see `walking`.

The first test walks 9.6 million states by 136 million steps (1,800 different rows and objects, 24,000 statements), in
about 30 s of one core.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import psycopg
import pytest

from media_core.contents import life
from media_core.contents.life import Again, Contents, Facts, Verdict
from media_core.errors import Refused, Unavailable
from media_core.examination.examiner import Examined
from media_core.items.library import Library
from media_core.jobs import backfill, queue
from media_core.jobs.queue import LeaseLost, Queue
from media_core.settings import RetentionSettings
from media_core.store.base import ObjectMissing
from media_core.store.object_keys import content_key, thumbnail_key
from media_core.upkeep import births, sweep
from media_core.uploads import upload
from media_core.uploads.capacity import Capacity
from media_core.uploads.claims import Declared
from media_core.uploads.upload import Uploaded, Uploads
from tests.integration.contents.walking import (
    EPOCH,
    TOKEN,
    Blob,
    Ended,
    FakeDatabase,
    FakeStore,
    Image,
    Job,
    Program,
    Step,
    Violated,
    Walk,
    chosen,
    script,
)
from tests.integration.tenancy import GENEROUS, MIB, TenantDatabase, person

TENANT = "walked"
DATA = b"the same bytes"
SHA = hashlib.sha256(DATA).hexdigest()
SIZE = len(DATA)
THUMBNAIL = b"its thumbnail"
OBJECT, PICTURE = content_key(TENANT, SHA), thumbnail_key(TENANT, SHA)
LOSS = "the store has lost an object"
"""Stands among the objects from a loss on that nobody may have noticed."""
TOTALS = ("stored_bytes", "reserved_bytes", "max_bytes", "objects", "items", "dedupe_saved")
_STORES = re.compile("content_begin|content_commit")
FIRST = "med-first"
"""The item that exists at the beginning, if there is one."""


class _Policy:
    async def current(self) -> Any:
        return GENEROUS


class _Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


async def nothing(*_: object) -> None:
    pass


class Actors:
    """The actors' programs, in the product's own code. `objects`: those that the content can have."""

    def __init__(self, objects: dict[str, int]) -> None:
        answered: dict[str, Any] = {
            "INSERT INTO swept": [],
            "UPDATE job SET run_after = now()": [],
            "WITH uncounted AS": [[("n", 0)]],
            "FROM upload\n": [],
            "FROM upload ": [],
            "event_place": [[("placed", 0)]],
            "DELETE FROM event": [],
            "DELETE FROM webhook": [],
            "dedupe_saved FROM usage": [[(name, 1) for name in TOTALS]],
        }
        self.database: Any = FakeDatabase(SHA, answered)
        self.store: Any = FakeStore(objects)
        self.policy: Any = _Policy()
        self.retention = RetentionSettings()
        self.queue = Queue(self.database)
        self.contents = Contents(tenant_id=TENANT, database=self.database, store=self.store)
        # A removal comes at any time in this walk, so here too.
        self.contents.remove_soon = nothing  # type: ignore[method-assign]
        self.library = Library(tenant_id=TENANT, database=self.database, store=self.store, policy=self.policy)

    def upload(self, name: str) -> Program:
        async def run() -> Uploaded:
            door = Uploads(
                tenant_id=TENANT,
                database=self.database,
                store=self.store,
                examiner=None,  # type: ignore[arg-type]  # `_examine` is ours
                policy=self.policy,
                capacity=Capacity(1024 * MIB),
            )
            async with await door.start(announced=SIZE + 300) as upload:
                await upload.write(DATA)
                return await upload.commit(person(name), Declared("a.txt"))

        def alike(steps: tuple[Step, ...]) -> Any:
            """The numbers of beginnings and of looks, and the next step; leaving is the same from everywhere."""
            if "content_release(" in steps[-1].what:
                return "leaving"
            begun, looked = (sum(what in step.what for step in steps) for what in ("content_begin", OBJECT))
            return begun, looked, steps[-1]

        return Program(name, run, loses=True, alike=alike)

    def removal(self) -> Program:
        """A removal of marked content, or of an object that was noted as an orphan, even wrongly."""

        async def run() -> None:
            if await chosen("marked", "orphan") == "marked":
                await self.contents.remove(SHA)
            else:
                await self.contents.remove_orphan(SHA)

        return Program("removal", run, again=True, alike=lambda steps: steps[-1])

    def scan(self) -> Program:
        async def run() -> None:
            leases = await self.queue._lease_many("scan", "w", 60, 1)
            if not leases:
                return
            (lease,) = leases
            content = lease.content or await self.library.content_to_recall(SHA)
            if content is None:
                await self.queue.finish(lease, {})
                return
            try:
                await self.store.read(OBJECT, 0, 1)
            except ObjectMissing:
                await self.queue.finish(lease, {})
                return
            verdict = await chosen("clean", "infected")
            detail = "Found" if verdict == "infected" else None
            if not await self.contents.record_verdicts(
                [Verdict(lease.job_id, lease.token, SHA, verdict, detail, "today")], few=1000
            ):
                raise LeaseLost(lease.job_id)

        return Program("scan", run, again=True, alike=lambda steps: steps[-1])

    def thumbnail(self) -> Program:
        """A worker that makes a video's thumbnail."""

        async def run() -> None:
            leases = await self.queue._lease_many("thumbnail", "w", 60, 1)
            if not leases or leases[0].content is None:
                return
            (lease,) = leases
            try:
                await self.contents.keep_thumbnail(
                    job_id=lease.job_id,
                    token=lease.token,
                    sha256=SHA,
                    data=THUMBNAIL,
                    digest="d",
                    width=8,
                    height=8,
                )
            except Again:
                raise LeaseLost(lease.job_id) from None

        return Program("thumbnail", run, loses=True, again=True, alike=lambda steps: steps[-1])

    def reader(self) -> Program:
        """Somebody who reads the content's object, and notes its loss if it is missing."""

        async def run() -> None:
            try:
                await self.store.read(OBJECT, 0, 1)
            except ObjectMissing:
                await self.contents.missed(SHA)

        return Program("reader", run, loses=True, again=True, alike=lambda steps: steps[-1])

    def loss(self) -> Program:
        """The store loses the object."""

        async def run() -> None:
            await self.store.put(LOSS, b"")
            await self.store.delete(OBJECT)

        return Program("the store", run)

    def sweep(self) -> Program:
        async def run() -> None:
            await sweep.sweep(self.library, self.retention)

        return Program("sweep", run)

    # Programs of one step, which come at any time.

    def deletion(self, media_id: str) -> Program:
        async def run() -> None:
            await self.contents.delete_item(media_id)

        return Program(f"{media_id} is deleted", run)

    def reaping(self, kind: str) -> Program:
        async def run() -> None:
            await Queue(self.database).reap(kind)  # one that has seen no outage

        return Program("a lease that ran out is taken back", run)

    def other_worker(self, kind: str) -> Program:
        async def run() -> None:
            await self.queue._lease_many(kind, "w", 60, 1)

        return Program("another worker leases the job", run, leases=True)

    def asking_for_a_scan(self) -> Program:
        async def run() -> None:
            async with self.database.transaction() as tx:
                await queue.enqueue_scan(tx, SHA, priority=-2)

        return Program("a rescan is asked for", run)

    def giving_back(self) -> Program:
        async def run() -> None:
            await sweep._end_reservations(self.library)

        return Program("what expired is given back", run)


@pytest.fixture(autouse=True)
def predictable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces random ids with names, and switches off logs and all that belongs to other contents and schemas."""

    async def same(*_: object) -> str:
        return "same"

    async def not_the_first(database: FakeDatabase, *_: object) -> int:
        await database.call("UPDATE orphan SET seen_in = 0", ())
        return EPOCH

    def new_job_id() -> str:
        led = script.get()
        led.named += 1
        return f"job-new-{led.named % 2}"

    monkeypatch.setattr(births, "meet", same)
    monkeypatch.setattr(births, "next_epoch", not_the_first)
    monkeypatch.setattr(sweep, "_OLD", ())
    monkeypatch.setattr(sweep, "_compare_clocks", nothing)  # time stands still here
    for module in (backfill, sweep):
        monkeypatch.setattr(module, "BATCH", 2)  # there is only one content, and a new id for each of a batch
    monkeypatch.setattr(upload, "REMOVAL_WAITS", (0.0,) * 2)
    monkeypatch.setattr(upload, "new_media_id", lambda: f"med-{script.get().role}")
    monkeypatch.setattr(life, "new_ulid", lambda: script.get().role)
    monkeypatch.setattr(queue, "new_ulid", lambda: TOKEN)
    for module in (life, queue, backfill):
        monkeypatch.setattr(module, "new_job_id", new_job_id)
    for module in (life, sweep, upload):
        monkeypatch.setattr(module, "_log", _Silent())


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the facts of the uploaded bytes: their thumbnail is `none`, `ready` or `pending`."""

    def say(thumbnail: str) -> None:
        facts = Facts(SIZE, "image/jpeg", thumbnail_status=thumbnail)
        found = Examined(facts)
        if thumbnail == "ready":
            facts = Facts(
                SIZE,
                "image/jpeg",
                thumbnail_status="ready",
                thumbnail_sha256="t",
                thumbnail_size=len(THUMBNAIL),
            )
            found = Examined(facts, THUMBNAIL)

        async def examine(*_: object) -> Any:
            return found

        monkeypatch.setattr(upload.Upload, "_examine", examine)

    return say


def holds(image: Image, objects: frozenset[str]) -> None:
    """The rules of every state."""
    blob = image.blob
    assert image.usage == image.owed(), f"the usage is not what the rows make, {image.owed()}"
    if blob is None:
        assert not image.media, "an item without its content"
        return
    if blob.marked is None and blob.status != "infected":
        lost = blob.lost or LOSS in objects
        assert OBJECT in objects or lost, "a row without its object"
        assert blob.size == SIZE, "a row with the size of something else"
        assert blob.thumbnail != "ready" or PICTURE in objects or lost, "a row without its thumbnail"
        assert image.media, "a content that nobody has"
    elif blob.status == "infected" and blob.marked in ("days", "over") and blob.removing is None:
        assert OBJECT in objects, "what could be had back has lost its object"


def settled(image: Image, objects: frozenset[str]) -> None:
    """The rules of the end: nothing is left over."""
    holds(image, objects)
    assert not image.reservations, "a reservation stays for ever"
    assert image.orphan is None, "an orphan stays for ever"
    blob = image.blob
    if blob is None or blob.status == "infected":
        assert not objects - {LOSS}, "an object stays for ever"
    if blob is not None:
        assert blob.status == "infected" or blob.lost == (OBJECT not in objects), "a loss that nobody has seen, or none"
        assert blob.marked is None, "marked content stays for ever"
        if not blob.lost:
            assert blob.status not in ("pending", "error") or image.scan is not None, "nobody will ever scan it"
            assert blob.thumbnail != "pending" or blob.status == "infected" or image.picture, (
                "its thumbnail never comes"
            )


def ended(program: Program, how: Ended, image: Image, last: Step) -> None:
    """The results with which an actor may end. `last`: its last step."""
    if how.error is not None:
        known = isinstance(how.error, (Unavailable, LeaseLost))
        infected = isinstance(how.error, Refused) and how.error.code == "infected"
        if not known and not infected:
            raise AssertionError(f"{program.name} ended with {how.error!r}") from how.error
    elif isinstance(how.result, Uploaded) and last.kind == "sql" and _STORES.search(last.what):
        # Known bytes are looked for after that, and meanwhile the item may have been deleted.
        assert how.result.media_id in image.media, "it was said to be stored and is not"


@pytest.fixture
def connection(tenant_database: TenantDatabase) -> Iterator[psycopg.Connection[Any]]:
    """As the owner: the deadlines in the rows are set here."""
    url = tenant_database.owner_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET search_path = {tenant_database.schema}, pg_catalog")
        connection.execute(
            "INSERT INTO policy (id, max_upload_bytes, max_transcription_seconds_per_day) VALUES (1, 1 << 30, 0)"
        )
        connection.execute("INSERT INTO usage (id, max_bytes) VALUES (1, 1000000)")
        yield connection


def standing(
    status: str, *, marked: str | None = None, thumbnail: str = "none", lost: bool = False, **jobs: Job
) -> Image:
    """Content that exists at the beginning, with one item."""
    size = len(THUMBNAIL) if thumbnail == "ready" else 0
    return Image(Blob(status, SIZE, thumbnail, size, marked, lost=lost), (FIRST,), **jobs).counted()  # type: ignore[arg-type]  # as its fields


ONE_STEP = ("med-first", "med-ann", "med-ben")


async def test_in_every_order_no_row_is_without_its_object_and_the_usage_is_what_the_rows_make(
    connection: psycopg.Connection[Any], examined: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two uploads, any number of deletions, removals (two at once), verdicts and rescans; each may die at any step."""
    examined("none")
    # The look at known bytes would triple the states. The other tests walk it, and what follows from it.
    monkeypatch.setattr(upload.Upload, "_put_if_lost", nothing)
    actors = Actors({OBJECT: SIZE})
    walk = Walk(connection, SHA, (OBJECT,), holds, ended)
    await walk.everything(
        [
            (Image(), ()),
            (Image(), (OBJECT,)),
            (standing("pending", scan=Job()), (OBJECT,)),
            (standing("clean"), (OBJECT,)),
            (standing("infected", marked="days"), (OBJECT,)),
        ],
        [actors.upload("ann"), actors.upload("ben"), actors.removal(), actors.removal(), actors.scan()],
        [
            *(actors.deletion(media_id) for media_id in ONE_STEP),
            actors.reaping("scan"),
            actors.other_worker("scan"),
            actors.asking_for_a_scan(),
            actors.giving_back(),
        ],
    )
    await walk.closed(actors.sweep(), settled)
    assert walk.counts.states > 5_000_000, walk.counts


async def test_in_every_order_a_row_with_a_thumbnail_has_it(
    connection: psycopg.Connection[Any], examined: Callable[[str], None]
) -> None:
    """Two uploads of a picture, deletions and removals."""
    examined("ready")
    actors = Actors({OBJECT: SIZE, PICTURE: len(THUMBNAIL)})
    walk = Walk(connection, SHA, (OBJECT, PICTURE), holds, ended)
    await walk.everything(
        [(Image(), ()), (standing("clean", thumbnail="ready"), (OBJECT, PICTURE))],
        [actors.upload("ann"), actors.upload("ben"), actors.removal()],
        [*(actors.deletion(media_id) for media_id in ONE_STEP), actors.giving_back()],
    )
    await walk.closed(actors.sweep(), settled)
    assert walk.counts.states > 120_000, walk.counts


async def test_in_every_order_a_thumbnail_that_a_worker_makes_is_counted_once_and_there(
    connection: psycopg.Connection[Any], examined: Callable[[str], None]
) -> None:
    """An upload of a video, two workers that make its thumbnail, deletions and removals."""
    examined("pending")
    actors = Actors({OBJECT: SIZE, PICTURE: len(THUMBNAIL)})
    walk = Walk(connection, SHA, (OBJECT, PICTURE), holds, ended)
    await walk.everything(
        [(Image(), ()), (standing("clean", thumbnail="pending", picture=Job()), (OBJECT,))],
        [actors.upload("ann"), actors.removal(), actors.thumbnail()],
        [
            actors.deletion(FIRST),
            actors.deletion("med-ann"),
            actors.reaping("thumbnail"),
            actors.other_worker("thumbnail"),
            actors.giving_back(),
        ],
    )
    await walk.closed(actors.sweep(), settled)
    assert walk.counts.states > 90_000, walk.counts


async def test_in_every_order_a_sweep_at_the_same_time_harms_nothing(
    connection: psycopg.Connection[Any], examined: Callable[[str], None]
) -> None:
    """The real sweep, step by step, beside an upload, a removal and deletions."""
    examined("none")
    actors = Actors({OBJECT: SIZE})
    walk = Walk(connection, SHA, (OBJECT,), holds, ended)
    await walk.everything(
        [
            (Image(), ()),
            (Image(), (OBJECT,)),
            (Image(orphan="old"), (OBJECT,)),
            (Image(Blob("infected", SIZE, "none", 0), (FIRST,)), (OBJECT,)),
            (standing("clean"), (OBJECT,)),
        ],
        [actors.upload("ann"), actors.removal(), actors.sweep()],
        [actors.deletion(FIRST), actors.deletion("med-ann")],
    )
    await walk.closed(actors.sweep(), settled)
    assert walk.counts.states > 190_000, walk.counts


async def test_in_every_order_lost_bytes_that_come_again_are_there_and_no_loss_is_forgotten(
    connection: psycopg.Connection[Any], examined: Callable[[str], None]
) -> None:
    """An upload of a picture that is lost, and readers who note that, beside a removal and deletions."""
    examined("ready")
    actors = Actors({OBJECT: SIZE, PICTURE: len(THUMBNAIL)})
    walk = Walk(connection, SHA, (OBJECT, PICTURE), holds, ended)
    await walk.everything(
        [
            (standing("clean", thumbnail="ready", lost=True), ()),
            (standing("error", lost=True), (PICTURE,)),
            (standing("pending", lost=True, scan=Job()), (OBJECT,)),
        ],
        [actors.upload("ann"), actors.removal(), actors.reader()],
        [actors.deletion(FIRST), actors.deletion("med-ann"), actors.giving_back()],
    )
    await walk.closed(actors.sweep(), settled)
    assert walk.counts.states > 5_000, walk.counts


async def test_in_every_order_a_loss_at_any_time_is_noticed_and_deletes_nothing(
    connection: psycopg.Connection[Any], examined: Callable[[str], None]
) -> None:
    examined("none")
    actors = Actors({OBJECT: SIZE})
    walk = Walk(connection, SHA, (OBJECT, LOSS), holds, ended)
    await walk.everything(
        [(Image(), ()), (standing("clean"), (OBJECT,))],
        [actors.upload("ann"), actors.upload("ben"), actors.loss(), actors.removal(), actors.reader()],
        [*(actors.deletion(media_id) for media_id in ONE_STEP), actors.giving_back()],
    )
    await walk.closed(actors.sweep(), settled)
    assert walk.counts.states > 10_000, walk.counts


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        (
            "IF content.removing_until IS NOT NULL THEN\n        RAISE",
            "IF content.removing_until > now() THEN\n        RAISE",
            "a row without its object",
        ),
        ("PERFORM content_end_reservations(_sha256);\n    RETURN true", "RETURN true", "a row without its object"),
        ("content.removing_until > now() OR coalesce", "coalesce", "a row without its object"),
        ("UPDATE blob SET size = _size, mime_type", "UPDATE blob SET mime_type", "the usage is not"),
        ("objects = objects - was_last::integer,", "", "the usage is not"),
        ("AND EXISTS (SELECT FROM reservation", "AND NOT EXISTS (SELECT FROM reservation", "stays for ever"),
    ],
)
async def test_the_walk_sees_what_is_wrong(
    connection: psycopg.Connection[Any], examined: Callable[[str], None], right: str, wrong: str, found: str
) -> None:
    """In each case one function breaks a rule of `contents.life`, and the walk has to find it."""
    functions = (files("media_core") / "contents/life.sql").read_text()
    assert functions.count(right) == 1
    connection.execute(functions.replace(right, wrong).encode())
    examined("none")
    actors = Actors({OBJECT: SIZE})
    walk = Walk(connection, SHA, (OBJECT,), holds, ended)
    with pytest.raises(Violated, match=found):
        await walk.everything(
            [(Image(), ()), (standing("clean"), (OBJECT,))],
            [actors.upload("ann"), actors.removal(), actors.removal()],
            [actors.deletion(FIRST), actors.deletion("med-ann"), actors.giving_back()],
        )
        await walk.closed(actors.sweep(), settled)
