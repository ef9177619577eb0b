"""Where an OpenID Connect issuer keeps its keys (OpenID Connect Discovery 1.0).

Whoever may declare a tenant chooses whom the operator asks here, from within its network, and the issuer chooses what
it answers. So the question is one GET, without redirects, for a small answer that comes soon. What is made of it is a
URL that the spec could have named, or one sentence that repeats nothing of the answer.

On a cluster nobody is asked at an address that means something to the operator's own machine only: loopback, link-local
(where clouds keep credentials), unspecified, multicast. What counts is the address that is connected to, whatever name
led there. Private addresses are asked: that is where a company's issuer is.
"""

from __future__ import annotations

import json
import socket
from ipaddress import IPv6Address, ip_address

import aiohttp
from pydantic import TypeAdapter, ValidationError

from media_operator.plan.steps import StepFailed
from media_operator.tenant.spec import FORMS, KEY_SOURCE, KeySource, Oidc

SECONDS = 5.0
MOST_BYTES = 65536
"""Issuers answer with some 2 KiB."""
INSTEAD = "set spec.auth.oidc.jwksUri"

_KEY_SOURCE: TypeAdapter[str] = TypeAdapter(KeySource)


async def key_source(oidc: Oidc, *, local: bool = False) -> str:
    """URL of the issuer's JWK Set, as the spec or the issuer says; raises StepFailed and nothing else.

    `local`: the issuer may be on this machine, or anywhere.
    """
    if oidc.jwks_uri is not None:
        return oidc.jwks_uri
    url = oidc.issuer.rstrip("/") + "/.well-known/openid-configuration"
    try:
        named = json.loads(await _fetch(url, local=local))["jwks_uri"]
    except _NotAsked as refusal:
        raise StepFailed(f"{url} {refusal}: {INSTEAD}") from None
    except Exception as error:  # of aiohttp, yarl, idna, json: strangers choose what they have to read
        reason = str(error.status) if isinstance(error, aiohttp.ClientResponseError) else type(error).__name__
        raise StepFailed(f"{url} does not name the keys ({reason}): {INSTEAD}") from None
    if not is_key_source(named):
        raise StepFailed(f"the jwks_uri that {url} names {FORMS[KEY_SOURCE]}: {INSTEAD}")
    return str(named)


def is_key_source(url: object) -> bool:
    """Whether it could stand in a manifest."""
    try:
        _KEY_SOURCE.validate_python(url)
    except ValidationError:
        return False
    return True


def may_be_asked(address: str) -> bool:
    """Whether an IP address may be an issuer's, for all that a cluster's operator knows."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast)


class _NotAsked(OSError):
    """The text goes on after the URL. An OSError is what aiohttp expects of a socket that can't be."""


async def _fetch(url: str, *, local: bool) -> bytes:
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    connector = aiohttp.TCPConnector(socket_factory=None if local else _socket)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if 300 <= answer.status < 400:
                raise _NotAsked("redirects, which is not followed")
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
    """For one connection: names are resolved by now, and addresses in URLs come here too."""
    family, kind, protocol, _, where = address
    if not may_be_asked(str(where[0])):
        raise _NotAsked("leads to a loopback, link-local, unspecified or multicast address, where no issuer is asked")
    return socket.socket(family, kind, protocol)
