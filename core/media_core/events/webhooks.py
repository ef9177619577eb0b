"""Webhooks: what is sent, and how far each receiver has been told. The api's processes deliver (`webhook_delivery`).

The outbox is the table `event` itself, whose rows are written in the transactions that make them true. A webhook has a
position in it: all events up to there were delivered, or are in `webhook_delivery`, where they are tried again. These
hold:

1. One process at a time delivers to a webhook, under a claim that it renews. The claim of a process that was killed
   runs out after `CLAIM`, and another one goes on.
2. At least once: an event counts as delivered when that is recorded. A process that is killed between the delivery and
   the record leaves the event to be delivered again, with the same id.
3. In order for each file: an event is sent only after all earlier ones of its file were delivered or given up. Events
   of other files do not wait for them.
4. An event is tried for `TRIED` with growing, jittered pauses, then given up: its row stays, with the reason, until the
   event itself goes. Nothing is given up before a try of the last hour (`LATELY`): the platform may have been away for
   days, or the server's clock may run ahead. A receiver that takes nothing (`RESTS_AFTER` failures in a row) is left
   alone but for one attempt now and then; once it takes that one, all that waits is due. One that asks to be left alone
   is (`Retry-After`).

What is sent is a CloudEvent 1.0 in structured JSON (github.com/cloudevents/spec), signed as Standard Webhooks describes
(github.com/standard-webhooks/standard-webhooks).
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from media_core.database import Database
from media_core.events.feed import Event
from media_core.ids import new_ulid

CLAIM: Final = timedelta(seconds=20)
TRIED: Final = timedelta(days=3)
LATELY: Final = timedelta(hours=1)
RESTS_AFTER: Final = 5
MOST_PAUSE_SECONDS: Final = 3600.0
"""Longest pause between two attempts of one event."""
MOST_REST_SECONDS: Final = 300.0
"""Longest pause between two attempts of any event, at a receiver that takes nothing."""
MOST_ASKED_SECONDS: Final = 3600.0
"""Longest rest that a receiver can ask for, and that of one that says that it is gone."""
AT_ONCE: Final = 32
ENDED_AT_ONCE: Final = 200
MOST_ERROR_CHARACTERS: Final = 200

CONTENT_TYPE: Final = "application/cloudevents+json"
TYPE_PREFIX: Final = "io.scaiwave.media."
LIVE_SECRETS: Final = 2
_SECRET: Final = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})")
_MISTAKE: Final = "its secret must be one or two lines, each `whsec_` and the base64 of 24 to 64 random bytes"

_REGISTER: Final = """
INSERT INTO webhook (webhook_id, host, position) VALUES (%s, %s, %s) ON CONFLICT (webhook_id) DO NOTHING
"""
_CLAIM: Final = """
UPDATE webhook SET claim = %(claim)s, claimed_until = now() + %(lasts)s, seen_at = now()
WHERE webhook_id = %(webhook_id)s AND (claim IS NULL OR claim = %(claim)s OR claimed_until < now())
RETURNING position, failures,
    coalesce(failing_since < now() - %(tried)s AND retry_at > now() - %(lately)s, false) AS is_over,
    greatest(0, coalesce(extract(epoch FROM retry_at - now()), 0))::float AS rest,
    set_config('synchronous_commit', 'off', true) AS relaxed
"""
_IS_THERE: Final = "SELECT webhook_id FROM webhook WHERE webhook_id = %s"
_RELEASE: Final = "UPDATE webhook SET claim = NULL WHERE webhook_id = %s AND claim = %s"
_DUE: Final = """
SELECT position, media_id, attempts FROM webhook_delivery
WHERE webhook_id = %(webhook_id)s AND dead_at IS NULL AND due_at IS NOT NULL AND (due_at <= now() OR %(soon)s)
ORDER BY due_at, position LIMIT %(most)s
"""
_NEXT_DUE: Final = """
SELECT extract(epoch FROM min(due_at) - now())::float AS seconds FROM webhook_delivery
WHERE webhook_id = %s AND dead_at IS NULL AND due_at IS NOT NULL
"""
_WAITING: Final = """
SELECT DISTINCT media_id FROM webhook_delivery
WHERE webhook_id = %s AND dead_at IS NULL AND media_id = ANY(%s)
"""
_MOVE: Final = """
UPDATE webhook SET position = greatest(position, %(position)s), failures = %(failures)s,
    failing_since = CASE WHEN %(failures)s > 0 THEN coalesce(failing_since, now()) END,
    retry_at = CASE WHEN %(failures)s > 0 THEN now() + %(rest)s * interval '1 second' END,
    error = CASE WHEN %(failures)s > 0 THEN coalesce(%(error)s, error) END
WHERE webhook_id = %(webhook_id)s AND claim = %(claim)s RETURNING webhook_id
"""
_NOTE: Final = """
INSERT INTO webhook_delivery (webhook_id, position, media_id, attempts, due_at, dead_at, error)
SELECT %(webhook_id)s, position, media_id, attempts, now() + pause * interval '1 second',
    CASE WHEN is_dead THEN now() END, error
FROM jsonb_to_recordset(%(rows)s::jsonb)
    AS note(position bigint, media_id text, attempts integer, pause float, is_dead boolean, error text)
ON CONFLICT (webhook_id, position) DO UPDATE
SET attempts = excluded.attempts, due_at = excluded.due_at, error = coalesce(excluded.error, webhook_delivery.error)
"""
_DELIVERED: Final = "DELETE FROM webhook_delivery WHERE webhook_id = %(webhook_id)s AND position = ANY(%(positions)s)"
_FOLLOWERS: Final = """
UPDATE webhook_delivery SET due_at = now()
WHERE webhook_id = %(webhook_id)s AND due_at IS NULL AND position = ANY(ARRAY(
    SELECT DISTINCT ON (media_id) position FROM webhook_delivery
    WHERE webhook_id = %(webhook_id)s AND dead_at IS NULL AND media_id = ANY(%(media_ids)s)
    ORDER BY media_id, position
))
"""
_ALL_DUE: Final = """
UPDATE webhook_delivery SET due_at = now() WHERE webhook_id = %(webhook_id)s AND dead_at IS NULL AND due_at > now()
"""
_GIVE_UP: Final = """
UPDATE webhook_delivery SET dead_at = now(), due_at = NULL WHERE webhook_id = %(webhook_id)s AND position = ANY(ARRAY(
    SELECT position FROM webhook_delivery
    WHERE webhook_id = %(webhook_id)s AND dead_at IS NULL AND first_at < now() - %(tried)s AND due_at IS NOT NULL
        AND attempts > 0
        AND greatest(due_at, (SELECT retry_at FROM webhook WHERE webhook_id = %(webhook_id)s)) > now() - %(lately)s
    ORDER BY first_at LIMIT %(most)s
)) RETURNING media_id
"""
# Of webhooks that no MediaTenant names any more, and of events that are gone.
FORGET: Final = (
    "DELETE FROM webhook_delivery WHERE ctid = ANY(ARRAY(SELECT ctid FROM webhook_delivery"
    " WHERE position < (SELECT min(position) FROM event WHERE position IS NOT NULL) LIMIT %(most)s)) RETURNING 1",
    "DELETE FROM webhook WHERE seen_at < now() - %(older)s AND %(most)s > 0 RETURNING 1",
)


class SecretMissing(Exception):
    """A webhook's secret cannot be used; the text says why, without the secret."""


class ClaimLost(Exception):
    """Another process delivers to this webhook now."""


@dataclass(frozen=True)
class Webhook:
    """One of `spec.webhooks`."""

    url: str = field(repr=False)
    """It may hold a secret of its own, so only its host is ever shown."""
    events: frozenset[str]
    """Types; empty: all."""
    secret: Path

    @property
    def webhook_id(self) -> str:
        return webhook_id(self.url)

    @property
    def host(self) -> str:
        return host_of(self.url)

    def secrets(self) -> list[bytes]:
        """The keys of the signatures, one or two. Raises SecretMissing."""
        name = "/".join(self.secret.parts[-2:])
        try:
            lines = self.secret.read_text().split()
        except (OSError, UnicodeDecodeError):
            raise SecretMissing(f"its secret {name} is not there") from None
        keys = [_key(line) for line in lines]
        found = [key for key in keys if key is not None and 24 <= len(key) <= 64]
        if not 1 <= len(found) == len(lines) <= LIVE_SECRETS:
            raise SecretMissing(f"{name}: {_MISTAKE}")
        return found


def webhook_id(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def host_of(url: str) -> str:
    return (urlsplit(url).hostname or "")[:253]


def _key(line: str) -> bytes | None:
    found = _SECRET.fullmatch(line)
    if found is None:
        return None
    try:
        return base64.b64decode(found[1], validate=True)
    except (ValueError, binascii.Error):
        return None


def body_of(event: Event, tenant_id: str) -> bytes:
    """The event as a CloudEvent."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": event.event_id,
            "source": f"urn:media-platform:tenant:{tenant_id}",
            "type": TYPE_PREFIX + event.type,
            "subject": event.media_id,
            "time": event.created_at.isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": {"media_id": event.media_id, **event.facts},
        },
        ensure_ascii=False,
    ).encode()


def headers_of(message_id: str, body: bytes, keys: Sequence[bytes], timestamp: int) -> dict[str, str]:
    """With a signature by each live key."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "Content-Type": CONTENT_TYPE,
        "User-Agent": "media-platform",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


@dataclass(frozen=True)
class Standing:
    """`position`: as in the table. `rest`: seconds until the receiver may be tried again. `is_over`: it has failed for
    longer than an event is tried.
    """

    position: int
    failures: int
    is_over: bool
    rest: float

    @property
    def rests(self) -> bool:
        """It takes nothing: only one attempt is made when `rest` is over."""
        return self.failures >= RESTS_AFTER


@dataclass(frozen=True)
class Waiting:
    """An event that is to be tried again."""

    position: int
    media_id: str
    attempts: int


@dataclass
class Outcome:
    """What came of one round, to be recorded at once."""

    position: int
    """How far the webhook has been told."""
    failures: int
    """In a row, at the end."""
    delivered: list[int] = field(default_factory=list)
    media_ids: set[str] = field(default_factory=set)
    """Files of which an event was delivered or given up."""
    notes: list[dict[str, Any]] = field(default_factory=list)
    rest: float = 0.0
    error: str | None = None
    has_recovered: bool = False

    def note(
        self, position: int, media_id: str, *, attempts: int, pause: float | None, error: str | None, dead: bool = False
    ) -> None:
        """`pause`: seconds until the next attempt; None: it waits for an earlier event."""
        self.notes.append(
            {
                "position": position,
                "media_id": media_id,
                "attempts": attempts,
                "pause": pause,
                "is_dead": dead,
                "error": error and error[:MOST_ERROR_CHARACTERS],
            }
        )


class Outbox:
    """The rows of one webhook. Every method raises Unavailable."""

    def __init__(self, database: Database, webhook: Webhook) -> None:
        self._database = database
        self._webhook = webhook
        self._id = webhook.webhook_id
        self._claim = new_ulid()

    async def is_known(self) -> bool:
        return bool(await self._database.call(_IS_THERE, (self._id,)))

    async def register(self, position: int) -> None:
        """A new webhook is told of what happens from now on: after `position`."""
        await self._database.call(_REGISTER, (self._id, self._webhook.host, position))

    async def claim(self) -> Standing | None:
        """Takes or renews the claim. None: another process has it, or the webhook is not registered."""
        wanted = {"claim": self._claim, "lasts": CLAIM, "webhook_id": self._id, "tried": TRIED, "lately": LATELY}
        rows = await self._database.call(_CLAIM, wanted)
        return Standing(rows[0].position, rows[0].failures, rows[0].is_over, rows[0].rest) if rows else None

    async def release(self) -> None:
        await self._database.call(_RELEASE, (self._id, self._claim))

    async def due(self, most: int, *, soon: bool = False) -> list[Waiting]:
        """Events to be tried again, at most one a file. `soon`: also those whose time has not come."""
        wanted = {"webhook_id": self._id, "most": most, "soon": soon}
        return [Waiting(*row) for row in await self._database.call(_DUE, wanted)]

    async def next_due(self) -> float | None:
        """Seconds until the next event is to be tried again; None: there is none."""
        (row,) = await self._database.call(_NEXT_DUE, (self._id,))
        return None if row.seconds is None else max(0.0, row.seconds)

    async def waiting(self, media_ids: Collection[str]) -> set[str]:
        """Those of these files that have an event which waits."""
        return {row.media_id for row in await self._database.call(_WAITING, (self._id, list(media_ids)))}

    async def record(self, outcome: Outcome) -> None:
        """Raises ClaimLost; then nothing is recorded."""
        wanted: Mapping[str, Any] = {
            "webhook_id": self._id,
            "claim": self._claim,
            "position": outcome.position,
            "failures": outcome.failures,
            "rest": outcome.rest,
            "error": outcome.error and outcome.error[:MOST_ERROR_CHARACTERS],
            "positions": outcome.delivered,
            "media_ids": list(outcome.media_ids),
            "rows": json.dumps(outcome.notes),
        }
        async with self._database.transaction() as tx:
            if await tx.first(_MOVE, wanted) is None:
                raise ClaimLost
            if outcome.notes:
                await tx.execute(_NOTE, wanted)
            if outcome.delivered:
                await tx.execute(_DELIVERED, wanted)
            if outcome.media_ids:
                await tx.execute(_FOLLOWERS, wanted)
            if outcome.has_recovered:
                await tx.execute(_ALL_DUE, wanted)

    async def give_up(self) -> int:
        """Gives up events that were tried for long enough; those behind them are due. Returns how many."""
        wanted: dict[str, Any] = {"webhook_id": self._id, "tried": TRIED, "lately": LATELY, "most": ENDED_AT_ONCE}
        async with self._database.transaction() as tx:
            gone = [row.media_id for row in await tx.execute(_GIVE_UP, wanted)]
            if gone:
                await tx.execute(_FOLLOWERS, {"webhook_id": self._id, "media_ids": gone})
        return len(gone)


async def forget(database: Database, older_than: timedelta) -> None:
    """Deletes what belongs to events that are gone, and webhooks that nobody names any more."""
    for statement in FORGET:
        while await database.call(statement, {"older": older_than, "most": ENDED_AT_ONCE}):
            pass
