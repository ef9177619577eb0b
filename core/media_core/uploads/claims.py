"""The claim of an upload in several requests: one request at a time adds bytes. `resumable` says what holds.

A claim is a token in the upload's row, with an expiry. Every statement here that changes the row names the token.

A request leaves its token in the row, expired, and the process remembers the claim for a second, where the length of
the upload is known. If the next request goes on where that one ended, it does so without asking: as long as nobody else
has claimed the upload, its bytes count.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from media_core.contents.life import Contents, Reservation
from media_core.database import Database
from media_core.errors import Refused, Unavailable
from media_core.store import Durable, Piece, PieceGone

CLAIM_LIFETIME: Final = timedelta(seconds=8)
"""How long an upload stays locked after its process was killed. Clients try again for about that long."""
RENEW_SECONDS: Final = 2.0
RENEW_REMEMBERED_SECONDS: Final = 0.05
"""When a remembered claim is renewed first. Most requests have ended by then; until then another one can take it."""
IDLE_SECONDS: Final = 4.0
"""A request that has sent nothing for this long does not keep the claim: its client may have lost the connection, and
go on over another one."""
STALLED_SECONDS: Final = IDLE_SECONDS + CLAIM_LIFETIME.total_seconds()
"""Then a request from which nothing comes any more has lost the claim."""
RESERVED_LONGER: Final = timedelta(hours=1)
_EXPIRED: Final = timedelta(days=-1)
"""The lifetime of a claim that anybody may take, also after the server's clock was set back."""

# Neither the claim nor its end is durable. A crash of the server that loses a claim lets a second request in; the store
# keeps their bytes apart, and the first one's token is gone, so its bytes do not count.
_CLAIM: Final = "SELECT * FROM upload_claim(%s, %s, %s, %s)"
# One that arrives after the end of its request changes nothing: by then more has come, or the claim was let go.
_RENEW: Final = """
UPDATE upload SET claimed_until = now() + %s WHERE upload_id = %s AND claim = %s AND received = %s RETURNING 1
"""
_LET_GO: Final = """
UPDATE upload SET claim = NULL, claimed_until = NULL WHERE upload_id = %s AND claim = %s
RETURNING set_config('synchronous_commit', 'off', true)
"""
_SET_LENGTH: Final = "UPDATE upload SET length = %s WHERE upload_id = %s AND claim = %s RETURNING 1"
# No row where the database has lost what this process recorded last, or the upload expired under a remembered claim.
# `false`: pods of an earlier release let the claim go with this function.
_KEEP: Final = """
SELECT upload_keep(%s, %s, %s, %s, %s, %s, false, %s, %s, %s, %s) AS expires_at FROM upload
WHERE upload_id = %s AND received = %s AND (expires_at > now() OR NOT %s)
"""
# Once there is an answer the pieces have gone into the file, although another request may have the claim by then.
_GO_BACK: Final = """
WITH held AS (
    UPDATE upload SET pieces = %(number)s, received = (
        SELECT coalesce(sum(size), 0) FROM upload_piece WHERE upload_id = %(upload_id)s AND number < %(number)s
    ) WHERE upload_id = %(upload_id)s AND claim = %(claim)s AND pieces = %(pieces)s AND answer IS NULL
    RETURNING upload_id, received
), forgotten AS (
    DELETE FROM upload_piece USING held
    WHERE upload_piece.upload_id = held.upload_id AND number >= %(number)s RETURNING name, size
)
SELECT received, name, size FROM held LEFT JOIN forgotten ON true
"""
_ENDING: Final = """
UPDATE upload SET ending = true WHERE upload_id = %(upload_id)s AND claim = %(claim)s
    AND (%(final)s::text IS NULL OR EXISTS (SELECT FROM upload AS final WHERE final.upload_id = %(final)s))
RETURNING 1
"""


@dataclass(frozen=True)
class Declared:
    """What the client says of the file. `text`: the whole Upload-Metadata of tus, which is given back as it came."""

    filename: str
    claimed_type: str | None = None
    tenant_scope: bool = False
    room_id: str | None = None
    text: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Claim:
    """The right to change one upload, and its row as it was when it was taken."""

    def __init__(
        self,
        database: Database,
        upload_id: str,
        owner: str,
        token: str,
        reservation: Reservation,
        row: Any,
    ) -> None:
        """`row`: as `upload_claim` returns it."""
        self.upload_id = upload_id
        self.owner = owner
        self.reservation = reservation
        self.declared = Declared(row.filename, row.claimed_type, row.tenant_scope, row.room_id, row.declared)
        self.concat: str | None = row.concat
        self.expires_at: datetime = row.expires_at
        self.received: int = row.received
        self.length: int | None = row.length
        self.pieces: int = row.pieces
        self.answer: dict[str, Any] | None = row.answer
        self.last = None if row.last_name is None else Piece(row.last_name, row.last_size)
        self._database = database
        self._token = token
        self._touched = time.monotonic()
        self._working = 0
        self.is_held = True
        """False once its last bytes count and it has expired: the next request may go on with it."""
        self.is_remembered = False
        """An earlier request of this process took it. This one has not asked the database."""

    @property
    def is_partial(self) -> bool:
        return self.concat == "partial"

    def touch(self) -> None:
        self._touched = time.monotonic()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Keeps the claim while the block waits for the store or the database, however long that takes."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            self.touch()

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Renews the claim, and lets it go at the end."""
        self.touch()
        renewing = asyncio.create_task(self._renew_again())
        try:
            yield
        finally:
            renewing.cancel()
            await shielded(self._let_go())

    async def renew(self) -> None:
        """Moves the expiry forward, unless the request stalls or needs the claim no more."""
        if self.is_held and (self._working or time.monotonic() - self._touched < IDLE_SECONDS):
            with contextlib.suppress(Unavailable):
                arguments = (CLAIM_LIFETIME, self.upload_id, self._token, self.received)
                await self._database.call(_RENEW, arguments)

    async def _renew_again(self) -> None:
        seconds = RENEW_REMEMBERED_SECONDS if self.is_remembered else RENEW_SECONDS
        while True:
            await asyncio.sleep(seconds)
            seconds = RENEW_SECONDS
            await self.renew()

    async def set_length(self, length: int) -> None:
        """The length of an upload whose client had not told it. Raises Refused `upload_locked`, as `keep`."""
        if not await self._database.call(_SET_LENGTH, (length, self.upload_id, self._token)):
            raise locked()
        self.length = length

    async def begin_end(self, *, final: str | None = None) -> None:
        """From now on nobody adds to the upload. If this process does not end it, the sweep does. Raises as `keep`.

        `final`: the upload that has its bytes by now. Where a failover has lost that one, Refused `upload_locked`, too.
        """
        if not await self._database.call(_ENDING, {"upload_id": self.upload_id, "claim": self._token, "final": final}):
            raise locked()

    async def keep(self, new: Durable, lifetime: timedelta, *, is_last: bool = False) -> None:
        """Makes new pieces count. `is_last`: the claim expires as well, unless the upload is whole by now.

        Not durable while more bytes have to come: a crash of the database server takes back what counted in its last
        half second, and the client learns the offset. Raises Refused `upload_locked` if somebody else has the claim by
        now.
        """
        first, pieces = new.first, new.pieces
        replaced = 0 if self.last is None or first == self.pieces else self.last.size
        received = self.received - replaced + sum(piece.size for piece in pieces)
        expires = is_last and (received != self.length or self.is_partial)
        kept = await self._database.call(
            _KEEP,
            (
                self.upload_id,
                self._token,
                received,
                first,
                [piece.name for piece in pieces],
                [piece.size for piece in pieces],
                received != self.length and not new.replaces,
                _EXPIRED if expires else CLAIM_LIFETIME,
                lifetime,
                lifetime + RESERVED_LONGER,
                self.upload_id,
                self.received,
                self.is_remembered,
            ),
        )
        if not kept or kept[0].expires_at is None:
            raise locked()
        self.is_held = not expires
        self.received, self.pieces, self.expires_at = received, first + len(pieces), kept[0].expires_at
        self.last = pieces[-1]

    async def go_back(self, gone: PieceGone) -> list[Piece]:
        """The piece that is gone counts no more, nor do those that follow it: their bytes have to come again. Returns
        these pieces. Raises as `keep`.
        """
        where = {"upload_id": self.upload_id, "claim": self._token, "pieces": self.pieces, "number": gone.number}
        if not (kept := await self._database.call(_GO_BACK, where)):
            raise locked()
        self.received, self.pieces = int(kept[0].received), gone.number
        return [Piece(row.name, row.size) for row in kept if row.name is not None]

    async def _let_go(self) -> None:
        if not self.is_held:
            return
        with contextlib.suppress(Unavailable):  # it runs out
            await self._database.call(_LET_GO, (self.upload_id, self._token))


async def take_claim(
    database: Database, contents: Contents, upload_id: str, owner: str, lifetime: timedelta
) -> Claim | None:
    """None: somebody else has it, or there is no such upload of this owner any more.

    `lifetime`: of its reservation.
    """
    token = secrets.token_hex(16)
    rows = await database.call(_CLAIM, (upload_id, owner, token, CLAIM_LIFETIME))
    if not rows:
        return None
    reservation = contents.reservation(upload_id, held=rows[0].reserved, lifetime=lifetime)
    return Claim(database, upload_id, owner, token, reservation, rows[0])


async def shielded(work: Coroutine[Any, Any, None]) -> None:
    """When the server ends it cancels requests; what they hold must still be given back."""
    await asyncio.shield(asyncio.ensure_future(work))


def locked() -> Refused:
    seconds = int(CLAIM_LIFETIME.total_seconds())
    return Refused(
        "upload_locked",
        f"Another request adds to this upload. Try again in a moment; one that has stalled lasts {seconds} seconds.",
        retry_after=1,
    )
