"""Where an OpenID Connect issuer keeps its keys (OpenID Connect Discovery 1.0).

Whoever may declare a tenant chooses which server the operator asks from within its network, and that server chooses the
answer. So the operator sends one GET, follows no redirect, and reads a small answer with a short time limit. The result
is a URL that the spec could have named, or a sentence that repeats nothing of the answer.

On a cluster no request goes to a loopback, link-local (where clouds keep credentials), unspecified or multicast
address. The address of the connection counts, whatever name led to it. Private addresses are asked: a company's issuer
may be there.
"""

from __future__ import annotations

import json
import socket
import ssl
from ipaddress import IPv6Address, ip_address

import aiohttp
from pydantic import TypeAdapter, ValidationError

from media_operator.plan.steps import StepFailed
from media_operator.tenant.patterns import FORMS, ISSUER_URL, IssuerUrl
from media_operator.tenant.spec import Oidc

SECONDS = 5.0
MOST_BYTES = 65536
"""Issuers' answers have some 2 KiB."""
INSTEAD = "set spec.auth.oidc.jwksUri"

_ISSUER_URL: TypeAdapter[str] = TypeAdapter(IssuerUrl)


async def jwks_uri(oidc: Oidc, *, local: bool = False) -> str:
    """URL of the issuer's JWK Set, as the spec or the issuer says. Raises StepFailed and nothing else.

    `local`: every address may be asked, also on this machine.
    """
    if oidc.jwks_uri is not None:
        return oidc.jwks_uri
    url = oidc.issuer.rstrip("/") + "/.well-known/openid-configuration"
    try:
        named = json.loads(await _fetch(url, local=local))["jwks_uri"]
    except _NotAsked as refusal:
        raise StepFailed(f"{url} {refusal}: {INSTEAD}") from None
    except Exception as error:  # aiohttp, yarl, idna and json raise many kinds, and a stranger chooses their input
        reason = str(error.status) if isinstance(error, aiohttp.ClientResponseError) else type(error).__name__
        raise StepFailed(f"{url} does not say where the keys are ({reason}): {INSTEAD}") from None
    if not is_issuer_url(named):
        raise StepFailed(f"the jwks_uri that {url} names {FORMS[ISSUER_URL]}: {INSTEAD}")
    return str(named)


def is_issuer_url(url: object) -> bool:
    """Whether `url` is valid as `spec.auth.oidc.jwksUri`."""
    try:
        _ISSUER_URL.validate_python(url)
    except ValidationError:
        return False
    return True


def may_be_asked(address: str) -> bool:
    """Whether a cluster's operator may ask an issuer at this IP address."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast)


class _NotAsked(OSError):
    """The text continues a sentence that starts with the URL. aiohttp expects an OSError for a failed socket."""


async def _fetch(url: str, *, local: bool) -> bytes:
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    trusted = ssl.create_default_context()  # aiohttp's own knows no authorities that came after its start
    connector = aiohttp.TCPConnector(ssl=trusted, socket_factory=None if local else _socket)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if 300 <= answer.status < 400:
                raise _NotAsked("answers with a redirect, which is not followed")
            answer.raise_for_status()
            read = b""
            async for part in answer.content.iter_chunked(8192):
                read += part
                if len(read) > MOST_BYTES:
                    raise ValueError("too long")
            return read
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, _NotAsked):
            raise error.os_error from None
        raise


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for one connection. Names are resolved before; addresses in URLs come here, too."""
    family, kind, protocol, _, where = address
    if not may_be_asked(str(where[0])):
        raise _NotAsked("has a loopback, link-local, unspecified or multicast address, which is never asked")
    return socket.socket(family, kind, protocol)
