"""TIFFs of more samples a pixel than Pillow reads: satellites' bands, microscopes' channels, colours in floats.

Such a file is read as one that Pillow knows, by another directory: bands that lie beside each other are a grey picture
that is as many times as wide, and of bands that lie behind each other each is a picture. What is shown is the first
band, or the first three where the file says that they are red, green and blue.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import IO

from PIL import Image, TiffImagePlugin

from media_core.decoding.damage import Lengthened
from media_core.decoding.failures import CannotDecode
from media_core.decoding.greys import every, visible_bands

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_LENGTHS, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_LENGTHS, _EXTRA, _FORMAT = 317, 322, 323, 324, 325, 338, 339
_NO_DATA = 42113
_PARTS = (_STRIPS, _STRIP_LENGTHS, _TILES, _TILE_LENGTHS)
_KEPT = (_HEIGHT, _COMPRESSION, _FILL_ORDER, _ROWS, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, *_PARTS, _NO_DATA)
"""TIFF 6.0, sections 8, 14, 15 and 19."""

_NUMBERS = {3: "H", 4: "I"}
_SHORT, _LONG = 3, 4
_RGB = 2
MOST_ENTRIES = 500
MOST_SAMPLES = 1000


@dataclass(frozen=True)
class Layout:
    """A directory. Sides in pixels as stored; `entries`: type, count, and value or offset."""

    order: str
    width: int
    height: int
    samples: int
    bits: int
    format: int
    photometric: int
    is_planar: bool
    orientation: int
    predictor: int
    entries: dict[int, tuple[int, int, bytes]]

    @property
    def pixels(self) -> int:
        """Pixels that are decoded at once."""
        return self.width * self.height * (self.shown if self.is_planar else self.samples)

    @property
    def shown(self) -> int:
        return 3 if self.photometric == _RGB and self.samples >= 3 else 1


def layout(file: IO[bytes]) -> Layout | None:
    """The first directory of a TIFF that Pillow does not read; None for every other file."""
    file.seek(0)
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return None
    file.seek(*struct.unpack(order + "I", head[4:]))
    count = int.from_bytes(file.read(2), "little" if order == "<" else "big")
    if not 0 < count <= MOST_ENTRIES or len(table := file.read(12 * count)) < 12 * count:
        return None
    found = list(struct.iter_unpack(order + "HHI4s", table))
    entries = {tag: (kind, length, value) for tag, kind, length, value in found}

    def number(tag: int, default: int) -> int:
        return next(iter(_values(file, order, entries, tag, 1)), default)

    samples = number(_SAMPLES, 1)
    photometric, is_planar = number(_PHOTOMETRIC, -1), number(_PLANAR, 1) == 2
    if not 2 <= samples <= MOST_SAMPLES or photometric not in (0, 1, _RGB):
        return None
    bits = _values(file, order, entries, _BITS, samples) or [1]
    formats = _values(file, order, entries, _FORMAT, samples) or [1]
    extra = tuple(_values(file, order, entries, _EXTRA, samples))
    if len({*bits}) > 1 or len({*formats}) > 1:
        return None
    key = (head[:2], photometric, (formats[0],), 1, (bits[0],) * samples, extra)
    if key in TiffImagePlugin.OPEN_INFO and (not is_planar or bits[0] == 8):
        return None
    return Layout(
        order,
        number(_WIDTH, 0),
        number(_HEIGHT, 0),
        samples,
        bits[0],
        formats[0],
        photometric,
        is_planar,
        number(_ORIENTATION, 1),
        number(_PREDICTOR, 1),
        entries,
    )


def load(file: IO[bytes], found: Layout) -> Image.Image:
    """The picture as L or RGB, as it is stored. Raises CannotDecode and Pillow's errors."""
    if found.is_planar:
        bands = [_opened(file, found, band) for band in range(found.shown)]
        tags = bands[0].tag_v2
        pictures: list[Image.Image] = list(bands)
    elif found.predictor != 1:
        raise CannotDecode("unsupported", "bands beside each other that are stored as differences")
    else:
        wide = _opened(file, found, 0)
        tags = wide.tag_v2
        pictures = [every(wide, found.samples, band) for band in range(found.shown)]
    if pictures[0].mode.startswith(("I", "F")):
        pictures = visible_bands(pictures, tags)
    return pictures[0] if len(pictures) == 1 else Image.merge("RGB", pictures)


def _opened(file: IO[bytes], found: Layout, band: int) -> TiffImagePlugin.TiffImageFile:
    times = 1 if found.is_planar else found.samples
    entries = {tag: entry for tag, entry in found.entries.items() if tag in _KEPT}
    if found.is_planar:
        for tag in entries.keys() & {*_PARTS}:
            entries[tag] = _of_band(file, found, tag, band)
    numbers = {
        _WIDTH: found.width * times,
        _BITS: found.bits,
        _PHOTOMETRIC: min(found.photometric, 1),
        _SAMPLES: 1,
        _PLANAR: 1,
        _FORMAT: found.format,
    }
    if _TILE_WIDTH in entries:
        numbers[_TILE_WIDTH] = _values(file, found.order, entries, _TILE_WIDTH, 1)[0] * times
    entries |= {tag: (_LONG, 1, struct.pack(found.order + "I", value)) for tag, value in numbers.items()}
    directory = struct.pack(found.order + "H", len(entries))
    for tag, entry in sorted(entries.items()):
        directory += struct.pack(found.order + "HHI4s", tag, *entry)
    size = file.seek(0, io.SEEK_END)
    start = (b"II*\0" if found.order == "<" else b"MM\0*") + struct.pack(found.order + "I", size)
    image = Image.open(io.BufferedReader(Lengthened(file, directory + bytes(4), start=start)), formats=("TIFF",))
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        raise CannotDecode("unsupported", "not a TIFF")
    image.load()
    return image


def _of_band(file: IO[bytes], found: Layout, tag: int, band: int) -> tuple[int, int, bytes]:
    """The entry of the strips or tiles that are of this band."""
    kind, count, value = found.entries[tag]
    width = struct.calcsize(_NUMBERS.get(kind, "I"))
    each = count // found.samples
    if each * width > 4:
        (offset,) = struct.unpack(found.order + "I", value)
        return kind, each, struct.pack(found.order + "I", offset + band * each * width)
    values = _values(file, found.order, found.entries, tag, count)[band * each : (band + 1) * each]
    return kind, each, struct.pack(f"{found.order}{each}{_NUMBERS.get(kind, 'I')}", *values).ljust(4, b"\0")


def _values(file: IO[bytes], order: str, entries: dict[int, tuple[int, int, bytes]], tag: int, most: int) -> list[int]:
    """The first `most` whole numbers of an entry; none if it has none."""
    kind, count, value = entries.get(tag, (0, 0, b""))
    code = _NUMBERS.get(kind)
    if code is None:
        return []
    length = struct.calcsize(code)
    if count * length > 4:
        file.seek(*struct.unpack(order + "I", value))
        value = file.read(min(count, most) * length)
    known = min(count, most, len(value) // length)
    return list(struct.unpack_from(f"{order}{known}{code}", value))
