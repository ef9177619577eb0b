"""Pictures: their headers and, up to the pixel caps, a small WebP in sRGB without metadata. Runs in the child.

A damaged picture shows what is there, as in a browser (`damage`).

A picture's header tells the memory that decoding it takes, so the header decides. A sequential JPEG is decoded row by
row at reduced scale, so even 250 megapixels take little. A progressive JPEG and every other format is held whole, at
four bytes a pixel and more; the cap is 50 megapixels (WebP: 30), and 80 to 150 where a pixel takes less. Of a JPEG 2000
the pixels count that it is decoded to. Of a larger picture a smaller copy is shown that its file holds (`copies`).

The kernel enforces a memory limit for each step: HEADER_BYTES for reading a header, and for decoding what its number of
pixels needs. So a header that understates its picture makes the decoding fail.
"""

from __future__ import annotations

import codecs
import io
import math
import struct
from contextlib import suppress
from fractions import Fraction
from typing import IO, Any, Literal

import pillow_heif
from PIL import (
    AvifImagePlugin,
    DdsImagePlugin,
    ExifTags,
    GifImagePlugin,
    IcnsImagePlugin,
    IcoImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    MpoImagePlugin,  # noqa: F401  (a child cannot import; for a format it lacks, Pillow would load all forty)
    PngImagePlugin,
    PsdImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from media_core.decoding import bands, copies, damage, fits, greys, jpeg2000, jxl, photoshop, stills, strips, tiff
from media_core.decoding.colours import Coding, profile_of, to_srgb
from media_core.decoding.confinement import allow_memory
from media_core.decoding.failures import CannotDecode
from media_core.decoding.results import LONGEST_SIDE
from media_core.decoding.thumbhash import thumbhash

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "PSD", "ICNS", "DDS")
ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")
MOST_PIXELS = 50_000_000
MOST_PIXELS_WEBP = 30_000_000
"""WebP's decoder holds the canvas three times, 19 bytes a pixel in all."""

MOST_PIXELS_JXL = 30_000_000
"""JPEG XL's decoder keeps the whole picture in floats."""

MOST_PIXELS_SEQUENTIAL_JPEG = 250_000_000
MOST_PIXELS_PROGRESSIVE_JPEG = 80_000_000
"""Six bytes a pixel, where its colours are as fine as its light."""

MOST_PIXELS_JPEG2000 = 500_000_000
"""Before they are halved. Its decoder keeps a note of each block of pixels, also of those that it passes over."""

OF_PLAIN_ROWS = ("PNG", "BMP", "DIB", "TIFF", "PPM")
MOST_PIXELS_OF_ROWS = {"1": 150_000_000, "L": 150_000_000, "RGB": 100_000_000, "CMYK": 100_000_000, "P": 100_000_000}
"""By Pillow's modes of one byte and of four a pixel. Nothing is held beside them."""

MOST_BYTES_HELD = 128 << 20
"""Largest encoded file of the formats whose decoder copies it into memory (WebP, AVIF, HEIF, most TIFFs)."""

COPIES_HELD = 4
"""Most copies of such a file that are in memory while it is opened."""

HEADER_BYTES = 64 << 20
"""Memory for reading any header. A camera's takes one or two MiB."""

DECODING_BYTES = 128 << 20
BYTES_PER_PIXEL = 24
"""Memory for decoding and scaling: a fixed part and one a pixel. Measured: up to 20 bytes a pixel (WebP with
transparency). The fixed part leaves room for a HEIF picture that is cropped after decoding: its header has the cropped
sides."""

LONGEST_SIDE_OF_AN_ICON = 1024
"""Pixels. An icon's own directory knows 256 at most; a PNG in it may be larger."""

SMALL_SIDE = 64
"""Pixels. A thumbnail up to this side, as of an icon, is lossless: lossy WebP has one colour for each four pixels."""

MOST_EMPTY_FRAMES = 10
"""Most frames that an animation may begin with before it shows anything."""

CODING_BYTES = 64 << 10
"""So much of an AVIF or PNG is looked at for how it is coded. That stands before the pixels."""

DEPTH_OF_A_PNG = 24
"""Where a PNG says its bits a sample (PNG, third edition, 11.2.1)."""

_SMALL_PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 16, 16, 8, 3) + bytes(14) + bytes(3 * 256)
"""Which Pillow reads and does not write."""

_READ_AS_NEEDED = (b"\xff\xd8", b"\x89P", b"GI", b"BM", b"\x28\0", b"8B", b"P4", b"P5", b"P6")
_NOT_IN_LIBTIFF = ("webp", "tiff_sgilog", "tiff_sgilog24")
"""Ways of packing that Pillow knows by name, and its libtiff does not decode."""

_ASPECT = "width of a pixel to its height"
"""Where it is kept with a picture, if it is not 1."""
_PART = "what is shown of it"
"""Where the edges are kept with a picture that is shown in part: left, upper, right, lower."""

LEAST_OBLONG, MOST_OBLONG = 1.03, 8.0
"""Ratios of a pixel's sides. A scanner's resolutions differ a little, and more is an error."""

_PAPER: dict[str, float | tuple[int, ...]] = {
    "1": 255,
    "L": 255,
    "RGB": (255, 255, 255),
    "RGBA": (255, 255, 255, 0),
    "CMYK": (0, 0, 0, 0),
    "LAB": (255, 128, 128),
}
"""White, by Pillow's modes."""

_ICON, _CURSOR = b"\0\0\1\0", b"\0\0\2\0"
_JPEG_2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
_X_RESOLUTION, _Y_RESOLUTION = 282, 283
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _FirstFrame(GifImagePlugin.GifImageFile):
    """A GIF that keeps nothing for its second frame.

    Pillow's reader would allocate memory for the first frame's disposal as soon as it reads that frame's header.
    """

    @property
    def disposal_method(self) -> int:
        return 0

    @disposal_method.setter
    def disposal_method(self, _: int) -> None:
        pass


class _Texture(DdsImagePlugin.DdsImageFile):
    """A DDS whose pixels are read where they stand. Pillow's reader takes them from where the file was left."""

    def load_seek(self, pos: int) -> None:
        if self.fp is not None:
            self.fp.seek(stills.PIXELS_OF_A_TEXTURE)


def warm_up() -> None:
    """Loads every decoder, as a confined process cannot import."""
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    Image.MAX_IMAGE_PIXELS = None  # this module checks the sizes
    Image.register_open(_FirstFrame.format, _FirstFrame, lambda head: head.startswith((b"GIF87a", b"GIF89a")))
    Image.register_open(_Texture.format, _Texture, lambda head: head.startswith(b"DDS "))
    PngImagePlugin.PngStream = damage.PngStream  # type: ignore[misc]
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    stills.warm_up()
    jxl.warm_up()
    for encoding in ("ascii", "latin-1", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "cp1252"):
        codecs.lookup(encoding)
    for name in FORMATS:
        thumbnail(io.BytesIO(_small(name)), 8)


def _small(name: str) -> bytes:
    """A picture of 16 x 16 pixels."""
    if name == "PSD":
        return _SMALL_PSD
    if name == "ICNS":  # Pillow would write it in ten sizes
        png = _small("PNG")
        return struct.pack(">4sI4sI", b"icns", 16 + len(png), b"icp4", 8 + len(png)) + png
    encoded = io.BytesIO()
    Image.new("RGB", (16, 16)).save(encoded, name)
    return encoded.getvalue()


def inspect_image(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """ImageFacts by the header only, so also for most pictures above the caps.

    An orientation that is stored behind the pixels (in some PNGs, and in a WebP above the cap) is not seen.
    """
    file = copies.past(file)
    if stated := _stated_webp(file):
        width, height, animated = stated
        if width * height > MOST_PIXELS_WEBP or damage.is_mostly_missing(file):
            return _facts("WEBP", (width, height), animated=animated)
    if icon := _stated_icon(file):
        return _facts("ICO", icon)
    if layout := bands.layout(file):
        return _facts("TIFF", _upright((layout.width, layout.height), layout.orientation))
    if fits.is_fits(file):
        sky = fits.header(file)
        return _facts("FITS", (sky.width, sky.height))
    if deep := photoshop.header(file):
        return _facts("PSD", (deep.width, deep.height))
    if jxl.is_jxl(file):
        return _facts("JXL", jxl.sides(file))
    if still := stills.codec(file):
        return _facts(still.upper(), _sides_of_still(file, still))
    try:
        image = _open(file)
    except (UnidentifiedImageError, CannotDecode):
        if (directory := tiff.directory(file)) is not None:
            return _facts("TIFF", tiff.sides(file, directory))
        if (of_photoshop := photoshop.sides(file)) is not None:
            return _facts("PSD", of_photoshop)
        raise
    sides = _upright(_sides(image), _orientation(image))
    name = "JPEG" if image.format == "MPO" else str(image.format)
    return _facts(name, sides, animated=name in ANIMATIONS and bool(getattr(image, "is_animated", False)))


def _facts(name: str, sides: tuple[int, int], *, animated: bool = False) -> tuple[dict[str, Any], bytes]:
    """The answer of `inspect_image`. Raises CannotDecode for sides that no picture may have."""
    _check_sides(*sides)
    return {"width": sides[0], "height": sides[1], "format": name, "animated": animated}, b""


def thumbnail(file: IO[bytes], max_side: int = 1024) -> tuple[dict[str, Any], bytes]:
    """The picture, or an animation's first frame that shows anything, upright, as WebP.

    Its longest side has at most `max_side` pixels.
    """
    image, sides = _loaded(file, max_side)
    small, coding = shrunk(image, max_side), _coding(file, image)
    if _ASPECT in image.info:
        scale = min(1.0, max_side / max(sides))
        small = small.resize((max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))))
    if not small.info.get("icc_profile") and (profile := coding.profile if coding else _stated_profile(image)):
        small = small if small.mode in ("RGB", "RGBA") else small.convert("RGB")
        small.info["icc_profile"] = profile
    small = to_srgb(small, coding)
    orientation = _orientation(image)  # after the decoding: a PNG may store it behind its pixels
    turn = _TURNS.get(orientation)
    return picture(small if turn is None else small.transpose(turn), *_upright(sides, orientation))


def resize_thumbnail(file: IO[bytes], size: int, image_format: Literal["webp", "jpeg"]) -> tuple[dict[str, Any], bytes]:
    """One of our own thumbnails, scaled down to `size` pixels on its longest side and encoded anew."""
    small = to_srgb(shrunk(_open_to_decode(file, size), size))
    if image_format == "webp":
        return {}, _webp(small)
    encoded = io.BytesIO()
    if small.has_transparency_data:
        paper = Image.new("RGB", small.size, "white")
        paper.paste(small, mask=small.getchannel("A"))
        small = paper
    small.convert("RGB").save(encoded, "JPEG", quality=85)
    return {}, encoded.getvalue()


def picture(image: Image.Image, source_width: int, source_height: int) -> tuple[dict[str, Any], bytes]:
    """The answer of a task that makes a thumbnail: facts and WebP."""
    facts = {"width": image.width, "height": image.height, "thumbhash": thumbhash(image)}
    return facts | {"source_width": source_width, "source_height": source_height}, _webp(image)


def shrunk(image: Image.Image, max_side: int) -> Image.Image:
    """The picture scaled down to `max_side` pixels on its longest side, never up. Eight bits a channel."""
    image.draft(None, (max_side, max_side))
    if image.mode.startswith("I;16") and image.format != "TIFF":
        # The high bytes; convert("L") would clip at 255 instead.
        high = 0 if image.mode.endswith("B") else 1
        clear, deep = image.info.get("transparency"), image
        image = Image.frombytes("L", image.size, image.tobytes()[high::2])
        if isinstance(clear, int):
            opaque = deep.convert("I").point([255 * (value != clear) for value in range(1 << 16)], "L")
            image = Image.merge("RGBA", (image, image, image, opaque)).convert("RGBa")
    elif image.mode.startswith(("I", "F")):
        image = greys.visible(image)
    elif image.has_transparency_data:
        # Premultiplied: otherwise the colour of transparent pixels would show at the edges.
        profile = image.info.get("icc_profile")
        image = image.convert("RGBA").convert("RGBa")
        image.info["icc_profile"] = profile
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image.convert("RGBA") if image.mode == "RGBa" else image


def _open(file: IO[bytes]) -> Image.Image:
    """The picture with its headers read. Raises CannotDecode, and Pillow's errors, before it allocates pixels."""
    file.seek(0)
    head = file.read(16)
    whole = damage.whole(file, head)
    size = whole.seek(0, io.SEEK_END)
    held = 0 if head[:2] in _READ_AS_NEEDED else size
    if held > MOST_BYTES_HELD:
        raise CannotDecode("too_large", f"pictures of this format are decoded up to {MOST_BYTES_HELD >> 20} MiB")
    width, height, _ = _stated_webp(file) or (0, 0, False)
    if width * height > MOST_PIXELS_WEBP:
        raise _too_large(width, height)
    allow_memory(HEADER_BYTES + COPIES_HELD * held + BYTES_PER_PIXEL * width * height)
    whole.seek(0)
    with damage.tolerated():
        image = Image.open(whole, formats=FORMATS)
    _check_sides(*image.size)
    if isinstance(image, IcnsImagePlugin.IcnsImageFile):
        _check_apple_icon(image.icns, image.best_size)
    clear = image.info.get("transparency")
    if image.format == "PNG" and isinstance(clear, tuple) and _at(file, DEPTH_OF_A_PNG) == 16:
        image.info["transparency"] = tuple(value >> 8 for value in clear)  # as Pillow reads the pixels
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _note_aspect(image)
    if image.format == "AVIF" and (part := _clean_aperture(file, *image.size)):
        image.info[_PART] = part
    return image


def _note_aspect(image: TiffImagePlugin.TiffImageFile) -> None:
    """Keeps the shape of a TIFF's pixels with it, where they are oblong, as a fax's are (TIFF 6.0, section 8)."""
    across, down = (float(image.tag_v2.get(tag) or 0) for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    if not LEAST_OBLONG <= max(across, down) / (min(across, down) or math.inf) <= MOST_OBLONG:
        return
    is_turned = image.tag_v2.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    image.info[_ASPECT] = across / down if is_turned else down / across
    if max(_sides(image)) > LONGEST_SIDE:
        del image.info[_ASPECT]


def _clean_aperture(file: IO[bytes], width: int, height: int) -> tuple[int, int, int, int] | None:
    """The part of an AVIF that is shown (ISO 14496-12, 12.1.4); None: all of it, or no part that can be. Pillow shows
    all.
    """
    file.seek(0)
    _, found, after = file.read(CODING_BYTES).partition(b"mdat")[0].partition(b"\0\0\0\x28clap")
    if not found or len(after) < 32:
        return None
    numbers = struct.unpack_from(">IIIIiIiI", after)
    if not all(numbers[1::2]):
        return None
    across, down, right, below = (Fraction(*numbers[at : at + 2]) for at in (0, 2, 4, 6))
    left, upper = (width - across) / 2 + right, (height - down) / 2 + below
    edges = (left, upper, left + across, upper + down)
    is_within = 0 <= left < edges[2] <= width and 0 <= upper < edges[3] <= height
    if not is_within or any(edge.denominator > 1 for edge in edges):
        return None
    return int(edges[0]), int(edges[1]), int(edges[2]), int(edges[3])


def _sides(image: Image.Image) -> tuple[int, int]:
    """In square pixels, of the part that is shown. Of oblong ones one side grows."""
    if part := image.info.get(_PART):
        return part[2] - part[0], part[3] - part[1]
    aspect = image.info.get(_ASPECT, 1.0)
    return round(image.width * max(aspect, 1.0)), round(image.height / min(aspect, 1.0))


def _check_apple_icon(icon: IcnsImagePlugin.IcnsFile, best: tuple[int, int, int]) -> None:
    """Raises CannotDecode if the picture that is going to be shown is larger by its own header than the icon says."""
    start, length = next(icon.dct[kind] for kind, _ in icon.SIZES[best] if kind in icon.dct)
    icon.fobj.seek(start)
    head = icon.fobj.read(min(length, 4_096))
    sides = (0, 0)
    if head.startswith(damage.PNG):
        sides = struct.unpack_from(">II", head.ljust(24, b"\0"), 16)
    elif head.startswith(_JPEG_2000):
        sides = Image.open(io.BytesIO(head), formats=("JPEG2000",)).size
    if sides[0] > best[0] * best[2] or sides[1] > best[1] * best[2]:
        raise _too_large(*sides)


def _open_to_decode(file: IO[bytes], max_side: int) -> Image.Image:
    """As `_open`, and allows the memory for its pixels. Raises CannotDecode above the caps."""
    if icon := _stated_icon(file):
        allow_memory(DECODING_BYTES + BYTES_PER_PIXEL * icon[0] * icon[1])
        return _best_of_icon(file)
    image = _open(file)
    if image.format == "TIFF" and image.info.get("compression") in _NOT_IN_LIBTIFF:
        raise CannotDecode("unsupported", "its pixels are packed in a way that is not decoded here")
    pixels = image.width * image.height
    if image.format == "JPEG2000" and pixels <= MOST_PIXELS_JPEG2000:
        pixels >>= 2 * jpeg2000.Header(file).halvings(max(image.size), max_side)
    if pixels > MOST_PIXELS and pixels > _most_pixels(file, image):
        raise _too_large(image.width, image.height)
    allow_memory(DECODING_BYTES + COPIES_HELD * file.seek(0, io.SEEK_END) + BYTES_PER_PIXEL * pixels)
    return image


def _most_pixels(file: IO[bytes], image: Image.Image) -> int:
    """Of a picture that is decoded at once, by what each pixel takes until it is scaled down."""
    if image.format in ("JPEG", "MPO"):
        return MOST_PIXELS_SEQUENTIAL_JPEG if _is_sequential_jpeg(file) else MOST_PIXELS_PROGRESSIVE_JPEG
    if image.format in OF_PLAIN_ROWS and not image.has_transparency_data:
        return MOST_PIXELS_OF_ROWS.get(image.mode, MOST_PIXELS)
    return MOST_PIXELS


def _loaded(file: IO[bytes], max_side: int) -> tuple[Image.Image, tuple[int, int]]:
    """The picture's pixels, as many as can be decoded, and its sides. Of one that can't be, those of a smaller copy in
    it.

    Raises as `_loaded_whole`.
    """
    if (picture_itself := copies.past(file)) is not file:
        with suppress(CannotDecode, *damage.ERRORS):
            return _loaded(picture_itself, max_side)
        return _in_its_place(file, file, max_side)  # the copy before it, which a decoder finds first
    try:
        if (stored := strips.stored_in(file)) is None:
            return _loaded_whole(file, max_side)
        if part := strips.part(file, stored):
            return _of_part(file, part, max_side)
        return _loaded_whole(strips.filled(file, stored), max_side)
    except CannotDecode as error:
        find = {"too_large": copies.smaller, "unsupported": copies.in_another_form}.get(error.code)
        if find is None or (copy := find(file)) is None:
            raise
    except damage.ERRORS:
        if (copy := copies.in_another_form(file)) is None:
            raise
    return _in_its_place(copy, file, max_side)


def _in_its_place(copy: IO[bytes], file: IO[bytes], max_side: int) -> tuple[Image.Image, tuple[int, int]]:
    """The pixels of `copy`, and the sides of the picture of `file`."""
    facts, _ = inspect_image(file)
    image, _ = _loaded_whole(copy, max_side)
    return image, _upright((facts["width"], facts["height"]), _orientation(image))


def _loaded_whole(file: IO[bytes], max_side: int) -> tuple[Image.Image, tuple[int, int]]:
    """As `_loaded`, of the picture itself. There are fewer pixels if it is a JPEG.

    Raises as `_open_to_decode`, and CannotDecode if there are no pixels.
    """
    if layout := bands.layout(file):
        return _of_bands(file, layout)
    if fits.is_fits(file):
        sky = fits.header(file)
        _allow_pixels((sky.width, sky.height), sky.pixels)
        return fits.load(file, sky), (sky.width, sky.height)
    if deep := photoshop.header(file):
        _allow_pixels((deep.width, deep.height), deep.pixels)
        return photoshop.load(file, deep), (deep.width, deep.height)
    if jxl.is_jxl(file):
        return _of_jxl(file, max_side)
    if still := stills.codec(file):
        sides = _sides_of_still(file, still)
        _allow_pixels(sides, sides[0] * sides[1], held=stills.COPIES_HELD * file.seek(0, io.SEEK_END))
        return stills.load(file, still), sides
    image = _open_to_decode(file, max_side)
    sides, is_shown_in_part, failed = _sides(image), image.format in damage.SHOWN_IN_PART, ""
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
        return _of_jpeg2000(file, image, max_side), sides
    if damage.is_crushed(file):
        return damage.load_crushed(image), sides
    try:
        image.draft(None, (max_side, max_side))
        image.load()
    except damage.ERRORS as error:
        if not is_shown_in_part:
            raise
        failed = str(error)
    else:
        if image.format in ANIMATIONS:
            image = _shown_part(_first_to_show_anything(_clear_around(image)))
        elif (
            image.format in ("BMP", "DIB", "DDS")
            and image.mode == "RGBA"
            and image.getchannel("A").getextrema() == (0, 0)
        ):
            image = image.convert("RGB")  # as in browsers: programs leave it empty where they know of none
        return image, sides
    is_progressive = bool(image.info.get("progressive"))
    del image  # its memory, before the same is taken again
    if is_progressive and (less_sharp := _of_first_scans(file, max_side)):
        return less_sharp, sides
    image = _open_to_decode(file, max_side)
    image.draft(None, (max_side, max_side))
    damage.load_in_part(image, failed)
    return image, sides


def _of_part(file: IO[bytes], part: strips.Part, max_side: int) -> tuple[Image.Image, tuple[int, int]]:
    """The rows of a TIFF that are there, with white where the others are missing."""
    facts, _ = inspect_image(file)
    image, _ = _loaded_whole(part.file, max_side)
    if image.mode.startswith(("I", "F")):
        image = greys.visible(image)
    elif image.mode not in _PAPER:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    height = round(part.height * max(image.size) / max(part.width, part.rows))  # it may have been scaled down
    paper = Image.new(image.mode, (image.width, max(image.height, height)), _PAPER[image.mode])
    paper.paste(image)
    paper.info = {name: value for name, value in image.info.items() if name in ("icc_profile", _ASPECT)}
    turn = _TURNS.get(part.orientation)
    return paper if turn is None else paper.transpose(turn), (facts["width"], facts["height"])


def _of_jpeg2000(file: IO[bytes], image: Jpeg2KImagePlugin.Jpeg2KImageFile, max_side: int) -> Image.Image:
    header = jpeg2000.Header(file)
    halvings = header.halvings(max(image.size), max_side)
    found: Image.Image | None = None
    # Of more than 8 bits Pillow rounds samples, and of the brightest, 256, keeps 0.
    if header.depth <= 8 or image.mode not in ("RGB", "RGBA"):
        sides, image.reduce = image.size, halvings
        try:
            image.load()
            found = image
        except damage.ERRORS:  # cut short; the other decoder takes memory for what the codestream says
            if header.sides != sides:
                raise
    found = found or stills.load(file, "jpeg2000", lowres=str(halvings))
    if header.profile:
        found.info["icc_profile"] = header.profile
    return found


def _of_first_scans(file: IO[bytes], max_side: int) -> Image.Image | None:
    """A progressive JPEG of as many of its scans as can be decoded; None if not even the first can."""
    best: Image.Image | None = None
    ends = damage.ends_of_scans(file)
    decoded, failed = 0, len(ends) + 1
    while failed - decoded > 1:
        middle = (decoded + failed) // 2
        image = Image.open(damage.without_later_scans(file, ends[middle - 1]), formats=("JPEG",))
        try:
            image.draft(None, (max_side, max_side))
            image.load()
        except damage.ERRORS:
            failed = middle
        else:
            best, decoded = image, middle
    return best


def _of_bands(file: IO[bytes], layout: bands.Layout) -> tuple[Image.Image, tuple[int, int]]:
    size = file.seek(0, io.SEEK_END)
    if size > MOST_BYTES_HELD:
        raise _too_large(layout.width, layout.height)
    _allow_pixels((layout.width, layout.height), layout.pixels, held=COPIES_HELD * size)
    image = bands.load(file, layout)
    turn = _TURNS.get(layout.orientation)
    image = image if turn is None else image.transpose(turn)
    return image, _upright((layout.width, layout.height), layout.orientation)


def _of_jxl(file: IO[bytes], max_side: int) -> tuple[Image.Image, tuple[int, int]]:
    sides = jxl.sides(file)
    _check_sides(*sides)
    if sides[0] * sides[1] > MOST_PIXELS_JXL:
        raise _too_large(*sides)
    if file.seek(0, io.SEEK_END) > MOST_BYTES_HELD:
        raise CannotDecode("too_large", f"pictures of this format are decoded up to {MOST_BYTES_HELD >> 20} MiB")
    allow_memory()
    found = jxl.decoded(file)
    return (found, found.size) if isinstance(found, Image.Image) else _loaded_whole(found, max_side)


def _sides_of_still(file: IO[bytes], name: str) -> tuple[int, int]:
    allow_memory(HEADER_BYTES + stills.COPIES_HELD * min(file.seek(0, io.SEEK_END), stills.MOST_BYTES))
    width, height = stills.sides(file, name)
    _check_sides(width, height)
    return width, height


def _clear_around(image: Image.Image) -> Image.Image:
    """A GIF whose first frame is smaller than its screen is clear around it, as in browsers; Pillow takes a colour."""
    extent = getattr(image, "dispose_extent", None)
    if image.format != "GIF" or image.has_transparency_data or extent in (None, (0, 0, *image.size)):
        return image
    screen = Image.new("RGBA", image.size)
    screen.paste(image.crop(extent), extent)
    return screen


def _shown_part(image: Image.Image) -> Image.Image:
    part = image.info.get(_PART)
    if part is None:
        return image
    shown = image.crop(part)
    shown.format = image.format
    return shown


def _first_to_show_anything(image: Image.Image) -> Image.Image:
    if getattr(image, "default_image", False):  # for viewers that show no animations (PNG, third edition, 4.9)
        try:
            image.seek(1)
            image.load()
        except (EOFError, *damage.ERRORS):
            image.seek(0)
            image.load()
    for number in range(1, MOST_EMPTY_FRAMES + 1):
        if not image.has_transparency_data or image.convert("RGBA").getchannel("A").getextrema() != (0, 0):
            break
        try:
            image.seek(number)
            image.load()
        except (EOFError, *damage.ERRORS):
            break
    return image


def _coding(file: IO[bytes], image: Image.Image) -> Coding | None:
    """How a HEIF, AVIF (ISO 23008-12, 6.5.5) or PNG (third edition, 11.3.2.6) says its colours are coded."""
    match image.format:
        case "HEIF" if nclx := image.info.get("nclx_profile"):
            return Coding(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
        case "AVIF":
            name, end = b"colrnclx", b"mdat"
        case "PNG":
            name, end = b"\0\0\0\4cICP", b"IDAT"
        case _:
            return None
    file.seek(0)
    _, found, after = file.read(CODING_BYTES).partition(end)[0].partition(name)
    if not found or len(after) < 4:
        return None
    return Coding(*struct.unpack_from(">HH" if image.format == "AVIF" else ">BB", after))


def _stated_profile(image: Image.Image) -> bytes | None:
    """The colour profile of a PNG that says its gamma instead of one. The chromaticities alone say nothing."""
    said = image.info
    if image.format != "PNG" or "gamma" not in said or "srgb" in said or said.get("icc_profile"):
        return None
    return profile_of(said["gamma"], said.get("chromaticity"))


def _too_large(width: int, height: int) -> CannotDecode:
    return CannotDecode("too_large", f"its {width} x {height} pixels are more than are decoded here")


def _check_sides(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise CannotDecode("corrupt", "a picture without pixels")
    if max(width, height) > LONGEST_SIDE:
        raise CannotDecode("too_large", f"{width} x {height} pixels are more than a picture may have")


def _allow_pixels(sides: tuple[int, int], pixels: int, *, held: int = 0) -> None:
    """Allows the memory for so many pixels, and for `held` bytes of the file. Raises CannotDecode above the cap."""
    _check_sides(*sides)
    if pixels > MOST_PIXELS:
        raise _too_large(*sides)
    allow_memory(DECODING_BYTES + held + BYTES_PER_PIXEL * pixels)


def _at(file: IO[bytes], position: int) -> int:
    """One byte, whose position is within the file. The file's own position stays."""
    before = file.tell()
    file.seek(position)
    (byte,) = file.read(1)
    file.seek(before)
    return byte


def _stated_webp(file: IO[bytes]) -> tuple[int, int, bool] | None:
    """Width, height and whether it is animated, by a WebP's first chunk: its decoder would allocate the canvas first.

    None for what is no WebP (RFC 9649, 2.5 to 2.7; RFC 6386, 9.1).
    """
    file.seek(0)
    head = file.read(30)
    if head[:4] != b"RIFF" or len(head) < 30:
        return None
    match head[8:16]:
        case b"WEBPVP8 ":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF, False
        case b"WEBPVP8L":
            (bits,) = struct.unpack_from("<I", head, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, False
        case b"WEBPVP8X":
            width, height = int.from_bytes(head[24:27], "little"), int.from_bytes(head[27:30], "little")
            return width + 1, height + 1, bool(head[20] & 2)
    return None


def _stated_icon(file: IO[bytes]) -> tuple[int, int] | None:
    """Width and height of an icon's or a cursor's largest picture, by that picture's own header. None for all else.

    Raises CannotDecode if it is larger than icons are, or is none.
    """
    file.seek(0)
    head = file.read(6)
    if head[:4] not in (_ICON, _CURSOR) or not any(head[4:]):  # a TGA begins as a cursor without a picture would
        return None
    icon, best = _icon(file)
    file.seek(icon.entry[best].offset)
    header = file.read(24)
    if header.startswith(damage.PNG):
        width, height = struct.unpack_from(">II", header, 16)
    else:
        _, width, height = struct.unpack_from("<Iii", header)
        height //= 2  # the mask is below the picture
    if max(width, height) > LONGEST_SIDE_OF_AN_ICON:
        raise _too_large(width, height)
    if min(width, height) < 1:
        raise CannotDecode("corrupt", "an icon without a picture")
    return width, height


def _icon(file: IO[bytes]) -> tuple[IcoImagePlugin.IcoFile, int]:
    """The icon's directory, and the number of its largest picture of the most colours."""
    named_icon = io.BufferedReader(damage.Lengthened(file, b"", start=_ICON))
    named_icon.seek(0)
    try:
        icon = IcoImagePlugin.IcoFile(named_icon)
        icon.entry = [_with_depth(file, entry) for entry in icon.entry]
        return icon, max(range(len(icon.entry)), key=lambda at: (icon.entry[at].square, icon.entry[at].color_depth))
    except (IndexError, ValueError, struct.error) as error:
        raise CannotDecode("corrupt", "an icon without a picture") from error


def _with_depth(file: IO[bytes], entry: IcoImagePlugin.IconHeader) -> IcoImagePlugin.IconHeader:
    """An entry with the bits of a pixel by the picture's own header: many icons' directories say 0, and a cursor's says
    something else there.
    """
    file.seek(entry.offset)
    header = file.read(16)
    if header.startswith(damage.PNG) or len(header) < 16:
        return entry
    (bits,) = struct.unpack_from("<H", header, 14)
    return entry._replace(bpp=bits, color_depth=bits)


def _best_of_icon(file: IO[bytes]) -> Image.Image:
    icon, best = _icon(file)
    with damage.tolerated():
        return icon.frame(best)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow's reader turns it itself
    try:
        # Not `image.getexif()`: for a PNG that decodes the whole picture.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # damaged EXIF must not cost the thumbnail


def _upright(sides: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (sides[1], sides[0]) if orientation in (5, 6, 7, 8) else sides


def _is_sequential_jpeg(file: IO[bytes]) -> bool:
    """Whether libjpeg decodes it row by row: Huffman-coded, not progressive, all components in the first scan.

    A baseline JPEG with one scan per component is buffered whole, like a progressive one (ITU T.81, B.2).
    """
    file.seek(0)
    if file.read(2) != b"\xff\xd8":
        return False
    components = 0
    while (marker := file.read(2))[:1] == b"\xff" and len(marker) == 2:
        if marker == b"\xff\xff":
            file.seek(-1, io.SEEK_CUR)
            continue
        length = int.from_bytes(file.read(2)) - 2
        if length < 1:
            break
        body = file.read(length)
        if marker in (b"\xff\xc0", b"\xff\xc1"):
            components = body[5]
        elif marker == b"\xff\xda":
            return components > 0 and body[0] == components
    return False


def _webp(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    is_small = max(image.size) <= SMALL_SIDE
    # Method 2 takes half the time of the default 4, for files 4 % larger. Without a profile Pillow keeps the source's.
    image.save(encoded, "WEBP", quality=80, method=2, lossless=is_small, icc_profile=b"", exif=b"", xmp=b"")
    return encoded.getvalue()
