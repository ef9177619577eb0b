"""Films and sounds that are encrypted, as shops and streaming services give them. Runs in the child."""

from __future__ import annotations

import re
from typing import IO, Final

from media_core.decoding.durations import bytes_at, outermost_boxes

_ENTRY: Final = re.compile(rb"stsd\x00{7}\x01.{4}(?:(encv|drmi)|(enca|drms))\x00{6}", re.DOTALL)
"""The one description of a track's samples: by Common Encryption (ISO 23001-7), or of iTunes."""

MOST_BYTES: Final = 4 << 20
"""So much of the header is looked at."""


def encrypted(file: IO[bytes]) -> tuple[bool, bool]:
    """Whether a picture, and whether a sound of ISO media is encrypted."""
    for name, at, length in outermost_boxes(file):
        if name == b"moov":
            found = {entry.lastindex for entry in _ENTRY.finditer(bytes_at(file, at, min(length, MOST_BYTES)))}
            return 1 in found, 2 in found
    return False, False
