"""Damaged pictures: what is left of them, as browsers show it. Runs in the child.

- A JPEG without its end gets an end marker, at which libjpeg shows what it has.
- Of a progressive JPEG whose markers are wrong somewhere the scans before are shown: the whole picture, less sharp.
- A WebP or HEIF that is cut short gets zeros instead, which decode as a continuation of the picture, or as tiles of one
  colour. An AVIF gets ones: zeros may be an error.
- A PNG of an iPhone's app is read as others are.
- An AVIF that is turned, mirrored or cropped need not say that this is essential.
- A PNG's side chunks may have a wrong checksum, or be larger than anybody reads.
- Of a PNG, GIF, BMP, DDS or Netpbm that breaks off, or a JPEG that its decoder gives up, the rows up to there are
  shown; what is missing is white or transparent.
- Of an interlaced one the rows and columns that came first stand for those between them.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin

from media_core.decoding.failures import CannotDecode

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PNG = b"\x89PNG\r\n\x1a\n"
CRUSHED = b"CgBI"
"""The first chunk of a PNG that Xcode packed for an iPhone. Its pixels have blue before red, are premultiplied, and are
packed without the beginning and the end of a zlib stream.
"""
_OF_ZLIB = b"\x78\x01"
MOST_BEFORE_PIXELS = 1 << 16
SHOWN_IN_PART = ("PNG", "GIF", "BMP", "DIB", "JPEG", "MPO", "PPM", "DDS")
ERRORS = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error)
"""What Pillow raises at damaged bytes."""

END_OF_JPEG = b"\xff\xd9"

_MARKER = re.compile(b"\xff[^\0\xff\xd0-\xd7]")
"""In a scan's data: what is neither a byte 255 nor a restart (ITU-T T.81, B.1.1.3)."""

MOST_SCANS = 64
"""Of a damaged JPEG. Encoders write about ten."""

MOST_ADDED = 3
"""Missing bytes are made up for at most so many times a file's length: of less there is little to see."""

MOST_OF_BRANDS = 64
"""Bytes. An AVIF need not name itself first among what it may be read as (ISO 14496-12, 4.3)."""

PART_OF_AVIF = 25
"""Of an AVIF whose end is missing at least one part of so many is replaced. A decoder gives up a picture where it reads
beyond its end, and what follows a few wrong bits may be long.
"""

MOST_OF_A_SIDE_CHUNK = 8_000_000
MOST_OF_ANOTHER = 1 << 20
"""Bytes. The first is libpng's, for colour profiles and EXIF. Editors keep whole documents in chunks of their own."""

MOST_PASSED_OVER = 128 << 20
"""Bytes of a side chunk. One that says more has no end, and what stands behind it is no chunk."""

_PAPER: dict[str, float | tuple[float, ...]] = {
    "1": 255,
    "L": 254,
    "LA": (254, 0),
    "RGB": (255, 255, 254),
    "RGBA": (255, 255, 254, 0),
}
"""What a picture holds before its rows are decoded; a picture that is nothing else has none."""


class PngStream(PngImagePlugin.PngStream):
    """A PNG's chunks, without the side chunks that cannot be read, or that are too large for what they are."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        is_side_chunk = cid[0] & 0x20  # PNG, third edition, 5.4
        most = MOST_OF_A_SIDE_CHUNK if cid in (b"iCCP", b"eXIf") else MOST_OF_ANOTHER
        if is_side_chunk and cid != b"fdAT" and most < length <= MOST_PASSED_OVER and self.fp is not None:
            self.fp.seek(pos + length)
            return b""
        try:
            return super().call(cid, pos, length)
        except ERRORS as error:
            if isinstance(error, EOFError) or not is_side_chunk or self.fp is None:
                raise
            self.fp.seek(pos + length)
            return b""


class Lengthened(io.RawIOBase):
    """A file and, behind its end, more bytes and zeros. `start`: what stands in place of its own first bytes; `length`:
    so many of its bytes, not all; `skipped`: without so many of its first bytes, or, below 0, with so many more;
    `value`: what stands in place of zero.
    """

    def __init__(
        self,
        file: IO[bytes],
        end: bytes,
        zeros: int = 0,
        *,
        start: bytes = b"",
        length: int | None = None,
        skipped: int = 0,
        value: bytes = b"\0",
    ) -> None:
        self._file = file
        self._value = value
        self._start = start
        self._skipped = skipped
        self._length = file.seek(0, io.SEEK_END) - skipped if length is None else length
        self._end = end
        self._size = self._length + len(end) + zeros
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a position before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._position < len(self._start):
            data = self._start[self._position : self._position + len(view)]
        elif self._position < self._length:
            self._file.seek(self._position + self._skipped)
            data = self._file.read(min(len(view), self._length - self._position))
        else:
            behind = self._position - self._length
            count = max(min(len(view), self._size - self._position), 0)
            data = self._end[behind : behind + count].ljust(count, self._value)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def whole(file: IO[bytes], head: bytes) -> IO[bytes]:
    """The file, with an end where one may be missing. `head`: its first 16 bytes."""
    if head.startswith(b"\xff\xd8"):
        return io.BufferedReader(Lengthened(file, END_OF_JPEG))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        size = file.seek(0, io.SEEK_END)
        missing = _missing(head, size)
        if 0 < missing <= MOST_ADDED * size:
            return io.BufferedReader(Lengthened(file, b"", missing))
    if head.startswith(PNG) and head.endswith(CRUSHED):
        return _uncrushed(file)
    if head[4:8] == b"ftyp":
        file.seek(8)
        brands = file.read(MOST_OF_BRANDS)[: max(int.from_bytes(head[:4]) - 8, 0)]
        is_avif = b"avif" in brands or b"avis" in brands
        file = _with_essential_turns(file) if is_avif else file
        size = file.seek(0, io.SEEK_END)
        if 0 < (missing := _missing_of_items(file)) <= MOST_ADDED * size:
            kept = min(size, size + missing - (size + missing) // PART_OF_AVIF) if is_avif else size
            value = b"\xff" if is_avif else b"\0"
            return io.BufferedReader(Lengthened(file, b"", size + missing - kept, length=kept, value=value))
    return file


def _missing_of_items(file: IO[bytes]) -> int:
    """Bytes that the items of a HEIF or AVIF have behind the file's end (ISO 14496-12, 8.11.3)."""
    file.seek(0)
    head = io.BytesIO(file.read(MOST_BEFORE_PIXELS).partition(b"iloc")[2])

    def number(width: int) -> int:
        return int.from_bytes(head.read(width))

    version, sizes = number(1), number(5)  # two bytes, behind three of flags
    offset, length, base, index = (sizes >> shift & 0xF for shift in (12, 8, 4, 0))
    of_an_item, of_an_index = 4 if version == 2 else 2, index if version else 0
    of_an_extent = of_an_index + offset + length
    end = 0
    for _ in range(number(of_an_item)):
        number(of_an_item)
        is_in_the_file = version == 0 or number(2) & 0xF == 0
        number(2)
        start = number(base)
        extents = number(2)
        for _ in range(extents if of_an_extent else 0):  # their number may be large where each takes no bytes
            number(of_an_index)
            last = start + number(offset) + number(length)
            end = max(end, last) if is_in_the_file else end
        if head.tell() == len(head.getbuffer()):
            break
    return end - file.seek(0, io.SEEK_END)


def _with_essential_turns(file: IO[bytes]) -> IO[bytes]:
    """The file, in which what turns, mirrors or crops a picture is marked as essential, as it has to be (ISO 23008-12,
    6.5.10 and 9.3).
    """
    file.seek(0)
    head = bytearray(file.read(MOST_BEFORE_PIXELS))
    boxes, links = head.find(b"ipco"), head.find(b"ipma")
    if boxes < 4 or links < 0 or links + 12 > len(head):
        return file
    before, names = bytes(head), [b""]
    at, end = boxes + 4, min(boxes - 4 + int.from_bytes(head[boxes - 4 : boxes]), len(head))
    while at + 8 <= end:
        names.append(before[at + 4 : at + 8])
        at += max(int.from_bytes(head[at : at + 4]), 8)
    width, of_an_item = 1 + (head[links + 7] & 1), 2 if head[links + 4] == 0 else 4
    at = links + 12
    for _ in range(int.from_bytes(head[links + 8 : links + 12])):
        first = at + of_an_item + 1
        if first > len(head):
            break
        at = first + head[first - 1] * width
        for place in range(first, min(at, len(head)), width):
            number = int.from_bytes(head[place : place + width]) & ((1 << 8 * width - 1) - 1)
            if number < len(names) and names[number] in (b"irot", b"imir", b"clap"):
                head[place] |= 0x80
    return file if head == before else io.BufferedReader(Lengthened(file, b"", start=bytes(head)))


def _uncrushed(file: IO[bytes]) -> IO[bytes]:
    """Such a PNG as one that breaks off at the end: without its first chunk, and with a zlib stream's beginning."""
    file.seek(0)
    start = file.read(MOST_BEFORE_PIXELS)
    pixels = start.find(b"IDAT")
    first = len(PNG) + 12 + int.from_bytes(start[8:12])
    if pixels < first + 4:
        raise CannotDecode("corrupt", "it has no pixels")
    length = int.from_bytes(start[pixels - 4 : pixels]) + len(_OF_ZLIB)
    plain = PNG + start[first : pixels - 4] + length.to_bytes(4) + b"IDAT" + _OF_ZLIB
    return io.BufferedReader(Lengthened(file, b"", start=plain, skipped=pixels + 4 - len(plain)))


def is_crushed(file: IO[bytes]) -> bool:
    file.seek(0)
    head = file.read(16)
    return head.startswith(PNG) and head.endswith(CRUSHED)


def load_crushed(image: Image.Image) -> Image.Image:
    """The pixels of a crushed PNG as others have them."""
    with tolerated():
        image.load()
    if image.mode not in ("RGB", "RGBA"):
        return image
    blue, green, red, *alpha = image.split()
    return Image.merge("RGBa" if alpha else "RGB", (red, green, blue, *alpha)).convert("RGBA" if alpha else "RGB")


def ends_of_scans(file: IO[bytes]) -> list[int]:
    """Where a JPEG's scans end, in bytes of the file."""
    file.seek(0)
    data, at = file.read(), 2
    ends: list[int] = []
    while len(ends) < MOST_SCANS and data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        is_scan = data[at + 1] == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        if is_scan:
            found = _MARKER.search(data, at)
            if found is None:
                break
            at = found.start()
            ends.append(at)
    return ends


def without_later_scans(file: IO[bytes], end: int) -> IO[bytes]:
    return io.BufferedReader(Lengthened(file, END_OF_JPEG, length=end))


def is_mostly_missing(file: IO[bytes]) -> bool:
    """Whether so much of a WebP is missing that nothing can be shown of it."""
    file.seek(0)
    head = file.read(12)
    size = file.seek(0, io.SEEK_END)
    return _missing(head, size) > MOST_ADDED * size


def _missing(riff: bytes, size: int) -> int:
    """Bytes that a RIFF file of `size` bytes states and does not have."""
    return int.from_bytes(riff[4:8], "little") + 8 - size


@contextlib.contextmanager
def tolerated() -> Iterator[None]:
    """In this block Pillow opens a PNG whose side chunks have wrong checksums or lengths, and decodes a picture that
    breaks off up to there.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def load_in_part(image: Image.Image, failed: str) -> None:
    """Decodes a picture's pixels up to where they break off. Raises OSError if there are none.

    `failed`: why it cannot be decoded as a whole.
    """
    paper = _PAPER.get(image.mode)
    if paper is not None:
        image.im = Image.new(image.mode, image.size, paper).im
    columns = _columns_of_a_pass(image)
    with tolerated():
        image.load()
    if columns:
        image.im = _without_gaps(image, columns).im
    extrema: Any = image.getextrema()
    if all(low == high for low, high in (extrema if len(image.getbands()) > 1 else [extrema])):
        raise OSError(failed or "none of its pixels can be decoded")


def _columns_of_a_pass(image: Image.Image) -> int:
    """1 for an interlaced GIF, whose passes are of whole rows; 2 for an interlaced PNG; else 0."""
    if isinstance(image, GifImagePlugin.GifImageFile) and image.tile:
        return int(image.tile[0].args[1])  # type: ignore[index]
    return 2 if image.format == "PNG" and image.info.get("interlace") else 0


def _without_gaps(image: Image.Image, columns: int) -> Image.Image:
    """The finest grid of pixels that has come as a whole, spread over the picture (GIF89a, appendix E; PNG, 8.1).

    The pass that completes a grid brings its odd rows.
    """
    for step in (1, 2, 4, 8):
        across = step if columns > 1 else 1
        sides = -(-image.width // across), -(-image.height // step)
        # NEAREST takes the pixel at the middle of each target.
        places = (across, 0, (1 - across) / 2, 0, step, (1 - step) / 2)
        grid = image.transform(sides, Image.Transform.AFFINE, places, Image.Resampling.NEAREST)
        row = grid.crop((0, max(grid.height - 1 - grid.height % 2, 0), grid.width, grid.height - grid.height % 2))
        if len(row.getcolors(2) or (0, 0)) > 1 or (image.mode in _PAPER and row.getpixel((0, 0)) != _PAPER[image.mode]):
            break
    return grid.resize(image.size, Image.Resampling.NEAREST)
