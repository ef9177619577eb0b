"""Directories of TIFFs, also of BigTIFFs: read, and written. Runs in the child. It decodes nothing."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final

WIDTH, HEIGHT, ORIENTATION = 256, 257, 274
STRIPS, TILES = (273, 279), (324, 325)
"""Where strips or tiles stand, and how long they are."""

PACKING: Final = (
    *(WIDTH, 258, 259, 262, 266, 277, 278, 284, 292, 317, 320, 322, 323, 338, 339, 347, 530, 531, 532),
    *(34675, 42113),
)
"""What says how pixels are packed, and their colours (TIFF 6.0; Technical Note 2; ICC.1; GDAL)."""

_CLASSIC, _BIG = 42, 43
_NUMBERS: Final = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_LENGTHS: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Types of values: whole numbers as `struct` has them, and the bytes of each that both forms know (TIFF 6.0, 2)."""

_LONG = 4
MOST_ENTRIES = 500
MOST_PARTS = 1 << 20
"""Strips or tiles of a picture."""

Entry = tuple[int, int, bytes]
"""Type, count, and the values."""


@dataclass(frozen=True)
class Directory:
    """`word`: how an offset is coded; `entries`: by tag, with an offset where the values are longer than one;
    `following`: where the next directory begins, or 0.
    """

    order: str
    word: str
    entries: dict[int, Entry]
    following: int


def directory(file: IO[bytes], start: int | None = None) -> Directory | None:
    """The directory that begins at `start`, or the first one. None for what is no TIFF."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return None
    (version,) = struct.unpack(order + "H", head[2:4])
    if version == _CLASSIC:
        word, at = "I", head[4:8]
    elif version == _BIG:
        word, at = "Q", head[8:16]
    else:
        return None
    (first,) = struct.unpack(order + word, at)
    file.seek(first if start is None else start)
    form = struct.Struct(f"{order}HH{word}{len(at)}s")
    count = int.from_bytes(file.read(2 if word == "I" else 8), "little" if order == "<" else "big")
    if not 0 < count <= MOST_ENTRIES or len(table := file.read(form.size * count)) < form.size * count:
        return None
    entries = {tag: (kind, length, value) for tag, kind, length, value in form.iter_unpack(table)}
    return Directory(order, word, entries, int.from_bytes(file.read(len(at)), "little" if order == "<" else "big"))


def sides(file: IO[bytes], found: Directory) -> tuple[int, int]:
    """Width and height, as stored."""
    return number(file, found, WIDTH, 0), number(file, found, HEIGHT, 0)


def number(file: IO[bytes], found: Directory, tag: int, default: int) -> int:
    return next(iter(values(file, found, tag, 1)), default)


def values(file: IO[bytes], found: Directory, tag: int, most: int) -> list[int]:
    """The first `most` whole numbers of an entry; none if it has none."""
    kind, count, value = found.entries.get(tag, (0, 0, b""))
    code = _NUMBERS.get(kind)
    if code is None:
        return []
    length = struct.calcsize(code)
    value = _bytes(file, found, value, count * length, most * length)
    known = min(count, most, len(value) // length)
    return list(struct.unpack_from(f"{found.order}{known}{code}", value))


def text(file: IO[bytes], found: Directory, tag: int, most: int) -> bytes:
    """The first `most` bytes of an entry of bytes."""
    _, count, value = found.entries.get(tag, (0, 0, b""))
    return _bytes(file, found, value, count, most)


def entry(file: IO[bytes], found: Directory, tag: int, most: int) -> Entry:
    """An entry with its values, of at most so many bytes."""
    kind, count, value = found.entries[tag]
    if kind not in _LENGTHS:
        return numbers(found.order, values(file, found, tag, most // 8))
    length = _LENGTHS[kind] * count
    return kind, count, _bytes(file, found, value, length, most)[:length]


def numbers(order: str, given: Sequence[int]) -> Entry:
    return _LONG, len(given), struct.pack(f"{order}{len(given)}I", *given)


def begun(order: str, start: int) -> bytes:
    """The first eight bytes of a TIFF whose directory begins at `start`."""
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)


def packed(order: str, entries: Mapping[int, Entry], start: int) -> bytes:
    """A directory of these entries that begins at `start`, and what belongs to it; none follows it."""
    table, behind = b"", b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, (kind, count, value) in sorted(entries.items()):
        if len(value) > 4:
            value, behind = struct.pack(order + "I", after + len(behind)), behind + value
        table += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
    return struct.pack(order + "H", len(entries)) + table + bytes(4) + behind


def _bytes(file: IO[bytes], found: Directory, value: bytes, length: int, most: int) -> bytes:
    """The bytes of an entry's values, at most `most`. `value`: these bytes, or the offset where they stand if they are
    longer.
    """
    if length > len(value):
        file.seek(*struct.unpack(found.order + found.word, value))
        return file.read(min(length, most))
    return value
