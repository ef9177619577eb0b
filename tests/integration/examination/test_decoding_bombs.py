"""Small files that claim to be, or are, larger than the caps: their headers decide, before memory is taken.

Also other bombs: a header that claims little while the decoder finds much, and a header without an end.
"""

import base64
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
from PIL import Image

from media_core.decoding import BytesSource, DecodingFailed, ImageFacts
from media_core.decoding import pool as pool_module
from media_core.decoding.pool import DecodingPool
from tests.fixtures import media
from tests.integration.examination.decoding_processes import Processes, forget_peak, peak

MIB = 1 << 20
MOST = 2**31 - 1

Sides = tuple[int, int]

# Making the files


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int, height: int, colour: int = 2, bits: int = 8, *, interlaced: bool = False, moves: bool = False
) -> bytes:
    """About 105 bytes: a header, and pixel data that ends after the first row."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    frames = b""
    if moves:
        frames = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(
            b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 1, 0)
        )
    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(bytes(1_000)))
    return b"\x89PNG\r\n\x1a\n" + header + palette + frames + pixels + chunk(b"IEND", b"")


def gif(screen: tuple[int, int], frame: tuple[int, int], *, disposal: int = 0, frames: int = 1) -> bytes:
    """`disposal`: for 2 (background) and 3 (previous) Pillow takes memory as soon as it reads the frame's header."""
    control = b"!\xf9\x04" + bytes([disposal << 2 | 1, 10, 0, 0, 0])
    picture = control + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(3) + b"\xff" * 3 + picture * frames + b";"


def bmp(width: int, height: int, *, bits: int = 24, compression: int = 0) -> bytes:
    header = struct.pack("<IIiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + header + bytes(4 << bits if bits <= 8 else 0)


def os2_bmp(width: int, height: int) -> bytes:
    return struct.pack("<2sIHHI", b"BM", 26, 0, 0, 26) + struct.pack("<IHHHH", 12, width, height, 1, 24)


def tiff(
    width: int, height: int, *, compression: int = 1, tile: int = 0, big: bool = False, orientation: int = 1
) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 274: orientation, 277: 1}
    tags |= {322: tile, 323: tile, 324: 8, 325: 100} if tile else {273: 8, 278: height, 279: 100}
    entries = sorted(tags.items())
    if big:
        ifd = struct.pack("<Q", len(entries)) + b"".join(struct.pack("<HHQQ", t, 16, 1, v) for t, v in entries)
        return b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + ifd + bytes(200)
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
    return b"II*\0" + struct.pack("<I", 8) + ifd + bytes(200)


def bands(width: int, height: int, count: int, *, planar: bool = False) -> bytes:
    return media.banded_tiff(width, height, bytes(100), 16, 1, count, planar=planar, order="<")


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def lossy_webp(width: int, height: int) -> bytes:
    webp = bytearray(media.encoded(media.quadrants(64, 48), "WEBP"))
    at = webp.index(b"\x9d\x01\x2a") + 3
    webp[at : at + 4] = struct.pack("<HH", width, height)
    return bytes(webp)


def lossless_webp(width: int, height: int) -> bytes:
    webp = bytearray(media.encoded(media.quadrants(64, 48), "WEBP", lossless=True))
    at = webp.index(b"VP8L") + 9
    bits = struct.unpack_from("<I", webp, at)[0] & 0xF000_0000
    struct.pack_into("<I", webp, at, bits | (height - 1) << 14 | (width - 1))
    return bytes(webp)


def extended_webp(width: int, height: int, *, moves: bool = False, still: bytes = b"") -> bytes:
    def three(number: int) -> bytes:
        return (number - 1).to_bytes(3, "little")

    still = (still or media.encoded(media.quadrants(64, 48), "WEBP"))[12:]
    header = (b"VP8X", bytes([2 if moves else 0, 0, 0, 0]) + three(width) + three(height))
    if not moves:
        return riff(header, (still[:4], still[8:]))
    frame = (b"ANMF", bytes(6) + three(64) + three(48) + bytes([100, 0, 0, 0]) + still)
    return riff(header, (b"ANIM", bytes(6)), frame, frame)


def claimed(container: bytes, width: int, height: int) -> bytes:
    """An AVIF or HEIF picture with other sides in every `ispe` box (ISO 23008-12, 6.5.3)."""
    data, at = bytearray(container), 0
    while (at := data.find(b"ispe", at) + 4) > 3:
        struct.pack_into(">II", data, at + 4, width, height)
    return bytes(data)


def avif(width: int, height: int, *, moves: bool = False) -> bytes:
    first = media.quadrants(64, 64)
    more = {"save_all": True, "append_images": [Image.new("RGB", (64, 64))]} if moves else {}
    made = claimed(media.encoded(first, "AVIF", speed=10, **more), width, height)
    if moves:  # its track's sides count: the last eight bytes of the header (ISO 14496-12, 8.3.2)
        at = made.index(b"tkhd") - 4
        end = at + int.from_bytes(made[at : at + 4])
        made = made[: end - 8] + struct.pack(">II", width << 16, height << 16) + made[end:]
    return made


def heif(width: int, height: int) -> bytes:
    return claimed(media.photo(64, 64, "HEIF"), width, height)


def jpeg(width: int, height: int, *, progressive: bool = False) -> bytes:
    return media.resized_header(media.photo(64, 48, progressive=progressive), width, height)


def mpo(width: int, height: int) -> bytes:
    file = io.BytesIO()
    media.quadrants(64, 48).save(file, "MPO", save_all=True, append_images=[media.quadrants(64, 48)])
    return media.resized_header(file.getvalue(), width, height)


def ico(inner: bytes) -> bytes:
    """An icon of one picture, 256 x 256 by its own header."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inner), 22) + inner


def psd(width: int, height: int) -> bytes:
    return b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, height, width, 8, 3) + bytes(200)


def jp2(width: int, height: int, *, claimed: Sides | None = None) -> bytes:
    """JPEG 2000 of these sides in its codestream's header and, if it claims no others, in its container's."""
    data = bytearray(media.encoded(media.quadrants(64, 48), "JPEG2000"))
    at = data.index(b"ihdr") + 4
    struct.pack_into(">II", data, at, *reversed(claimed or (width, height)))
    at = data.index(b"\xff\x51") + 6
    struct.pack_into(">IIIIII", data, at, width, height, 0, 0, width, height)
    return bytes(data)


def icns(inner: bytes) -> bytes:
    return b"icns" + struct.pack(">I4sI", len(inner) + 16, b"ic10", len(inner) + 8) + inner


def dx10(layout: int, side: int) -> bytes:
    texture = media.texture(layout)[:500]
    return texture[:12] + struct.pack("<2I", side, side) + texture[20:]


BOMBS: dict[str, tuple[Callable[[], bytes], Sides | None]] = {
    "png of 100 megapixels": (lambda: png(10_001, 10_000), (10_001, 10_000)),
    "png of 169 megapixels": (lambda: png(13_000, 13_000), (13_000, 13_000)),
    "png of 2,500 megapixels": (lambda: png(50_000, 50_000), (50_000, 50_000)),
    "png of 10,000 megapixels": (lambda: png(100_000, 100_000), (100_000, 100_000)),
    "png of 2^40 pixels": (lambda: png(1 << 20, 1 << 20), None),
    "png of the largest sides": (lambda: png(MOST, MOST), None),
    "png of the largest width": (lambda: png(MOST, 1), None),
    "png of the largest height": (lambda: png(1, MOST), None),
    "png, below the cap, with a side that is none": (lambda: png(1, 40_000_000), None),
    "png of one bit": (lambda: png(50_000, 50_000, 0, 1), (50_000, 50_000)),
    "png of 64 bits": (lambda: png(50_000, 50_000, 6, 16), (50_000, 50_000)),
    "png with a palette": (lambda: png(50_000, 50_000, 3, 8), (50_000, 50_000)),
    "interlaced png": (lambda: png(50_000, 50_000, interlaced=True), (50_000, 50_000)),
    "moving png": (lambda: png(50_000, 50_000, 6, moves=True), (50_000, 50_000)),
    "gif": (lambda: gif((65_535, 65_535), (64, 48)), (65_535, 65_535)),
    "gif whose frame is larger": (lambda: gif((64, 48), (65_535, 65_535)), (65_535, 65_535)),
    "gif that leaves its background": (lambda: gif((65_535, 65_535), (65_535, 65_535), disposal=2), (65_535, 65_535)),
    "gif that restores what was": (lambda: gif((30_000, 30_000), (30_000, 30_000), disposal=3), (30_000, 30_000)),
    "moving gif": (lambda: gif((1, 1), (30_000, 30_000), disposal=2, frames=3), (30_000, 30_000)),
    "bmp": (lambda: bmp(50_000, 50_000), (50_000, 50_000)),
    "bmp from the top": (lambda: bmp(50_000, -50_000), (50_000, 50_000)),
    "bmp of one bit": (lambda: bmp(50_000, 50_000, bits=1), (50_000, 50_000)),
    "bmp in run lengths": (lambda: bmp(50_000, 50_000, bits=8, compression=1), (50_000, 50_000)),
    "bmp of OS/2": (lambda: os2_bmp(65_535, 65_535), (65_535, 65_535)),
    "bmp of the largest sides": (lambda: bmp(MOST, MOST), None),
    "tiff": (lambda: tiff(50_000, 50_000), (50_000, 50_000)),
    "tiff in LZW": (lambda: tiff(50_000, 50_000, compression=5), (50_000, 50_000)),
    "tiff in JPEG": (lambda: tiff(50_000, 50_000, compression=7), (50_000, 50_000)),
    "tiff in one tile": (lambda: tiff(50_000, 50_000, tile=50_000), (50_000, 50_000)),
    "tiff on its side": (lambda: tiff(50_000, 40_000, orientation=6), (40_000, 50_000)),
    "tiff of many bands": (lambda: bands(50_000, 50_000, 5), (50_000, 50_000)),
    "tiff of bands one after the other": (lambda: bands(50_000, 40_000, 5, planar=True), (50_000, 40_000)),
    "tiff of too many bands": (lambda: bands(4_000, 4_000, 200), (4_000, 4_000)),
    "tiff of bands of the largest sides": (lambda: bands(2**32 - 1, 2**32 - 1, 5), None),
    "tiff of bands without a row": (lambda: bands(120, 0, 5), None),
    "webp without a row": (lambda: lossy_webp(64, 0)[:40], None),
    "big tiff": (lambda: tiff(50_000, 50_000, big=True), (50_000, 50_000)),
    "big tiff of the largest sides": (lambda: tiff(2**63, 2**63, big=True), None),
    "tiff of the largest sides": (lambda: tiff(2**32 - 1, 2**32 - 1), None),
    "lossy webp": (lambda: lossy_webp(16_383, 16_383), (16_383, 16_383)),
    "lossless webp": (lambda: lossless_webp(16_384, 16_383), (16_384, 16_383)),
    "extended webp": (lambda: extended_webp(65_536, 65_535), (65_536, 65_535)),
    "moving webp": (lambda: extended_webp(65_535, 65_536, moves=True), (65_535, 65_536)),
    "webp of the largest sides": (lambda: extended_webp(1 << 24, 1 << 24), None),
    "avif": (lambda: avif(16_384, 16_384), (16_384, 16_384)),
    "moving avif": (lambda: avif(16_384, 16_384, moves=True), (16_384, 16_384)),
    "avif of more than its library opens": (lambda: avif(50_000, 50_000), None),
    "avif of the largest sides": (lambda: avif(MOST, MOST), None),
    "heif": (lambda: heif(50_000, 50_000), (50_000, 50_000)),
    "heif of the largest sides": (lambda: heif(MOST, MOST), None),
    "jpeg": (lambda: jpeg(65_535, 65_535), (65_535, 65_535)),
    "progressive jpeg": (lambda: jpeg(65_535, 65_535, progressive=True), (65_535, 65_535)),
    "jpeg of several pictures": (lambda: mpo(65_500, 65_500), (65_500, 65_500)),
    "icon": (lambda: ico(png(50_000, 50_000)), None),
    "icon of a bitmap": (lambda: ico(bmp(30_000, 60_000)[14:]), None),
    "icon of a picture a little too large": (lambda: ico(png(1_025, 1)), None),
    "icon of the largest sides": (lambda: ico(png(MOST, MOST)), None),
    "icon without a picture": (lambda: ico(png(0, 0)), None),
    "webp that is cut short": (lambda: lossy_webp(16_383, 16_383)[:400], (16_383, 16_383)),
    "photoshop": (lambda: psd(50_000, 50_000), (50_000, 50_000)),
    "portable pixmap": (lambda: b"P6 50000 50000 255\n" + bytes(100), (50_000, 50_000)),
    "portable bitmap in letters": (lambda: b"P1 50000 50000\n" + b"1 " * 100, (50_000, 50_000)),
    "portable pixmap of the largest sides": (lambda: b"P6 9999999999 9999999999 255\n" + bytes(100), None),
    "jpeg 2000": (lambda: jp2(50_000, 50_000), (50_000, 50_000)),
    "jpeg 2000 without a container": (lambda: jp2(50_000, 50_000).partition(b"jp2c")[2], (50_000, 50_000)),
    "jpeg 2000 of the largest sides": (lambda: jp2(MOST, MOST), None),
    "qoi": (lambda: b"qoif" + struct.pack(">II", 50_000, 50_000) + b"\3\0" + bytes(100), (50_000, 50_000)),
    "tga": (lambda: bytes((0, 0, 2, *[0] * 9, 80, 195, 80, 195, 24, 0)) + bytes(100), (50_000, 50_000)),
    "pcx": (lambda: b"\x0a\5\1\x08" + struct.pack("<4H", 0, 0, 49_999, 49_999) + bytes(200), (50_000, 50_000)),
    "sgi": (lambda: b"\x01\xda\0\1" + struct.pack(">4H", 3, 50_000, 50_000, 3) + bytes(600), (50_000, 50_000)),
    "dds": (lambda: dx10(28, 50_000), (50_000, 50_000)),
    "dds in bc7": (lambda: dx10(98, 50_000), (50_000, 50_000)),
    "float map": (lambda: b"PF\n50000 50000\n-1.0\n" + bytes(100), (50_000, 50_000)),
    "deep photoshop": (
        lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 50_000, 50_000, 16, 3) + bytes(100),
        (50_000, 50_000),
    ),
    "large photoshop": (
        lambda: b"8BPS\0\2" + bytes(6) + struct.pack(">HIIHH", 3, 50_000, 50_000, 8, 3) + bytes(100),
        (50_000, 50_000),
    ),
    "x window dump": (lambda: struct.pack(">6I", 104, 7, 2, 24, 50_000, 50_000) + bytes(200), (50_000, 50_000)),
    "jpeg xl": (
        lambda: b"\xff\x0a" + (2 << 1 | 49_999 << 3 | 1 << 21 | 1 << 24).to_bytes(8, "little") + bytes(100),
        (50_000, 50_000),
    ),
    "apple's icon": (lambda: icns(png(50_000, 50_000)), None),
    "apple's icon of a picture a little too large": (lambda: icns(png(1_025, 1)), None),
    "apple's icon in JPEG 2000": (lambda: icns(jp2(16_000, 16_000)), None),
}
"""How to make each file, and the sides that its header tells; None if no picture can have them or Pillow refuses it."""


class Growth:
    """A process's peak memory from now on, compared with now."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        forget_peak(process)
        self._before = peak(process)

    @property
    def bytes(self) -> int:
        assert self._process.is_running()
        return peak(self._process) - self._before


@pytest.fixture(scope="module")
async def pool(processes: Processes) -> AsyncIterator[DecodingPool]:
    """One child for all files: each has to leave it alive and small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "TASKS_PER_CHILD", 10_000)  # else another child comes between two measurements
        async with DecodingPool(processes=1) as pool:
            yield pool


@pytest.fixture(scope="module")
def processes() -> Processes:
    return Processes()


@pytest.fixture
async def growth(pool: DecodingPool, processes: Processes) -> Growth:
    """Memory growth of the pool's warm child."""
    await pool.run("thumbnail", BytesSource(media.photo(400, 300)))
    return Growth(processes.child)


@pytest.mark.parametrize("name", BOMBS)
async def test_a_header_decides_at_every_size_and_takes_no_memory(
    pool: DecodingPool, growth: Growth, name: str
) -> None:
    make, sides = BOMBS[name]
    source = BytesSource(make())
    assert source.size < 4_000
    with pytest.raises(DecodingFailed) as failed:
        await pool.run("thumbnail", source)
    refusals = ("too_large", "unsupported", "corrupt") if "without" in name else ("too_large", "unsupported")
    assert failed.value.code in refusals
    if sides is None:
        with pytest.raises(DecodingFailed) as failed:
            await pool.run("inspect_image", source)
        assert failed.value.code in refusals
    else:
        facts: ImageFacts = await pool.run("inspect_image", source)
        assert (facts.width, facts.height) == sides
        assert facts.animated == ("moving" in name)
    assert growth.bytes < 4 * MIB


def avif_of_twelve_thousand() -> bytes:
    """Black, 12,000 x 12,000 in its stream, 64 x 64 by its header."""
    packed = (
        b"c-muNV30{GsVqn=%S>Yc0uY^>nP!-qnF!*)%uOvxWPkw0jFg-rD4U@mGr5ET4e%9YmgIt2j6f`xnUkLk;<$kLj1W;qUIqphb|70L"
        b"Gczv@u2u@jNo9ia63Yw>o%3_@!FFY278Df#Y0u1p<a{74l384k3b9V_0R)5Wt;hsx<^U2riDib)jq)-e0paBQoT9wsoC=`1ybNp&"
        b"Kq2wWf?Sx7fX-rJWNKysx`{tGC9y<^fs0%Id*1!swab{KcpZ$svJ1EzOJ(AGBEVpM{#@V({xe=5!z%NVuiWCupRlj7O5eAvyG+DX"
        b"`^cfkMYSRtXN8v=F7`MSFr%Pt)1_738g>Eq4@*jhN7mV%KNnFG+~uPYWNF~DE&9!w71tgZ9_|0~^z4brMHZ9)Z(DjZcP;ZWE=do="
        b"4-5O>CZ73MENAcYXyK3g{SsS*6KJe`$A;F>>hjv1<qMQP%+#20HLpdz$I$DO#G(32@7+#23~tAd`h9Tvy<uRrQ{;63p}bCe"
    )
    return claimed(zlib.decompress(base64.b85decode(packed)), 64, 64)


LIARS: dict[str, Callable[[], bytes]] = {
    "tiff in one huge tile, LZW": lambda: tiff(64, 64, compression=5, tile=20_000),
    "tiff in one huge tile, JPEG": lambda: tiff(64, 64, compression=7, tile=20_000),
    "tiff in one huge tile, plain": lambda: tiff(64, 64, compression=1, tile=20_000),
    "tiff of bands in one huge tile": lambda: media.banded_tiff(
        64, 64, bytes(100), 16, 1, 5, planar=False, order="<", _322=20_000, _323=20_000, _324=8, _325=100
    ),
    "avif": avif_of_twelve_thousand,
    "webp": lambda: extended_webp(64, 48, still=lossy_webp(16_383, 16_383)),
    "photoshop with a large resource": lambda: (
        psd(64, 64)[:30] + struct.pack(">I4sHHI", 410 * MIB, b"8BIM", 1, 0, 400 * MIB)
    ),
    "jpeg 2000": lambda: jp2(16_000, 16_000, claimed=(64, 48)),
    "jpeg with two frame headers": lambda: jpeg(64, 48).replace(
        b"\xff\xda", b"\xff\xc0\0\x0b\x08\xf0\0\xf0\0\1\1\x11\0\xff\xda", 1
    ),
}


@pytest.mark.parametrize("name", LIARS)
async def test_a_header_that_claims_too_little_gets_what_it_claimed(
    pool: DecodingPool, growth: Growth, name: str
) -> None:
    with pytest.raises(DecodingFailed) as failed:
        await pool.run("thumbnail", BytesSource(LIARS[name]()))
    assert failed.value.code != "memory"
    assert growth.bytes < 16 * MIB


async def test_a_webp_that_claims_more_bytes_than_it_has_takes_none_for_them(
    pool: DecodingPool, growth: Growth
) -> None:
    data = lossy_webp(64, 48)[:400]
    for claimed_size in (100 * MIB, 2**32 - 10):
        with pytest.raises(DecodingFailed):
            await pool.run("thumbnail", BytesSource(data[:4] + struct.pack("<I", claimed_size) + data[8:]))
    assert growth.bytes < 4 * MIB


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP"])
async def test_a_picture_that_breaks_off_takes_no_more_memory_than_a_whole_one(
    pool: DecodingPool, processes: Processes, image_format: str
) -> None:
    data = media.photo(4_000, 3_000, image_format)
    await pool.run("thumbnail", BytesSource(data))
    whole = Growth(processes.child)
    await pool.run("thumbnail", BytesSource(data))
    most = whole.bytes
    part = Growth(processes.child)
    await pool.run("thumbnail", BytesSource(data[: int(len(data) * 0.7)]))
    assert part.bytes < most + 4_000 * 3_000 * 4 + 4 * MIB


class Hollow:
    """A source of a few bytes, and zeros up to its end."""

    def __init__(self, head: bytes, size: int) -> None:
        self._head = head
        self.size = size

    async def read(self, start: int, length: int) -> bytes:
        return self._head[start : start + length].ljust(length, b"\0")


ENDLESS = {
    "png": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    + struct.pack(">I4s", 400 * MIB, b"prVt"),
    "bmp": struct.pack("<2sIHHII", b"BM", 54, 0, 0, 54, 400 * MIB),
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("task", ["inspect_image", "thumbnail"])
async def test_a_header_without_an_end_is_not_read_to_it(
    pool: DecodingPool, growth: Growth, name: str, task: str
) -> None:
    most = 0

    class Watched(Hollow):
        async def read(self, start: int, length: int) -> bytes:
            nonlocal most
            most = max(most, growth.bytes)  # now, since such a child is not kept
            return await super().read(start, length)

    with pytest.raises(DecodingFailed) as failed:
        await pool.run(task, Watched(ENDLESS[name], 450 * MIB))
    assert failed.value.code == "memory"
    assert 0 < most < 80 * MIB


async def test_a_png_may_state_its_orientation_behind_its_pixels(pool: DecodingPool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = media.encoded(media.quadrants(240, 160), "PNG")
    end = picture.index(b"IEND") - 4
    late = picture[:end] + chunk(b"eXIf", exif.tobytes()[6:]) + picture[end:]
    thumbnail = await pool.run("thumbnail", BytesSource(late))
    assert (thumbnail.width, thumbnail.height) == (160, 240)
    assert (thumbnail.source_width, thumbnail.source_height) == (160, 240)
    shown = Image.open(io.BytesIO(thumbnail.data)).convert("RGB")
    assert shown.getpixel((120, 40)) == pytest.approx(media.RED, abs=12)  # the top left, turned clockwise
