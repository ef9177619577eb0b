"""Smaller copies of a picture that its file holds beside it, for those that can't be decoded. Runs in the child.

Slides of microscopes and maps are pyramids: each level is a directory of the TIFF, with half of the sides or less.
Photoshop keeps a preview, and a phone's HEIF has a thumbnail. A level is copied out, whatever the length of the file.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import IO, Final

from media_core.decoding import photoshop, tiff
from media_core.decoding.damage import Lengthened

LEAST_SIDE: Final = 1024
"""Pixels. Of the levels the smallest is shown whose longer side has as many, or else the largest."""

MOST_LEVELS: Final = 40
MOST_BYTES: Final = 32 << 20
"""Of a level's pixels as they are packed."""

MOST_SKEW: Final = 0.02
"""Share by which the shape of a copy may differ: the sides of levels are rounded. A slide's label has another one."""

_KIND, _COLOURS, _SUB_DIRECTORIES = 254, 262, 330
_COPY_OR_MASK = 1 | 4
_OF_A_SENSOR = (32803, 34892)
"""Colours of a raw photo, whose copy is its picture (TIFF/EP, 5.2; DNG)."""
_PACKING = 259
_DECODED: Final = frozenset((1, 5, 7, 8, 32_773, 32_946, 34_925, 50_000))
"""Ways of packing in which a copy can be shown. A slide in JPEG 2000 often has copies in JPEG."""
_OF_A_SCANNER = 65420
"""A tag of Hamamatsu's slide scanners (NDPI). Their levels are strips, and do not say that they are copies."""
_PARTS = (tiff.STRIPS, tiff.TILES)
_KEPT = (*tiff.PACKING, tiff.HEIGHT, tiff.ORIENTATION)

META_BYTES: Final = 64 << 10
"""So much of a HEIF's start is looked at: there it says what its items are."""


def smaller(file: IO[bytes]) -> IO[bytes] | None:
    """A file with the same picture, smaller; None where there is none."""
    return in_another_form(file) or _thumbnail_of_heif(file)


def in_another_form(file: IO[bytes]) -> IO[bytes] | None:
    """The same, of a picture whose own form is not decoded here, or that is damaged."""
    return _level(file) or photoshop.preview(file)


def past(file: IO[bytes]) -> IO[bytes]:
    """A TIFF from the picture's own directory on: copies of it, or its mask, may stand before it (TIFF 6.0, section 8).

    The same file where none does.
    """
    found = tiff.directory(file)
    at = 0
    for _ in range(MOST_LEVELS):
        if found is None or not tiff.number(file, found, _KIND, 0) & _COPY_OR_MASK:
            break
        at = found.following
        found = tiff.directory(file, at) if at else None
    else:  # they may follow each other in a circle
        return file
    if found is None or at == 0 or tiff.number(file, found, _COLOURS, 0) in _OF_A_SENSOR:
        return file
    offset = struct.pack(found.order + found.word, at)
    file.seek(0)
    start = file.read(len(offset)) + offset
    return io.BufferedReader(Lengthened(file, b"", start=start))


def _level(file: IO[bytes]) -> IO[bytes] | None:
    first = tiff.directory(file)
    if first is None:
        return None
    sides = tiff.sides(file, first)
    levels = []
    is_tiled = tiff.TILES[0] in first.entries
    for level in _others(file, first):
        width, height = tiff.sides(file, level)
        is_copy = is_tiled or tiff.number(file, level, _KIND, 0) & 1 or _OF_A_SCANNER in level.entries
        is_alike = abs(width * sides[1] - height * sides[0]) <= MOST_SKEW * width * sides[1]
        is_decoded = tiff.number(file, level, _PACKING, 1) in _DECODED
        length = sum(sum(tiff.values(file, level, lengths, tiff.MOST_PARTS)) for _, lengths in _PARTS)
        if is_copy and is_alike and is_decoded and 0 < width < sides[0] and 0 < length <= MOST_BYTES:
            levels.append((max(width, height), level))
    levels.sort(key=lambda level: level[0])
    found = next((level for side, level in levels if side >= LEAST_SIDE), levels[-1][1] if levels else None)
    return None if found is None else _by_itself(file, found)


def _others(file: IO[bytes], first: tiff.Directory) -> Iterator[tiff.Directory]:
    """The directories that the first one names, and those behind it."""
    for at in tiff.values(file, first, _SUB_DIRECTORIES, MOST_LEVELS):
        if found := tiff.directory(file, at):
            yield found
    last = first
    for _ in range(MOST_LEVELS):
        following = tiff.directory(file, last.following) if last.following else None
        if following is None:
            break
        yield following
        last = following


def _by_itself(file: IO[bytes], level: tiff.Directory) -> IO[bytes]:
    order = level.order
    data = io.BytesIO()
    data.write(bytes(8))
    entries = {tag: tiff.entry(file, level, tag, MOST_BYTES) for tag in _KEPT if tag in level.entries}
    for places, lengths in _PARTS:
        starts = tiff.values(file, level, places, tiff.MOST_PARTS)
        sizes = tiff.values(file, level, lengths, tiff.MOST_PARTS)
        moved = []
        for start, size in zip(starts, sizes, strict=False):
            file.seek(start)
            moved.append(data.tell())
            data.write(file.read(size))
        if moved:
            entries |= {places: tiff.numbers(order, moved), lengths: tiff.numbers(order, sizes[: len(moved)])}
    end = data.tell()
    data.write(tiff.packed(order, entries, end))
    data.seek(0)
    data.write(tiff.begun(order, end))
    return data


def _thumbnail_of_heif(file: IO[bytes]) -> IO[bytes] | None:
    """The same file. It shows its thumbnail as its picture (ISO 23008-12, 6.4.2 and 6.4.4)."""
    file.seek(0)
    head = bytearray(file.read(META_BYTES))
    primary, link = head.find(b"pitm"), head.find(b"thmb")
    if head[4:8] != b"ftyp" or primary < 0 or link < 0 or any(head[primary + 4 : primary + 8]):
        return None
    head[primary + 8 : primary + 10] = head[link + 4 : link + 6]
    head[link : link + 4] = b"cdsc"  # else it would be a thumbnail of another one
    return io.BufferedReader(Lengthened(file, b"", start=bytes(head)))
