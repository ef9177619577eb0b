"""One POST to an address that a tenant has named, which must not lead into the platform's own networks.

Not a client library: the address that is connected to has to be the one that was checked, however often a name is
resolved, and no library offers that without replacing its transport. All that is needed is one request and its status.
Redirects are not followed, and no proxy is used, because it would resolve the name for itself.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from media_core.trust import authorities

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SECONDS: Final = 10.0
"""Time for one request, from resolving the name to the answer's status."""
CONNECT_SECONDS: Final = 2.0
"""Of that, time for an address that has others behind it: one of IPv6 may lead nowhere, and say nothing."""
MOST_HEAD_BYTES: Final = 64 * 1024
MOST_BODY_BYTES: Final = 64 * 1024
"""So much of the answer's body is read, and thrown away, so that the receiver does not see a broken connection."""
BODY_SECONDS: Final = 1.0

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All that IANA gives out of IPv6. The rest is reserved, local, or wraps IPv4 in one of many ways."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments; Oracle's metadata service
        "168.63.129.16/32",  # Azure's platform services
        "3fff::/20",  # documentation (RFC 9637)
    )
)
"""Python's `is_global` does not know them, or not in each of its versions."""
_RETRY_AFTER: Final = re.compile(rb"\nRetry-After:[ \t]*([^\r\n]{1,64}?)[ \t]*\r?\n", re.IGNORECASE)
_asking: Final[dict[tuple[str, int], "Future[list[Any]]"]] = {}
"""By name and port, the last question to the name server; a tenant has few webhooks."""


class Undelivered(Exception):
    """The request was not answered, or not sent. The text is for people, and names no address of the platform."""


@dataclass(frozen=True)
class Answer:
    status: int
    retry_after: float | None = None
    """Seconds; None where the answer does not say, or says nothing that can be read."""


async def post(url: str, body: bytes, headers: Mapping[str, str], allowed: Sequence[Network] = ()) -> Answer:
    """`allowed`: networks that may be reached although they are not public. Raises Undelivered."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    try:
        async with asyncio.timeout(SECONDS):
            addresses = await _allowed_addresses(host, port, allowed)
            reader, writer = await _connected(addresses, port, _tls(authorities()) if is_tls else None, host)
            try:
                writer.write(head.encode("ascii") + body)
                await writer.drain()
                answer = await _answer(reader)
                with contextlib.suppress(OSError):  # the status counts, whatever becomes of the connection
                    async with asyncio.timeout(BODY_SECONDS):
                        await _throw_away(reader)
            finally:
                writer.close()
    except TimeoutError:
        raise Undelivered(f"did not answer within {SECONDS:g} seconds") from None
    except ssl.SSLError as error:
        raise Undelivered(f"TLS failed: {error.reason or 'unknown reason'}") from None
    except (OSError, ValueError, EOFError) as error:
        raise Undelivered(f"the connection failed: {_sentence(error)}") from None
    return answer


def is_public(address: Address) -> bool:
    """Whether the address is one of the internet. False for private, loopback, link-local (which metadata services
    have), shared, multicast and reserved ones, also where an IPv6 address wraps an IPv4 one.
    """
    return (
        address.is_global
        and not address.is_multicast
        and (address.version == 4 or address in _GLOBAL_UNICAST or address in _NAT64)
        and not any(address in network for network in _NOT_PUBLIC)
        and all(is_public(each) for each in _wrapped(address))
    )


def may_be_reached(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether it is public, or in one of the networks that the platform allows."""
    plain = address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address
    return is_public(plain) or any(plain.version == network.version and plain in network for network in allowed)


def _wrapped(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that packets to an IPv6 address may reach."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


async def _allowed_addresses(host: str, port: int, allowed: Sequence[Network]) -> list[str]:
    try:
        found = await _resolved(host, port)
    except (OSError, UnicodeError):
        raise Undelivered("its name has no address") from None
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    reachable = [each for each in addresses if may_be_reached(ipaddress.ip_address(each.partition("%")[0]), allowed)]
    if not reachable:
        raise Undelivered(
            "it has a private, loopback, link-local or metadata address, and the platform allows none of these here "
            "(MEDIA_WEBHOOK_ALLOW_NETWORKS; of the chart: tenants.webhookAllowNetworks)"
        )
    return reachable


async def _resolved(host: str, port: int) -> list[Any]:
    """As `socket.getaddrinfo`, in a thread that all who wait for this name share. Raises OSError, UnicodeError.

    A name server that is silent holds a thread for up to a minute, whoever still waits. The event loop has few threads
    for names, and the database's connections need them as well. Nor does such a thread keep the process from ending.
    """
    asking = _asking.get((host, port))
    if asking is None or asking.done():
        asking = _asking[host, port] = Future()
        threading.Thread(target=_resolve, args=(asking, host, port), name="webhook-names", daemon=True).start()
    return await asyncio.shield(asyncio.wrap_future(asking))


def _resolve(asking: "Future[list[Any]]", host: str, port: int) -> None:
    try:
        asking.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except BaseException as error:
        asking.set_exception(error)


async def _connected(
    addresses: Sequence[str], port: int, tls: ssl.SSLContext | None, host: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the first of these addresses that takes the connection. It is a number: no name is resolved again."""
    name = host.removesuffix(".") if tls else None  # certificates and SNI have names without it (RFC 6066, 3)
    failed: OSError = OSError("no address")
    for number, address in enumerate(addresses, 1):
        try:
            async with asyncio.timeout(CONNECT_SECONDS if number < len(addresses) else None):
                return await asyncio.open_connection(
                    address, port, ssl=tls, server_hostname=name, limit=MOST_HEAD_BYTES
                )
        except ssl.SSLError:
            raise
        except OSError as error:
            failed = error
    raise failed


async def _answer(reader: asyncio.StreamReader) -> Answer:
    """The final one. The answers of 1xx before it are bounded, too: a receiver that sends them without end would
    keep the event loop to itself, since what has come already is read without a wait, and no timeout ends that.
    """
    left = MOST_HEAD_BYTES
    while left > 0:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            break
        left -= len(head)
        version, _, rest = head.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise Undelivered("its answer is no HTTP")
        if (status := int(rest[:3])) >= 200:
            return Answer(status, _retry_after(head))
    raise Undelivered(f"its answer's headers have more than {MOST_HEAD_BYTES} bytes")


def _retry_after(head: bytes) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    found = _RETRY_AFTER.search(head)
    if found is None:
        return None
    if found[1].isdigit():
        return float(found[1])
    try:
        return max(0.0, parsedate_to_datetime(found[1].decode("latin-1")).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


async def _throw_away(reader: asyncio.StreamReader) -> None:
    left = MOST_BODY_BYTES
    while left > 0 and (part := await reader.read(left)):
        left -= len(part)


@lru_cache(1)
def _tls(_: object) -> ssl.SSLContext:
    return ssl.create_default_context()


def _sentence(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, EOFError):
        return "it was closed before an answer"
    if isinstance(error, ConnectionError):
        return "it broke"
    return "the network or the host does not let it through"
