"""The public keys that tokens are verified with: in a file of the tenant's own, or at an OIDC issuer."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import timedelta
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Final, Protocol

import jwt
import structlog

ALGORITHMS: Final = frozenset({"EdDSA", "ES256", "RS256", "PS256"})
MAX_JWKS_BYTES: Final = 1 << 20
"""Issuers' JWK Sets have some 2 to 20 KiB."""

_log = structlog.stdlib.get_logger("media.tokens")


class TokenKeys(Protocol):
    """Where the verifier's public keys come from."""

    def version(self) -> object:
        """A value that changes whenever a key may have been added or removed."""

    async def find(self, kid: str | None) -> jwt.PyJWK | None:
        """The key named `kid`; without `kid` the only key there is. None when there is no such key now."""


def _choose(keys: Sequence[jwt.PyJWK], kid: str | None) -> jwt.PyJWK | None:
    if kid is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.key_id == kid), None)


def _usable(jwks: object) -> list[jwt.PyJWK]:
    """The keys of a JWK Set that verify signatures here. Raises ValueError where it has no key that can be read.

    One key that is none, or is of a kind that PyJWT does not know, does not lose the others.
    """
    listed = jwks.get("keys") if isinstance(jwks, dict) else None
    keys = []
    for each in listed if isinstance(listed, list) else ():
        try:
            keys.append(jwt.PyJWK(each))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, NotImplementedError):
            continue  # NotImplementedError: `alg` is `none`
    if not keys:
        raise ValueError("a JWK Set without a key that can be read")
    return [key for key in keys if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")]


class JwksFile:
    """The tenant's own keys in a JWK Set file, which is read again as soon as it changes: rotation needs no restart.

    If the file is missing there is no key. If it is no JWK Set, the keys stay as they were and the log has a warning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._keys: list[jwt.PyJWK] = []

    def version(self) -> object:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_ino, status.st_size)

    async def find(self, kid: str | None) -> jwt.PyJWK | None:
        version = self.version()
        if version is None:
            self._keys = []
            _log.warning("signing_keys_missing", path=str(self._path))
        elif version != self._seen:
            self._read()
        self._seen = version
        return _choose(self._keys, kid)

    def _read(self) -> None:
        try:
            self._keys = _usable(json.loads(self._path.read_text()))
        except (OSError, ValueError, RecursionError):
            # The error may quote the document, so it is not logged.
            _log.warning("signing_keys_unreadable", path=str(self._path))
        else:
            _log.info("signing_keys_loaded", kids=[key.key_id for key in self._keys])


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """None: the answer is an error."""


def _fetched(uri: str, seconds: float) -> list[jwt.PyJWK]:
    """The keys that an issuer answers within `seconds`. Raises OSError, HTTPException, ValueError, RecursionError."""
    until = time.monotonic() + seconds
    try:
        answer = urllib.request.build_opener(_NoRedirects()).open(uri, timeout=seconds)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    read = b""
    with answer:
        while part := answer.read1(65536):  # `read` would wait for the end, however slowly it comes
            read += part
            if len(read) > MAX_JWKS_BYTES:
                raise ValueError("too long")
            if time.monotonic() > until:
                raise TimeoutError
    keys = [key for key in _usable(json.loads(read)) if key.key_id]
    if not keys:
        raise ValueError("a JWK Set without a key that signs")
    return keys


class OidcKeys:
    """An OIDC issuer's keys by `jwks_uri`, fetched in a thread.

    An answer that is longer than `MAX_JWKS_BYTES`, or takes longer than `timeout`, counts as none.
    Keys are fetched again every `lifespan`, and at once for an unknown `kid`, but at most once per `cooldown`, so that
    tokens with invented key ids cause no traffic. Nobody waits for the former: the last keys are used meanwhile, and
    while the issuer is away, for `max_stale`.
    """

    def __init__(
        self,
        jwks_uri: str,
        *,
        timeout: timedelta = timedelta(seconds=5),
        lifespan: timedelta = timedelta(minutes=5),
        cooldown: timedelta = timedelta(seconds=10),
        max_stale: timedelta = timedelta(hours=1),
    ) -> None:
        if not jwks_uri.lower().startswith(("https://", "http://")):  # urllib also opens files
            raise ValueError("the URL of an issuer's keys must begin with https:// or http://")
        self._uri, self._timeout = jwks_uri, timeout.total_seconds()
        self._lifespan, self._cooldown, self._max_stale = lifespan, cooldown, max_stale
        self._keys: list[jwt.PyJWK] = []
        self._version = 0
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[list[jwt.PyJWK]] | None = None

    def version(self) -> object:
        return self._version

    async def find(self, kid: str | None) -> jwt.PyJWK | None:
        key = _choose(self._keys, kid)
        if key is None or self._age() > self._max_stale:
            await self._fetch()
            key = _choose(self._keys, kid)
        elif self._age() > self._lifespan and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._fetch())
        return key if self._age() <= self._max_stale else None

    def _age(self) -> timedelta:
        return timedelta.max if self._fetched is None else timedelta(seconds=time.monotonic() - self._fetched)

    async def _fetch(self) -> None:
        async with self._fetching:
            if self._tried is not None and time.monotonic() - self._tried < self._cooldown.total_seconds():
                return
            try:
                keys = await self._answer()
            except (OSError, HTTPException, ValueError, RecursionError) as error:
                _log.warning("issuer_keys_not_fetched", jwks_uri=self._uri, reason=type(error).__name__)
            else:
                self._keys, self._fetched = keys, time.monotonic()
                self._version += 1
            finally:
                self._tried = time.monotonic()

    async def _answer(self) -> list[jwt.PyJWK]:
        """The issuer's keys now. A thread that waits for headers longer than that cannot be ended: then it is the only
        one, until it has its answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(_fetched, self._uri, self._timeout))
            self._asking.add_done_callback(lambda asking: asking.cancelled() or asking.exception())
        async with asyncio.timeout(2 * self._timeout):
            return await asyncio.shield(self._asking)
