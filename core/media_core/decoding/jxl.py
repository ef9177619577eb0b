"""JPEG XL (ISO 18181), by libjxl. Runs in the child.

The decoder allocates the whole picture at once, so the sides are read here first. What it decodes stands upright. Of a
JPEG that was packed without loss it gives the JPEG back.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO, Final

from PIL import Image
from pillow_jxl import Decoder

from media_core.decoding.failures import CannotDecode

CODESTREAM: Final = b"\xff\x0a"
CONTAINER: Final = b"\0\0\0\x0cJXL \r\n\x87\n"
MOST_BOXES: Final = 100
_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Widths by heights (ISO 18181-1, table D.2)."""
_BITS_OF_A_SIDE: Final = (9, 13, 18, 30)
_SMALLEST: Final = bytes.fromhex("ff0a0010101437020800010018004b188b158201")
"""One black pixel."""
_MODES: Final = ("L", "LA", "RGB", "RGBA", "I;16")


@dataclass
class _Bits:
    """The lowest bit of a byte comes first."""

    value: int

    def take(self, count: int) -> int:
        taken = self.value & ((1 << count) - 1)
        self.value >>= count
        return taken


def warm_up() -> None:
    """Decodes a pixel: a confined process cannot load what that needs."""
    decoded(io.BytesIO(_SMALLEST))


def is_jxl(file: IO[bytes]) -> bool:
    file.seek(0)
    head = file.read(len(CONTAINER))
    return head == CONTAINER or head.startswith(CODESTREAM)


def sides(file: IO[bytes]) -> tuple[int, int]:
    """Width and height of the picture as it is shown (ISO 18181-1, D.2 and D.3.1). Raises CannotDecode."""
    head = _codestream(file)
    if len(head) < 8 or not head.startswith(CODESTREAM):
        raise CannotDecode("corrupt", "there is no picture in it")
    bits = _Bits(int.from_bytes(head[2:], "little"))
    is_small = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if is_small else bits.take(_BITS_OF_A_SIDE[bits.take(2)]) + 1

    height = side()
    ratio = bits.take(3)
    width = height * _RATIOS[ratio - 1][0] // _RATIOS[ratio - 1][1] if ratio else side()
    is_plain, has_more = bits.take(1), bits.take(1)
    lies = not is_plain and has_more and bits.take(3) >= 4
    return (height, width) if lies else (width, height)


def decoded(file: IO[bytes]) -> Image.Image | IO[bytes]:
    """The picture, or the JPEG that it was made of. Raises CannotDecode."""
    file.seek(0)
    try:
        was_jpeg, info, data, profile, _ = Decoder(num_threads=0)(file.read())
    except (ValueError, RuntimeError) as error:
        raise CannotDecode("corrupt", "it is damaged, or takes more memory than is allowed") from error
    if was_jpeg:
        return io.BytesIO(data)
    if info.mode.startswith("F"):
        image = Image.frombytes("F", (info.width, info.height), data)
    elif info.mode in _MODES:
        image = Image.frombytes(info.mode, (info.width, info.height), data)
    else:
        raise CannotDecode("unsupported", "its samples are of a kind that is not shown here")
    if profile:
        image.info["icc_profile"] = bytes(profile)
    return image


def _codestream(file: IO[bytes]) -> bytes:
    """The first bytes of the picture itself, which may be in boxes (ISO 18181-2)."""
    file.seek(0)
    head = file.read(32)
    if not head.startswith(CONTAINER):
        return head
    at = len(CONTAINER)
    for _ in range(MOST_BOXES):
        file.seek(at)
        box = file.read(16)
        length, start = int.from_bytes(box[:4]), 8
        if length == 1:
            length, start = int.from_bytes(box[8:]), 16
        if box[4:8] in (b"jxlc", b"jxlp"):
            file.seek(at + start + (4 if box[4:8] == b"jxlp" else 0))
            return file.read(32)
        if length < start:
            break
        at += length
    return b""
