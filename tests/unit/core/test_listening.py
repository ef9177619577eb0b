"""Where servers listen: on a machine with both address families, and where the kernel has no IPv6."""

import errno
import socket
from typing import Any

import pytest

from media_core.listening import EVERY, EVERY_IPV4, listen, plain, usable

needs_ipv6 = pytest.mark.skipif(usable(EVERY) != EVERY, reason="this machine has no IPv6")


def reached(address: str, port: int, listener: socket.socket) -> str:
    """The address from which the listener is reached."""
    with socket.create_connection((address, port), timeout=60):
        accepted, peer = listener.accept()
        accepted.close()
        return str(peer[0])


@needs_ipv6
def test_all_addresses_are_those_of_both_families() -> None:
    with listen(EVERY, 0) as listener:
        port = listener.getsockname()[1]
        assert reached("::1", port, listener) == "::1"
        assert plain(reached("127.0.0.1", port, listener)) == "127.0.0.1"


@needs_ipv6
def test_one_address_is_of_its_own_family() -> None:
    with listen("::1", 0) as listener:
        port = listener.getsockname()[1]
        assert reached("::1", port, listener) == "::1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=60)


@pytest.mark.parametrize("says", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_all_addresses_are_those_of_ipv4(monkeypatch: pytest.MonkeyPatch, says: int) -> None:
    class Socket(socket.socket):
        def __init__(self, family: int = socket.AF_INET, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(says, "no IPv6")
            super().__init__(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", Socket)
    with listen(EVERY, 0) as listener:
        assert listener.family == socket.AF_INET
        assert listener.getsockname()[0] == EVERY_IPV4
        assert reached("127.0.0.1", listener.getsockname()[1], listener) == "127.0.0.1"


def test_an_error_that_is_not_about_ipv6_is_not_hidden() -> None:
    with listen(EVERY, 0) as listener, pytest.raises(OSError, match="in use"):
        listen(EVERY, listener.getsockname()[1])


@pytest.mark.parametrize(
    ("told", "meant"),
    [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("fd00::7", "fd00::7"), ("", "")],
)
def test_an_ipv4_address_is_written_as_one(told: str, meant: str) -> None:
    assert plain(told) == meant
