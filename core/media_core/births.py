"""Whether schema and bucket belong together: neither is ever taken for the whole truth beside another's other half.

A schema is born with an id, and counts its sweeps (its epoch). Both are written into the bucket as well, in an object
of the tenant's prefix, with what a dump does not carry along: the number that PostgreSQL gave to the table. So a schema
that is new, restored from a dump, or set back to before the last sweep is told from the one that the bucket knows.
Where they disagree nothing is made (`plan.database`) and nothing is swept (`sweep`) until a person has said which of
the two is right. Who gives the bucket's memory up makes the schema another one (`RENEW`), so that what was said once
decides nothing later.
"""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from media_core.database import Database
from media_core.object_keys import birth_key, content_key
from media_core.store.base import ObjectMissing, ObjectStore

MOST_BYTES: Final = 4096
LOOKED_AT: Final = 200
"""Contents of a bucket without a mark that are compared with the rows."""

READ: Final = "SELECT birth_id, epoch, 'birth'::regclass::oid::bigint AS incarnation FROM birth"
RENEW: Final = "UPDATE birth SET birth_id = gen_random_uuid()::text"
KNOWN: Final = "SELECT count(*) AS known FROM blob WHERE sha256 = ANY(%s)"
# Durable whatever the connection is: the bucket must never have seen a sweep that a crash of PostgreSQL undoes.
_NEXT_EPOCH: Final = "UPDATE birth SET epoch = epoch + 1 RETURNING epoch, set_config('synchronous_commit', 'on', true)"
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,100}")


@dataclass(frozen=True)
class Birth:
    """A schema as it says of itself, or as the bucket remembers it."""

    birth_id: str
    epoch: int
    """Sweeps so far."""
    incarnation: int
    """PostgreSQL's number of the schema's own table: another one after a dump was restored."""

    def dumps(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def loads(cls, data: bytes) -> "Birth":
        """Never fails: what is no mark is `UNREADABLE`."""
        try:
            found: dict[str, Any] = json.loads(data)
            if not _ID.fullmatch(birth_id := str(found["birth_id"])):
                return UNREADABLE
            return cls(birth_id, int(found["epoch"]), int(found["incarnation"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return UNREADABLE


UNREADABLE: Final = Birth("unreadable", 0, 0)
"""The mark of a schema that none is."""

Relation = Literal["same", "unmarked", "another", "restored", "older"]
"""`same`; `unmarked`: the bucket says nothing; `another` schema than the bucket's; the bucket's own, but `restored`
from a dump, or `older` than the bucket has seen it."""


def relation(schema: Birth, bucket: Birth | None) -> Relation:
    """What the schema is to the bucket. Pure."""
    if bucket is None:
        return "unmarked"
    if schema.birth_id != bucket.birth_id:
        return "another"
    if schema.epoch < bucket.epoch:
        return "older"
    return "same" if schema.incarnation == bucket.incarnation else "restored"


def may_be_marked(looked_at: int, known: int) -> bool:
    """Whether a bucket without a mark is the schema's: it holds nothing, or mostly what the schema has rows for. Pure.

    `looked_at`: its first contents, at most `LOOKED_AT`; `known`: how many of them have a row.
    """
    return looked_at == 0 or known * 2 > looked_at


async def of_schema(database: Database) -> Birth:
    (row,) = await database.call(READ, ())
    return Birth(*row)


async def of_bucket(store: ObjectStore, tenant_id: str) -> Birth | None:
    """None: the bucket bears no mark."""
    try:
        return Birth.loads(await store.read(birth_key(tenant_id), 0, MOST_BYTES))
    except ObjectMissing:
        return None


async def first_contents(store: ObjectStore, tenant_id: str) -> list[str]:
    """The hashes of some of the bucket's contents, at most `LOOKED_AT`; staging, thumbnails and the mark are none."""
    prefix = content_key(tenant_id, "")
    names: list[str] = []
    async for entry in store.list(prefix):
        if is_content(name := entry.key.removeprefix(prefix)):
            names.append(name)
        if len(names) == LOOKED_AT:
            break
    return names


def is_content(name: str) -> bool:
    """Of what lies below `tenant/{tenant_id}/`."""
    return "/" not in name and not name.startswith(".")


async def write(store: ObjectStore, tenant_id: str, birth: Birth) -> None:
    """The bucket takes this schema for its own from now on."""
    await store.put(birth_key(tenant_id), birth.dumps())


async def meet(database: Database, store: ObjectStore, tenant_id: str) -> Relation:
    """What the schema is to the bucket now. A bucket without a mark that `may_be_marked` gets the schema's; any other
    stays `unmarked`.
    """
    schema, bucket = await of_schema(database), await of_bucket(store, tenant_id)
    found = relation(schema, bucket)
    if found == "unmarked":
        names = await first_contents(store, tenant_id)
        (row,) = await database.call(KNOWN, (names,))
        if may_be_marked(len(names), row.known):
            await write(store, tenant_id, schema)
            return "same"
    return found


async def next_epoch(database: Database, store: ObjectStore, tenant_id: str) -> int:
    """Counts a sweep, in the schema first: it is never older than the bucket says. How many it is now."""
    await database.call(_NEXT_EPOCH, ())
    birth = await of_schema(database)
    await write(store, tenant_id, birth)
    return birth.epoch
