"""TIFFs of samples that Pillow does not read: satellites' bands, microscopes' channels, floats, numbers with a sign,
of a number of bits that is no power of two, or complex, of which the real part is shown; and of colours that it does
not read: inks of many bits or with transparency, Lab, and palettes of more than 256 colours.

Such a file is read as one that Pillow knows, by another directory: its bytes are a grey picture, as many times as wide.
Of bands that lie behind each other each is one. What is shown is the first band, or the first three where the file says
that they are red, green and blue. Of a large picture every second row and column is shown, or every third and so on.
"""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import IO

from PIL import Image, ImageChops, TiffImagePlugin

from media_core.decoding import tiff
from media_core.decoding.damage import Lengthened
from media_core.decoding.greys import visible_bands

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_LENGTHS, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_LENGTHS, _EXTRA, _FORMAT = 317, 322, 323, 324, 325, 338, 339
_COLOUR_MAP, _PROFILE, _NO_DATA = 320, 34675, 42113
_PARTS = (_STRIPS, _STRIP_LENGTHS, _TILES, _TILE_LENGTHS)
_KEPT = (_HEIGHT, _COMPRESSION, _FILL_ORDER, _ROWS, _TILE_WIDTH, _TILE_HEIGHT, *_PARTS)
"""TIFF 6.0, sections 8, 14, 15 and 19."""

_MIN_IS_WHITE, _RGB, _PALETTE, _INKS, _CIE_LAB, _ICC_LAB = 0, 2, 3, 5, 8, 9
_MODES = {_PALETTE: "RGB", _INKS: "CMYK", _CIE_LAB: "LAB", _ICC_LAB: "LAB"}
"""Colours whose samples are no light that could be spread: Pillow's modes, by the photometric interpretation."""

_BITS_OF_A_COLOUR = (8, 16)
_UNSIGNED, _SIGNED, _FLOAT, _VOID = 1, 2, 3, 4
_COMPLEX = {5: _SIGNED, 6: _FLOAT}
"""Formats of samples that are two numbers, and the format of each."""

MOST_BITS_PACKED = 32
_CODES = {
    _UNSIGNED: {8: "B", 16: "H", 32: "I", 64: "Q"},
    _SIGNED: {8: "b", 16: "h", 32: "i", 64: "q"},
    _FLOAT: {16: "e", 32: "f", 64: "d"},
}
"""Samples as `struct` has them, by their format and their bits."""

_DIFFERENCES, _DIFFERENCES_OF_BYTES = 2, 3
"""Predictors: TIFF 6.0, section 14, and Adobe's TIFF Technical Note 3."""

SHOWN_SIDE = 1024
MOST_SAMPLES = 1000
MOST_TEXT = 100
MOST_BYTES_OF_A_PROFILE = 4 << 20


@dataclass(frozen=True)
class Layout:
    """What a directory says. Sides in pixels as stored."""

    directory: tiff.Directory
    width: int
    height: int
    samples: int
    bits: int
    format: int
    photometric: int
    is_planar: bool
    orientation: int
    predictor: int
    tile_width: int
    no_data: bytes

    @property
    def order(self) -> str:
        return self.directory.order

    @property
    def pixels(self) -> int:
        """Pixels that are decoded at once."""
        return self.width * self.height * (self.shown if self.is_planar else self.samples)

    @property
    def shown(self) -> int:
        """So many samples of a pixel are shown, the first ones."""
        if mode := _MODES.get(self.photometric):
            return 1 if self.photometric == _PALETTE else len(mode)
        return 3 if self.photometric == _RGB and self.samples >= 3 else 1


def layout(file: IO[bytes]) -> Layout | None:
    """The first directory of a TIFF that Pillow does not read; None for every other file."""
    if (directory := tiff.directory(file)) is None:
        return None

    def number(tag: int, default: int) -> int:
        return tiff.number(file, directory, tag, default)

    samples = number(_SAMPLES, 1)
    photometric, is_planar = number(_PHOTOMETRIC, -1), number(_PLANAR, 1) == 2
    if not 1 <= samples <= MOST_SAMPLES or photometric not in (_MIN_IS_WHITE, 1, _RGB, *_MODES):
        return None
    bits = tiff.values(file, directory, _BITS, samples) or [1]
    formats = tiff.values(file, directory, _FORMAT, samples) or [1]
    extra = tuple(tiff.values(file, directory, _EXTRA, samples))
    if len({*bits}) > 1 or len({*formats}) > 1 or bits[0] == 0:
        return None
    key = (b"II" if directory.order == "<" else b"MM", photometric, (formats[0],), 1, (bits[0],) * samples, extra)
    # Others Pillow reads with a wrong sign, or in a wrong order of bytes where they are packed, or not at all.
    is_plain = formats[0] == _UNSIGNED and bits[0] <= 16 and (directory.order, directory.word) != (">", "Q")
    if key in TiffImagePlugin.OPEN_INFO and is_plain and (not is_planar or bits[0] == 8):
        return None
    parts = 2 if formats[0] in _COMPLEX else 1
    sample_format, depth = _COMPLEX.get(formats[0], formats[0]), bits[0] // parts
    if is_planar and parts > 1:
        return None
    if sample_format == _VOID:
        sample_format = _UNSIGNED
    if depth not in _CODES.get(sample_format, ()) and not (sample_format == _UNSIGNED and depth <= MOST_BITS_PACKED):
        return None
    if photometric in _MODES and (sample_format != _UNSIGNED or depth not in _BITS_OF_A_COLOUR or parts > 1):
        return None
    found = Layout(
        directory,
        number(_WIDTH, 0),
        number(_HEIGHT, 0),
        samples * parts,
        depth,
        sample_format,
        photometric,
        is_planar,
        number(_ORIENTATION, 1),
        number(_PREDICTOR, 1),
        number(_TILE_WIDTH, 0),
        tiff.text(file, directory, _NO_DATA, MOST_TEXT),
    )
    return found if samples >= found.shown else None


def load(file: IO[bytes], found: Layout) -> Image.Image:
    """The picture as L, RGB, CMYK or LAB, as it is stored. Raises Pillow's errors and struct's."""
    if found.is_planar:
        pictures = [_bands(_opened(file, found, band), found, 1, 1)[0] for band in range(found.shown)]
    else:
        pictures = _bands(_opened(file, found, 0), found, found.samples, found.shown)
    if found.photometric in _MODES:
        return _coloured(pictures, file, found)
    if pictures[0].mode == "F":
        pictures = visible_bands(pictures, {_PHOTOMETRIC: found.photometric, _NO_DATA: found.no_data.decode("latin-1")})
    elif found.photometric == _MIN_IS_WHITE:
        pictures = [ImageChops.invert(picture) for picture in pictures]
    return pictures[0] if len(pictures) == 1 else Image.merge("RGB", pictures)


def _coloured(pictures: list[Image.Image], file: IO[bytes], found: Layout) -> Image.Image:
    """The picture in the mode of its colours, from the samples that are shown."""
    shift = found.bits - 8
    if found.photometric == _PALETTE:
        colours = tiff.values(file, found.directory, _COLOUR_MAP, 3 << found.bits)
        each, wide = len(colours) // 3, 8 if max(colours, default=0) > 0xFF else 0
        pictures *= 3
        tables = [[colour >> wide for colour in colours[band * each :][:each]] for band in range(3)]
    else:
        # The sign of Lab's a and b (TIFF 6.0, section 23). Pillow has them from 0 on, as ICC has.
        flips = (0, 0x80, 0x80) if found.photometric == _CIE_LAB else (0,) * len(pictures)
        tables = [[(value >> shift) ^ flip for value in range(1 << found.bits)] for flip in flips]
    bands = []
    for picture, table in zip(pictures, tables, strict=True):
        values = picture.tobytes() if picture.mode == "L" else map(int, array("f", picture.tobytes()))
        bands.append(Image.frombytes("L", picture.size, bytes(table[value] for value in values)))
    image = Image.merge(_MODES[found.photometric], bands)
    image.info["icc_profile"] = tiff.text(file, found.directory, _PROFILE, MOST_BYTES_OF_A_PROFILE)
    return image


def _bands(stored: Image.Image, found: Layout, samples: int, shown: int) -> list[Image.Image]:
    """The first `shown` bands of a picture's bytes, of so many samples a pixel, as L or F."""
    step = max(1, max(found.width, found.height) // SHOWN_SIDE)
    is_bytes = (found.format, found.bits) == (_UNSIGNED, 8)
    lines: list[list[bytes]] = [[] for _ in range(shown)]
    for at in range(0, found.height, step):
        row = memoryview(stored.crop((0, at, stored.width, at + 1)).tobytes())
        numbers = list(_samples(row, found, samples))
        for band in range(shown):
            values = [value for piece in numbers for value in _band(piece[band::samples], found)][: found.width : step]
            lines[band].append((array("B", map(int, values)) if is_bytes else array("f", values)).tobytes())
    sides = -(-found.width // step), len(lines[0])
    return [Image.frombytes("L" if is_bytes else "F", sides, b"".join(line)) for line in lines]


def _samples(row: memoryview, found: Layout, samples: int) -> Iterator[tuple[float, ...]]:
    """The samples of a row's tiles, or of the whole row; as differences, where the file has them."""
    width = found.bits // 8
    length = _bytes_of((found.tile_width or found.width) * samples, found)
    for at in range(0, len(row), length):
        piece = row[at : at + length]
        if found.bits not in _CODES[_UNSIGNED]:
            yield tuple(_unpacked(piece, found))
            continue
        count, order, kind = len(piece) // width, found.order, found.format
        if found.predictor == _DIFFERENCES_OF_BYTES:
            planes, joined = bytearray(len(piece)), bytearray(len(piece))
            for sample in range(samples):
                planes[sample::samples] = bytes(byte & 0xFF for byte in accumulate(piece[sample::samples]))
            for byte in range(width):  # the highest bytes of all samples come first
                joined[byte::width] = planes[byte * count : (byte + 1) * count]
            piece, order = memoryview(joined), ">"
        elif found.predictor == _DIFFERENCES and kind == _SIGNED:
            kind = _UNSIGNED
        yield struct.unpack(f"{order}{count}{_CODES[kind][found.bits]}", piece)


def _bytes_of(samples: int, found: Layout) -> int:
    return -(-samples * found.bits // 8)


def _unpacked(piece: memoryview, found: Layout) -> Iterator[int]:
    """Numbers of so many bits. Those of whole bytes are in the file's order, and others begin with the highest bit."""
    if found.bits % 8 == 0:
        for at in range(0, len(piece), found.bits // 8):
            yield int.from_bytes(piece[at : at + found.bits // 8], "little" if found.order == "<" else "big")
        return
    shifts, most = range(7 * found.bits, -1, -found.bits), (1 << found.bits) - 1
    for at in range(0, len(piece), found.bits):
        eight = int.from_bytes(bytes(piece[at : at + found.bits]).ljust(found.bits, b"\0"))
        yield from (eight >> shift & most for shift in shifts)


def _band(values: tuple[float, ...], found: Layout) -> Iterator[float] | tuple[float, ...]:
    if found.predictor != _DIFFERENCES or found.format == _FLOAT:
        return values
    over, least = 1 << found.bits, 0 if found.format == _UNSIGNED else 1 << (found.bits - 1)
    return ((int(value) + least) % over - least for value in accumulate(values))


def _opened(file: IO[bytes], found: Layout, band: int) -> Image.Image:
    """The bytes of this band, or of all where they lie beside each other, as a grey picture."""
    samples = 1 if found.is_planar else found.samples
    numbers = {
        tag: tiff.values(file, found.directory, tag, tiff.MOST_PARTS) for tag in _KEPT if tag in found.directory.entries
    }
    if found.is_planar:
        for tag in numbers.keys() & {*_PARTS}:
            each = len(numbers[tag]) // found.samples
            numbers[tag] = numbers[tag][band * each : (band + 1) * each]
    width = found.width
    if found.tile_width:
        width = -(-width // found.tile_width) * found.tile_width  # the last tile of each row is whole
        numbers[_TILE_WIDTH] = [_bytes_of(found.tile_width * samples, found)]
    numbers |= {_WIDTH: [_bytes_of(width * samples, found)], _BITS: [8], _PHOTOMETRIC: [1], _SAMPLES: [1]}
    numbers |= {_PLANAR: [1], _FORMAT: [_UNSIGNED]}
    size = file.seek(0, io.SEEK_END)
    directory = tiff.packed("<", {tag: tiff.numbers("<", given) for tag, given in numbers.items()}, size)
    start = tiff.begun("<", size)
    image = Image.open(io.BufferedReader(Lengthened(file, directory, start=start)), formats=("TIFF",))
    image.load()
    return image
