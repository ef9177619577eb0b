"""Walks every order of the steps that several actors take on one content.

A step is one statement, one request to the store, or one answer of the scanner. It is atomic; other actors' steps may
come between two steps. Statements are the product's, on a real PostgreSQL. The Python code around them is the product's
too, and is driven from answer to answer. The store is a set of names, and time is modelled by the deadlines.

A state consists of the rows, the objects, and each actor's position. From each state each actor takes its next step,
dies, or loses the answer; or time passes. A known state is not walked again, so all orders are covered although there
are far more sequences. A statement runs once for every state of the rows in which it can come.

Times are kept by their meaning: a lease is "live" or "past", not a date. `now()` in this schema is always the same.
"""

import asyncio
import contextvars
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, LiteralString, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from media_core.database import Transaction
from media_core.errors import Unavailable
from media_core.store.base import ObjectInfo, ObjectMissing

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LIVE, PAST = NOW + timedelta(minutes=2), NOW - timedelta(minutes=1)
OTHER = NOW - timedelta(days=99)
TOKEN, STALE = "held-token", "lost-token"
EPOCH = 99
"""The epoch of every sweep. At the beginning of a sweep `seen_in` is 0, so one number is enough."""
LOST = Unavailable("test", "the answer was lost")


# -- the rows ----------------------------------------------------------------------------------------------------------


class Blob(NamedTuple):
    status: str
    size: int
    thumbnail: str
    thumbnail_size: int
    marked: str | None = None
    """`now`: it is due at once; `days`: it stays for the recall time; `over`: the recall time is over."""
    removing: str | None = None
    lost: bool = False


class Job(NamedTuple):
    """The one open job of its kind."""

    status: str = "queued"
    priority: int = 0
    lease: str | None = None


class Image(NamedTuple):
    blob: Blob | None = None
    media: tuple[str, ...] = ()
    reservations: tuple[tuple[str, str | None, int, str], ...] = ()
    """Id, sha256, bytes, `live` or `past`."""
    scan: Job | None = None
    picture: Job | None = None
    """The job that makes its thumbnail."""
    orphan: str | None = None
    """`new`, or `old`: its days are over."""
    seen: bool = False
    """The sweep under way has met the orphan."""
    usage: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    """stored_bytes, reserved_bytes, objects, object_bytes, items, item_bytes."""

    def owed(self) -> tuple[int, ...]:
        """The usage, counted from the rows."""
        reserved = sum(reservation[2] for reservation in self.reservations)
        if self.blob is None or self.blob.marked or self.blob.status == "infected":
            return (0, reserved, 0, 0, 0, 0)
        size, n = self.blob.size, len(self.media)
        return (size + self.blob.thumbnail_size, reserved, 1, size, n, n * size)

    def counted(self) -> "Image":
        return self._replace(usage=self.owed())

    @property
    def leased(self) -> bool:
        return any(job is not None and job.status == "running" for job in (self.scan, self.picture))


def _json_of(image: Image, sha256: str) -> str:
    before, after = NOW - timedelta(days=8), NOW + timedelta(days=7)
    rows: dict[str, list[dict[str, Any]]] = {"blob": [], "media": [], "reservation": [], "job": [], "orphan": []}
    if image.blob is not None:
        blob = image.blob
        doomed, remove = {
            None: (None, None),
            "now": (NOW, NOW),
            "days": (NOW, after),
            "over": (before, PAST),
        }[blob.marked]
        scanned = blob.status != "pending"
        rows["blob"].append(
            {
                "sha256": sha256,
                "size": blob.size,
                "mime_type": "image/jpeg",
                "details": {},
                "scan_status": blob.status,
                "scan_detail": "Found" if blob.status == "infected" else None,
                "scan_engine": "yesterday" if scanned else None,
                "scanned_at": before if scanned else None,
                "thumbnail_status": blob.thumbnail,
                "thumbnail_sha256": "t" if blob.thumbnail == "ready" else None,
                "thumbnail_size": blob.thumbnail_size,
                "doomed_at": doomed,
                "remove_after": remove,
                "removing_until": {None: None, "live": LIVE, "past": PAST}[blob.removing],
                "created_at": before,
                "lost_at": before if blob.lost else None,
            }
        )
    for media_id in image.media:
        rows["media"].append(
            {
                "media_id": media_id,
                "sha256": sha256,
                "filename": "a",
                "uploaded_by": media_id.removeprefix("med-"),
                "tenant_scope": False,
                "created_at": before,
            }
        )
    for reservation, named, size, expires in image.reservations:
        rows["reservation"].append(
            {
                "reservation_id": reservation,
                "sha256": named,
                "bytes": size,
                "expires_at": NOW + timedelta(minutes=10) if expires == "live" else PAST,
            }
        )
    for kind, job in (("scan", image.scan), ("thumbnail", image.picture)):
        if job is not None:
            rows["job"].append(
                {
                    "job_id": f"job-open-{kind}",
                    "kind": kind,
                    "status": job.status,
                    "priority": job.priority,
                    "searchable": False,
                    "dedupe_key": sha256,
                    "payload": {"sha256": sha256},
                    "progress": 0,
                    "attempts": 1,
                    "postponed": 0,
                    "cancel_requested": False,
                    "lease_token": TOKEN if job.lease else None,
                    "lease_until": {None: None, "live": LIVE, "past": PAST}[job.lease],
                    "run_after": before,
                    "created_at": before,
                }
            )
    if image.orphan is not None:
        first_seen = before if image.orphan == "old" else NOW
        seen_in = EPOCH if image.seen else 0
        rows["orphan"].append({"sha256": sha256, "size": 1, "first_seen": first_seen, "seen_in": seen_in})
    usage = ("stored_bytes", "reserved_bytes", "objects", "object_bytes", "items", "item_bytes")
    return json.dumps({**rows, "usage": dict(zip(usage, image.usage, strict=True))}, default=str)


def _image_of(found: dict[str, Any]) -> Image:
    def when(value: str | None) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)

    def lease(value: str | None) -> str | None:
        at = when(value)
        return None if at is None else "live" if at > NOW else "past"

    blob = None
    for row in found["blob"] or ():
        doomed, remove = when(row["doomed_at"]), when(row["remove_after"])
        marked = None
        if doomed is not None:
            assert remove is not None
            marked = "now" if remove <= doomed else "days" if remove > NOW else "over"
        blob = Blob(
            row["scan_status"],
            row["size"],
            row["thumbnail_status"],
            row["thumbnail_size"],
            marked,
            lease(row["removing_until"]),
            row["lost_at"] is not None,
        )
    jobs = {row["kind"]: Job(row["status"], row["priority"], lease(row["lease_until"])) for row in found["job"] or ()}
    before = NOW - timedelta(days=7)
    orphan, seen = None, False
    for row in found["orphan"] or ():
        seen = row["seen_in"] == EPOCH
        # Times that a statement has just written are the real time, which is before this schema's.
        at = when(row["first_seen"])
        assert at is not None
        orphan = "old" if at == before - timedelta(days=1) else "new"
    return Image(
        blob,
        tuple(sorted(found["media"] or ())),
        tuple(
            sorted(
                (row["reservation_id"], row["sha256"], row["bytes"], lease(row["expires_at"]) or "")
                for row in found["reservation"] or ()
            )
        ),
        jobs.get("scan"),
        jobs.get("thumbnail"),
        orphan,
        seen,
        tuple(found["usage"]),
    )


_FUNCTIONS = """
CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$ SELECT '2030-01-01 00:00:00+00'::timestamptz $$;
CREATE FUNCTION walk_load(_image jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO blob SELECT * FROM jsonb_populate_recordset(null::blob, _image -> 'blob');
    INSERT INTO media SELECT * FROM jsonb_populate_recordset(null::media, _image -> 'media');
    INSERT INTO reservation SELECT * FROM jsonb_populate_recordset(null::reservation, _image -> 'reservation');
    INSERT INTO job SELECT * FROM jsonb_populate_recordset(null::job, _image -> 'job');
    INSERT INTO orphan SELECT * FROM jsonb_populate_recordset(null::orphan, _image -> 'orphan');
    UPDATE usage SET (stored_bytes, reserved_bytes, objects, object_bytes, items, item_bytes) = (
        SELECT stored_bytes, reserved_bytes, objects, object_bytes, items, item_bytes
        FROM jsonb_populate_record(null::usage, _image -> 'usage'));
END $$;
CREATE FUNCTION walk_look() RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN jsonb_build_object(
        'blob', (SELECT jsonb_agg(to_jsonb(blob)) FROM blob),
        'media', (SELECT jsonb_agg(media_id) FROM media),
        'reservation', (SELECT jsonb_agg(to_jsonb(reservation)) FROM reservation),
        'job', (SELECT jsonb_agg(to_jsonb(job)) FROM job WHERE status IN ('queued','running')),
        'orphan', (SELECT jsonb_agg(to_jsonb(orphan)) FROM orphan),
        'usage', (SELECT jsonb_build_array(stored_bytes, reserved_bytes, objects, object_bytes, items, item_bytes)
                  FROM usage));
END $$
"""


# -- steps and actors --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """An actor's next step. `follows`: it is in the transaction of the step before it."""

    kind: str
    """`sql`, `put`, `delete`, `list`, `read`, `answer`."""
    what: str
    arguments: Hashable = ()
    follows: bool = False

    def __str__(self) -> str:
        words = " ".join(self.what.split())
        return f"{self.kind} {words[:90]}"


class Row(tuple[Any, ...]):
    """A row with the interface of psycopg's named tuples, as far as the product uses it."""

    _columns: tuple[str, ...]

    @classmethod
    def of(cls, columns: Sequence[str], values: Sequence[Any]) -> "Row":
        row = cls(values)
        row._columns = tuple(columns)
        return row

    def __getattr__(self, name: str) -> Any:
        try:
            return self[self._columns.index(name)]
        except ValueError:
            raise AttributeError(name) from None

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._columns, self, strict=True))


def _row_factory(cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], Row]:
    # `cursor.description` would look the types of all columns up.
    result = cursor.pgresult
    columns = [(result.fname(number) or b"").decode() for number in range(result.nfields)] if result else []
    return lambda values: Row.of(columns, values)


class Script:
    """One actor, run through the answers that it has had. Then it waits for the next one, or has ended."""

    def __init__(self, role: str, answers: Sequence[Any]) -> None:
        self.role = role
        self.next: asyncio.Future[Step] = asyncio.get_running_loop().create_future()
        self._held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers = answers
        self._at = 0
        self.named = 0

    def end(self) -> None:
        """Ends it: all that it waits for or asks for from here on is unavailable."""
        if not self._held.done():
            self._held.set_exception(Unavailable("test", "over"))
            self._held.exception()  # perhaps nobody waits

    async def perform(self, step: Step) -> Any:
        if self._held.done():
            raise Unavailable("test", "over")
        if self._at == len(self._answers):
            if not self.next.done():
                self.next.set_result(step)
            await self._held
        answer = self._answers[self._at]
        self._at += 1
        if isinstance(answer, BaseException):
            raise answer.with_traceback(None)
        return answer


script: contextvars.ContextVar[Script] = contextvars.ContextVar("script")


class FakeDatabase:
    """As `Database`; the walk runs its statements. `answered`: text in a statement -> its rows, for statements that do
    not concern the content."""

    def __init__(self, sha256: str, answered: dict[str, Sequence[Any]]) -> None:
        self._sha256 = sha256
        self._answered = answered

    async def call(self, query: str, arguments: Any) -> list[Row]:
        return await self._perform(query, arguments, follows=False)

    async def _perform(self, query: str, arguments: Any, *, follows: bool) -> list[Row]:
        for words, rows in self._answered.items():
            if words in query:
                return [Row.of([name for name, _ in row], [value for _, value in row]) for row in rows]
        if "sha256 > %s" in query and self._sha256 in arguments and "INSERT" not in query:
            return []  # there is only one content
        frozen = tuple(arguments.items()) if isinstance(arguments, dict) else tuple(map(_frozen, arguments))
        return list(await script.get().perform(Step("sql", query, frozen, follows)))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["_Transaction"]:
        yield _Transaction(self)

    def announce(self) -> None:
        pass


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Transaction(Transaction):
    def __init__(self, database: FakeDatabase) -> None:
        self.has_queued = False
        self._database = database
        self._begun = False

    async def execute(self, query: LiteralString, arguments: Any = ()) -> list[Any]:
        frozen = {name: _frozen(value) for name, value in dict(arguments).items()}
        follows, self._begun = self._begun, True
        return await self._database._perform(query, frozen, follows=follows)


class FakeStore:
    """A store as a set of names. Each removal is a step of its own."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes = sizes

    async def put(self, key: str, data: object) -> None:
        await script.get().perform(Step("put", key))

    async def delete(self, *keys: str) -> None:
        for key in keys:
            if key in self._sizes:
                await script.get().perform(Step("delete", key))

    async def read(self, key: str, start: int, length: int) -> bytes:
        if not await script.get().perform(Step("read", key)):
            raise ObjectMissing(key)
        return b"x"

    async def head(self, key: str) -> ObjectInfo | None:
        there = await script.get().perform(Step("read", key))
        return ObjectInfo(key, self._sizes[key], NOW) if there else None

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        keys = [key for key in self._sizes if key.startswith(prefix) and "/" not in key.removeprefix(prefix)]
        for key in keys:
            if await script.get().perform(Step("list", key)):
                yield ObjectInfo(key, self._sizes[key], NOW)

    async def sweep_staging(self, older_than: timedelta, keep: Collection[str] = ()) -> int:
        return 0


async def chosen(*answers: str) -> str:
    """One of the choices; each of them is walked."""
    return str(await script.get().perform(Step("answer", "", answers)))


@dataclass(frozen=True)
class Program:
    """An actor's program.

    `loses`: it continues after a lost answer, so that is walked too. `again`: once it has ended or died, another one
    like it may come, any number of times. `alike`: makes the key that distinguishes two positions, from the steps so
    far and the next one; by default all answers so far are the key.
    """

    name: str
    run: Callable[[], Awaitable[Any]]
    loses: bool = False
    again: bool = False
    alike: Callable[[tuple[Step, ...]], Hashable] | None = None
    leases: bool = False
    """The program takes a lease from its earlier holder."""


@dataclass(frozen=True)
class _Standing:
    """An actor's position: the answers that it has had, and whether it still holds its claim or lease."""

    program: Program
    answers: tuple[Any, ...]
    steps: tuple[Step, ...]
    """The steps so far, and the next one at the end."""
    key: Hashable
    holds: str = ""
    """`claim` or `lease`; in capitals once somebody else has it."""

    @property
    def step(self) -> Step:
        return self.steps[-1]

    @cached_property
    def words(self) -> str:
        return f"{self.program.name}: {self.step}"


@dataclass
class Ended:
    result: Any = None
    error: BaseException | None = None


class _Move(NamedTuple):
    words: str
    there: int
    """The rows and objects after it."""
    standing: int
    claim_lost: bool = False
    """Whether the earlier holder of the claim to remove the objects has lost it."""
    lease_lost: bool = False


# -- the walk ----------------------------------------------------------------------------------------------------------


class Violated(AssertionError):
    """A rule is broken in a state. The text says how it was reached."""


@dataclass
class Counts:
    states: int = 0
    transitions: int = 0
    places: int = 0
    """Different rows and objects."""
    statements: int = 0
    loads: int = 0


_PLACE_BITS: Final = 14
"""Bits of a state's 63 for its rows and objects; the others are for the actors."""
_AT_ONCE: Final = 500_000
"""States that are handled at a time, so that memory does not grow with their number."""
_LOADS_TO_EMPTY: Final = 500
"""Rows that were loaded and rolled back stay in the tables' files, and every look at a table passes them."""
GONE: Final = 0


class Walk:
    """All states that can follow from some beginnings.

    `keys`: the objects that can exist. `holds`: raises AssertionError if rows and objects break a rule. `ended`: the
    same for an actor that has ended, with the rows and objects then.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        sha256: str,
        keys: tuple[str, ...],
        holds: Callable[[Image, frozenset[str]], None],
        ended: Callable[[Program, Ended, Image, Step], None],
    ) -> None:
        self.counts = Counts()
        self._connection = connection
        self._cursor = psycopg.ClientCursor(connection, row_factory=_row_factory)
        self._cursor.execute(_FUNCTIONS)
        self._sha256 = sha256
        self._keys = keys
        self._holds = holds
        self._ended = ended
        self._places: list[tuple[Image, int]] = []
        self._place_ids: dict[tuple[Image, int], int] = {}
        self._standings: list[_Standing | None] = [None]
        self._standing_ids: dict[Hashable, int] = {}
        self._first: dict[str, int] = {}
        self._ends: dict[Hashable, Ended] = {}
        self._loaded: Image | None = None
        """The rows that stand in the transaction under way."""
        self._loads: dict[Image, str] = {}
        self._statements: dict[tuple[int, str | None], str] = {}
        self._answers: dict[tuple[Image, str], tuple[Any, str, Image]] = {}
        self._key_ids: dict[Hashable, int] = {}
        """A number for each key: a key contains the one before it, and to hash them all takes long."""
        self._moves = _Moves()
        self._times: dict[int, range] = {}
        self._around: dict[int, range] = {}
        self._without_of: dict[str, list[int]] = {"claim": [], "lease": []}
        self._deletes: list[bool] = []
        """By position: whether the actor's next step removes an object."""
        self._looked_at: tuple[int | None, int, int] = (None, 0, 0)
        """Slot, place and position; without a slot, all states of the place."""

    # rows and objects

    def place(self, image: Image, objects: int) -> int:
        found = self._place_ids.get((image, objects))
        if found is None:
            self._holds(image, self._names(objects))
            found = self._place_ids[image, objects] = len(self._places)
            self._places.append((image, objects))
            assert found < 1 << _PLACE_BITS
        return found

    def _names(self, objects: int) -> frozenset[str]:
        return frozenset(key for number, key in enumerate(self._keys) if objects >> number & 1)

    def _run(self, image: Image, number: int) -> tuple[Any, str, Image]:
        """Runs the position's statement on the rows of `image`. Returns its answer, also as text, and the rows then."""
        statement = self._statement(number, image.blob.removing if image.blob else None)
        found = self._answers.get((image, statement))
        if found is None:
            answer, new = self._asked(image, statement)
            found = self._answers[image, statement] = answer, repr(answer), new
        return found

    def _statement(self, number: int, removing: str | None) -> str:
        found = self._statements.get((number, removing))
        if found is None:
            standing = self._standings[number]
            assert standing is not None
            what, arguments = standing.step.what, standing.step.arguments
            assert isinstance(arguments, tuple)
            values: Any = [self._own(value, removing, standing) for value in arguments]
            if "%(" in what:
                values = {name: self._own(value, removing, standing) for name, value in arguments}
            found = self._statements[number, removing] = self._cursor.mogrify(what, values)
        return found

    def _asked(self, image: Image, statement: str) -> tuple[Any, Image]:
        self.counts.statements += 1
        if self._loaded != image:
            self._load(image)
        try:
            self._cursor.execute(f"{statement}; SELECT walk_look(); ROLLBACK TO loaded")
        except psycopg.Error as error:
            self._cursor.execute("ROLLBACK TO loaded")
            if error.sqlstate is None or not error.sqlstate.startswith("MC"):
                raise
            return error, image
        result = self._cursor.pgresult
        answer = self._cursor.fetchall() if result and result.nfields else []
        self._cursor.nextset()
        (look,) = self._cursor.fetchone() or ({},)
        return answer, _image_of(look)

    def _load(self, image: Image) -> None:
        load = self._loads.get(image)
        if load is None:
            load = self._loads[image] = f"SELECT walk_load('{_json_of(image, self._sha256)}'::jsonb)"
        self.counts.loads += 1
        if self.counts.loads % _LOADS_TO_EMPTY == 0:
            self._cursor.execute("ROLLBACK")
            self._cursor.execute("TRUNCATE blob, media, reservation, job, orphan CASCADE")
            self._loaded = None
        self._cursor.execute(f"{'ROLLBACK; ' if self._loaded else ''}BEGIN; {load}; SAVEPOINT loaded")
        self._loaded = image

    def _own(self, value: Any, removing: str | None, standing: _Standing) -> Any:
        if isinstance(value, tuple):
            return [self._own(each, removing, standing) for each in value]
        if value == LIVE:  # the claim
            return {"live": LIVE, "past": PAST, None: OTHER}[removing if standing.holds == "claim" else None]
        if isinstance(value, str) and TOKEN in value and standing.holds == "LEASE":
            return value.replace(TOKEN, STALE)
        return value

    # actors

    async def begin(self, program: Program) -> int:
        """The actor's position at the beginning."""
        if program.name not in self._first:
            self._first[program.name] = await self._stands(program, (), (), ())
            if (ended := self._ends.get((program.name, (), ""))) is not None:
                raise AssertionError(f"{program.name} does nothing") from ended.error
        return self._first[program.name]

    async def _stands(
        self, program: Program, answers: tuple[Any, ...], steps: tuple[Step, ...], key: Hashable, holds: str = ""
    ) -> int:
        """The position of an actor after these steps and answers, which may be its end."""
        whole: Hashable = (program.name, key, holds)
        if whole in self._standing_ids:
            return self._standing_ids[whole]
        led = Script(program.name, answers)
        outer = script.set(led)
        try:
            task = asyncio.ensure_future(program.run())
        finally:
            script.reset(outer)
        await asyncio.wait((task, led.next), return_when=asyncio.FIRST_COMPLETED)
        step = led.next.result() if led.next.done() else None
        led.end()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if step is None:
            self._ends[whole] = Ended(error=result) if isinstance(result, BaseException) else Ended(result)
            stands = self._first[program.name] if program.again else GONE
        else:
            steps = (*steps, step)
            if program.alike is not None:
                key = self._key_id(("alike", program.alike(steps)))
            stands = self._standing(_Standing(program, answers, steps, key, holds))
        self._standing_ids[whole] = stands
        return stands

    def _key_id(self, key: Hashable) -> int:
        return self._key_ids.setdefault(key, len(self._key_ids))

    def _standing(self, standing: _Standing) -> int:
        name = (standing.program.name, standing.key, standing.holds)
        found = self._standing_ids.get(name)
        if found is None:
            found = self._standing_ids[name] = len(self._standings)
            self._standings.append(standing)
        else:
            there = self._standings[found]
            assert there is not None
            assert there.step == standing.step, f"{there.step} is not {standing.step}"
        return found

    def _without(self, number: int, what: str) -> int:
        """The same position once somebody else holds its claim or lease."""
        standing = self._standings[number]
        if standing is None or standing.holds != what:
            return number
        return self._standing(replace(standing, holds=what.upper()))

    def _without_all(self, what: str) -> "Numbers":
        """`_without` of every position."""
        found = self._without_of[what]
        found += [self._without(number, what) for number in range(len(found), len(self._standings))]
        return np.array(found)

    async def _moves_of(self, place: int, number: int) -> range:
        """The actor's possible moves at that position."""
        moves = self._moves.of.get((place, number))
        if moves is None:
            made = [move async for move in self._make_moves(place, number)] if number != GONE else []
            moves = self._moves.of[place, number] = self._moves.add(made)
        return moves

    async def _make_moves(self, place: int, number: int) -> AsyncIterator[_Move]:
        standing = self._standings[number]
        assert standing is not None
        (image, objects), step, program = self._places[place], standing.step, standing.program
        end = self._first[program.name] if program.again else GONE
        # Where nobody follows an actor, its death is the same as its standstill: the steps of the others do not depend
        # on it, and no rule looks at who is alive. There is one exception: time cannot pass while it removes an object.
        if end != number and (program.again or step.kind == "delete"):
            yield _Move(f"{program.name} dies", place, end)
        outcomes: list[tuple[Any, Hashable, Image, int]] = []
        if step.kind == "sql":
            outcomes.append((*self._run(image, number), objects))
        elif step.kind == "answer":
            assert isinstance(step.arguments, tuple)
            outcomes.extend((each, each, image, objects) for each in step.arguments)
        else:
            bit = 1 << self._keys.index(step.what)
            there = bool(objects & bit)
            then = {"put": objects | bit, "delete": objects & ~bit}.get(step.kind, objects)
            outcomes.append((there, there if step.kind in ("list", "read") else None, image, then))
        words = standing.words
        for answer, name, new, then in outcomes:
            gone = set(image.media).difference(new.media)
            assert not gone or "content_delete_item" in step.what, f"{words}: {gone} is gone and nobody deleted it"
            holds, claim_lost, lease_lost = standing.holds, False, False
            if step.kind == "sql":
                claim_lost = new.blob is None or new.blob.removing is None
                lease_lost = not new.leased
                if "content_claim_" in step.what and answer[0].until is not None:
                    holds, claim_lost = "claim", True
                elif "content_finish_removal" in step.what:
                    holds = ""
                elif "UPDATE job SET status = 'running'" in step.what and answer:
                    holds, lease_lost = "lease", True
            new_place = self.place(new, then)
            answered: list[tuple[Any, Hashable, str, int]] = [(answer, name, "", new_place)]
            if program.loses:
                answered.append((LOST, "lost", ", and does not hear the answer", new_place))
                answered.append((LOST, "lost", ", in vain", place))
            for each, its_name, how, at in answered:
                key = self._key_id((standing.key, its_name))
                after = await self._stands(program, (*standing.answers, each), standing.steps, key, holds)
                if (ended := self._ends.get((program.name, key, holds))) is not None:
                    self._ended(program, ended, self._places[at][0], step)
                yield _Move(words + how, at, after, claim_lost, lease_lost)

    async def closed(self, sweep: Program, settled: Callable[[Image, frozenset[str]], None]) -> None:
        """Checks every state after all actors have ended, days have passed, and two sweeps have run."""
        for place in range(self.counts.places):
            then = place
            for _ in range(2):
                times = self.times(then)
                then = await self.alone(self._moves.all[times[-1]].there if times else then, sweep)
            image, objects = self._places[then]
            try:
                settled(image, self._names(objects))
            except AssertionError as error:
                raise Violated(f"{error}\n  {self._places[place]}\n  becomes {self._places[then]}") from error

    async def alone(self, place: int, program: Program) -> int:
        """The rows and objects after the program has run alone."""
        number = await self.begin(program)
        begun = False
        while number != GONE and not (begun and number == self._first[program.name]):
            moves = (self._moves.all[each] for each in await self._moves_of(place, number))
            move = next(move for move in moves if not move.words.endswith(" dies"))
            begun, place, number = True, move.there, move.standing
        return place

    # time

    def times(self, place: int) -> range:
        """The rows after the time has passed."""
        found = self._times.get(place)
        if found is None:
            image, objects = self._places[place]
            minutes = image
            if image.blob and image.blob.removing:
                minutes = minutes._replace(blob=image.blob._replace(removing="past"))
            if image.scan and image.scan.lease:
                minutes = minutes._replace(scan=image.scan._replace(lease="past"))
            if image.picture and image.picture.lease:
                minutes = minutes._replace(picture=image.picture._replace(lease="past"))
            more = minutes._replace(
                reservations=tuple((*reservation[:3], "past") for reservation in minutes.reservations)
            )
            days = more._replace(orphan=more.orphan and "old")
            if days.blob and days.blob.marked == "days":
                days = days._replace(blob=days.blob._replace(marked="over"))
            later = {"two minutes pass": minutes, "ten minutes pass": more, "days pass": days}
            found = self._times[place] = self._moves.add(
                [_Move(words, self.place(then, objects), GONE) for words, then in later.items() if then != image]
            )
        return found

    async def _round(self, place: int, around: Sequence[Program]) -> range:
        """All steps that others may take at any time."""
        found = self._around.get(place)
        if found is None:
            moves = []
            for program in around:
                there = await self.alone(place, program)
                if there != place:
                    moves.append(
                        _Move(program.name, there, GONE, False, program.leases or not self._places[there][0].leased)
                    )
            found = self._around[place] = self._moves.add(moves)
        return found

    # all of it

    async def everything(
        self, beginnings: Iterable[tuple[Image, Iterable[str]]], programs: Sequence[Program], around: Sequence[Program]
    ) -> None:
        """Walks all that `programs` can do together, with `around` at any time beside them.

        Programs of the same name must be adjacent in `programs`: states that only exchange them count as one.
        """
        first = [await self.begin(program) for program in programs]
        slots = _Slots(len(programs), [k for k in range(1, len(programs)) if programs[k].name == programs[k - 1].name])
        states = []
        for image, objects in beginnings:
            place = self.place(image, sum(1 << self._keys.index(key) for key in objects))
            states.append(slots.packed(place, first))
        frontier = _sorted(np.array(states, dtype=np.int64))
        seen = _Seen(frontier)
        levels = [frontier]
        while frontier.size:
            found = []
            for start in range(0, frontier.size, _AT_ONCE):
                try:
                    async for after in self._successors(frontier[start : start + _AT_ONCE], slots, around):
                        found.append(_sorted(after.states))
                        self.counts.transitions += after.of.size
                except AssertionError as error:
                    how = "\n  ".join(await self._how(levels, slots, around))
                    raise Violated(f"{error}\n  {how}") from error
            frontier = seen.new(_merged(found))
            levels.append(frontier)
        self.counts.states = seen.size
        self.counts.places = len(self._places)

    async def _successors(
        self, frontier: "Numbers", slots: "_Slots", around: Sequence[Program]
    ) -> AsyncIterator["_After"]:
        """The successors of the states of `frontier`."""
        all_places = slots.places(frontier)
        by_slot = [slots.positions(frontier, slot) for slot in range(slots.many)]
        # Those of a place together, so that its rows are loaded once.
        slot_of = {
            pair: slot for slot, positions in enumerate(by_slot) for pair in self._moves.unknown(all_places, positions)
        }
        for (place, position), slot in sorted(slot_of.items()):
            self._looked_at = (slot, place, position)
            self._moves.know(place, position, await self._moves_of(place, position))
        for slot, positions in enumerate(by_slot):
            yield self._expanded(frontier, *self._moves.known(all_places, positions), slots, slot)
        places, which = _distinct(all_places)
        moves = []
        for place in places:
            self._looked_at = (None, int(place), GONE)
            moves.append(await self._round(int(place), around))
        yield self._expanded(frontier, *_spans(moves, which), slots, None)
        # A removal ends within a minute of its claim, or its process has died.
        new = self._standings[len(self._deletes) :]
        self._deletes += [standing is not None and standing.step.kind == "delete" for standing in new]
        deletes = np.array(self._deletes)
        busy = np.zeros(frontier.size, dtype=bool)
        for positions in by_slot:
            busy |= deletes[positions]
        quiet = np.flatnonzero(~busy)
        places, which = _distinct(all_places[quiet])
        moves = [self.times(int(place)) for place in places]
        after = self._expanded(frontier[quiet], *_spans(moves, which), slots, None)
        yield after._replace(of=quiet[after.of])

    def _expanded(
        self, frontier: "Numbers", starts: "Numbers", counts: "Numbers", slots: "_Slots", slot: int | None
    ) -> "_After":
        """`starts` and `counts` say of each state which moves there are."""
        of = np.repeat(np.arange(frontier.size), counts)
        move = np.arange(of.size) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        there, standing, claim_lost, lease_lost = self._moves.columns
        states = slots.without(frontier, slot)[of]
        disordered = slot is not None and slots.is_alike(slot)
        for what, lost in (("claim", claim_lost), ("lease", lease_lost)):
            hit = np.flatnonzero(lost[move])
            if hit.size:
                without = self._without_all(what)
                changed = states[hit]
                for each in range(slots.many):
                    if each != slot:
                        changed = slots.moved(changed, each, without[slots.positions(changed, each)])
                states[hit] = changed
                disordered = True
        states |= slots.part(there, standing, slot)[move]
        assert len(self._standings) <= 1 << slots.bits
        return _After(slots.ordered(states) if disordered else states, of, move)

    # saying how

    async def _how(self, levels: list["Numbers"], slots: "_Slots", around: Sequence[Program]) -> list[str]:
        """The steps from a beginning to the state that breaks a rule."""
        slot, place, position = self._looked_at
        looked_at = slots.places(levels[-1]) == place
        if slot is not None:
            looked_at &= slots.positions(levels[-1], slot) == position
        at = int(levels[-1][np.flatnonzero(looked_at)[0]])
        said = [self._said(at, slots)]
        for level in reversed(levels[:-1]):
            async for after in self._successors(level, slots, around):
                hits = np.flatnonzero(after.states == at)
                if hits.size:
                    at = int(level[after.of[hits[0]]])
                    said += [self._moves.all[after.move[hits[0]]].words, self._said(at, slots)]
                    break
        return said[::-1]

    def _said(self, state: int, slots: "_Slots") -> str:
        one = np.array([state])
        image, objects = self._places[int(slots.places(one)[0])]
        numbers = [int(slots.positions(one, slot)[0]) for slot in range(slots.many)]
        names = sorted(key.rsplit("/", 1)[-1][:8] for key in self._names(objects))
        stands = [standing.program.name for number in numbers if (standing := self._standings[number])]
        return f"    {image} {names} {stands}"


Numbers = NDArray[np.int64]
"""States, each as one number (`_Slots`); or numbers of something else."""


class _Moves:
    """All moves, in the order in which they were found."""

    def __init__(self) -> None:
        self.all: list[_Move] = []
        self.of: dict[tuple[int, int], range] = {}
        """Those of an actor at a place and a position."""
        self._columns: NDArray[np.int64] = np.empty((4, 0), dtype=np.int64)
        self._firsts: NDArray[np.int32] = np.zeros((0, 0), dtype=np.int32)
        """A table by place and position, since millions of states are looked up.

        Above zero: the number of the first move, plus 1. -1: there is no move. 0: nobody has looked.
        """
        self._counts: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        """By the number of a first move: how many there are."""

    def add(self, moves: list[_Move]) -> range:
        self.all += moves
        return range(len(self.all) - len(moves), len(self.all))

    def unknown(self, places: "Numbers", positions: "Numbers") -> list[tuple[int, int]]:
        """Pairs that are not in the table, each once."""
        self._firsts = _grown(self._firsts, (int(places.max()) + 1, int(positions.max()) + 1))
        missing = np.flatnonzero(self._firsts[places, positions] == 0)
        return list(dict.fromkeys(zip(places[missing].tolist(), positions[missing].tolist(), strict=True)))

    def know(self, place: int, position: int, moves: range) -> None:
        self._firsts[place, position] = moves.start + 1 if moves else -1
        if moves:
            self._counts = _grown(self._counts, (moves.start + 1,))
            self._counts[moves.start] = len(moves)

    def known(self, places: "Numbers", positions: "Numbers") -> tuple["Numbers", "Numbers"]:
        """The number of the first move of each pair, and how many there are."""
        firsts = self._firsts[places, positions]
        starts = np.maximum(firsts - 1, 0)
        return starts, np.where(firsts > 0, self._counts[starts], 0)

    @property
    def columns(self) -> NDArray[np.int64]:
        """There, standing, claim_lost, lease_lost."""
        if new := self.all[self._columns.shape[1] :]:
            self._columns = np.hstack((self._columns, np.array([move[1:] for move in new], dtype=np.int64).T))
        return self._columns


class _After(NamedTuple):
    """Successor states: `of` which state, and by which move."""

    states: Numbers
    of: Numbers
    move: Numbers


class _Slots:
    """How a number holds a state: the place in its highest bits, then each actor's position.

    `alike`: the slots whose actor is like the one before. States that only exchange these are one.
    """

    def __init__(self, many: int, alike: Sequence[int]) -> None:
        self.many = many
        self.bits = (63 - _PLACE_BITS) // many
        self._mask = (1 << self.bits) - 1
        self._shifts = [self.bits * (many - 1 - slot) for slot in range(many)]
        self._place_shift = self.bits * many
        self._alike = alike

    def packed(self, place: int, positions: Sequence[int]) -> int:
        shifted = (position << shift for position, shift in zip(positions, self._shifts, strict=True))
        return (place << self._place_shift) + sum(shifted)

    def places(self, states: Numbers) -> Numbers:
        return states >> self._place_shift

    def positions(self, states: Numbers, slot: int) -> Numbers:
        return states >> self._shifts[slot] & self._mask

    def is_alike(self, slot: int) -> bool:
        """Whether there are other slots whose actor is like this one's."""
        return slot in self._alike or slot + 1 in self._alike

    def without(self, states: Numbers, slot: int | None) -> Numbers:
        """Neither place nor the slot's position."""
        kept = (1 << self._place_shift) - 1
        if slot is not None:
            kept &= ~(self._mask << self._shifts[slot])
        return states & kept

    def part(self, places: Numbers, positions: Numbers, slot: int | None) -> Numbers:
        """What `without` leaves out."""
        part = places << self._place_shift
        return part if slot is None else part | positions << self._shifts[slot]

    def moved(self, states: Numbers, slot: int, positions: Numbers) -> Numbers:
        return states & ~(self._mask << self._shifts[slot]) | positions << self._shifts[slot]

    def ordered(self, states: Numbers) -> Numbers:
        for _ in self._alike:
            for slot in self._alike:
                one, other = self.positions(states, slot - 1), self.positions(states, slot)
                states = self.moved(states, slot - 1, np.minimum(one, other))
                states = self.moved(states, slot, np.maximum(one, other))
        return states


def _grown(table: NDArray[np.int32], least: tuple[int, ...]) -> NDArray[np.int32]:
    """The table, with zeros where it was smaller."""
    if all(there >= wanted for there, wanted in zip(table.shape, least, strict=True)):
        return table
    shape = [max(there, wanted + wanted // 2) for there, wanted in zip(table.shape, least, strict=True)]
    larger = np.zeros(shape, dtype=np.int32)
    larger[tuple(map(slice, table.shape))] = table
    return larger


def _spans(moves: list[range], which: Numbers) -> tuple[Numbers, Numbers]:
    """Starts and lengths of `moves`, for each of `which`."""
    starts = np.array([each.start for each in moves], dtype=np.int64)
    return starts[which], np.array([len(each) for each in moves], dtype=np.int64)[which]


def _distinct(numbers: Numbers) -> tuple[Numbers, Numbers]:
    """As np.unique with return_inverse. The numbers are small, so a table of them is faster than to sort them."""
    if not numbers.size:
        return numbers, numbers
    there = np.zeros(int(numbers.max()) + 1, dtype=bool)
    there[numbers] = True
    distinct = np.flatnonzero(there)
    places = np.empty(there.size, dtype=np.int64)
    places[distinct] = np.arange(distinct.size)
    return distinct, places[numbers]


def _sorted(states: Numbers) -> Numbers:
    """Each once, in order."""
    states.sort()
    return _once(states)


def _merged(parts: list[Numbers]) -> Numbers:
    """The states of sorted parts, each once, in order."""
    states = np.concatenate(parts)
    states.sort(kind="stable")  # which finds the parts' order
    return _once(states)


def _once(states: Numbers) -> Numbers:
    return states[np.concatenate(([True], states[1:] != states[:-1]))] if states.size else states


class _Seen:
    """All states so far, in a few sorted arrays."""

    def __init__(self, first: Numbers) -> None:
        self._runs = [first]

    @property
    def size(self) -> int:
        return sum(run.size for run in self._runs)

    def new(self, found: Numbers) -> Numbers:
        """Those of the sorted `found` that were not seen before."""
        for run in self._runs:
            at = np.searchsorted(run, found)
            at[at == run.size] = 0
            found = found[run[at] != found]
        self._runs.append(found)
        while len(self._runs) > 1 and self._runs[-2].size < 2 * self._runs[-1].size:
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate((self._runs[-1], last)), kind="stable")
        return found
