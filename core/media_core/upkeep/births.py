"""Births: the ids by which a schema and a bucket know that they belong together.

A schema gets an id when it is made, and counts its sweeps (its epoch). An object in the bucket, its birth, holds copies
of both, and the oid that PostgreSQL gave to the schema's table `birth`, which a dump does not carry along. So the copy
shows whether a schema is new, restored from a dump, or older than the last sweep.

Where the two disagree, nothing is made (`plan.data_match`) and nothing is swept (`sweep`) until a person has decided
which of them is right. A decision against the bucket's birth gives the schema a new id (`RENEW`), so the decision holds
for this case only.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from media_core.database import Database
from media_core.store.base import ObjectMissing, ObjectStore
from media_core.store.object_keys import birth_key, content_key, names_content

MOST_BYTES: Final = 4096
LOOKED_AT: Final = 200
"""How many contents of a bucket without a birth are compared with the rows."""

READ: Final = "SELECT birth_id, epoch, 'birth'::regclass::oid::bigint AS incarnation FROM birth"
RENEW: Final = "UPDATE birth SET birth_id = gen_random_uuid()::text"
KNOWN: Final = "SELECT count(*) AS known FROM blob WHERE sha256 = ANY(%s)"
# Durable on every connection: the bucket must never know of a sweep that a crash of PostgreSQL has undone.
_NEXT_EPOCH: Final = "UPDATE birth SET epoch = epoch + 1 RETURNING epoch, set_config('synchronous_commit', 'on', true)"
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,100}")


@dataclass(frozen=True)
class Birth:
    """What a schema says of itself, or what the bucket's copy says of its schema."""

    birth_id: str
    epoch: int
    """Sweeps so far."""
    incarnation: int
    """The oid of the schema's table `birth`. It changes when a dump is restored."""

    def dumps(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def loads(cls, data: bytes) -> "Birth":
        """Never raises: data that is no birth gives `UNREADABLE`."""
        try:
            found: dict[str, Any] = json.loads(data)
            if not _ID.fullmatch(birth_id := str(found["birth_id"])):
                return UNREADABLE
            return cls(birth_id, int(found["epoch"]), int(found["incarnation"]))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return UNREADABLE


UNREADABLE: Final = Birth("unreadable", 0, 0)
"""A birth that fits no schema."""

Relation = Literal["same", "unmarked", "another", "restored", "older"]
"""`same`: they belong together. `unmarked`: the bucket has no birth. `another`: its birth is of another schema.
`restored`: its birth is of this schema, before that was restored from a dump. `older`: the schema is from before the
last sweep that the bucket knows of."""


def relation(schema: Birth, bucket: Birth | None) -> Relation:
    """How the schema relates to the bucket's birth. Pure."""
    if bucket is None:
        return "unmarked"
    if schema.birth_id != bucket.birth_id:
        return "another"
    if schema.epoch < bucket.epoch:
        return "older"
    return "same" if schema.incarnation == bucket.incarnation else "restored"


def may_belong(looked_at: int, known: int) -> bool:
    """Whether a bucket without a birth may get the schema's: it is empty, or most of its contents have rows. Pure.

    `looked_at`: how many contents were compared, at most `LOOKED_AT`; `known`: how many of them have a row.
    """
    return looked_at == 0 or known * 2 > looked_at


async def of_schema(database: Database) -> Birth:
    (row,) = await database.call(READ, ())
    return Birth(*row)


async def of_bucket(store: ObjectStore, tenant_id: str) -> Birth | None:
    """None: the bucket has no birth."""
    try:
        return Birth.loads(await store.read(birth_key(tenant_id), 0, MOST_BYTES))
    except ObjectMissing:
        return None


async def first_contents(store: ObjectStore, tenant_id: str) -> list[str]:
    """What `compared` gives of the bucket's objects, at most `LOOKED_AT`."""
    prefix = content_key(tenant_id, "")
    contents: list[str] = []
    others: list[str] = []
    async for entry in store.list(prefix):
        name = entry.key.removeprefix(prefix)
        if names_content(name):
            contents.append(name)
        elif not others:
            others = compared([name])
        if len(contents) == LOOKED_AT:
            break
    return compared([*contents, *others])


def compared(names: Iterable[str]) -> list[str]:
    """By which of these names a bucket is recognised: contents, and where there are none, what somebody else keeps.

    So a bucket that holds only foreign objects is not taken for empty, and fits no schema. `names`: keys without
    `tenant/{tenant_id}/`; staging, thumbnails and the birth are no contents and not foreign.
    """
    outside = [name for name in names if "/" not in name and not name.startswith(".")]
    return [name for name in outside if names_content(name)] or outside


async def write(store: ObjectStore, tenant_id: str, birth: Birth) -> None:
    """Writes the bucket's birth: it belongs to this schema from now on."""
    await store.put(birth_key(tenant_id), birth.dumps())


async def meet(database: Database, store: ObjectStore, tenant_id: str) -> Relation:
    """How the schema relates to the bucket now. A bucket without a birth gets the schema's if `may_belong` allows
    it, and stays `unmarked` otherwise.
    """
    schema, bucket = await of_schema(database), await of_bucket(store, tenant_id)
    found = relation(schema, bucket)
    if found == "unmarked":
        names = await first_contents(store, tenant_id)
        (row,) = await database.call(KNOWN, (names,))
        if may_belong(len(names), row.known):
            await write(store, tenant_id, schema)
            return "same"
    return found


async def next_epoch(database: Database, store: ObjectStore, tenant_id: str) -> int:
    """Counts a sweep and returns the new epoch. The schema is written first, so that it is never behind the bucket."""
    await database.call(_NEXT_EPOCH, ())
    birth = await of_schema(database)
    await write(store, tenant_id, birth)
    return birth.epoch
