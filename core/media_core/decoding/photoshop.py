"""Photoshop's merged pictures that Pillow does not read. Runs in the child.

They have 16 or 32 bits a sample, or are of large documents (PSB).

The format is Adobe's: Photoshop File Formats Specification (2019), file header, image resources, image data.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import IO

from PIL import Image, ImageChops

from media_core.decoding import greys
from media_core.decoding.colours import light_to_srgb
from media_core.decoding.failures import CannotDecode

_MODES = {1: "L", 3: "RGB", 4: "CMYK", 7: "L", 8: "L", 9: "LAB"}
"""Of several channels (7), or of several inks (8), the first is shown."""

_RAW, _RLE = 0, 1
_LARGE = 2
_PROFILE, _PREVIEW = 1039, 1036
_BEFORE_A_PREVIEW = 28
"""Bytes: its own sides and lengths. Then comes a JPEG."""

MOST_BYTES_OF_A_RESOURCE = 4 << 20


@dataclass(frozen=True)
class Header:
    width: int
    height: int
    channels: int
    bits: int
    mode: str
    is_large: bool
    """Whether it is a PSB: some lengths are numbers of twice as many bytes."""

    @property
    def pixels(self) -> int:
        return self.width * self.height


def sides(file: IO[bytes]) -> tuple[int, int] | None:
    """Width and height of any Photoshop file; None for every other file."""
    file.seek(0)
    head = file.read(22)
    if not head.startswith(b"8BPS") or len(head) < 22:
        return None
    height, width = struct.unpack_from(">II", head, 14)
    return width, height


def header(file: IO[bytes]) -> Header | None:
    """Of a Photoshop file of more than 8 bits a sample, or of a large document; None for every other file."""
    file.seek(0)
    head = file.read(26)
    if head[:6] not in (b"8BPS\0\1", b"8BPS\0\2") or len(head) < 26:
        return None
    version, channels, height, width, bits, mode = struct.unpack_from(">H6xHIIHH", head, 4)
    is_large = version == _LARGE
    if bits not in ((8, 16, 32) if is_large else (16, 32)) or mode not in _MODES:
        return None
    return Header(width, height, channels, bits, _MODES[mode], is_large)


def load(file: IO[bytes], found: Header) -> Image.Image:
    """The merged picture. Raises CannotDecode and Pillow's errors."""
    wanted = len(found.mode)
    if found.channels < wanted:
        raise CannotDecode("corrupt", "channels of its colours are missing")
    file.seek(26)
    _pass_over(file, 4)
    profile = _resource(file, _PROFILE)
    _pass_over(file, 8 if found.is_large else 4)
    packing = _number(file, 2)
    if packing not in (_RAW, _RLE) or (packing == _RLE and found.bits == 32):
        raise CannotDecode("unsupported", "its pixels are packed in a way that is not decoded here")
    lengths = None
    if packing == _RLE:
        numbers = f">{found.channels * found.height}{'I' if found.is_large else 'H'}"
        lengths = struct.unpack(numbers, file.read(struct.calcsize(numbers)))
    rows = range(0, found.height * wanted, found.height)
    planes = (_plane(file, found, sum(lengths[row : row + found.height]) if lengths else None) for row in rows)
    if found.bits == 32:
        return light_to_srgb(planes if found.mode == "RGB" else [next(planes)] * 3)
    image = next(planes) if wanted == 1 else Image.merge(found.mode, list(planes))
    if found.mode == "CMYK":
        image = ImageChops.invert(image)
    image.info["icc_profile"] = profile
    return image


def _plane(file: IO[bytes], found: Header, packed: int | None) -> Image.Image:
    """One channel, as L, of its high bytes if it has more than 8 bits, or as F."""
    data = file.read(found.pixels * found.bits // 8 if packed is None else packed)
    if found.bits == 32:
        return Image.frombytes("F", (found.width, found.height), data, "raw", "F;32BF")
    how = ("raw", "L") if packed is None else ("packbits", "L")
    if found.bits == 8:
        return Image.frombytes("L", (found.width, found.height), data, *how)
    return greys.every(Image.frombytes("L", (2 * found.width, found.height), data, *how), 2, 0)


def preview(file: IO[bytes]) -> IO[bytes] | None:
    """The small JPEG that Photoshop keeps for other programs; None where there is none."""
    file.seek(0)
    if file.read(4) != b"8BPS":
        return None
    file.seek(26)
    _pass_over(file, 4)
    found = _resource(file, _PREVIEW)
    return io.BytesIO(found[_BEFORE_A_PREVIEW:]) if found else None


def _resource(file: IO[bytes], wanted: int) -> bytes | None:
    """One of the image resources, behind which the file then stands."""
    end = _number(file, 4) + file.tell()
    found = None
    while file.tell() + 12 <= end and file.read(4) == b"8BIM":
        kind = _number(file, 2)
        name = _number(file, 1)
        file.seek(name + (name + 1) % 2, 1)
        length = _number(file, 4)
        if kind == wanted and length <= MOST_BYTES_OF_A_RESOURCE:
            found = file.read(length)
        else:
            file.seek(length, 1)
        file.seek(length % 2, 1)
    file.seek(end)
    return found


def _pass_over(file: IO[bytes], width: int) -> None:
    """Passes over a section. `width`: bytes of the number that says how long it is."""
    file.seek(_number(file, width), 1)


def _number(file: IO[bytes], width: int) -> int:
    return int.from_bytes(file.read(width))
