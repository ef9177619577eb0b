"""What a JPEG 2000 (ITU-T T.800) says of itself that Pillow does not tell. Runs in the child."""

from __future__ import annotations

import struct
from typing import IO, Final

HEADER_BYTES: Final = 64 << 10
"""So much is looked at. What is said here stands before the pixels."""

_CODESTREAM, _CODING_STYLE, _COLOUR = b"\xff\x4f\xff\x51", b"\xff\x52\0", b"colr\2"
"""How its codestream begins; the marker before the number of levels (A.6.1); a box with a colour profile (I.5.3.3)."""
_SIDES_AT, _DEPTH_AT, _LEVELS_AT = 4, 38, 9


class Header:
    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        self._boxes, _, self._codestream = file.read(HEADER_BYTES).partition(_CODESTREAM)

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height by the codestream (A.5.1); a file's header may say something else."""
        right, bottom, left, top = struct.unpack(">4I", self._codestream[_SIDES_AT:][:16].ljust(16, b"\0"))
        return right - left, bottom - top

    @property
    def depth(self) -> int:
        """Bits of the first component's samples (A.5.1)."""
        return (self._codestream[_DEPTH_AT] & 0x7F) + 1 if len(self._codestream) > _DEPTH_AT else 0

    @property
    def profile(self) -> bytes | None:
        """The ICC profile of its colours."""
        at = self._boxes.find(_COLOUR)
        length = int.from_bytes(self._boxes[at - 4 : at]) if at >= 4 else 0
        return self._boxes[at + 7 : at - 4 + length] or None

    def halvings(self, side: int, max_side: int) -> int:
        """How often it may be halved while it is decoded, so that it stays larger than it is shown."""
        at = self._codestream.find(_CODING_STYLE)
        levels = self._codestream[at + _LEVELS_AT] if 0 <= at < len(self._codestream) - _LEVELS_AT else 0
        return max(0, min(levels, (side // max_side).bit_length() - 1))
