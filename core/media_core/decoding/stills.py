"""Pictures of formats that Pillow does not read, or not as fast: one frame by FFmpeg. Runs in the child.

Their headers are read by the same decoders, which can be told to decode no pixels.
"""

from __future__ import annotations

import io
import re
import struct
from typing import IO, Any

import av
from av.codec import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation
from PIL import Image

from media_core.decoding import greys, jpeg, targa
from media_core.decoding.colours import light_to_srgb
from media_core.decoding.failures import CannotDecode

MOST_BYTES = 128 << 20
"""Of the file, which is held twice."""

MOST_SIDE = 1 << 11
"""Pixels. A picture twice as long or more is scaled down while its pixels are copied."""

MOST_MISSING = 32 << 20
TIMES_MISSING = 3
LEAST_MISSING = 1 << 20
"""Of a picture's end: the most bytes, how many times those that are there, and how many of a small one: a run of pixels
takes two bytes.
"""

COPIES_HELD = 4
HEAD = 26

_BEGINNINGS = (
    (b"qoif", "qoi"),
    (b"\x76\x2f\x31\x01", "exr"),
    (b"#?RADIANCE", "hdr"),
    (b"#?RGBE", "hdr"),
    (b"PF", "pfm"),
    (b"Pf", "pfm"),
    (b"P7\n", "pam"),
    (b"\x01\xda\0\1", "sgi"),
    (b"\x01\xda\1\1", "sgi"),
    (b"\x01\xda\0\2", "sgi"),
    (b"\x01\xda\1\2", "sgi"),
    (b"\x59\xa6\x6a\x95", "sunrast"),
    (b"SDPX", "dpx"),
    (b"XPDS", "dpx"),
    (b"DDS \x7c\0\0\0", "dds"),
)
_OF_JPEGS = {jpeg.LOSSLESS: "mjpeg", jpeg.LS: "jpegls"}
"""By their frames. What Pillow decodes of lossless ones has other colours. Those of 12 bits it does not decode."""

_BITMAP_FIELDS = ((0xF00, 0xF0, 0xF), (0xFF, 0xFF00, 0xFF0000), (0xFF00, 0xFF0000, 0xFF000000))
"""Where red, green and blue are in the pixels of bitmaps that Pillow does not read (Microsoft, BITMAPINFOHEADER)."""

_PIXEL_FORMAT_AT, PIXELS_OF_A_TEXTURE = 80, 148
"""Offsets in a texture: the flags of its pixel format, and its pixels where it has the newer header."""

_NAMED, _DESCRIBED = 4, 0x20060
"""Flags of a pixel format (DDS_PIXELFORMAT): it has a name, or it is described by masks, by greys or by a palette."""

_BC6H_AND_BC7 = range(95, 100)
_HALF_FLOATS = 10
_SWAPPED = (11, 27, 28, 29, 87, 88, 90, 91, 92, 93)
"""Layouts of a texture (DXGI_FORMAT). FFmpeg does not decode the first. It takes the second for whole numbers. Of the
last it swaps red and blue.
"""

_BI_BITFIELDS = 3
_SIDES_AT = {
    "dds": (12, "<II"),
    "dpx": (772, ">II"),
    "pcx": (4, "<4H"),
    "qoi": (4, ">II"),
    "sgi": (6, ">HH"),
    "sunrast": (4, ">II"),
    "targa": (12, "<HH"),
    "xwd": (16, ">II"),
}
"""Where the headers say them whose decoders know no header alone."""

_WITH_ALPHA = ("rgba", "argb", "bgra", "abgr", "ya", "gbrap", "pal8")
"""How the names of FFmpeg's layouts begin that have transparency, or may."""

_NAMES, _OTHERS = {"RGB": "rgb24", "RGBA": "rgba"}, {"RGB": "bgr24", "RGBA": "bgra"}
HEAD_OF_A_FLOAT_MAP = 256
_FLOAT_MAP = re.compile(rb"P([Ff])\s+(\d{1,6})\s+(\d{1,6})\s+(-)?[0-9.eE+]+\s")


def warm_up() -> None:
    """Decodes a pixel: the library imports parts of itself on first use."""
    load(io.BytesIO(b"Pf\n1 1\n-1\n\0\0\0\0"), "pfm")
    load(io.BytesIO(b"PF\n1 1\n-1\n" + bytes(12)), "pfm")
    load(io.BytesIO(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n\0\0\0"), "pam")


def codec(file: IO[bytes]) -> str | None:
    """FFmpeg's name of the picture's codec; None if it is none of those here."""
    file.seek(0)
    head = file.read(HEAD)
    found = next((name for beginning, name in _BEGINNINGS if head.startswith(beginning)), None)
    if found == "dds" and _layout_of_texture(file) in _BC6H_AND_BC7:
        return None
    if found or len(head) < HEAD:
        return found
    if head.startswith(b"\xff\xd8"):
        return "mjpeg" if jpeg.is_deep(file) else _OF_JPEGS.get(jpeg.frame(file))
    if head.startswith(b"BM"):
        return "bmp" if _has_other_fields(file) else None
    if head[:2] == b"\0\0" and head[4:8] == b"\0\0\0\7" and head[8:11] == bytes(3) and head[11] <= 2:  # its XWDFile.h
        return "xwd"
    if head[0] == 10 and head[1] in (0, 2, 3, 4, 5) and head[2] <= 1 and head[3] in (1, 2, 4, 8):
        return "pcx"
    return "targa" if targa.begins(head) else None


def _is_grey_and_clear(file: IO[bytes]) -> bool:
    file.seek(0)
    return targa.is_grey_and_clear(file.read(HEAD))


def _in_half_floats(frame: VideoFrame) -> VideoFrame:
    """The same bytes, eight a pixel, as floats."""
    floats = VideoFrame(frame.width, frame.height, "rgbaf16le")
    given, length, step = memoryview(frame.planes[0]), 8 * frame.width, frame.planes[0].line_size
    rows = (bytes(given[at : at + length]) for at in range(0, step * frame.height, step))
    floats.planes[0].update(b"".join(row.ljust(floats.planes[0].line_size, b"\0") for row in rows))
    return floats


def _layout_of_texture(file: IO[bytes]) -> int:
    """0 for one with the older header."""
    file.seek(_PIXEL_FORMAT_AT)
    flags, name, layout = struct.unpack("<I4s40xI", file.read(52).ljust(52, b"\0"))
    return int(layout) if name == b"DX10" and flags & (_NAMED | _DESCRIBED) == _NAMED else 0


def _has_other_fields(file: IO[bytes]) -> bool:
    file.seek(30)
    packing, *masks = struct.unpack("<I20x3I", file.read(36).ljust(36, b"\0"))
    return packing == _BI_BITFIELDS and tuple(masks) in _BITMAP_FIELDS


def sides(file: IO[bytes], name: str) -> tuple[int, int]:
    """Width and height by the header. Raises CannotDecode, and FFmpeg's errors."""
    if name == "pfm":
        width, height, _, _ = _float_map(file)
        return width, height
    if name in _SIDES_AT:
        at, numbers = _SIDES_AT[name]
        file.seek(at)
        data = file.read(struct.calcsize(numbers))
        if len(data) < struct.calcsize(numbers):
            raise CannotDecode("corrupt", "its header is not whole")
        if name == "pcx":
            left, top, right, bottom = struct.unpack(numbers, data)
            return right - left + 1, bottom - top + 1
        file.seek(0)
        width, height = struct.unpack("<II" if file.read(4) == b"XPDS" else numbers, data)
        return (height, width) if name == "dds" else (width, height)
    decoder = _decoder(name)
    decoder.skip_frame = "ALL"
    decoder.decode(_packet(file))
    return decoder.width, decoder.height


def load(file: IO[bytes], name: str, **options: str) -> Image.Image:
    """The picture as L, LA, RGB or RGBA in sRGB. Raises CannotDecode, and FFmpeg's errors. `options`: the decoder's."""
    if name == "pfm":
        return _of_float_map(file)
    if name == "jpegls" and jpeg.is_interleaved_by_sample(file):
        raise CannotDecode("unsupported", "its samples are in an order that is not decoded here")
    is_cut = False
    try:
        frame = _frame(file, name, options)
    except av.error.InvalidDataError:
        frame, is_cut = _frame(file, name, options, MOST_MISSING), True
    layout = _layout_of_texture(file) if name == "dds" else 0
    if layout == _HALF_FLOATS:
        frame = _in_half_floats(frame)
    if "f32" in frame.format.name or "f16" in frame.format.name:
        return _of_light(frame)
    if name == "targa" and _is_grey_and_clear(file):
        plane = frame.planes[0]  # FFmpeg takes the two bytes of a pixel for three colours
        image = Image.frombytes("LA", (frame.width, frame.height), memoryview(plane), "raw", "LA", plane.line_size)
    else:
        mode = "RGBA" if frame.format.name.startswith(_WITH_ALPHA) else "RGB"
        times = max(1, max(frame.width, frame.height) // MOST_SIDE)
        image = pixels(frame, mode, (-(-frame.width // times), -(-frame.height // times)))
    if is_cut and all(len(set(band.getextrema())) == 1 for band in image.split()):
        raise CannotDecode("corrupt", "its end is missing")
    if image.mode != "RGB" and image.getchannel("A").getextrema()[1] == 0:
        image = image.convert("RGB")  # editors leave it empty where they know of none
    if layout in _SWAPPED:
        blue, green, red, *alpha = image.split()
        image = Image.merge(image.mode, (red, green, blue, *alpha))
    return image


def _frame(file: IO[bytes], name: str, options: dict[str, str], missing: int = 0) -> VideoFrame:
    """`missing`: so many zeros stand in for an end that is missing."""
    decoder = _decoder(name)
    decoder.options = options
    frames = decoder.decode(_packet(file, missing)) or decoder.decode(None)
    if not frames:
        raise CannotDecode("corrupt", "there is no picture in it")
    return frames[0]


def pixels(frame: VideoFrame, mode: str = "RGB", sides: tuple[int, int] | None = None) -> Image.Image:
    """A frame as RGB or RGBA, scaled to these sides."""
    width, height = sides or (frame.width, frame.height)
    how = Interpolation.AREA if frame.width >= 2 * width else None
    plain = frame.reformat(width=width, height=height, format=_NAMES[mode], interpolation=how, threads=1)
    if plain.planes[0].line_size < 0:
        # It is the same frame, which lies upside down in memory. PyAV would read what stands behind it.
        plain = frame.reformat(format=_OTHERS[mode], threads=1).reformat(format=_NAMES[mode], threads=1)
    plane = plain.planes[0]
    return Image.frombytes(mode, (plain.width, plain.height), memoryview(plane), "raw", mode, plane.line_size)


def _decoder(name: str) -> VideoCodecContext:
    decoder = CodecContext.create(name, "r")
    if not isinstance(decoder, VideoCodecContext):
        raise CannotDecode("unsupported", "not a picture")
    decoder.thread_count = 1
    return decoder


def _packet(file: IO[bytes], missing: int = 0) -> Packet[Any]:
    if file.seek(0, io.SEEK_END) > MOST_BYTES:
        raise CannotDecode("too_large", f"pictures of this format are decoded up to {MOST_BYTES >> 20} MiB")
    file.seek(0)
    return Packet(file.read() + bytes(min(missing, max(TIMES_MISSING * file.tell(), LEAST_MISSING))))


def _float_map(file: IO[bytes]) -> tuple[int, int, int, str]:
    """Of a portable float map (Debevec's PFM): width, height, bands, and the byte order. Then come its rows."""
    file.seek(0)
    head = _FLOAT_MAP.match(file.read(HEAD_OF_A_FLOAT_MAP))
    if head is None:
        raise CannotDecode("corrupt", "its header is damaged")
    file.seek(head.end())
    return int(head[2]), int(head[3]), 3 if head[1] == b"F" else 1, "F" if head[4] else "BF"


def _of_float_map(file: IO[bytes]) -> Image.Image:
    width, height, count, order = _float_map(file)
    length = 4 * width * height * count
    if length > MOST_BYTES:
        raise CannotDecode("too_large", f"pictures of this format are decoded up to {MOST_BYTES >> 20} MiB")
    data = file.read(length)
    if len(data) < length:
        raise CannotDecode("corrupt", "its end is missing")
    whole = Image.frombytes("F", (width * count, height), data, "raw", f"F;32{order}", 0, -1)
    if count == 1:
        return greys.visible(whole)
    return light_to_srgb(greys.every(whole, count, band) for band in range(count))


def _of_light(frame: VideoFrame) -> Image.Image:
    """A picture of measured light, linear."""
    if "f16" in frame.format.name:
        frame = frame.reformat(format="gbrapf32le" if "a" in frame.format.name else "gbrpf32le", threads=1)
    if any(plane.line_size < 0 for plane in frame.planes):
        raise CannotDecode("unsupported", "its rows lie upside down")
    if len(frame.planes) < 3:
        return greys.visible(_band(frame, frame.planes[0]))
    in_order = (frame.planes[number] for number in (2, 0, 1, 3)[: len(frame.planes)])  # FFmpeg's begin with green
    return light_to_srgb(_band(frame, plane) for plane in in_order)


def _band(frame: VideoFrame, plane: VideoPlane) -> Image.Image:
    raw = "F;32BF" if frame.format.name.endswith("be") else "F;32F"
    return Image.frombytes("F", (frame.width, frame.height), memoryview(plane), "raw", raw, plane.line_size)
