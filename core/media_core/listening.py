"""Sockets that clients of either address family reach: clusters have IPv4, IPv6 or both."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

EVERY, EVERY_IPV4 = "::", "0.0.0.0"  # noqa: S104  asked for by name
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""What a kernel without IPv6 says of `::`: built or started without it, or switched off by sysctl."""


def usable(host: str) -> str:
    """The host itself, but `0.0.0.0` for `::` where the kernel has no IPv6."""
    if host != EVERY:
        return host
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind((EVERY, 0))
    except OSError as error:
        if error.errno in _NO_IPV6:
            return EVERY_IPV4
        raise
    return EVERY


def listen(host: str, port: int, *, backlog: int = 2048) -> socket.socket:
    """A socket that listens. `::` takes IPv4 too. Raises OSError where the address can't be had."""
    host = usable(host)
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=backlog,
            dualstack_ipv6=host == EVERY,
        )
    except OSError as error:
        if not error.errno or error.errno < 0:  # no address of that name
            raise
        # create_server repeats the address in the words of the error.
        raise OSError(error.errno, os.strerror(error.errno)) from None


def plain(address: str) -> str:
    """An address as its owner writes it: a socket of both families says `::ffff:10.0.0.1` of 10.0.0.1."""
    if not address.startswith("::ffff:"):
        return address
    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return str(mapped) if mapped else address
