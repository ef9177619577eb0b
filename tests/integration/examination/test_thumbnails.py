"""Thumbnails: upright, in sRGB, without metadata, within a memory limit."""

import asyncio
import base64
import functools
import io
import re
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import ExifTags, Image, ImageChops, ImageCms, PngImagePlugin, TiffImagePlugin

from media_core.decoding import BytesSource, DecodingFailed, ImageFacts, MediaFacts, Thumbnail, tiff
from media_core.decoding.pool import DecodingPool
from media_core.examination.examination import Examination
from media_core.examination.sniffing import sniff
from media_core.examination.thumbnails import ThumbnailSize, make_thumbnail, variant
from tests.fixtures import media
from tests.integration.examination.decoding_processes import Processes

FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "TIFF": "image/tiff"}
MODERN = {"HEIF": "image/heic", "AVIF": "image/avif"}


def shown(thumbnail: Thumbnail | bytes) -> Image.Image:
    return Image.open(io.BytesIO(thumbnail if isinstance(thumbnail, bytes) else thumbnail.data))


def assert_close(pixel: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 16) -> None:
    assert all(abs(a - b) <= tolerance for a, b in zip(pixel, expected, strict=True)), (pixel, expected)


def assert_quadrants(image: Image.Image, tolerance: int = 16) -> None:
    image = image.convert("RGB")
    for index, colour in enumerate(media.QUADRANTS):
        at = ((1 + 2 * (index % 2)) * image.width // 4, (1 + 2 * (index // 2)) * image.height // 4)
        pixel = image.getpixel(at)
        assert isinstance(pixel, tuple)
        assert_close(pixel, colour, tolerance)


def chunks(webp: bytes) -> list[bytes]:
    found, at = [], 12
    while at < len(webp):
        found.append(webp[at : at + 4])
        at += 8 + (struct.unpack("<I", webp[at + 4 : at + 8])[0] + 1) // 2 * 2
    return found


# Appearance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", [*FORMATS, *MODERN])
async def test_a_picture_is_shown_upright(decoding_pool: DecodingPool, image_format: str, orientation: int) -> None:
    source = BytesSource(media.oriented(orientation, image_format))
    facts: ImageFacts = await decoding_pool.run("inspect_image", source)
    assert (facts.width, facts.height, facts.format) == (240, 160, image_format)
    thumbnail = await make_thumbnail(decoding_pool, source, (FORMATS | MODERN)[image_format])
    assert (thumbnail.source_width, thumbnail.source_height) == (240, 160)
    assert (thumbnail.width, thumbnail.height) == shown(thumbnail).size == (240, 160)
    assert_quadrants(shown(thumbnail))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("mode", "dots"), [("1", (204, 98)), ("RGB", (204, 98)), ("L", (98, 204)), ("RGB", (0, 98))])
async def test_a_fax_has_the_shape_of_its_paper(
    decoding_pool: DecodingPool, mode: str, dots: tuple[int, int], orientation: int
) -> None:
    stored = media.quadrants(240, 160)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    fax = BytesSource(media.encoded(stored.convert(mode), "TIFF", dpi=dots, exif=exif))
    shape = {204: (240, 333), 98: (500, 160), 0: (240, 160)}[dots[0]]
    expected = shape if orientation < 5 else shape[::-1]
    facts: ImageFacts = await decoding_pool.run("inspect_image", fax)
    thumbnail = await make_thumbnail(decoding_pool, fax, "image/tiff")
    assert (facts.width, facts.height) == (thumbnail.source_width, thumbnail.source_height) == expected
    assert shown(thumbnail).size == expected


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P", "RGBA", "LA", "I;16", "RGB;16"])
async def test_every_kind_of_pixel_becomes_rgb(decoding_pool: DecodingPool, mode: str) -> None:
    picture = media.quadrants(240, 160)
    grey = picture.convert("L")
    if mode == "I;16":
        pixels = b"".join(struct.pack("<H", 257 * value) for value in grey.tobytes())
        data = media.encoded(Image.frombytes("I;16", grey.size, pixels), "PNG")
    elif mode == "RGB;16":
        data = media.deep_png(picture)
    else:
        data = media.encoded(picture.convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/png")
    expected = {"L": grey, "LA": grey, "I;16": grey, "1": picture.convert("1")}.get(mode, picture)
    result = shown(thumbnail).convert("RGB")
    for at in ((60, 40), (180, 40), (60, 120), (180, 120)):
        want = expected.convert("RGB").resize((24, 16), Image.Resampling.BOX).getpixel((at[0] // 10, at[1] // 10))
        got = result.resize((24, 16), Image.Resampling.BOX).getpixel((at[0] // 10, at[1] // 10))
        assert isinstance(want, tuple)
        assert isinstance(got, tuple)
        assert_close(got, want, 24)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "palette with one transparent colour"])
async def test_transparency_is_kept(decoding_pool: DecodingPool, kind: str) -> None:
    picture = media.quadrants(240, 160).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 120, 80))
    if kind == "RGBA":
        data = media.encoded(picture, "PNG")
    elif kind == "LA":
        data = media.encoded(picture.convert("LA"), "PNG")
    elif kind == "palette":
        data = media.encoded(picture.quantize(16), "PNG")
    else:
        data = media.encoded(picture, "GIF")
    result = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/png"))
    assert result.mode == "RGBA"
    clear, solid = result.getpixel((30, 30)), result.getpixel((180, 120))
    assert isinstance(clear, tuple)
    assert isinstance(solid, tuple)
    assert clear[3] == 0
    assert solid[3] == 255


async def test_transparent_pixels_do_not_colour_the_edge(decoding_pool: DecodingPool) -> None:
    picture = Image.new("RGBA", (4_000, 40), (255, 255, 255, 255))
    picture.paste((255, 0, 0, 0), (0, 0, 2_001, 40))
    result = shown(await make_thumbnail(decoding_pool, BytesSource(media.encoded(picture, "PNG")), "image/png"))
    edge = result.getpixel((result.width // 2 + 2, 5))
    assert isinstance(edge, tuple)
    assert_close(edge, (255, 255, 255, 255), 8)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "AVIF"])
async def test_an_animation_shows_its_first_picture(decoding_pool: DecodingPool, image_format: str) -> None:
    first, *others = (Image.new("RGB", (120, 80), colour) for colour in (media.RED, media.GREEN, media.BLUE))
    options = {"save_all": True, "append_images": others, "duration": 100}
    data = media.encoded(first, image_format, **options)
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(data))
    assert facts.animated
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/gif")
    pixel = shown(thumbnail).convert("RGB").getpixel((60, 40))
    assert isinstance(pixel, tuple)
    assert_close(pixel, media.RED)


async def test_what_a_png_shows_in_place_of_its_animation_is_not_its_picture(decoding_pool: DecodingPool) -> None:
    note, first = Image.new("RGB", (240, 160), "black"), media.quadrants(240, 160)
    data = media.encoded(note, "PNG", save_all=True, append_images=[first, note], default_image=True)
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/png")))
    cut = data[: data.index(b"fcTL") + 40]
    assert shown(await make_thumbnail(decoding_pool, BytesSource(cut), "image/png")).size == (240, 160)


async def test_nothing_of_the_cameras_notes_survives(decoding_pool: DecodingPool) -> None:
    data = media.located_photo()
    assert b"Secret Camera Works" in data
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/jpeg")
    small = await variant(decoding_pool, thumbnail.data, 160, "jpeg")
    for result in (thumbnail.data, small):
        assert b"Secret" not in result
        assert b"private" not in result
        assert b"Exif" not in result
    assert set(chunks(thumbnail.data)) <= {b"VP8 ", b"VP8L", b"VP8X", b"ALPH"}
    assert not shown(small).getexif()


async def test_colours_are_converted_to_srgb(decoding_pool: DecodingPool) -> None:
    # A profile whose red primary is sRGB's green, and the other way round.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    data = media.encoded(Image.new("RGB", (100, 100), (255, 0, 0)), "PNG", icc_profile=swapped)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/png")
    pixel = shown(thumbnail).convert("RGB").getpixel((50, 50))
    assert isinstance(pixel, tuple)
    assert_close(pixel, (0, 255, 0))
    assert b"ICCP" not in chunks(thumbnail.data)


async def test_a_damaged_colour_profile_or_exif_costs_nothing(decoding_pool: DecodingPool) -> None:
    data = media.encoded(media.quadrants(240, 160), "JPEG", icc_profile=b"nonsense" * 50, exif=b"Exif\0\0MM\0*\xff\xff")
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/jpeg")))


# Size


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((4_000, 3_000), (1_024, 768)),
        ((3_000, 4_000), (768, 1_024)),
        ((300, 200), (300, 200)),
        ((5_000, 2), (1_024, 1)),
    ],
)
async def test_the_longest_side_is_at_most_1024_and_never_enlarged(
    decoding_pool: DecodingPool, source: tuple[int, int], expected: tuple[int, int]
) -> None:
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(media.photo(*source)), "image/jpeg")
    assert (thumbnail.width, thumbnail.height) == shown(thumbnail).size == expected
    assert (thumbnail.source_width, thumbnail.source_height) == source


@pytest.mark.parametrize("size", ThumbnailSize)
async def test_variants_come_from_the_master(decoding_pool: DecodingPool, size: int) -> None:
    picture = media.quadrants(1_500, 1_000).convert("RGBA")
    picture.paste((0, 0, 0, 0), (700, 400, 800, 600))
    master = await make_thumbnail(decoding_pool, BytesSource(media.encoded(picture, "PNG")), "image/png")
    for image_format in ("webp", "jpeg"):
        small = shown(await variant(decoding_pool, master.data, size, image_format))  # type: ignore[arg-type]
        assert (small.format, small.width) == (image_format.upper(), size)
        assert_quadrants(small)
        middle = small.getpixel((small.width // 2, small.height // 2))
        assert isinstance(middle, tuple)
        if image_format == "jpeg":
            assert_close(middle, (255, 255, 255))
        else:
            assert middle[3] == 0
    tiny = await make_thumbnail(decoding_pool, BytesSource(media.photo(100, 50)), "image/jpeg")
    assert shown(await variant(decoding_pool, tiny.data, size, "webp")).size == (100, 50)


# Memory


@pytest.fixture
async def fresh() -> AsyncIterator[tuple[DecodingPool, psutil.Process]]:
    processes = Processes()
    async with DecodingPool(processes=1) as pool:
        await pool.run("thumbnail", BytesSource(media.photo(400, 300)))
        yield pool, processes.child


async def peak(child: psutil.Process) -> int:
    """Most resident bytes so far."""
    status = await asyncio.to_thread(Path(f"/proc/{child.pid}/status").read_text)
    return int(status.split("VmHWM:")[1].split()[0]) << 10


PNG_BOMB = functools.cache(lambda: media.png_bomb(13_000, 13_000))


def bomb(name: str) -> bytes:
    jpeg = media.photo(64, 48)
    match name:
        case "png":
            return PNG_BOMB()
        case "progressive jpeg":
            return media.resized_header(media.photo(64, 48, progressive=True), 12_000, 9_000)
        case "jpeg with a scan a component":
            at = jpeg.index(b"\xff\xda") + 4
            return media.resized_header(jpeg[:at] + b"\1" + jpeg[at + 1 :], 12_000, 9_000)
        case "jpeg beyond all cameras":
            return media.resized_header(jpeg, 30_000, 30_000)
        case "webp":
            webp = bytearray(media.oriented(1, "WEBP"))
            webp[24:30] = (16_000 - 1).to_bytes(3, "little") * 2
            return bytes(webp)
        case "gif":
            gif = media.photo(64, 48, "GIF")
            return gif[:6] + struct.pack("<HH", 60_000, 60_000) + gif[10:]
        case "bmp":
            return struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    raise ValueError(name)


BOMBS = {
    "png": "image/png",
    "progressive jpeg": "image/jpeg",
    "jpeg with a scan a component": "image/jpeg",
    "jpeg beyond all cameras": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
}


def seconds_of_cpu(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_refused_at_once_and_without_memory(
    fresh: tuple[DecodingPool, psutil.Process], name: str
) -> None:
    pool, child = fresh
    data = bomb(name)
    assert len(data) < 1_000_000
    before, spent = await peak(child), seconds_of_cpu(child)
    for _ in range(3):
        with pytest.raises(DecodingFailed) as failed:
            await make_thumbnail(pool, BytesSource(data), BOMBS[name])
        assert failed.value.code == "too_large"
    assert seconds_of_cpu(child) - spent < 3 * 0.1
    assert await peak(child) - before < 8 << 20


async def test_a_bomb_still_says_how_large_it_claims_to_be(decoding_pool: DecodingPool) -> None:
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(PNG_BOMB()))
    assert facts == ImageFacts(13_000, 13_000, "PNG", False)


@pytest.mark.parametrize("sides", [(8_064, 6_048), (9_248, 6_936)])
async def test_a_phones_48_and_64_megapixels_pass_in_little_memory(
    fresh: tuple[DecodingPool, psutil.Process], sides: tuple[int, int]
) -> None:
    pool, child = fresh
    before = await peak(child)
    thumbnail = await make_thumbnail(pool, BytesSource(media.photo(*sides)), "image/jpeg")
    assert (thumbnail.width, thumbnail.height) == (1_024, 768)
    assert_quadrants(shown(thumbnail))
    assert await peak(child) - before < 64 << 20


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "WEBP", "PNG", "progressive"])
async def test_twelve_megapixels_of_any_format_pass(decoding_pool: DecodingPool, kind: str) -> None:
    options: dict[str, object] = {
        "HEIF": {"quality": 30, "enc_params": {"preset": "ultrafast"}},
        "AVIF": {"speed": 10},
        "WEBP": {"method": 0},
        "PNG": {"compress_level": 1},
        "progressive": {"progressive": True},
    }[kind]  # type: ignore[assignment]
    data = media.photo(4_032, 3_024, "JPEG" if kind == "progressive" else kind, **options)  # type: ignore[arg-type]
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/jpeg")
    assert (thumbnail.width, thumbnail.height) == (1_024, 768)
    assert_quadrants(shown(thumbnail))


LARGEST: dict[str, Callable[[], bytes]] = {
    "clear PNG": lambda: media.encoded(Image.new("RGBA", (7_000, 7_000), media.GREEN), "PNG", compress_level=1),
    "PNG": lambda: media.png_bomb(10_000, 10_000),
    "WebP": lambda: media.encoded(Image.new("RGBA", (5_400, 5_400), media.GREEN), "WEBP", method=0, quality=10),
}


@pytest.mark.parametrize("kind", LARGEST)
async def test_the_largest_allowed_picture_fits_the_memory_limit(kind: str) -> None:
    async with DecodingPool(processes=1) as pool:
        thumbnail = await make_thumbnail(pool, BytesSource(LARGEST[kind]()), "image/png")
    assert (thumbnail.width, thumbnail.height) == (1_024, 1_024)


@pytest.mark.parametrize("brand", [b"avif", b"mif1"])
async def test_an_avif_that_is_turned_need_not_say_that_this_matters(decoding_pool: DecodingPool, brand: bytes) -> None:
    data = bytearray(media.oriented(6, "AVIF"))
    data[8:12] = brand
    links = data.index(b"ipma")
    for place in range(links + 15, links + 15 + data[links + 14]):
        data[place] &= 0x7F
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(bytes(data)), "image/avif")))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("sides", "centre", "colour"),
    [((240, 160), (-120, -80), media.RED), ((200, 100), (110, 90), media.WHITE), ((481, 320), (0, 0), None)],
)
async def test_an_avif_is_cropped_as_it_says(
    decoding_pool: DecodingPool,
    sides: tuple[int, int],
    centre: tuple[int, int],
    colour: tuple[int, int, int] | None,
    orientation: int,
) -> None:
    """Where it says more than there is, all is shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    whole = media.encoded(media.quadrants(480, 320), "AVIF", exif=exif.tobytes(), speed=10)
    source = BytesSource(media.with_clean_aperture(whole, sides, centre))
    thumbnail = await make_thumbnail(decoding_pool, source, "image/avif")
    expected = sides if colour else (480, 320)
    if orientation == 6:
        expected = expected[1], expected[0]
    assert (thumbnail.source_width, thumbnail.source_height) == (thumbnail.width, thumbnail.height) == expected
    facts: ImageFacts = await decoding_pool.run("inspect_image", source)
    assert (facts.width, facts.height) == expected
    image = shown(thumbnail).convert("RGB")
    for at in ((5, 5), (image.width - 6, image.height - 6)) if colour else ():
        assert image.getpixel(at) == pytest.approx(colour, abs=12)


def heif_of_200_megapixels() -> bytes:
    """By its header, with a thumbnail."""
    whole = media.encoded(media.quadrants(960, 640), "HEIF", thumbnails=[240], enc_params={"preset": "ultrafast"})
    return whole.replace(struct.pack(">4x2I", 960, 640), struct.pack(">4x2I", 16_320, 10_880))


def photoshop_of_600_megapixels(version: int) -> bytes:
    preview = bytes(28) + media.photo(240, 160)
    resource = b"8BIM" + struct.pack(">HHI", 1036, 0, len(preview)) + preview + bytes(len(preview) % 2)
    header = b"8BPS" + struct.pack(">H6xHIIHH", version, 3, 20_000, 30_000, 8, 3) + bytes(4)
    return header + struct.pack(">I", len(resource)) + resource + bytes(100)


def ndpi(width: int, height: int, *levels: Image.Image) -> bytes:
    """As a slide scanner of Hamamatsu's writes it: its levels do not say that they are copies."""
    slide = media.pyramid(width, height, *levels)
    for tag, new in (((254, 4, 1, 1), (254, 4, 1, 0)), ((339, 4, 1, 1), (65_420, 4, 1, 1))):
        slide = slide.replace(struct.pack("<HHII", *tag), struct.pack("<HHII", *new))
    return slide


LEVEL = media.quadrants(240, 160)
LABEL = Image.new("RGB", (200, 230), "black")
LARGE: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "a slide's.tif": (lambda: media.pyramid(60_000, 40_000, LEVEL, LABEL), (60_000, 40_000)),
    "a slide's.ndpi": (lambda: ndpi(60_000, 40_000, LEVEL, LABEL), (60_000, 40_000)),
    "a map's.tif": (lambda: media.pyramid(60_000, 40_000, LEVEL, order=">"), (60_000, 40_000)),
    "a microscope's.ome.tif": (
        lambda: media.pyramid(60_000, 40_000, LABEL, LEVEL, is_big=True, nested=True),
        (60_000, 40_000),
    ),
    "a phone's.heic": (heif_of_200_megapixels, (16_320, 10_880)),
    "a poster.psd": (lambda: photoshop_of_600_megapixels(1), (30_000, 20_000)),
    "a poster.psb": (lambda: photoshop_of_600_megapixels(2), (30_000, 20_000)),
}


async def test_of_a_picture_too_large_to_decode_its_small_copy_is_shown(decoding_pool: DecodingPool) -> None:
    for make, sides in LARGE.values():
        thumbnail = await make_thumbnail(decoding_pool, BytesSource(make()), "image/tiff")
        assert (thumbnail.source_width, thumbnail.source_height) == sides
        assert_quadrants(shown(thumbnail))


@pytest.mark.parametrize("packing", [33_003, 33_005, 34_712, 34_887, 50_001, 50_002])
async def test_of_a_slide_or_map_that_is_packed_in_another_way_its_small_copy_is_shown(
    decoding_pool: DecodingPool, packing: int
) -> None:
    """As Aperio's scanners pack slides, and GDAL maps. A level that is packed like the picture is no copy to show."""
    unpacked, packed = (struct.pack("<HHII", 259, 4, 1, number) for number in (1, packing))
    slide = media.pyramid(3_000, 2_000, Image.new("RGB", (1_500, 1_000)), LEVEL, LABEL).replace(unpacked, packed, 2)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(slide), "image/tiff")
    assert (thumbnail.source_width, thumbnail.source_height) == (3_000, 2_000)
    assert_quadrants(shown(thumbnail))


# Files without a thumbnail


@pytest.mark.parametrize("mime_type", ["image/svg+xml", "application/zip", "text/html", "audio/mpeg"])
async def test_a_type_without_thumbnails_is_never_decoded(decoding_pool: DecodingPool, mime_type: str) -> None:
    with pytest.raises(DecodingFailed) as failed:
        await make_thumbnail(decoding_pool, BytesSource(media.photo(40, 30)), mime_type)
    assert failed.value.code == "unsupported"


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        media.encoded(Image.new("RGB", (8, 8)), "IM"),
        media.encoded(Image.new("1", (8, 8)), "MSP"),
    ],
    ids=["SVG", "PostScript", "IM", "MSP"],
)
async def test_formats_off_the_list_are_not_opened(decoding_pool: DecodingPool, data: bytes) -> None:
    with pytest.raises(DecodingFailed) as failed:
        await make_thumbnail(decoding_pool, BytesSource(data), "image/png")
    assert failed.value.code == "unsupported"


# Damaged files, as browsers show them


def png_chunk(name: bytes, data: bytes, checksum: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


DAMAGED_PNGS = {
    "a wrong checksum of a side chunk": lambda png: png[:33] + png_chunk(b"tEXt", b"a\0b") + png[33:],
    "a wrong checksum behind the pixels": lambda png: png[:-12] + png_chunk(b"tEXt", b"a\0b") + png[-12:],
    "a side chunk that is none": lambda png: png[:33] + png_chunk(b"zTXt", b"a\0b") + png[33:],
    "a side chunk that is too short": lambda png: png[:33] + png_chunk(b"pHYs", b"a") + png[33:],
    "a colour profile that is none": lambda png: png[:33] + png_chunk(b"iCCP", b"a") + png[33:],
    "a wrong checksum of the pixels": lambda png: png[:-16] + bytes(4) + png[-12:],
    "no end": lambda png: png[:-12],
}


@pytest.mark.parametrize("damage", DAMAGED_PNGS)
@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
async def test_a_damaged_png_is_shown(decoding_pool: DecodingPool, damage: str, mode: str) -> None:
    picture = media.quadrants(240, 160)
    whole = media.encoded(picture.convert(mode, palette=Image.Palette.ADAPTIVE), "PNG")
    damaged = BytesSource(DAMAGED_PNGS[damage](whole))
    facts: ImageFacts = await decoding_pool.run("inspect_image", damaged)
    assert (facts.width, facts.height) == (240, 160)
    thumbnail = await make_thumbnail(decoding_pool, damaged, "image/png")
    if mode == "L":
        assert shown(thumbnail).convert("L").getextrema()[1] > 200  # type: ignore[operator]
    else:
        assert_quadrants(shown(thumbnail))


async def test_a_damaged_png_of_one_colour_is_shown(decoding_pool: DecodingPool) -> None:
    png = media.encoded(Image.new("RGB", (40, 30), media.RED).quantize(4), "PNG")
    damaged = BytesSource(DAMAGED_PNGS["a wrong checksum of a side chunk"](png))
    pixel = shown(await make_thumbnail(decoding_pool, damaged, "image/png")).convert("RGB").getpixel((20, 15))
    assert isinstance(pixel, tuple)
    assert_close(pixel, media.RED)


def grain(width: int, height: int) -> Image.Image:
    """Two halves, red above green, that take as many bytes each."""
    noise = Image.effect_noise((width, height), 60)
    picture = Image.new("RGB", (width, height), media.RED)
    picture.paste(media.GREEN, (0, height // 2, width, height))
    return Image.blend(picture, noise.convert("RGB"), 0.2)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "PPM", "HEIF", "AVIF"])
@pytest.mark.parametrize("part", [0.4, 0.9, 0.999])
async def test_of_a_picture_cut_short_is_shown_what_is_there(
    decoding_pool: DecodingPool, image_format: str, part: float
) -> None:
    data = media.encoded(grain(400, 300), image_format, interlace=False)
    source = BytesSource(data[: int(len(data) * part)])
    facts: ImageFacts = await decoding_pool.run("inspect_image", source)
    assert (facts.width, facts.height) == (400, 300)
    thumbnail = await make_thumbnail(decoding_pool, source, "image/jpeg")
    assert (thumbnail.source_width, thumbnail.source_height) == (400, 300)
    red, green, _ = shown(thumbnail).convert("RGB").crop((0, 20, 400, 60)).resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > green + 80


async def test_a_heif_of_many_extents_without_bytes_takes_no_time(decoding_pool: DecodingPool) -> None:
    items = struct.pack(">3H", 1, 0, 0xFFFF) * 10_000
    places = struct.pack(">I4s4xHH", len(items) + 16, b"iloc", 0, 10_000) + items
    data = struct.pack(">I4s4s4x4s4s", 24, b"ftyp", b"heic", b"mif1", b"heic") + places
    with pytest.raises(DecodingFailed) as failed:
        await decoding_pool.run("inspect_image", BytesSource(data))
    assert failed.value.code in ("corrupt", "unsupported")


async def test_a_texture_with_two_forms_of_its_pixels_takes_no_time(decoding_pool: DecodingPool) -> None:
    """BC7 by its newer header, and 8 bits of red and green by the older one, which Pillow reads pixel by pixel."""
    data = bytearray(media.texture(98)[:148] + bytes(5_000 * 4_000))
    struct.pack_into("<2I", data, 12, 4_000, 5_000)
    struct.pack_into("<2I", data, 80, 0x44, int.from_bytes(b"DX10", "little"))
    struct.pack_into("<3I", data, 88, 8, 0xF0, 0x0F)
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(bytes(data)))
    assert (facts.width, facts.height) == (5_000, 4_000)
    with pytest.raises(DecodingFailed) as failed:
        await decoding_pool.run("thumbnail", BytesSource(bytes(data)))
    assert failed.value.code == "corrupt"


def deep(picture: Image.Image, *, planar: bool, order: str = "<") -> bytes:
    """A TIFF of 16 bits a sample, in one strip or in one for each colour."""
    samples = np.asarray(picture).astype(f"{order}u2") * 257
    samples = samples.transpose(2, 0, 1) if planar else samples
    return media.banded_tiff(
        *picture.size, samples.astype(f"{order}u2").tobytes(), 16, 1, 3, planar=planar, order=order, _262=2
    )


CUT_TIFFS: dict[str, Callable[[Image.Image], bytes]] = {
    f"{name}, {rows} rows a strip": functools.partial(
        media.encoded, image_format="TIFF", compression=name, tiffinfo={278: rows}
    )
    for rows in (16, 300)
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd")
}
CUT_TIFFS |= {
    "tiles": functools.partial(media.tiled_tiff, side=64),
    "transparency": lambda picture: media.encoded(picture.convert("RGBA"), "TIFF", compression="tiff_lzw"),
    "a palette": lambda picture: media.encoded(picture.quantize(64), "TIFF", compression="tiff_lzw"),
    "inks": lambda picture: media.encoded(picture.convert("CMYK"), "TIFF", compression="tiff_lzw"),
    "16 bits": functools.partial(deep, planar=False),
    "16 bits, big-endian": functools.partial(deep, planar=False, order=">"),
}


@pytest.mark.parametrize("kind", CUT_TIFFS)
@pytest.mark.parametrize("part", [0.4, 0.9, 0.999])
async def test_of_a_tiff_cut_short_is_shown_what_is_there(decoding_pool: DecodingPool, kind: str, part: float) -> None:
    data = media.directory_first(CUT_TIFFS[kind](grain(400, 300)))
    source = BytesSource(data[: int(len(data) * part)])
    thumbnail = await make_thumbnail(decoding_pool, source, "image/tiff")
    assert (thumbnail.source_width, thumbnail.source_height) == (thumbnail.width, thumbnail.height) == (400, 300)
    red, green, _, alpha = shown(thumbnail).convert("RGBA").crop((0, 20, 400, 60)).resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > green + 80
    assert alpha == 255
    if part == 0.4 and not kind.startswith("jpeg"):
        *colours, alpha = shown(thumbnail).convert("RGBA").getpixel((200, 280))  # type: ignore[misc]
        assert alpha == 0 or min(colours) > 245
    elif part == 0.9:
        red, green, _ = shown(thumbnail).convert("RGB").crop((0, 170, 400, 190)).resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
        assert green > red + 80


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize(
    ("kind", "packing"),
    [(1, 1), (4, 1), (1, 34_933)],
    ids=["a copy", "a mask", "a copy of what is not decoded"],
)
async def test_before_a_tiffs_picture_may_stand_a_copy_or_a_mask_of_it(
    decoding_pool: DecodingPool, kind: int, packing: int, is_big: bool
) -> None:
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file, True) as pages:
        before = media.quadrants(60, 40) if kind == 1 else Image.new("1", (240, 160))
        before.save(pages, "TIFF", tiffinfo={254: kind}, big_tiff=is_big)
        pages.newFrame()
        media.quadrants(240, 160).save(pages, "TIFF", big_tiff=is_big)
        pages.newFrame()
    how = b"\3\1\3\0\1\0\0\0" + bytes(4 * is_big)
    data = (how + packing.to_bytes(2, "little")).join(file.getvalue().rsplit(how + b"\1\0", 1))
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(data))
    assert (facts.width, facts.height) == (240, 160)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")
    assert (thumbnail.source_width, thumbnail.source_height) == (240, 160)
    assert_quadrants(shown(thumbnail))


async def test_of_a_tiff_whose_copies_follow_each_other_in_a_circle_one_is_shown(decoding_pool: DecodingPool) -> None:
    file = io.BytesIO()
    media.quadrants(60, 40).save(file, "TIFF", tiffinfo={254: 1})
    data = bytearray(file.getvalue())
    at = int.from_bytes(data[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    data[end : end + 4] = data[4:8]
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(bytes(data)), "image/tiff")
    assert_quadrants(shown(thumbnail))


@pytest.mark.parametrize("packing", ["raw", "tiff_lzw", "tiff_adobe_deflate", "zstd"])
async def test_a_map_may_leave_out_what_is_empty(decoding_pool: DecodingPool, packing: str) -> None:
    picture = media.quadrants(240, 160)
    data = bytearray(media.encoded(picture, "TIFF", compression=packing, tiffinfo={278: 16}))
    file = io.BytesIO(data)
    found = tiff.directory(file)
    assert found is not None
    for tag in (273, 279):  # the first strip stands nowhere, and has no bytes
        kind, _, value = found.entries[tag]
        at = struct.unpack("<I", value)[0]
        data[at : at + (2 if kind == 3 else 4)] = bytes(2 if kind == 3 else 4)
    image = shown(await make_thumbnail(decoding_pool, BytesSource(bytes(data)), "image/tiff")).convert("RGB")
    assert_quadrants(image)
    assert_close(image.getpixel((60, 5)), (0, 0, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
async def test_a_tiff_cut_short_is_shown_upright(decoding_pool: DecodingPool, orientation: int) -> None:
    data = media.directory_first(media.oriented(orientation, "TIFF"))
    whole, cut = (BytesSource(data[: int(len(data) * part)]) for part in (1, 0.8))
    wanted = shown(await make_thumbnail(decoding_pool, whole, "image/tiff")).convert("RGB")
    image = shown(await make_thumbnail(decoding_pool, cut, "image/tiff")).convert("RGB")
    assert image.size == wanted.size
    corner = {1: (20, 20), 3: (220, 140), 6: (220, 20), 8: (20, 140)}[orientation]
    assert_close(image.getpixel(corner), wanted.getpixel(corner))  # type: ignore[arg-type]


async def test_of_a_tiff_in_planes_the_rows_of_which_all_are_there_are_shown(decoding_pool: DecodingPool) -> None:
    data = media.directory_first(deep(media.quadrants(240, 160), planar=True))
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data[: len(data) * 5 // 6]), "image/tiff"))
    assert_close(image.convert("RGB").getpixel((60, 40)), (255, 0, 0))  # type: ignore[arg-type]
    assert min(image.convert("RGB").getpixel((60, 140))) > 245  # type: ignore[arg-type, type-var]


async def test_a_tiff_of_which_one_row_is_there_keeps_its_shape(decoding_pool: DecodingPool) -> None:
    """Of floats every fourth row is decoded, and one of one."""
    data = media.directory_first(
        media.banded_tiff(4_200, 300, bytes(4_200 * 300 * 4), 32, 3, 1, planar=False, order="<")
    )
    cut = BytesSource(data[: len(data) - 4_200 * 299 * 4])
    thumbnail = await make_thumbnail(decoding_pool, cut, "image/tiff")
    assert (thumbnail.width, thumbnail.height) == (1_024, 73)


@pytest.mark.parametrize("planes", [500_000, (1 << 32) - 1])
async def test_a_tiff_cut_short_that_says_many_planes_costs_little(decoding_pool: DecodingPool, planes: int) -> None:
    """It has half a million at most: of each one strip that is there, and one that is not."""
    tags = {256: [64], 257: [64], 258: [8], 259: [1], 262: [1], 277: [planes], 278: [32], 284: [2]}
    tags |= {273: [8, 1 << 30] * 500_000, 279: [1] * 1_000_000}
    data = b"II*\0" + struct.pack("<I", 8) + tiff.packed("<", {tag: tiff.numbers("<", tags[tag]) for tag in tags}, 8)
    with pytest.raises(DecodingFailed) as failed:
        await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")
    assert failed.value.code == "unsupported"


@pytest.mark.parametrize("part", [0.6, 0.9])
async def test_of_a_jpeg_2000_cut_short_is_shown_what_is_there(decoding_pool: DecodingPool, part: float) -> None:
    grained = Image.blend(media.quadrants(1_400, 1_200), Image.effect_noise((1_400, 1_200), 60).convert("RGB"), 0.1)
    data = media.encoded(grained, "JPEG2000")
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data[: int(len(data) * part)]), "image/jp2")
    assert (thumbnail.source_width, thumbnail.source_height) == (1_400, 1_200)
    assert_quadrants(shown(thumbnail).resize((16, 12), Image.Resampling.BOX), 36)


PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced PNG: the first column and row, and how many further the next are (PNG, third edition, 8.1)."""


def interlaced_png(image: Image.Image) -> bytes:
    rows = b""
    for left, top, across, down in PASSES:
        for y in range(top, image.height, down):
            pixels = (image.getpixel((x, y)) for x in range(left, image.width, across))
            rows += b"\0" + b"".join(bytes(pixel) for pixel in pixels)  # type: ignore[arg-type]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1)),
        (b"IDAT", zlib.compress(rows, 0)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data, zlib.crc32(name + data)) for name, data in chunks)


@pytest.mark.parametrize("part", [0.2, 0.4, 0.7, 0.95])
@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
async def test_an_interlaced_picture_cut_short_is_shown_as_a_whole(
    decoding_pool: DecodingPool, image_format: str, part: float
) -> None:
    image = Image.blend(media.quadrants(160, 120), Image.effect_noise((160, 120), 60).convert("RGB"), 0.1)
    data = interlaced_png(image) if image_format == "PNG" else media.encoded(image, "GIF")
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data[: int(len(data) * part)]), "image/png")
    assert (thumbnail.width, thumbnail.height) == (160, 120)
    small = shown(thumbnail).convert("RGB").resize((16, 12), Image.Resampling.BOX)
    assert_quadrants(small, 36)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "PPM"])
async def test_a_picture_that_has_just_begun_has_a_size(decoding_pool: DecodingPool, image_format: str) -> None:
    data = media.encoded(grain(400, 300), image_format)
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(data[: len(data) // 10]))
    assert (facts.width, facts.height) == (400, 300)


async def test_of_a_jpeg_with_a_wrong_marker_is_shown_what_is_before_it(decoding_pool: DecodingPool) -> None:
    jpeg = media.encoded(grain(2_000, 1_400), "JPEG")
    at = len(jpeg) * 2 // 3
    damaged = BytesSource(jpeg[:at] + b"\xff\xc4\0\3\0" + jpeg[at:])  # a table of no length
    thumbnail = await make_thumbnail(decoding_pool, damaged, "image/jpeg")
    assert (thumbnail.source_width, thumbnail.source_height) == (2_000, 1_400)
    pixel = shown(thumbnail).convert("RGB").getpixel((500, 200))
    assert isinstance(pixel, tuple)
    assert pixel[0] > pixel[1] + 60


async def test_of_a_progressive_jpeg_with_a_wrong_marker_the_scans_before_are_shown(
    decoding_pool: DecodingPool,
) -> None:
    jpeg = media.photo(640, 480, progressive=True, quality=90)
    scans = [found.start() for found in re.finditer(b"\xff\xda", jpeg)]
    middle, table = scans[len(scans) // 2], jpeg.index(b"\xff\xc4", scans[1])
    for damaged in (
        jpeg[:middle] + b"\xff\xc2" + jpeg[middle + 2 :],  # another frame
        jpeg[:table] + b"\xff\xc9" + jpeg[table + 2 :],  # arithmetic coding
        jpeg[: scans[2] + 6] + b"\x33" + jpeg[scans[2] + 7 :],  # a table that is not there
    ):
        thumbnail = await make_thumbnail(decoding_pool, BytesSource(damaged), "image/jpeg")
        assert (thumbnail.source_width, thumbnail.source_height) == (640, 480)
        assert_quadrants(shown(thumbnail))


@pytest.mark.parametrize("kind", ["no end", "something behind its end", "progressive"])
async def test_a_jpeg_may_end_as_it_likes(decoding_pool: DecodingPool, kind: str) -> None:
    data = media.photo(240, 160, progressive=kind == "progressive")
    data = data + b"behind" * 1_000 if kind == "something behind its end" else data[:-2]
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/jpeg")))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "PPM"])
async def test_a_picture_without_pixels_is_corrupt(decoding_pool: DecodingPool, image_format: str) -> None:
    data = media.photo(800, 600, image_format)
    if image_format == "PNG":
        cut = data[:41] + b"\x12" * (len(data) - 41)
    else:
        cut = data[: {"JPEG": 180, "WEBP": 40, "PPM": 15}.get(image_format) or data.rindex(b"," + bytes(4)) + 12]
    with pytest.raises(DecodingFailed) as failed:
        await make_thumbnail(decoding_pool, BytesSource(cut), "image/jpeg")
    assert failed.value.code in ("corrupt", "unsupported")


# More kinds of pictures


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "AVIF"])
async def test_an_animation_that_begins_empty_shows_the_first_frame_that_is_not(
    decoding_pool: DecodingPool, image_format: str
) -> None:
    empty, full = Image.new("RGBA", (240, 160)), media.quadrants(240, 160).convert("RGBA")
    others = {"save_all": True, "append_images": [empty.copy(), full, Image.new("RGBA", (240, 160), "black")]}
    data = media.encoded(empty, image_format, duration=100, **others)
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/gif")))


async def test_a_gif_is_clear_around_a_frame_that_is_smaller_than_its_screen(decoding_pool: DecodingPool) -> None:
    frame = bytearray(media.encoded(media.quadrants(240, 160).quantize(4), "GIF"))
    struct.pack_into("<2H", frame, 6, 480, 320)  # the screen
    at = frame.index(b"\x2c\0\0\0\0" + struct.pack("<2H", 240, 160))
    struct.pack_into("<2H", frame, at + 1, 240, 160)  # where the frame is on it
    image = shown(await make_thumbnail(decoding_pool, BytesSource(bytes(frame)), "image/gif"))
    assert image.size == (480, 320)
    assert image.getchannel("A").getextrema() == (0, 255)
    assert image.getchannel("A").crop((0, 0, 230, 310)).getextrema() == (0, 0)
    assert_quadrants(image.crop((240, 160, 480, 320)))


async def test_an_animation_that_stays_empty_has_an_empty_thumbnail(decoding_pool: DecodingPool) -> None:
    empty = Image.new("RGBA", (40, 30))
    others = [Image.new("RGBA", (40, 30), (number, 0, 0, 0)) for number in range(1, 30)]
    data = media.encoded(empty, "PNG", save_all=True, append_images=others)
    assert shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/png")).getextrema()[3] == (0, 0)


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_png_of_an_iphones_app_is_shown(decoding_pool: DecodingPool, pieces: int) -> None:
    picture = media.quadrants(240, 160).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").rotate(90).resize(picture.size).point(lambda value: max(value, 128)))
    source = BytesSource(media.crushed_png(picture, pieces=pieces))
    facts: ImageFacts = await decoding_pool.run("inspect_image", source)
    assert (facts.width, facts.height) == (240, 160)
    image = shown(await make_thumbnail(decoding_pool, source, "image/png"))
    assert_quadrants(image)
    assert image.getchannel("A").getextrema() == (pytest.approx(128, abs=4), pytest.approx(255, abs=4))


@pytest.mark.parametrize("inner", ["png", "bmp"])
async def test_an_icon_shows_its_largest_picture(decoding_pool: DecodingPool, inner: str) -> None:
    sizes = [(16, 16), (48, 48), (256, 256)]
    data = media.encoded(media.quadrants(256, 256).convert("RGBA"), "ICO", sizes=sizes, bitmap_format=inner)
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(data))
    assert facts == ImageFacts(256, 256, "ICO", False)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/x-icon")
    assert (thumbnail.source_width, thumbnail.source_height) == (256, 256)
    assert_quadrants(shown(thumbnail))


def photoshop(image: Image.Image) -> bytes:
    """A picture of one layer, not compressed (Adobe's Photoshop File Formats)."""
    mode = {"L": 1, "RGB": 3, "CMYK": 4}[image.mode]
    bands = b"".join(band.tobytes() for band in image.split())
    if image.mode == "CMYK":
        bands = bytes(255 - value for value in bands)
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", len(image.mode), image.height, image.width, 8, mode)
    return header + bytes(14) + bands


EDITORS: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "JPEG 2000": (lambda image: media.encoded(image, "JPEG2000"), "image/jp2"),
    "JPEG 2000 without a container": (lambda image: media.encoded(image, "JPEG2000", no_jp2=True), "image/j2c"),
    "JPEG 2000 in tiles": (lambda image: media.encoded(image, "JPEG2000", tile_size=(64, 64)), "image/jp2"),
    "JPEG 2000 that can't be halved": (lambda image: media.encoded(image, "JPEG2000", num_resolutions=1), "image/jp2"),
    "Photoshop": (photoshop, "image/vnd.adobe.photoshop"),
    "Photoshop in CMYK": (lambda image: photoshop(image.convert("CMYK")), "image/vnd.adobe.photoshop"),
    "Netpbm": (lambda image: media.encoded(image, "PPM"), "image/x-portable-pixmap"),
}


@pytest.mark.parametrize("kind", EDITORS)
@pytest.mark.parametrize("sides", [(240, 160), (2_400, 1_600)])
async def test_a_picture_of_an_editor_is_shown(decoding_pool: DecodingPool, kind: str, sides: tuple[int, int]) -> None:
    make, expected = EDITORS[kind]
    data = make(media.quadrants(*sides))
    assert sniff(data) == expected
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), expected)
    assert (thumbnail.source_width, thumbnail.source_height) == sides
    assert max(thumbnail.width, thumbnail.height) == min(max(sides), 1024)
    assert_quadrants(shown(thumbnail))
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(data))
    assert (facts.width, facts.height) == sides


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
async def test_a_picture_of_a_few_pixels_keeps_the_colour_of_each(decoding_pool: DecodingPool, mode: str) -> None:
    picture = Image.new(mode, (16, 16))
    for x in range(16):
        picture.paste([media.RED, media.GREEN, media.BLUE][x % 3], (x, 0, x + 1, 16))
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(media.encoded(picture, "PNG")), "image/png")
    small = await variant(decoding_pool, thumbnail.data, ThumbnailSize.SMALL, "webp")
    for image in (shown(thumbnail), shown(small)):
        assert [image.getpixel((x, 8))[:3] for x in range(3)] == [media.RED, media.GREEN, media.BLUE]  # type: ignore[index]


BITMAP_FIELDS = {
    "4 bits each": (0xF00, 0xF0, 0xF, 0xF000),
    "4 bits each, and none": (0xF00, 0xF0, 0xF, 0),
    "red first": (0xFF, 0xFF00, 0xFF0000, 0),
    "blue first, behind the alpha": (0xFF00, 0xFF0000, 0xFF000000, 0xFF),
    "blue first, behind nothing": (0xFF00, 0xFF0000, 0xFF000000, 0),
}


@pytest.mark.parametrize("fields", BITMAP_FIELDS)
async def test_a_bitmap_may_have_its_colours_in_any_order(decoding_pool: DecodingPool, fields: str) -> None:
    masks = BITMAP_FIELDS[fields]
    wide = max(masks) > 0xFFFF
    pixels = np.asarray(media.quadrants(240, 160).convert("RGBA")).astype("u8")[::-1]
    lowest = [mask & -mask or 1 for mask in masks]
    values = sum(
        (pixels[..., band] * (mask // lowest[band]) + 127) // 255 * lowest[band] for band, mask in enumerate(masks)
    )
    header = struct.pack("<IiiHHIIiiII", 124, 240, 160, 1, 32 if wide else 16, 3, 0, 2835, 2835, 0, 0)
    header += struct.pack("<4I", *masks) + b"BGRs" + bytes(64)
    rows = np.asarray(values).astype("<u4" if wide else "<u2").tobytes()
    bitmap = b"BM" + struct.pack("<IHHI", 138 + len(rows), 0, 0, 138) + header + rows
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(bitmap))
    assert (facts.width, facts.height) == (240, 160)
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(bitmap), "image/bmp")))


@pytest.mark.parametrize("inner", ["png", "bmp"])
async def test_a_cursor_is_a_picture(decoding_pool: DecodingPool, inner: str) -> None:
    icon = media.encoded(media.quadrants(128, 128).convert("RGBA"), "ICO", sizes=[(128, 128)], bitmap_format=inner)
    cursor = b"\0\0\2\0" + icon[4:10] + struct.pack("<2H", 5, 1) + icon[14:]  # which point of it points
    assert sniff(cursor) == "image/x-win-bitmap"
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(cursor), sniff(cursor))
    assert (thumbnail.source_width, thumbnail.source_height) == (128, 128)
    assert_quadrants(shown(thumbnail))


async def test_an_icon_of_a_mac_shows_its_largest_picture(decoding_pool: DecodingPool) -> None:
    image = media.quadrants(256, 256).convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    icon = media.encoded(image, "ICNS")
    assert sniff(icon) == "image/x-icns"
    facts = (await Examination(decoding_pool).examine(BytesSource(icon), icon, "AppIcon.icns", None)).facts
    assert (facts.width, facts.height, facts.thumbnail_status) == (1_024, 1_024, "ready")  # as Pillow writes it
    thumbnail = shown(await make_thumbnail(decoding_pool, BytesSource(icon), "image/x-icns"))
    assert thumbnail.convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert_quadrants(thumbnail)


async def test_an_icon_of_a_directory_without_depths_is_transparent_where_it_says(decoding_pool: DecodingPool) -> None:
    image = media.quadrants(64, 64).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((64, 64)))
    icon = media.encoded(image, "ICO", sizes=[(64, 64)], bitmap_format="bmp")
    for data in (icon, icon[:12] + bytes(2) + icon[14:]):
        alpha = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/x-icon")).getchannel("A")
        assert (alpha.getpixel((32, 8)), alpha.getpixel((32, 56))) == (
            pytest.approx(34, abs=8),
            pytest.approx(224, abs=8),
        )


async def test_a_bitmap_without_its_file_header_is_a_picture(decoding_pool: DecodingPool) -> None:
    data = media.encoded(media.quadrants(240, 160), "DIB")
    assert sniff(data) == "image/bmp"
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/bmp")))


@pytest.mark.parametrize("alpha", [0, 128])
async def test_a_bitmap_that_is_clear_everywhere_is_not_clear(decoding_pool: DecodingPool, alpha: int) -> None:
    picture = media.quadrants(64, 48).convert("RGBA")
    picture.putalpha(alpha)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, 64, 48, 1, 32, 3, 0, 0, 0, 0, 0) + masks + bytes(124 - 56)
    pixels = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    bitmap = b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header + pixels
    image = shown(await make_thumbnail(decoding_pool, BytesSource(bitmap), "image/bmp"))
    assert image.convert("RGBA").getchannel("A").getextrema() == ((alpha or 255,) * 2)
    assert_quadrants(image, 40)


async def test_a_cmyk_jpeg_is_not_inverted(decoding_pool: DecodingPool) -> None:
    data = media.encoded(media.quadrants(240, 160).convert("CMYK"), "JPEG")
    assert b"Adobe" in data
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/jpeg")
    assert_quadrants(shown(thumbnail))


# Measured values


def wedge(kind: str, low: float, high: float) -> bytes:
    """A TIFF, 200 x 20, whose values rise from left to right."""
    numbers = [low + (high - low) * x / 199 for x in range(200)] * 20
    bits, sample_format, code = {
        "int8": (8, 2, "b"),
        "uint64": (64, 1, "Q"),
        "uint32": (32, 1, "I"),
        "float16": (16, 3, "e"),
        "int16": (16, 2, "h"),
        "uint16": (16, 1, "H"),
        "int32": (32, 2, "i"),
        "float32": (32, 3, "f"),
        "float64": (64, 3, "d"),
    }[kind]
    values = numbers if sample_format == 3 else [round(number) for number in numbers]
    return media.plain_tiff(200, 20, struct.pack(f"<{len(values)}{code}", *values), bits, sample_format)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("float32", 0, 1),
        ("float32", -40, 900),
        ("float32", 0, 1e9),
        ("float64", 0, 1),
        ("float64", 250, 310),
        ("float16", 0, 1),
        ("float16", 250, 310),
        ("int8", -128, 127),
        ("uint32", 0, (1 << 32) - 1),
        ("uint64", 0, 1 << 60),
        ("int16", -1_000, 2_000),
        ("int32", -70_000, 5_000_000),
        ("uint16", 0, 65_535),
        ("uint16", 0, 4_095),
        ("uint16", 30_000, 31_000),
    ],
)
async def test_measured_values_are_a_visible_wedge(
    decoding_pool: DecodingPool, kind: str, low: float, high: float
) -> None:
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(wedge(kind, low, high)), "image/tiff")
    image = shown(thumbnail).convert("L")
    greys = [image.getpixel((x, 10)) for x in (2, 50, 100, 150, 197)]
    for grey, expected in zip(greys, (2, 64, 128, 192, 253), strict=True):
        assert abs(grey - expected) < 12, greys  # type: ignore[operator]


def packed(numbers: list[int], bits: int) -> bytes:
    """A row of numbers of so many bits, the highest first; those of whole bytes little-endian."""
    if bits % 8 == 0:
        return b"".join(number.to_bytes(bits // 8, "little") for number in numbers)
    digits = "".join(f"{number:0{bits}b}" for number in numbers)
    return int(digits.ljust(-(-len(digits) // 8) * 8, "0"), 2).to_bytes(-(-len(digits) // 8))


@pytest.mark.parametrize("bits", [3, 6, 10, 12, 14, 24])
@pytest.mark.parametrize(("photometric", "bands"), [(0, 1), (1, 1), (1, 2), (2, 3)])
async def test_samples_of_any_number_of_bits_are_shown(
    decoding_pool: DecodingPool, bits: int, photometric: int, bands: int
) -> None:
    most, width = (1 << bits) - 1, 203
    row = [value for x in range(width) for value in (most * x // (width - 1), *[0] * (bands - 1))]
    data = media.plain_tiff(width, 20, packed(row, bits) * 20, bits, 1, _262=photometric, _277=bands)
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(data))
    assert (facts.width, facts.height) == (width, 20)
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")).convert("RGB")
    for x in (10, 100, 190):
        expected = 255 * x // (width - 1)
        red, green, _ = image.getpixel((x, 10))  # type: ignore[misc]
        assert red == pytest.approx(255 - expected if photometric == 0 else expected, abs=40 if bits == 3 else 20)
        assert green == pytest.approx(0 if photometric == 2 else red, abs=12)


@pytest.mark.parametrize(("bits", "sample_format", "code"), [(32, 5, "h"), (64, 6, "f"), (128, 6, "d"), (16, 4, "H")])
async def test_of_a_complex_number_the_real_part_is_shown(
    decoding_pool: DecodingPool, bits: int, sample_format: int, code: str
) -> None:
    parts = 1 if sample_format == 4 else 2
    row = [value for x in range(200) for value in (100 * x, *[7] * (parts - 1))]
    data = media.plain_tiff(200, 20, struct.pack(f"<{len(row)}{code}", *row) * 20, bits, sample_format)
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")).convert("L")
    for x in (10, 100, 190):
        assert image.getpixel((x, 10)) == pytest.approx(255 * x / 199, abs=12)


@pytest.mark.parametrize("order", ["<", ">"])
async def test_a_plain_picture_in_a_bigtiff_is_shown(decoding_pool: DecodingPool, order: str) -> None:
    samples = media.quadrants(240, 160).tobytes()
    data = media.banded_tiff(240, 160, samples, 8, 1, 3, planar=False, order=order, is_big=True, _262=2)
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")))


PALETTE = [[0] * 65_536 for _ in range(3)]
PALETTE[0][700], PALETTE[1][700], PALETTE[2][700] = 0xFF00, 0x0100, 0x0200
RED_IN_TIFF: dict[str, tuple[int, int, list[int], dict[str, int | list[int]]]] = {
    "a palette of 65,536": (3, 16, [700], {"_320": [value for band in PALETTE for value in band]}),
    "inks": (5, 16, [0, 65_535, 65_535, 0], {}),
    "inks and transparency": (5, 8, [0, 255, 255, 0, 255], {"_338": 2}),
    "inks and spot colours": (5, 16, [0, 65_535, 65_535, 0, 0, 0], {"_338": [0, 0]}),
    "Lab with signs": (8, 16, [round(0.543 * 65_535), 81 << 8, 70 << 8], {}),
    "Lab without signs": (9, 16, [round(0.543 * 65_535), 209 << 8, 198 << 8], {}),
    "Lab without signs, in bytes": (9, 8, [138, 209, 198], {}),
    "Lab with signs and transparency": (8, 8, [138, 81, 70, 255], {"_338": 2}),
}
"""Red, as editors may write it: photometric interpretation, bits, samples of a pixel, and further tags."""


@pytest.mark.parametrize("planar", [True, False])
async def test_colours_that_only_editors_write_are_shown(decoding_pool: DecodingPool, planar: bool) -> None:
    for name, (photometric, bits, pixel, tags) in RED_IN_TIFF.items():
        values = [value for value in pixel for _ in range(64)] if planar else pixel * 64
        for order in "<>":
            samples = struct.pack(f"{order}{len(values)}{'H' if bits == 16 else 'B'}", *values)
            tags = {**tags, "_262": photometric}
            data = media.banded_tiff(8, 8, samples, bits, 1, len(pixel), planar=planar, order=order, **tags)
            image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")).convert("RGB")
            red, green, blue = image.getpixel((4, 4))  # type: ignore[misc]
            assert red > 200, name
            assert max(green, blue) < 60, name


async def test_a_tiff_of_an_unknown_form_says_its_size(decoding_pool: DecodingPool) -> None:
    data = media.plain_tiff(200, 20, bytes(6_000), 16, 1, _262=32_844)
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(data))
    assert (facts.width, facts.height) == (200, 20)


@pytest.mark.parametrize("gap", [float("nan"), float("inf"), float("-inf"), -3.4e38])
async def test_values_that_were_not_measured_do_not_count(decoding_pool: DecodingPool, gap: float) -> None:
    data = wedge("float32", 100, 200)
    data = data[:8] + struct.pack("<f", gap) + data[12:]
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")).convert("L")
    assert abs(image.getpixel((50, 10)) - 64) < 12  # type: ignore[operator]
    assert abs(image.getpixel((150, 10)) - 192) < 12  # type: ignore[operator]


@pytest.mark.parametrize("far", [-9_999, 1e9])
@pytest.mark.parametrize("share", [1, 1_200])
async def test_what_is_far_from_all_that_was_measured_does_not_count(
    decoding_pool: DecodingPool, far: float, share: int
) -> None:
    """A code for "no data" that the file does not name, a pixel that is broken."""
    values = struct.unpack("<4000f", wedge("float32", 100, 200)[8:16_008])
    data = media.plain_tiff(200, 20, struct.pack("<4000f", *[far] * share, *values[share:]), 32, 3)
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")).convert("L")
    assert abs(image.getpixel((50, 15)) - 64) < 12  # type: ignore[operator]
    assert abs(image.getpixel((150, 15)) - 192) < 12  # type: ignore[operator]


@pytest.mark.parametrize(("bits", "sample_format", "kind"), [(16, 1, "<u2"), (32, 3, "<f4")])
@pytest.mark.parametrize(
    ("ink", "paper"), [((30_000, 31_000), (65_535,)), ((200, 1_200), (65_535,)), ((30_000,), (60_000, 61_000))]
)
async def test_ink_and_its_page_are_told_apart(
    decoding_pool: DecodingPool, ink: Sequence[int], paper: Sequence[int], bits: int, sample_format: int, kind: str
) -> None:
    """One of them has many values, the other has one, and there is none between."""
    page = np.linspace(paper[0], paper[-1], 4_000).round().reshape(20, 200)
    page[:, 100:110] = np.linspace(ink[0], ink[-1], 200).round().reshape(20, 10)
    data = media.plain_tiff(200, 20, page.astype(kind).tobytes(), bits, sample_format)
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")).convert("L")
    assert image.getpixel((50, 10)) > 250  # type: ignore[operator]
    assert image.getpixel((105, 10)) < 10  # type: ignore[operator]


async def test_two_values_that_are_far_from_each_other_are_black_and_white(decoding_pool: DecodingPool) -> None:
    data = media.plain_tiff(200, 20, struct.pack("<4000H", *([7] * 180 + [60_000] * 20) * 20), 16, 1)
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")).convert("L")
    assert (image.getpixel((90, 10)), image.getpixel((192, 10))) == (0, 255)


async def test_fractions_near_0_are_not_black(decoding_pool: DecodingPool) -> None:
    image = shown(await make_thumbnail(decoding_pool, BytesSource(wedge("float32", 0, 1e-6)), "image/tiff"))
    assert image.convert("L").getpixel((150, 10)) == pytest.approx(192, abs=12)


async def test_a_fraction_between_0_and_1_stays_one(decoding_pool: DecodingPool) -> None:
    image = shown(await make_thumbnail(decoding_pool, BytesSource(wedge("float32", 0.4, 0.6)), "image/tiff"))
    low, high = image.convert("L").getextrema()
    assert 96 < low < 108  # type: ignore[operator]
    assert 148 < high < 160  # type: ignore[operator]


def sky(bits: int, **cards: object) -> tuple[dict[str, object], bytes]:
    """A wedge, 200 x 40, that rises from left to right, dark below, with one bright star above."""
    kind = {8: "u1", 16: ">i2", 32: ">i4", -32: ">f4", -64: ">f8", 64: ">i8"}[bits]
    values = np.tile(np.linspace(0, 100, 200), (40, 1))
    values[:20] /= 4
    values[-1, 0] = {8: 255, 16: 30_000}.get(bits, 1e6)
    return {"BITPIX": bits, "NAXIS": 2, "NAXIS1": 200, "NAXIS2": 40} | cards, values.astype(kind).tobytes()


PRIMARY: dict[str, object] = {"SIMPLE": f"{'T':>20}"}


@pytest.mark.parametrize("bits", [8, 16, 32, -32, -64])
@pytest.mark.parametrize("is_first", [True, False])
async def test_an_astronomers_picture_shows_its_sky(decoding_pool: DecodingPool, bits: int, is_first: bool) -> None:
    cards, values = sky(bits, BZERO=32_768)
    if is_first:
        data = media.fits((PRIMARY | cards, values))
    else:
        table: dict[str, object] = {"XTENSION": "'BINTABLE'", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 16, "NAXIS2": 300}
        primary = PRIMARY | {"BITPIX": 8, "NAXIS": 0}
        data = media.fits((primary, b""), (table, bytes(4_800)), ({"XTENSION": "'IMAGE   '"} | cards, values))
    facts: ImageFacts = await decoding_pool.run("inspect_image", BytesSource(data))
    assert (facts.width, facts.height, facts.format) == (200, 40, "FITS")
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/fits")).convert("L")
    for x in (20, 100, 180):
        assert image.getpixel((x, 10)) == pytest.approx(255 * x / 199, abs=12)
        assert image.getpixel((x, 30)) == pytest.approx(255 * x / 199 / 4, abs=12)


async def test_three_planes_of_an_astronomer_are_colours(decoding_pool: DecodingPool) -> None:
    red, green, blue = media.quadrants(240, 160).transpose(Image.Transpose.FLIP_TOP_BOTTOM).split()
    cards: dict[str, object] = {"BITPIX": 8, "NAXIS": 3, "NAXIS1": 240, "NAXIS2": 160, "NAXIS3": 3}
    data = media.fits((PRIMARY | cards, red.tobytes() + green.tobytes() + blue.tobytes()))
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/fits")), 40)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (media.fits((PRIMARY | {"BITPIX": 8, "NAXIS": 0}, b"")), "there are numbers in it, and no picture"),
        (
            media.fits(
                (PRIMARY | {"BITPIX": 8, "NAXIS": 0}, b""),
                (
                    {"XTENSION": "'BINTABLE'", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 8, "NAXIS2": 9, "ZIMAGE": "T"},
                    bytes(72),
                ),
            ),
            "its picture is packed in a way that is not decoded here",
        ),
        (
            media.fits((lambda part: (PRIMARY | part[0], part[1]))(sky(64))),
            "its samples have 64 bits, and are not decoded here",
        ),
        (media.fits((PRIMARY | {"BITPIX": 8}, b""))[:160], "its header is not whole"),
    ],
)
async def test_an_astronomers_file_that_cannot_be_shown_says_why(
    decoding_pool: DecodingPool, data: bytes, said: str
) -> None:
    with pytest.raises(DecodingFailed, match=said):
        await make_thumbnail(decoding_pool, BytesSource(data), "image/fits")


async def test_an_astronomers_picture_that_is_cut_shows_what_is_there(decoding_pool: DecodingPool) -> None:
    cards, values = sky(16)
    data = media.fits((PRIMARY | cards, b""))
    with pytest.raises(DecodingFailed, match="its end is missing"):
        await make_thumbnail(decoding_pool, BytesSource(data), "image/fits")
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data + values[:8_000]), "image/fits")).convert("L")
    assert image.getpixel((180, 30)) > 200  # type: ignore[operator]
    assert image.getpixel((180, 10)) == 0


def many_bands(
    width: int,
    height: int,
    bands: int,
    *,
    planar: bool,
    order: str,
    kind: str,
    differences: bool = False,
    is_big: bool = False,
    **tags: int,
) -> bytes:
    """A TIFF of wedges: the first rises from left to right, the others fall."""
    code, bits, sample_format, most = {
        "u8": ("B", 8, 1, 255),
        "u16": ("H", 16, 1, 4_000),
        "i16": ("h", 16, 2, 4_000),
        "u32": ("I", 32, 1, 4_000_000_000),
        "f16": ("e", 16, 3, 1),
        "f32": ("f", 32, 3, 1),
    }[kind]
    rising = [most * x / (width - 1) for x in range(width)]
    lines = [rising] + [rising[::-1]] * (bands - 1)
    if planar:
        numbers = [number for line in lines for _ in range(height) for number in line]
    else:
        numbers = [number for _ in range(height) for pixel in zip(*lines, strict=True) for number in pixel]
    values = numbers if sample_format == 3 else [round(number) for number in numbers]
    samples = struct.pack(f"{order}{len(values)}{code}", *values)
    if differences:
        samples = as_differences(samples, code, order, width * bands, bands)
        tags |= {"_259": 8, "_317": 3 if sample_format == 3 else 2}
    return media.banded_tiff(
        width, height, samples, bits, sample_format, bands, planar=planar, order=order, is_big=is_big, **tags
    )


@pytest.mark.parametrize("kind", ["u8", "u16", "f32"])
@pytest.mark.parametrize("bands", [3, 4, 8])
@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
async def test_of_many_bands_the_first_is_shown(
    decoding_pool: DecodingPool, kind: str, bands: int, planar: bool, order: str, is_big: bool
) -> None:
    source = BytesSource(many_bands(200, 20, bands, planar=planar, order=order, kind=kind, is_big=is_big))
    facts: ImageFacts = await decoding_pool.run("inspect_image", source)
    assert facts == ImageFacts(200, 20, "TIFF", False)
    thumbnail = await make_thumbnail(decoding_pool, source, "image/tiff")
    assert (thumbnail.source_width, thumbnail.source_height) == (200, 20)
    image = shown(thumbnail).convert("L")
    greys = [image.getpixel((x, 10)) for x in (2, 50, 100, 150, 197)]
    for grey, expected in zip(greys, (2, 64, 128, 192, 253), strict=True):
        assert abs(grey - expected) < 12, greys  # type: ignore[operator]


def as_differences(samples: bytes, code: str, order: str, row: int, bands: int) -> bytes:
    """Samples as each differs from the one before it in its row of so many: whole numbers (TIFF 6.0, 14), or the bytes
    of floats, of which the highest of all come first (Adobe's Technical Note 3).
    """
    width, packed = struct.calcsize(code), b""
    for at in range(0, len(samples), row * width):
        values: Sequence[int] = struct.unpack_from(f"{order}{row}{code}", samples, at)
        form = f"{order}{row}{code.upper()}"
        if code in "ef":
            high_first = struct.pack(f">{row}{code}", *values)
            values = b"".join(high_first[byte::width] for byte in range(width))
            form = f"{len(values)}B"
        over = 256 if code in "ef" else 1 << 8 * width
        before = [0] * bands + list(values)
        packed += struct.pack(form, *((value - less) % over for value, less in zip(values, before, strict=False)))
    return zlib.compress(packed)


@pytest.mark.parametrize("kind", ["u8", "u16", "i16", "u32", "f16", "f32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 5])
@pytest.mark.parametrize("order", ["<", ">"])
async def test_bands_that_are_stored_as_differences_are_shown(
    decoding_pool: DecodingPool, kind: str, bands: int, order: str
) -> None:
    data = many_bands(200, 20, bands, planar=False, order=order, kind=kind, differences=True)
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")).convert("L")
    greys = [image.getpixel((x, 10)) for x in (2, 50, 100, 150, 197)]
    for grey, expected in zip(greys, (2, 64, 128, 192, 253), strict=True):
        assert abs(grey - expected) < 12, greys  # type: ignore[operator]


@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("orientation", [1, 6])
async def test_colours_in_floats_are_colours(decoding_pool: DecodingPool, planar: bool, orientation: int) -> None:
    data = many_bands(200, 20, 3, planar=planar, order="<", kind="f32", _262=2, _274=orientation)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/tiff")
    image = shown(thumbnail).convert("RGB")
    assert image.size == ((200, 20) if orientation == 1 else (20, 200))
    red, green, blue = image.getpixel((190, 10) if orientation == 1 else (10, 190))  # type: ignore[misc]
    assert red > 230
    assert max(green, blue) < 25


# Videos


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("webm", "libvpx"), ("mov", "libx264")])
async def test_a_film_is_shown_as_it_is_after_one_second(
    decoding_pool: DecodingPool, container: str, codec: str
) -> None:
    film = media.film(3, container=container, codec=codec)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), f"video/{container}".replace("mov", "quicktime"))
    assert (thumbnail.width, thumbnail.height) == (320, 240)
    assert thumbnail.duration == pytest.approx(3, abs=0.1)
    pixel = shown(thumbnail).convert("RGB").getpixel((160, 120))
    assert isinstance(pixel, tuple)
    assert_close(pixel, media.FILM[1])


async def test_a_film_is_read_where_it_was_left(decoding_pool: DecodingPool) -> None:
    """The picture that is shown begins in what the decoder has read already, and ends behind it."""
    for width in range(64, 128, 8):
        file, noise = io.BytesIO(), Image.effect_noise((width, 96), 90).convert("RGB")
        with av.open(file, "w", format="avi") as output:
            stream = output.add_stream("mjpeg", rate=10, width=width, height=96, pix_fmt="yuvj444p")
            stream.options = {"qmin": "1", "qmax": "1"}
            for _ in range(30):
                output.mux(stream.encode(av.VideoFrame.from_image(noise)))
            output.mux(stream.encode(None))
        image = shown(await make_thumbnail(decoding_pool, BytesSource(file.getvalue()), "video/x-msvideo"))
        difference = ImageChops.difference(image.convert("L"), noise.convert("L")).resize((16, 12))
        assert difference.getextrema()[1] < 40, width  # type: ignore[operator]


@pytest.mark.parametrize("container", ["mp4", "webm", "mpegts"])
async def test_a_film_shorter_than_a_second_shows_its_last_picture(decoding_pool: DecodingPool, container: str) -> None:
    film = media.film(1, rate=4, container=container, codec="libvpx" if container == "webm" else "libx264")
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    pixel = shown(thumbnail).convert("RGB").getpixel((160, 120))
    assert isinstance(pixel, tuple)
    assert_close(pixel, media.FILM[0])


@pytest.mark.parametrize("degrees", [90, 180, 270])
async def test_a_film_held_sideways_is_shown_upright(decoding_pool: DecodingPool, degrees: int) -> None:
    stored = media.quadrants(320, 240).transpose(
        {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}[degrees]
    )
    film = media.turned(media.still_film(stored), degrees)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert (thumbnail.width, thumbnail.height) == shown(thumbnail).size == (320, 240)
    assert (thumbnail.source_width, thumbnail.source_height) == (320, 240)
    assert_quadrants(shown(thumbnail), 40)


@pytest.mark.parametrize(
    ("matrix", "stored"),
    [
        ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
        ((1, 0, 0, -1), Image.Transpose.FLIP_TOP_BOTTOM),
        ((0, 1, 1, 0), Image.Transpose.TRANSPOSE),
        ((0, -1, -1, 0), Image.Transpose.TRANSVERSE),
    ],
)
async def test_a_mirrored_film_is_shown_as_it_was_meant(
    decoding_pool: DecodingPool, matrix: tuple[int, int, int, int], stored: Image.Transpose
) -> None:
    film = media.shown_by(media.still_film(media.quadrants(320, 240).transpose(stored)), matrix)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert (thumbnail.source_width, thumbnail.source_height) == shown(thumbnail).size == (320, 240)
    assert_quadrants(shown(thumbnail))


@pytest.mark.parametrize(("rows", "matrix"), [(1_280, "ITU709"), (720, "ITU709"), (576, "ITU601")])
async def test_a_film_that_does_not_say_how_its_colours_are_coded_is_shown_as_in_browsers(
    decoding_pool: DecodingPool, rows: int, matrix: str
) -> None:
    film = media.still_film(media.quadrants(720, rows), matrix=matrix)
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")))


async def test_the_first_film_that_can_be_decoded_is_shown(decoding_pool: DecodingPool) -> None:
    film = media.two_films("snow", "mpeg4")
    facts: MediaFacts = await decoding_pool.run("probe", BytesSource(film))
    assert (facts.width, facts.height, facts.has_picture) == (320, 240, True)
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(film), "video/x-matroska")), 24)


@pytest.mark.parametrize("container", ["mp4", "mpegts", "matroska", "avi"])
@pytest.mark.parametrize(
    ("aspect", "shape"), [((64, 45), (1_024, 576)), ((1, 2), (720, 1_152)), ((1, 1), (720, 576)), ((99, 1), (720, 576))]
)
async def test_a_film_of_oblong_pixels_has_the_shape_of_the_screen(
    decoding_pool: DecodingPool, container: str, aspect: tuple[int, int], shape: tuple[int, int]
) -> None:
    codec = "mpeg4" if container == "avi" else "libx264"
    film = media.still_film(media.quadrants(720, 576), aspect=aspect, container=container, codec=codec)
    facts: MediaFacts = await decoding_pool.run("probe", BytesSource(film))
    assert (facts.width, facts.height) == shape
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert (thumbnail.source_width, thumbnail.source_height) == shape
    assert max(thumbnail.width, thumbnail.height) <= 1_024
    assert thumbnail.width / thumbnail.height == pytest.approx(shape[0] / shape[1], abs=0.01)
    assert_quadrants(shown(thumbnail), 40)


async def test_a_film_of_oblong_pixels_may_be_turned(decoding_pool: DecodingPool) -> None:
    stored = media.quadrants(720, 576).transpose(Image.Transpose.ROTATE_90).resize((720, 576))
    film = media.turned(media.still_film(stored, aspect=(64, 45)), 90)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert (thumbnail.source_width, thumbnail.source_height) == shown(thumbnail).size == (576, 1_024)
    assert_quadrants(shown(thumbnail), 40)


@pytest.mark.parametrize("duration_is_known", [True, False])
async def test_a_film_that_begins_black_shows_a_later_picture(
    decoding_pool: DecodingPool, duration_is_known: bool
) -> None:
    black, titles = Image.new("RGB", (320, 240)), media.quadrants(320, 240)
    container = "mp4" if duration_is_known else "matroska"
    film = media.still_film(*[black] * 24, *[titles] * 40, container=container)
    if not duration_is_known:
        at = film.index(b"\x44\x89\x88")
        film = film[:at] + b"\xec\x89" + bytes(9) + film[at + 11 :]
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert_quadrants(shown(thumbnail), 40)


@pytest.mark.parametrize("paper", ["black", "white"])
async def test_a_film_that_has_something_to_see_near_its_end_shows_it(decoding_pool: DecodingPool, paper: str) -> None:
    film = media.still_film(*[Image.new("RGB", (320, 240), paper)] * 17, *[media.quadrants(320, 240)] * 7)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert_quadrants(shown(thumbnail), 40)


@pytest.mark.parametrize(
    ("container", "before", "titled", "after"),
    [
        ("mp4", 240, 16, 0),
        ("matroska", 240, 16, 0),
        ("mp4", 8, 12, 300),
        ("matroska", 8, 12, 300),
        ("mp4", 130, 4, 160),
        ("avi", 130, 4, 160),
    ],
)
async def test_a_film_that_is_black_for_long_shows_what_it_has(
    decoding_pool: DecodingPool, container: str, before: int, titled: int, after: int
) -> None:
    black, titles = Image.new("RGB", (320, 240)), media.quadrants(320, 240)
    images = [black] * before + [titles] * titled + [black] * after
    film = media.still_film(*images, container=container, codec="mpeg4" if container == "avi" else "libx264")
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")), 40)


async def test_a_film_that_becomes_black_at_once_shows_its_first_picture(decoding_pool: DecodingPool) -> None:
    film = media.still_film(*[media.quadrants(320, 240)] * 2, *[Image.new("RGB", (320, 240))] * 40)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert_quadrants(shown(thumbnail), 40)


@pytest.mark.parametrize(("begins", "ends", "least"), [(0, 40, 55), (6, 6, 30)])
async def test_a_film_that_fades_in_shows_what_is_bright(
    decoding_pool: DecodingPool, begins: int, ends: int, least: int
) -> None:
    stripe = Image.new("L", (320, 240))
    stripe.paste(255, (120, 0, 200, 240))
    shades = [begins + (ends - begins) * at / 40 for at in range(40)]
    film = media.still_film(*[stripe.point(lambda value, by=by: value * by / 40).convert("RGB") for by in shades])
    image = shown(await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")).convert("L")
    assert image.getpixel((160, 120)) > least  # type: ignore[operator]
    assert image.getpixel((20, 120)) < 5  # type: ignore[operator]


async def test_a_films_very_first_picture_is_not_shown(decoding_pool: DecodingPool) -> None:
    logo = media.quadrants(320, 240)
    story = logo.transpose(Image.Transpose.ROTATE_180)
    film = media.still_film(logo, *[story] * 23)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert_quadrants(shown(thumbnail).transpose(Image.Transpose.ROTATE_180), 40)


async def test_a_black_film_has_a_black_thumbnail(decoding_pool: DecodingPool) -> None:
    film = media.still_film(*[Image.new("RGB", (320, 240))] * 8)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert shown(thumbnail).convert("L").getextrema()[1] < 20  # type: ignore[operator]


@pytest.mark.parametrize("container", ["mp4", "mpegts", "matroska", "mpeg"])
async def test_a_film_of_one_keyframe_has_a_thumbnail(decoding_pool: DecodingPool, container: str) -> None:
    codec = "mpeg2video" if container == "mpeg" else "libx264"
    film = media.still_film(*[media.quadrants(320, 240)] * 50, container=container, codec=codec, rate=25)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert_quadrants(shown(thumbnail), 40)


@pytest.mark.parametrize(
    ("container", "frames", "options"),
    [("flv", 1, {}), ("matroska", 75, {"avoid_negative_ts": "disabled", "output_ts_offset": "-1"})],
)
async def test_a_film_in_which_nothing_can_be_sought_has_a_thumbnail(
    decoding_pool: DecodingPool, container: str, frames: int, options: dict[str, str]
) -> None:
    film = media.film_of_quadrants("libx264", container, frames=frames, **options)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/x-matroska")
    assert_quadrants(shown(thumbnail), 40)


class Counted(BytesSource):
    read_bytes = 0

    async def read(self, start: int, length: int) -> bytes:
        self.read_bytes += length
        return await super().read(start, length)


async def test_a_large_film_is_not_read_whole(decoding_pool: DecodingPool) -> None:
    film = media.film(10, size=(640, 480), noise=True)
    assert len(film) > 15_000_000
    source = Counted(film)
    thumbnail = await make_thumbnail(decoding_pool, source, "video/mp4")
    assert (thumbnail.width, thumbnail.height) == (640, 480)
    assert source.read_bytes < 5_000_000


async def test_a_large_film_is_not_read_whole_in_search_of_a_picture(decoding_pool: DecodingPool) -> None:
    grey = [Image.effect_noise((640, 480), 3).convert("RGB") for _ in range(100)]
    film = media.still_film(*grey, crf="0")
    assert len(film) > 10_000_000
    source = Counted(film)
    thumbnail = await make_thumbnail(decoding_pool, source, "video/mp4")
    pixel = shown(thumbnail).convert("L").resize((1, 1)).getpixel((0, 0))
    assert abs(pixel - 128) < 10  # type: ignore[operator]
    assert source.read_bytes < 6_000_000


# Light and colours beyond sRGB


@pytest.mark.parametrize("transfer", [media.PQ, media.HLG])
@pytest.mark.parametrize("kind", ["JPEG", "HEIF", "AVIF", "PNG", "libx265", "libsvtav1", "prores_ks"])
async def test_high_dynamic_range_is_shown_in_srgb(decoding_pool: DecodingPool, kind: str, transfer: int) -> None:
    data, mime_type = media.hdr_quadrants(kind, transfer), "image/png" if kind.isupper() else "video/mp4"
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), mime_type)
    assert thumbnail.source_width == 256
    # White is a little darker, as there is light beyond it.
    assert_quadrants(shown(thumbnail), 36)
    brightest = shown(thumbnail).convert("RGB").getpixel((192, 120))
    assert min(brightest) > 205  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "PNG", "libx264"])
async def test_a_wide_gamut_by_its_code_points_is_shown_in_srgb(decoding_pool: DecodingPool, kind: str) -> None:
    data = media.hdr_quadrants(kind, media.SRGB_TRANSFER, primaries=12)
    mime_type = "video/mp4" if kind.startswith("lib") else "image/png"
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), mime_type)
    assert_quadrants(shown(thumbnail), 12)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "PNG"])
@pytest.mark.parametrize("transfer", media.GAMMAS)
async def test_light_by_any_power_is_shown_in_srgb(decoding_pool: DecodingPool, kind: str, transfer: int) -> None:
    data = media.hdr_quadrants(kind, transfer, primaries=12)
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/png")), 26)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
@pytest.mark.parametrize("gamut", ["Display P3", "Adobe RGB"])
async def test_a_wide_gamut_by_its_profile_is_shown_in_srgb(
    decoding_pool: DecodingPool, image_format: str, gamut: str
) -> None:
    profile = media.rgb_profile(gamut)
    picture = media.quadrants(240, 160)
    wide = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(profile))
    )
    assert wide is not None
    assert wide.getpixel((180, 40)) != picture.getpixel((180, 40))
    data = media.encoded(wide, image_format, icc_profile=profile, quality=95)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/jpeg")
    assert_quadrants(shown(thumbnail), 20)
    assert b"ICCP" not in chunks(thumbnail.data)


async def test_a_wide_gamut_of_a_jpeg_2000_is_shown_in_srgb(decoding_pool: DecodingPool) -> None:
    profile = media.rgb_profile("Adobe RGB")
    stored = Image.new("RGB", (64, 64), (120, 200, 40))
    meant = ImageCms.profileToProfile(
        stored, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    jp2 = media.encoded(stored, "JPEG2000")
    at = jp2.index(b"colr") - 4
    (length,) = struct.unpack_from(">I", jp2, at)
    box = struct.pack(">I4s3B", 11 + len(profile), b"colr", 2, 0, 0) + profile
    data = jp2[:at] + box + jp2[at + length :]
    header = data.index(b"jp2h") - 4
    (whole,) = struct.unpack_from(">I", data, header)
    data = data[:header] + struct.pack(">I", whole + len(box) - length) + data[header + 4 :]
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/jp2")).convert("RGB")
    pixel, expected = image.getpixel((32, 32)), meant and meant.getpixel((32, 32))
    assert isinstance(pixel, tuple)
    assert isinstance(expected, tuple)
    assert_close(pixel, expected, 6)


@pytest.mark.parametrize("layout", ["rgb24", "rgb48le", "rgba64le"])
async def test_the_brightest_of_a_deep_jpeg_2000_is_bright(decoding_pool: DecodingPool, layout: str) -> None:
    data = media.by_ffmpeg(Image.new("RGB", (2_400, 240), (255, 255, 128)), "jpeg2000", layout)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/jp2")
    assert (thumbnail.source_width, thumbnail.source_height) == (2_400, 240)
    pixel = shown(thumbnail).convert("RGB").getpixel((500, 50))
    assert isinstance(pixel, tuple)
    assert_close(pixel, (255, 255, 128), 6)


# Metadata


LINEAR = struct.pack(">I", 100_000)
DISPLAY_P3 = struct.pack(">8I", 31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)


def side_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"".join(png_chunk(name, data, zlib.crc32(name + data)) for name, data in chunks)


def coded_png(exponent: float, primaries: tuple[tuple[float, ...], ...], chunks: bytes) -> bytes:
    """The quadrants as light to this power, in primaries given by a matrix from those of sRGB."""
    picture = media.quadrants(240, 160)
    colours = {}
    for colour in media.QUADRANTS:
        light = [((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
        light = [sum(a * b for a, b in zip(row, light, strict=True)) for row in primaries]
        colours[colour] = tuple(round(255 * value**exponent) for value in light)
    for index, colour in enumerate(media.QUADRANTS):
        left, top = 120 * (index % 2), 80 * (index // 2)
        picture.paste(colours[colour], (left, top, left + 120, top + 80))
    png = media.encoded(picture, "PNG")
    return png[:33] + chunks + png[33:]


SRGB_TO_ITSELF = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
SRGB_TO_P3 = ((0.8225, 0.1774, 0.0), (0.0332, 0.9669, 0.0), (0.0171, 0.0724, 0.9108))


@pytest.mark.parametrize(
    ("exponent", "primaries", "chunks"),
    [
        (1.0, SRGB_TO_ITSELF, [(b"gAMA", LINEAR)]),
        (1 / 1.8, SRGB_TO_ITSELF, [(b"gAMA", struct.pack(">I", 55_556))]),
        (1 / 2.2, SRGB_TO_P3, [(b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", DISPLAY_P3)]),
        (1 / 2.2, SRGB_TO_ITSELF, [(b"cHRM", DISPLAY_P3)]),
        (1 / 2.2, SRGB_TO_ITSELF, [(b"sRGB", b"\0"), (b"gAMA", LINEAR)]),
        (1 / 2.2, SRGB_TO_ITSELF, [(b"gAMA", bytes(4))]),
        (1 / 2.2, SRGB_TO_ITSELF, [(b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", bytes(32))]),
    ],
)
async def test_a_png_may_say_its_gamma_and_primaries_by_numbers(
    decoding_pool: DecodingPool,
    exponent: float,
    primaries: tuple[tuple[float, ...], ...],
    chunks: list[tuple[bytes, bytes]],
) -> None:
    data = coded_png(exponent, primaries, side_chunks(*chunks))
    assert_quadrants(shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/png")))


async def test_a_grey_png_may_say_its_gamma(decoding_pool: DecodingPool) -> None:
    png = media.encoded(Image.new("L", (40, 30), 55), "PNG")
    data = png[:33] + side_chunks((b"gAMA", LINEAR)) + png[33:]
    assert_close(pixel_of(await make_thumbnail(decoding_pool, BytesSource(data), "image/png")), (128, 128, 128))


def pixel_of(thumbnail: Thumbnail) -> tuple[int, ...]:
    """The one in the middle, as RGB."""
    image = shown(thumbnail).convert("RGB")
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize("kind", ["grey", "coloured"])
async def test_a_deep_png_may_have_one_transparent_colour(decoding_pool: DecodingPool, kind: str) -> None:
    left, right = (20_000,), (50_000,)
    if kind == "coloured":
        left, right = (8_000, 8_000, 56_000), (56_000, 8_000, 8_000)
    row = b"\0" + b"".join(struct.pack(f">{len(colour)}H", *colour) * 8 for colour in (left, right))
    header = struct.pack(">IIBBBBB", 16, 16, 16, 0 if kind == "grey" else 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + side_chunks(
        (b"IHDR", header),
        (b"tRNS", struct.pack(f">{len(left)}H", *left)),
        (b"IDAT", zlib.compress(row * 16)),
        (b"IEND", b""),
    )
    image = shown(await make_thumbnail(decoding_pool, BytesSource(data), "image/png")).convert("RGBA")
    clear, opaque = image.getpixel((2, 8)), image.getpixel((13, 8))
    assert isinstance(clear, tuple)
    assert isinstance(opaque, tuple)
    assert (clear[3] < 40, opaque[3] > 215) == (True, True)
    assert_close(opaque[:3], tuple(value >> 8 for value in right) * (3 if kind == "grey" else 1))


@pytest.mark.parametrize("name", [b"tEXt", b"mkBT"])
async def test_a_document_within_a_png_does_not_cost_its_picture(decoding_pool: DecodingPool, name: bytes) -> None:
    png = media.encoded(media.quadrants(240, 160), "PNG")
    data = png[:33] + side_chunks((name, b"Document\0" + bytes(b"a" * 30_000_000))) + png[33:]
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/png")
    assert (thumbnail.source_width, thumbnail.source_height) == (240, 160)
    assert_quadrants(shown(thumbnail))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
async def test_no_place_and_no_remark_is_in_a_thumbnail(decoding_pool: DecodingPool, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Secret Camera Works"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (16.0, 22.0, 12.0)})
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>Secret place</x:xmpmeta>"
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "Secret remark")
    options = {"pnginfo": text} if image_format == "PNG" else {"comment": b"Secret remark", "xmp": xmp}
    data = media.encoded(media.quadrants(400, 300), image_format, exif=exif, **options)
    assert b"Secret" in data
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/jpeg")
    assert set(chunks(thumbnail.data)) <= {b"VP8 ", b"VP8L", b"VP8X", b"ALPH"}
    for result in (thumbnail.data, *[await variant(decoding_pool, thumbnail.data, 160, k) for k in ("webp", "jpeg")]):  # type: ignore[arg-type]
        assert b"Secret" not in result
        picture = shown(result)
        assert not picture.getexif()
        assert not {"comment", "xmp", "exif", "Comment"} & picture.info.keys()


async def test_no_place_of_a_film_is_in_its_thumbnail(decoding_pool: DecodingPool) -> None:
    film = media.still_film(media.quadrants(64, 48), location="+48.2085+016.3721/")
    assert b"loci" in film
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "video/mp4")
    assert set(chunks(thumbnail.data)) <= {b"VP8 ", b"VP8L", b"VP8X", b"ALPH"}


@pytest.mark.parametrize("kind", ["picture", "film"])
async def test_a_thumbnail_has_a_thumbhash(decoding_pool: DecodingPool, kind: str) -> None:
    picture = media.quadrants(320, 240)
    source = BytesSource(media.encoded(picture, "PNG") if kind == "picture" else media.still_film(picture))
    thumbnail = await make_thumbnail(decoding_pool, source, "image/png" if kind == "picture" else "video/mp4")
    assert thumbnail.details == {"thumbhash": thumbnail.thumbhash}
    assert 5 < len(base64.b64decode(thumbnail.thumbhash or "", validate=True)) < 30


# --- a PDF's first page ----------------------------------------------------------------------------------------------


def document(box: str = "0 0 595 842", *, more: str = "", trailer: str = "", pages: str = "[3 0 R]/Count 1") -> bytes:
    """A PDF of one page with a word on it, without a table of its objects: readers find these by themselves."""
    return (
        f"%PDF-1.7\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids{pages}>>endobj "
        f"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[{box}]{more}/Contents 4 0 R"
        "/Resources<</Font<</F 5 0 R>>>>>>endobj "
        "4 0 obj<</Length 43>>stream\nBT /F 150 Tf 40 600 Td (Invoice) Tj ET      \nendstream endobj "
        "5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj "
        f"6 0 obj<</Filter/Standard/V 1/R 2/O<{'11' * 32}>/U<{'22' * 32}>/P -4>>endobj "
        f"trailer<</Root 1 0 R{trailer}>>"
    ).encode()


async def test_the_thumbnail_of_a_pdf_is_its_first_page(decoding_pool: DecodingPool) -> None:
    data = document()
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "application/pdf")
    assert (thumbnail.width, thumbnail.height) == (724, 1024)
    assert (thumbnail.source_width, thumbnail.source_height) == (595, 842)
    image = shown(thumbnail).convert("L")
    assert image.getpixel((5, 5)) == 255
    assert image.getextrema()[0] < 50
    assert len(base64.b64decode(thumbnail.details["thumbhash"])) > 5
    facts = (await Examination(decoding_pool).examine(BytesSource(data), data[:100], "a.pdf", None)).facts
    assert (facts.mime_type, facts.width, facts.height, facts.thumbnail_status) == (
        "application/pdf",
        595,
        842,
        "ready",
    )


async def test_what_is_filled_into_a_form_is_shown(decoding_pool: DecodingPool) -> None:
    field = "/Annots[7 0 R]"
    form = (
        "/AcroForm<</NeedAppearances true/Fields[7 0 R]/DA(/F 12 Tf 0 g)/DR<</Font<</F 5 0 R>>>>>>",
        "7 0 obj<</Type/Annot/Subtype/Widget/FT/Tx/T(name)/F 4/Rect[0 0 595 300]/V(Anna)/DA(/F 200 Tf 1 0 0 rg)>>"
        "endobj ",
    )
    data = document(more=field).replace(b"/Type/Catalog", b"/Type/Catalog" + form[0].encode())
    data = data.replace(b"6 0 obj", form[1].encode() + b"6 0 obj")
    written = shown(await make_thumbnail(decoding_pool, BytesSource(data), "application/pdf")).convert("RGB")
    red, green, _ = written.split()
    assert green.getextrema()[0] < 60
    assert red.crop((0, 700, 724, 1_000)).getextrema()[0] > 120  # type: ignore[operator]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (document(more="/Rotate 90"), (842, 595)),
        (document("0 0 50 80"), (50, 80)),
        (document("595 842 0 0"), (595, 842)),
        (document(more="/CropBox[100 100 300 200]"), (200, 100)),
        (document(more="/CropBox[700 100 900 200]"), (595, 842)),
        (document(more="/CropBox[595 0 900 842]"), (595, 842)),
        (
            document(more="/CropBox[700 0 900 900]")
            .replace(b"/Type/Pages", b"/Type/Pages/MediaBox[0 0 300 400]")
            .replace(b"/MediaBox[0 0 595 842]", b""),
            (300, 400),
        ),
    ],
)
async def test_a_page_has_its_shape_and_is_not_blown_up(
    decoding_pool: DecodingPool, data: bytes, size: tuple[int, int]
) -> None:
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "application/pdf")
    assert (thumbnail.source_width, thumbnail.source_height) == size
    assert max(thumbnail.width, thumbnail.height) == min(1024, 2 * max(size))


async def test_what_was_wrong_with_one_pdf_is_not_said_of_the_next(decoding_pool: DecodingPool) -> None:
    objects = (b"1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n", b"2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n")
    starts = [9, 9 + len(objects[0])]
    body = b"%PDF-1.4\n" + b"".join(objects)
    table = b"xref\n0 3\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % start for start in starts)
    empty = body + table + b"trailer<</Root 1 0 R/Size 3>>\nstartxref\n%d\n%%%%EOF" % len(body)
    for data, said in (
        (document(trailer="/Encrypt 6 0 R/ID[<00><00>]"), "it is encrypted, and needs a password"),
        (empty, "it is damaged, or has no page"),
    ):
        with pytest.raises(DecodingFailed) as failed:
            await make_thumbnail(decoding_pool, BytesSource(data), "application/pdf")
        assert failed.value.detail == said


@pytest.mark.parametrize(
    ("data", "code", "sentence"),
    [
        (document(trailer="/Encrypt 6 0 R/ID[<00><00>]"), "unsupported", "it is encrypted, and needs a password"),
        (document(pages="[]/Count 0"), "corrupt", "it is damaged, or has no page"),
        (document("0 0 99999 99999"), "too_large", "its first page has 99999 x 99999 points, more than 14400 a side"),
        (document("0 0 14000 1"), "too_large", "its first page is a line of 14000 x 1 points"),
        (b"%PDF-1.7\n" + bytes(1000), "corrupt", "it is damaged, or has no page"),
    ],
)
async def test_a_pdf_that_cannot_be_shown_says_why(
    decoding_pool: DecodingPool, data: bytes, code: str, sentence: str
) -> None:
    with pytest.raises(DecodingFailed) as failed:
        await make_thumbnail(decoding_pool, BytesSource(data), "application/pdf")
    assert (failed.value.code, failed.value.detail) == (code, sentence)
    facts = (await Examination(decoding_pool).examine(BytesSource(data), data[:100], "a.pdf", None)).facts
    assert (facts.mime_type, facts.thumbnail_status) == ("application/pdf", "none")
    assert facts.details == {"no_thumbnail": sentence}
