"""Astronomers' pictures (FITS 4.0). Runs in the child.

What is shown is the first picture of the file, its first plane, or three planes as red, green and blue. Most of the sky
is dark and a few stars are bright, so the darkest and the brightest values are cut off. The first row is the lowest.
"""

from __future__ import annotations

import io
import math
import re
from array import array
from dataclasses import dataclass
from typing import IO

from PIL import Image

from media_core.decoding.failures import CannotDecode

_BEGINS = b"SIMPLE  ="
_BLOCK, _CARD = 2880, 80
_VALUE = re.compile(rb"=\s*('[^']*'|[^/\s]+)")
_SAMPLES = {8: "F;8", 16: "F;16BS", 32: "F;32BS", -32: "F;32BF", -64: "F;64BF"}
"""Pillow's names of the samples, by BITPIX (4.4.1.1)."""

MOST_PARTS = 100
MOST_BLOCKS = 200
"""Of a file, parts that are looked at for a picture; of a part, blocks of its header."""

SHOWN_SIDE = 1024
SAMPLED_SIDE = 256
DARKEST, BRIGHTEST = 0.01, 0.995
"""Shares of the values below which all is black, and above which all is white."""


@dataclass(frozen=True)
class Header:
    """Where a picture is in the file, and how its samples are coded. `planes`: so many behind each other."""

    at: int
    width: int
    height: int
    planes: int
    bits: int
    is_inverted: bool
    blank: float | None

    @property
    def pixels(self) -> int:
        return self.width * self.height * self.shown

    @property
    def shown(self) -> int:
        return 3 if self.planes == 3 else 1


def is_fits(file: IO[bytes]) -> bool:
    file.seek(0)
    return file.read(len(_BEGINS)) == _BEGINS


def header(file: IO[bytes]) -> Header:
    """Of the first picture. Raises CannotDecode if there is none."""
    size, at, is_packed = file.seek(0, io.SEEK_END), 0, False
    for _ in range(MOST_PARTS):
        if at >= size:
            break
        cards, at = _cards(file, at)
        axes = [_number(cards, f"NAXIS{axis + 1}") for axis in range(min(_number(cards, "NAXIS"), 999))]
        bits = _number(cards, "BITPIX")
        if len(axes) > 1 and all(axes) and cards.get("XTENSION", "IMAGE") == "IMAGE":
            planes = axes[2] if len(axes) > 2 else 1
            is_inverted = cards.get("BSCALE", "1").startswith("-")
            blank = float(_number(cards, "BLANK")) if "BLANK" in cards else None
            return Header(at, axes[0], axes[1], planes, bits, is_inverted, blank)
        is_packed = is_packed or cards.get("ZIMAGE") == "T"
        length = abs(bits) // 8 * _number(cards, "GCOUNT", 1) * (_number(cards, "PCOUNT") + math.prod(axes or [0]))
        at += -(-length // _BLOCK) * _BLOCK
    if is_packed:
        raise CannotDecode("unsupported", "its picture is packed in a way that is not decoded here")
    raise CannotDecode("unsupported", "there are numbers in it, and no picture")


def load(file: IO[bytes], found: Header) -> Image.Image:
    """The picture as L or RGB, scaled down by whole numbers. Raises CannotDecode."""
    samples = _SAMPLES.get(found.bits)
    if samples is None:
        raise CannotDecode("unsupported", f"its samples have {abs(found.bits)} bits, and are not decoded here")
    step = max(1, max(found.width, found.height) // SHOWN_SIDE)
    length = found.width * abs(found.bits) // 8
    planes = []
    for plane in range(found.shown):
        rows = bytearray()
        for row in range(0, found.height, step):
            file.seek(found.at + (plane * found.height + row) * length)
            rows += file.read(length)
        count = len(rows) // length
        if count == 0:
            raise CannotDecode("corrupt", "its end is missing")
        whole = Image.frombytes("F", (found.width, count), bytes(rows[: count * length]), "raw", samples)
        sides = max(1, found.width // step), max(1, -(-found.height // step))
        spread = Image.new("F", (found.width, sides[1]), math.nan)
        spread.paste(whole)
        small = spread.resize(sides, Image.Resampling.NEAREST)
        planes.append(small.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    low, high = _range(planes, found.blank)
    scale = 255 / (high - low) if high > low else 0.0
    offset = -low * scale
    if found.is_inverted:
        scale, offset = -scale, 255 - offset
    bands = [plane.point(lambda value: value * scale + offset).convert("L") for plane in planes]
    return bands[0] if len(bands) == 1 else Image.merge("RGB", bands)


def _range(planes: list[Image.Image], blank: float | None) -> tuple[float, float]:
    values: list[float] = []
    for plane in planes:
        sides = min(plane.width, SAMPLED_SIDE), min(plane.height, SAMPLED_SIDE)
        sample = array("f", plane.resize(sides, Image.Resampling.NEAREST).tobytes())
        values += (value for value in sample if math.isfinite(value) and value != blank)
    values.sort()
    return (values[int(len(values) * DARKEST)], values[int(len(values) * BRIGHTEST)]) if values else (0.0, 0.0)


def _cards(file: IO[bytes], at: int) -> tuple[dict[str, str], int]:
    """What a part's header says, and where the header ends (4.1 and 4.2). Raises CannotDecode if it has no end."""
    cards: dict[str, str] = {}
    file.seek(at)
    for block in range(MOST_BLOCKS):
        data = file.read(_BLOCK)
        for start in range(0, len(data), _CARD):
            card = data[start : start + _CARD]
            name = card[:8].decode("latin-1").strip()
            if name == "END":
                return cards, at + (block + 1) * _BLOCK
            if value := _VALUE.match(card, 8):
                cards.setdefault(name, value[1].decode("latin-1").strip("' "))
        if len(data) < _BLOCK:
            break
    raise CannotDecode("corrupt", "its header is not whole")


def _number(cards: dict[str, str], name: str, default: int = 0) -> int:
    said = cards.get(name, "")
    return int(said) if re.fullmatch("[+-]?[0-9]{1,10}", said) else default
