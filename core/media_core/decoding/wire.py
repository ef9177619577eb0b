"""The frames between a decoding child and its parent: a JSON header and raw bytes, both with a length cap.

Nothing else is sent: no pickles, no file descriptors, no paths. The zygote knows two messages only: ORDER and STATUS.
"""

from __future__ import annotations

import json
import struct
from typing import Any

LENGTHS = struct.Struct(">II")
LONGEST_HEADER = 16 << 10
LONGEST_PAYLOAD = 64 << 20
BLOCK = 1 << 20
"""Most bytes of one range that a child may ask for. Its reads are aligned to this."""

ORDER = struct.Struct(">Q")
"""To the zygote, with two sockets: the memory in bytes that a new child may take."""

STATUS = struct.Struct(">i")
"""From the zygote: a child's exit status, negative for a signal."""


class WireError(Exception):
    """The other side breaks the protocol."""


def frame(
    header: dict[str, Any], payload: bytes | bytearray | memoryview = b""
) -> list[bytes | bytearray | memoryview]:
    """The buffers of one frame, in order."""
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return [LENGTHS.pack(len(encoded), len(payload)), encoded, payload]


def lengths(prefix: bytes) -> tuple[int, int]:
    """The lengths in bytes of the header and the payload that follow this prefix. Raises WireError above the caps."""
    header, payload = LENGTHS.unpack(prefix)
    if header > LONGEST_HEADER or payload > LONGEST_PAYLOAD:
        raise WireError("a frame above the length cap")
    return header, payload


def header(encoded: bytes) -> dict[str, Any]:
    """The frame's header. Raises WireError unless it is a JSON object."""
    try:
        decoded = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise WireError("a header that is not JSON") from error
    if not isinstance(decoded, dict):
        raise WireError("a header that is not a JSON object")
    return decoded
