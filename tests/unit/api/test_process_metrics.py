"""The metrics of several processes, as their parent asks for them."""

import socket
import struct

import pytest

from media_api.processes import Asked


def answer(text: bytes) -> bytes:
    return struct.pack("!I", len(text)) + text


def test_an_answer_that_comes_late_or_in_pieces_is_not_taken_for_the_next_one() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.05)
        child = Asked(ours)
        with pytest.raises(TimeoutError):
            child.latest()
        first = answer(b"first")
        theirs.sendall(first[:6])
        with pytest.raises(TimeoutError):
            child.latest()
        theirs.sendall(first[6:] + answer(b"second") + answer(b"third"))
        assert child.latest() == b"third"
        theirs.sendall(answer(b""))
        assert child.latest() == b""
        assert theirs.recv(10) == b"????"
        theirs.close()
        with pytest.raises(BrokenPipeError):
            child.latest()
