"""Which process a JPEG is coded by. Runs in the child, and where types are found: it decodes nothing."""

from __future__ import annotations

import io
from typing import IO, Final

LOSSLESS: Final = 0xC3
LS: Final = 0xF7
"""Markers of frames: ITU-T T.81, table B.1, and T.87, C.1.1."""

_LOSSY: Final = (0xC0, 0xC1, 0xC2)
_NO_FRAMES: Final = (0xC4, 0xC8, 0xCC)
_START: Final = 0xD8
MOST_SEGMENTS: Final = 1000
HEAD: Final = 4096


def frame(file: IO[bytes]) -> int:
    """The marker of its frame; 0 where there is none."""
    file.seek(0)
    for _ in range(MOST_SEGMENTS):
        before, marker, *length = file.read(4).ljust(4, b"\0")
        if before != 0xFF:
            break
        if marker == LS or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES):
            return marker
        # Fill bytes may stand before a marker. A beginning has no length, and SPIFF's header has a second one.
        behind = {0xFF: -3, _START: -2}.get(marker, int.from_bytes(length) - 2)
        file.seek(behind, io.SEEK_CUR)
    return 0


def is_deep(file: IO[bytes]) -> bool:
    """Whether its samples have more than 8 bits, as a radiologist's (T.81, B.2.2)."""
    return frame(file) in _LOSSY and file.read(1) > b"\x08"


def is_interleaved_by_sample(file: IO[bytes]) -> bool:
    """Whether a JPEG-LS has the samples of each pixel side by side (T.87, C.2.3). FFmpeg makes black of those."""
    frame(file)
    _, found, scan = file.read(HEAD).partition(b"\xff\xda")
    length = int.from_bytes(scan[:2])
    return bool(found) and scan[length - 2 : length - 1] == b"\2"
