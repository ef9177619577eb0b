"""Final uploads: complete partial uploads, stored one after the other as one file. `resumable` says what holds.

The parts' bytes are stored a second time, under a reservation that took over the parts' own, before the parts end.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Final

from media_core.auth.tokens import Claims
from media_core.contents.life import Reservation
from media_core.errors import Refused, Unavailable
from media_core.ids import new_upload_id
from media_core.store import PieceGone
from media_core.uploads.claims import RESERVED_LONGER, Claim, Declared, shielded
from media_core.uploads.resumable import Resumables, checked
from media_core.uploads.rows import Progress, commit_lost, whole
from media_core.uploads.upload import Uploaded

MOST_PARTS: Final = 1000
"""Partial uploads that a final one may be made of."""
_RESERVED: Final = timedelta(hours=2)
"""The reservation of a final upload: if it is killed, its parts' bytes count until a sweep has reserved them again."""

_TAKE_OVER: Final = """
WITH ended AS (DELETE FROM reservation WHERE reservation_id = ANY(%s) RETURNING bytes)
INSERT INTO reservation (reservation_id, bytes, expires_at)
SELECT %s, coalesce(sum(bytes), 0), now() + %s FROM ended
ON CONFLICT (reservation_id) DO UPDATE SET bytes = reservation.bytes + excluded.bytes, expires_at = excluded.expires_at
RETURNING bytes
"""
_SAME: Final = """
SELECT upload_id FROM upload
WHERE owner = %s AND concat = %s AND declared = %s AND expires_at > now() AND NOT ending ORDER BY upload_id LIMIT 1
"""


class Finals:
    """One tenant's."""

    def __init__(self, resumables: Resumables) -> None:
        self._uploads = resumables.uploads
        self._rows = resumables.rows

    async def concatenate(
        self,
        caller: Claims,
        concat: str,
        parts: Sequence[str],
        declared: Declared,
        *,
        digest: str | None = None,
        idempotency_key: str | None = None,
    ) -> Progress:
        """Stores the partial uploads `parts`, one after the other, as one file, and ends them. `concat`: the
        Upload-Concat of the request; the same again is answered with the same upload. `digest`: the file's sha256 in
        hex, if the client sent one.

        Raises Refused `bad_request`, `not_found`, `upload_expired`, `upload_locked`, and as `Upload.commit`.
        """
        same = await self._uploads.database.call(_SAME, (caller.subject, concat, declared.text))
        if same:
            await self._end_all(caller, parts, same[0].upload_id)  # the process may have been killed before it did
            return await self._rows.progress(caller, same[0].upload_id)
        total = await self._size(caller, parts)
        checked(caller, declared, total, await self._uploads.policy.current())
        upload_id = new_upload_id()
        async with self._claimed(caller, parts) as claims:
            if any(claim.received != claim.length for claim in claims):  # it was whole before: the store has lost bytes
                raise _incomplete()
            async with self._reservation(parts, claims) as reservation:
                key = idempotency_key or _key_of(parts)
                uploaded = await self._stored(caller, parts, declared, total, reservation, key, digest, claims)
                if not await self._rows.insert(upload_id, caller, declared, total, concat=concat, uploaded=uploaded):
                    raise commit_lost()
            for claim in claims:
                await self._rows.end(claim, final=upload_id)
        return await self._rows.progress(caller, upload_id)

    async def _size(self, caller: Claims, parts: Sequence[str]) -> int:
        """Of all parts together. Raises Refused `bad_request` unless each is there, once, and complete."""
        if not 0 < len(parts) <= MOST_PARTS or len(set(parts)) < len(parts):
            raise Refused("bad_request", f"A final upload has 1 to {MOST_PARTS} different parts.")
        rows = [await self._rows.read(caller, part) for part in parts]
        if any(row.concat != "partial" or row.received != row.length for row in rows):
            raise _incomplete()
        return sum(row.received for row in rows)

    @asynccontextmanager
    async def _claimed(self, caller: Claims, parts: Sequence[str]) -> AsyncIterator[Sequence[Claim]]:
        """Claims all parts. In one order, so that two final uploads of the same parts cannot wait for each other."""
        async with contextlib.AsyncExitStack() as stack:
            claims = [await stack.enter_async_context(self._rows.claimed(caller, part)) for part in sorted(parts)]
            for claim in claims:
                stack.enter_context(claim.working())
            yield claims

    @asynccontextmanager
    async def _reservation(self, parts: Sequence[str], claims: Sequence[Claim]) -> AsyncIterator[Reservation]:
        """What the parts have reserved, and what a killed process had taken over of it, in one reservation that is
        named after the parts. An error in the block gives it back to them.
        """
        name = _key_of(parts)
        (moved,) = await self._uploads.database.call(_TAKE_OVER, (list(parts), name, _RESERVED))
        reservation = self._uploads.contents.reservation(name, held=moved.bytes, lifetime=_RESERVED)
        try:
            yield reservation
        except BaseException:
            await shielded(self._give_back(reservation, claims))
            raise

    async def _give_back(self, moved: Reservation, claims: Sequence[Claim]) -> None:
        """The parts' bytes stand in staging, and count again. However full the tenant is by now: they were counted
        until then.
        """
        with contextlib.suppress(Unavailable):
            for claim in claims:
                lifetime = self._rows.lifetime + RESERVED_LONGER
                counted = self._uploads.contents.reservation(claim.upload_id, lifetime=lifetime, over_quota=True)
                await counted.grow_to(claim.length or claim.received)
            await moved.release()

    async def _stored(
        self,
        caller: Claims,
        parts: Sequence[str],
        declared: Declared,
        total: int,
        reservation: Reservation,
        key: str,
        digest: str | None,
        claims: Sequence[Claim],
    ) -> Uploaded:
        """Where the store has lost bytes of a part, they come again: the part is complete no more."""
        claim_of = {claim.upload_id: claim for claim in claims}
        uploading = await self._uploads.start(announced=total, digest=digest, reservation=reservation)
        async with uploading as upload:
            for part in parts:
                try:
                    pieces, *_ = await whole(self._uploads.database, part, claim_of[part].length)
                    async with aclosing(self._uploads.store.gathered(part, pieces).stream()) as chunks:
                        async for chunk in chunks:
                            await upload.write(bytes(chunk))
                except PieceGone as gone:
                    await shielded(self._rows.go_back(claim_of[part], gone))
                    raise _incomplete() from None
            return await upload.commit(caller, declared, idempotency_key=key)

    async def _end_all(self, caller: Claims, parts: Sequence[str], final: str) -> None:
        for part in parts:
            with contextlib.suppress(Refused):  # it has ended
                async with self._rows.claimed(caller, part) as claim:
                    if claim.is_partial:
                        await self._rows.end(claim, final=final)


def _incomplete() -> Refused:
    return Refused("bad_request", "A final upload is made of partial uploads that are complete.")


def _key_of(parts: Sequence[str]) -> str:
    """The key of a final upload that came without one: when its answer was lost, a repetition makes no second file."""
    return f"final upload {hashlib.sha256(' '.join(parts).encode()).hexdigest()}"
