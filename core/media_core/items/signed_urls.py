"""URLs of the api's own that need no token: `/shared/{media_id}?expires=…&signature=…`.

Unlike a URL of the object store, such a URL is judged at every request: it ends with the file, with a verdict against
it, and with its time. The signature stands for the token of the caller who asked for it, and for nothing else.

The key lies in the tenant's schema (`url_key`), where a migration made it from PostgreSQL's strong random numbers. A
key derived from the S3 secret or from the database's password would make all URLs invalid when these are rotated, at a
different moment in each pod while the pods roll. In the schema it is one key for all pods at any time, and another in
each tenant. It outlives every rotation and comes back with a restored backup, as the files do. The price: who reads the
schema or its dump can sign URLs to the files that it lists. Who doubts the key gives it a new value (`UPDATE url_key`,
as the tables' owner); then all URLs end within a second. The tenant's role can read it and not write it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from media_core.auth import url_signatures
from media_core.database import Database
from media_core.errors import Unavailable
from media_core.fresh import Fresh
from media_core.store import SignedUrl


@dataclass(frozen=True)
class Shared:
    """What a URL gives: a file, or its thumbnail."""

    media_id: str
    thumbnail: bool


class SharedUrls:
    """Signs and verifies a tenant's URLs. `public_url`: where clients reach the api."""

    def __init__(self, tenant_id: str, database: Database, public_url: str) -> None:
        self._tenant_id = tenant_id
        self._database = database
        self._public_url = public_url.rstrip("/")
        self._key = Fresh(self._read_key)

    async def _read_key(self) -> bytes:
        rows = await self._database.call("SELECT secret FROM url_key", ())
        if not rows:
            raise Unavailable("database", "the schema has no key that signs URLs")
        return bytes(rows[0].secret, "utf-8")

    async def signer(self, expires_in: timedelta) -> "Signer":
        """For any number of URLs of one request. `expires_in`: whole seconds."""
        return Signer(self._public_url, self._tenant_id, await self._key.current(), datetime.now(UTC) + expires_in)

    async def verify(self, media_id: str, query: Mapping[str, str]) -> Shared:
        """What the URL `/shared/{media_id}?{query}` gives now. Raises Refused `signature_invalid`, `signature_expired`;
        does not look at the file.
        """
        shared = Shared(media_id, query.get("thumbnail") == "true")
        expires, signature = query.get("expires", ""), query.get("signature", "")
        wanted = _signature(await self._key.current(), self._tenant_id, shared, expires)
        url_signatures.check(wanted, signature)
        url_signatures.check_time(int(expires), datetime.now(UTC))
        return shared


class Signer:
    """Signs URLs that end at one time. Does no I/O."""

    def __init__(self, public_url: str, tenant_id: str, key: bytes, expires: datetime) -> None:
        self._public_url, self._tenant_id, self._key = public_url, tenant_id, key
        self._expires = expires.replace(microsecond=0)

    def sign(self, shared: Shared, size: int | None = None) -> SignedUrl:
        """`size`: of a thumbnail. It is not signed, so that a page can write all sizes of one URL into a `srcset`."""
        expires = str(int(self._expires.timestamp()))
        query = {"expires": expires, "signature": _signature(self._key, self._tenant_id, shared, expires)}
        if shared.thumbnail:
            query = {"thumbnail": "true", **query, **({} if size is None else {"size": str(size)})}
        return SignedUrl(f"{self._public_url}/shared/{shared.media_id}?{urlencode(query)}", self._expires)


def _signature(key: bytes, tenant_id: str, shared: Shared, expires: str) -> str:
    return url_signatures.signature(key, tenant_id, shared.media_id, expires, flags=bytes([shared.thumbnail]))
