"""TIFFs that break off, or have gaps. Runs in the child.

Of one that breaks off the rows that are there become a TIFF of their own. Of a strip that is there in part as many rows
are shown as can be decoded. Of tiles only whole rows of them are.

Maps may leave out tiles in which there is nothing (GDAL's sparse files). Zeros take their place.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final

from PIL import Image

from media_core.decoding import tiff
from media_core.decoding.damage import ERRORS, Lengthened

_BITS, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262
_SAMPLES, _ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _FORMAT = 277, 278, 284, 322, 323, 339
_KEPT: Final = (*tiff.PACKING, 282, 283)
"""Also the resolutions, by which pixels are oblong."""

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
    """A TIFF of a picture's first `rows` of `width` pixels, as stored. The whole picture has `height` of them."""

    file: IO[bytes]
    width: int
    rows: int
    height: int
    orientation: int


@dataclass(frozen=True)
class Stored:
    """How a picture's pixels are stored: in strips, or in tiles, `across` of them beside each other.

    `starts` and `lengths`: in bytes, by the file's header. A strip or tile has so many `rows` of `row_bytes`, unpacked.
    """

    directory: tiff.Directory
    size: int
    width: int
    height: int
    tags: tuple[int, int]
    starts: list[int]
    lengths: list[int]
    planes: int
    samples: int
    across: int
    rows: int
    row_bytes: int
    packing: int

    @property
    def are_there(self) -> list[bool]:
        return [start + length <= self.size for start, length in zip(self.starts, self.lengths, strict=True)]


def part(file: IO[bytes], stored: Stored) -> Part | None:
    """What is there of a TIFF whose end is missing. None: it is whole, or nothing is there."""
    if all(are_there := stored.are_there) or not 0 < stored.width * stored.height <= MOST_PIXELS:
        return None
    each, height, lengths = len(stored.starts) // stored.planes, stored.height, stored.lengths.copy()
    whole = [[*are_there[plane * each : (plane + 1) * each], False].index(False) for plane in range(stored.planes)]
    least = min(whole) // stored.across
    rows, found = min(least * stored.rows, height), least * stored.across
    if stored.tags == tiff.STRIPS and whole.count(least) == 1 and least < each:
        strip = whole.index(least) * each + least
        lengths[strip] = max(min(lengths[strip], stored.size - stored.starts[strip]), 0)
        file.seek(min(stored.starts[strip], stored.size))
        more = _rows(file, stored, file.read(lengths[strip]), min(stored.rows, height - rows))
        rows, found = rows + more, found + (more > 0)
    if rows == 0:
        return None
    entries = _entries(file, stored.directory) | {tiff.HEIGHT: tiff.numbers(stored.directory.order, [rows])}
    starts, lengths = (
        [number for plane in range(stored.planes) for number in numbers[plane * each : plane * each + found]]
        for numbers in (stored.starts, lengths)
    )
    orientation = tiff.number(file, stored.directory, tiff.ORIENTATION, 1)
    return Part(_with_directory(file, stored, entries, starts, lengths), stored.width, rows, height, orientation)


def filled(file: IO[bytes], stored: Stored) -> IO[bytes]:
    """The file, with zeros in place of the tiles or strips that it leaves out."""
    if all(stored.starts) or not all(stored.are_there):
        return file
    if any(length for start, length in zip(stored.starts, stored.lengths, strict=True) if not start):
        return file
    is_known = stored.packing in (_PLAIN, *_OF_BYTES)
    if not is_known or not 0 < stored.row_bytes * stored.rows <= MOST_BYTES_OF_A_GAP:
        return file
    gap = _packed(stored.row_bytes, stored.rows, stored.packing)
    entries = _entries(file, stored.directory, tiff.HEIGHT, tiff.ORIENTATION)
    starts = [start or stored.size for start in stored.starts]
    lengths = [length if start else len(gap) for start, length in zip(stored.starts, stored.lengths, strict=True)]
    return _with_directory(file, stored, entries, starts, lengths, gap)


def stored_in(file: IO[bytes]) -> Stored | None:
    """None: the file is no TIFF, it is too large, or its header contradicts itself."""
    directory = tiff.directory(file)
    if directory is None:
        return None

    def number(tag: int, default: int) -> int:
        return tiff.number(file, directory, tag, default)

    size, (width, height) = file.seek(0, io.SEEK_END), tiff.sides(file, directory)
    is_tiled = tiff.TILES[0] in directory.entries
    tags = tiff.TILES if is_tiled else tiff.STRIPS
    starts, lengths = (tiff.values(file, directory, tag, tiff.MOST_PARTS) for tag in tags)
    planes, samples = number(_SAMPLES, 1), 1
    if number(_PLANAR, 1) != 2:
        planes, samples = samples, planes
    if size > MOST_BYTES or len(starts) != len(lengths) or not 0 < planes <= len(starts):
        return None
    part_width = number(_TILE_WIDTH, width) if is_tiled else width
    rows = number(_TILE_HEIGHT, height) if is_tiled else min(number(_ROWS, height), height)
    return Stored(
        directory,
        size,
        width,
        height,
        tags,
        starts,
        lengths,
        planes,
        samples,
        across=-(-width // max(part_width, 1)),
        rows=rows,
        row_bytes=-(-number(_BITS, 1) * samples * part_width // 8),
        packing=number(_COMPRESSION, _PLAIN),
    )


def _with_directory(
    file: IO[bytes],
    stored: Stored,
    entries: dict[int, tiff.Entry],
    starts: Sequence[int],
    lengths: Sequence[int],
    gap: bytes = b"",
) -> IO[bytes]:
    """The file by a directory of these entries, which stands behind its end and a `gap`."""
    order, at = stored.directory.order, stored.size + len(gap)
    for tag, numbers in zip(stored.tags, (starts, lengths), strict=True):
        entries[tag] = tiff.numbers(order, numbers)
    end = gap + tiff.packed(order, entries, at)
    return io.BufferedReader(Lengthened(file, end, start=tiff.begun(order, at)))


def _packed(width: int, height: int, packing: int) -> bytes:
    """So many zeros, packed."""
    if packing == _PLAIN:
        return bytes(width * height)
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "TIFF", compression=_OF_BYTES[packing], tiffinfo={_ROWS: height})
    directory = tiff.directory(file)
    if directory is None:
        return b""
    (at,), (length,) = (tiff.values(file, directory, tag, 1) for tag in tiff.STRIPS)
    return file.getvalue()[at : at + length]


def _entries(file: IO[bytes], directory: tiff.Directory, *also: int) -> dict[int, tiff.Entry]:
    tags = [tag for tag in (*_KEPT, *also) if tag in directory.entries]
    return {tag: tiff.entry(file, directory, tag, MOST_BYTES_OF_AN_ENTRY) for tag in tags}


def _rows(file: IO[bytes], stored: Stored, strip: bytes, most: int) -> int:
    """How many rows of a strip, at most `most`, can be decoded of these bytes."""
    row = max(stored.row_bytes, 1)
    if stored.packing == _PLAIN:
        return min(len(strip) // row, most)
    if row * most > MOST_BYTES:
        return 0
    entries, order = _entries(file, stored.directory), stored.directory.order
    one = {_PLANAR: 1, _SAMPLES: stored.samples}
    if stored.packing in _OF_BYTES:
        entries = {_COMPRESSION: entries[_COMPRESSION]}
        one |= {tiff.WIDTH: row, _BITS: 8, _SAMPLES: 1, _PHOTOMETRIC: 1, _FORMAT: 1}
    at = 8 + len(strip) + len(strip) % 2
    decoded, failed, rows = 0, most + 1, most
    while failed - decoded > max(1, most // FINENESS):
        numbers = one | {tiff.HEIGHT: rows, _ROWS: rows, tiff.STRIPS[0]: 8, tiff.STRIPS[1]: len(strip)}
        given = entries | {tag: tiff.numbers(order, [number]) for tag, number in numbers.items()}
        alone = (tiff.begun(order, at) + strip).ljust(at, b"\0") + tiff.packed(order, given, at)
        try:
            Image.open(io.BytesIO(alone), formats=("TIFF",)).load()
        except ERRORS:
            failed = rows
        else:
            decoded = rows
        rows = (decoded + failed) // 2
    return decoded
