"""TIFFs that break off, or have gaps. Runs in the child.

Of one that breaks off the rows that are there become a TIFF of their own. Of a strip that is there in part as many rows
are shown as can be decoded. Of tiles only whole rows of them are.

Maps may leave out tiles in which there is nothing (GDAL's sparse files). Zeros take their place.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import IO, Final

from PIL import Image

from media_core.decoding import tiff
from media_core.decoding.damage import ERRORS, Lengthened

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _ROWS, _PLANAR = 274, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _FORMAT = 322, 323, 339
_STRIPS, _TILES = (273, 279), (324, 325)
"""Where they stand, and how long they are."""

_KEPT: Final = (
    *(_WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, _SAMPLES, _ROWS, 282, 283, _PLANAR, 292),
    *(317, 320, _TILE_WIDTH, _TILE_HEIGHT, 338, _FORMAT, 347, 530, 531, 532, 34675, 42113),
)
"""What else says how pixels are packed, and their colours (TIFF 6.0; Technical Note 2; ICC.1; GDAL)."""

_PLAIN: Final = 1
_OF_BYTES: Final = {
    5: "tiff_lzw",
    8: "tiff_adobe_deflate",
    32_773: "packbits",
    32_946: "tiff_deflate",
    34_925: "lzma",
    50_000: "zstd",
}
"""Ways of packing that know bytes, not pixels, by Pillow's names."""

MOST_BYTES: Final = 128 << 20
"""Of the file, and of one strip once it is unpacked."""

MOST_PIXELS: Final = 50_000_000
MOST_BYTES_OF_A_GAP: Final = 16 << 20
"""Once it is unpacked."""

MOST_BYTES_OF_AN_ENTRY: Final = 4 << 20
FINENESS: Final = 64
"""A strip's end is found to within such a part of it."""


@dataclass(frozen=True)
class Part:
    """A TIFF of a picture's first `rows`, as they are stored. The whole picture has `height` of them."""

    file: IO[bytes]
    rows: int
    height: int
    orientation: int


def part(file: IO[bytes]) -> Part | None:
    """What is there of a TIFF whose end is missing; None for every other file, and where nothing is there."""
    directory = tiff.directory(file)
    if directory is None:
        return None
    size = file.seek(0, io.SEEK_END)
    tags = _TILES if _TILES[0] in directory.entries else _STRIPS
    starts, lengths = (tiff.values(file, directory, tag, tiff.MOST_PARTS) for tag in tags)
    are_there = [start + length <= size for start, length in zip(starts, lengths, strict=False)]
    if size > MOST_BYTES or not starts or len(starts) != len(lengths) or all(are_there):
        return None
    width, height = tiff.sides(file, directory)
    if not 0 < width * height <= MOST_PIXELS:
        return None
    planes = tiff.number(file, directory, _SAMPLES, 1) if tiff.number(file, directory, _PLANAR, 1) == 2 else 1
    across, each = 1, len(starts) // max(planes, 1)
    rows_of_one = tiff.number(file, directory, _ROWS, height)
    if tags == _TILES:
        across = -(-width // max(tiff.number(file, directory, _TILE_WIDTH, width), 1))
        rows_of_one = tiff.number(file, directory, _TILE_HEIGHT, height)
    whole = [[*are_there[plane * each : (plane + 1) * each], False].index(False) for plane in range(planes)]
    least = min(whole, default=0) // across
    rows, found = min(least * rows_of_one, height), least * across
    if tags == _STRIPS and whole.count(least) == 1 and least < each:
        strip = whole.index(least) * each + least
        lengths[strip] = max(min(lengths[strip], size - starts[strip]), 0)
        file.seek(starts[strip])
        more = _rows(file, directory, file.read(lengths[strip]), planes, min(rows_of_one, height - rows))
        rows, found = rows + more, found + (more > 0)
    if rows == 0:
        return None
    entries = _entries(file, directory) | {_HEIGHT: tiff.numbers(directory.order, [rows])}
    for tag, numbers in zip(tags, (starts, lengths), strict=True):
        kept = [number for plane in range(planes) for number in numbers[plane * each :][:found]]
        entries[tag] = tiff.numbers(directory.order, kept)
    start = (b"II*\0" if directory.order == "<" else b"MM\0*") + struct.pack(directory.order + "I", size)
    rest = Lengthened(file, tiff.packed(directory.order, entries, size), start=start)
    return Part(io.BufferedReader(rest), rows, height, tiff.number(file, directory, _ORIENTATION, 1))


def filled(file: IO[bytes]) -> IO[bytes]:
    """The file, with zeros in place of the tiles or strips that it leaves out."""
    directory = tiff.directory(file)
    if directory is None:
        return file
    tags = _TILES if _TILES[0] in directory.entries else _STRIPS
    starts, lengths = (tiff.values(file, directory, tag, tiff.MOST_PARTS) for tag in tags)
    size = file.seek(0, io.SEEK_END)
    if all(starts) or any(length for start, length in zip(starts, lengths, strict=False) if not start):
        return file
    width, height = tiff.sides(file, directory)
    width, rows = (
        tiff.number(file, directory, tag, side) for tag, side in ((_TILE_WIDTH, width), (_TILE_HEIGHT, height))
    )
    if tags == _STRIPS:
        rows = min(tiff.number(file, directory, _ROWS, height), height)
    samples = 1 if tiff.number(file, directory, _PLANAR, 1) == 2 else tiff.number(file, directory, _SAMPLES, 1)
    row = -(-tiff.number(file, directory, _BITS, 1) * samples * width // 8)
    packing = tiff.number(file, directory, _COMPRESSION, _PLAIN)
    if size > MOST_BYTES or not 0 < row * rows <= MOST_BYTES_OF_A_GAP or packing not in (_PLAIN, *_OF_BYTES):
        return file
    gap = _packed(row, rows, packing)
    entries = _entries(file, directory)
    entries |= {
        tag: tiff.entry(file, directory, tag, 64) for tag in (_HEIGHT, _ORIENTATION) if tag in directory.entries
    }
    entries[tags[0]] = tiff.numbers(directory.order, [start or size for start in starts])
    entries[tags[1]] = tiff.numbers(
        directory.order, [length if start else len(gap) for start, length in zip(starts, lengths, strict=True)]
    )
    at = size + len(gap)
    start = (b"II*\0" if directory.order == "<" else b"MM\0*") + struct.pack(directory.order + "I", at)
    return io.BufferedReader(Lengthened(file, gap + tiff.packed(directory.order, entries, at), start=start))


def _packed(width: int, height: int, packing: int) -> bytes:
    """So many zeros, packed."""
    if packing == _PLAIN:
        return bytes(width * height)
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "TIFF", compression=_OF_BYTES[packing], tiffinfo={_ROWS: height})
    directory = tiff.directory(file)
    if directory is None:
        return b""
    (at,), (length,) = (tiff.values(file, directory, tag, 1) for tag in _STRIPS)
    return file.getvalue()[at : at + length]


def _entries(file: IO[bytes], directory: tiff.Directory) -> dict[int, tiff.Entry]:
    return {tag: tiff.entry(file, directory, tag, MOST_BYTES_OF_AN_ENTRY) for tag in _KEPT if tag in directory.entries}


def _rows(file: IO[bytes], directory: tiff.Directory, strip: bytes, planes: int, most: int) -> int:
    """How many rows of a strip, at most `most`, can be decoded of these bytes."""
    entries = _entries(file, directory)
    samples = 1 if planes > 1 else tiff.number(file, directory, _SAMPLES, 1)
    one = {_PLANAR: 1, _SAMPLES: samples}
    packing = tiff.number(file, directory, _COMPRESSION, _PLAIN)
    bits = tiff.number(file, directory, _BITS, 1) * samples * tiff.number(file, directory, _WIDTH, 0)
    row = max(-(-bits // 8), 1)
    if packing == _PLAIN or row * most > MOST_BYTES:
        return min(len(strip) // row, most) if packing == _PLAIN else 0
    if packing in _OF_BYTES:
        entries = {_COMPRESSION: entries[_COMPRESSION]}
        one |= {_WIDTH: row, _BITS: 8, _SAMPLES: 1, _PHOTOMETRIC: 1, _FORMAT: 1}
    decoded, failed, rows = 0, most + 1, most
    while failed - decoded > max(1, most // FINENESS):
        numbers = one | {_HEIGHT: rows, _ROWS: rows, _STRIPS[0]: 8, _STRIPS[1]: len(strip)}
        given = entries | {tag: tiff.numbers(directory.order, [number]) for tag, number in numbers.items()}
        at = 8 + len(strip) + len(strip) % 2
        head = (b"II*\0" if directory.order == "<" else b"MM\0*") + struct.pack(directory.order + "I", at)
        alone = io.BytesIO((head + strip).ljust(at, b"\0") + tiff.packed(directory.order, given, at))
        try:
            Image.open(alone, formats=("TIFF",)).load()
        except ERRORS:
            failed = rows
        else:
            decoded = rows
        rows = (decoded + failed) // 2
    return decoded
