"""Where an OpenID Connect issuer keeps its keys (OpenID Connect Discovery 1.0)."""

from __future__ import annotations

import json

import aiohttp

from media_core.spec import Oidc
from media_operator.reconcile import StepFailed

SECONDS = 5.0
MOST_BYTES = 65536
"""Issuers answer with some 2 KiB. Whoever may declare a tenant chooses who is asked here."""


async def key_source(oidc: Oidc) -> str:
    """URL of the issuer's JWK Set, as the spec or the issuer says. Raises StepFailed."""
    if oidc.jwks_uri is not None:
        return oidc.jwks_uri
    url = oidc.issuer.rstrip("/") + "/.well-known/openid-configuration"
    try:
        return str(json.loads(await _fetch(url))["jwks_uri"])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError) as error:
        reason = type(error).__name__
        raise StepFailed(f"{url} does not name the keys ({reason}): set spec.auth.oidc.jwksUri") from None


async def _fetch(url: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, raise_for_status=True) as answer:
        read = b""
        async for part in answer.content.iter_chunked(8192):
            read += part
            if len(read) > MOST_BYTES:
                raise ValueError("too long")
        return read
