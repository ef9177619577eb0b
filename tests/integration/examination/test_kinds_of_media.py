"""What sounds, films and camera's photos are taken for, whatever recorder, camera or editor wrote them."""

import io
import os
import random
import re
import struct
import zipfile
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from media_core.contents.life import Facts
from media_core.decoding import BytesSource, DecodingFailed, MediaFacts, durations
from media_core.decoding.pool import DecodingPool
from media_core.decoding.stills import pixels
from media_core.examination.examination import Examination
from media_core.examination.media_types import inline_allowed, transcribable
from media_core.examination.sniffing import HEAD, sniff
from media_core.examination.thumbnails import make_thumbnail
from tests.fixtures import media, old_sounds

PITCHES = (300, 400, 500)


async def looked_at(pool: DecodingPool, data: bytes, filename: str, claimed: str | None = None) -> Facts:
    return (await Examination(pool).examine(BytesSource(data), data[:HEAD], filename, claimed)).facts


def sound(container: str, codec: str, rate: int = 48_000, **options: Any) -> Callable[[], bytes]:
    return lambda: media.recording(PITCHES, container, codec, rate=rate, **options)


SOUNDS = {
    "voice note.caf": (lambda: media.opus_caf(PITCHES), "audio/x-caf"),
    "lossless.caf": (sound("caf", "alac"), "audio/x-caf"),
    "plain.caf": (sound("caf", "pcm_s16be"), "audio/x-caf"),
    "a.ac3": (sound("ac3", "ac3"), "audio/ac3"),
    "a.eac3": (sound("eac3", "eac3"), "audio/eac3"),
    "a.wv": (sound("wv", "wavpack"), "audio/x-wavpack"),
    "a.tta": (sound("tta", "tta"), "audio/x-tta"),
    "a.aifc": (sound("aiff", "pcm_alaw"), "audio/aiff"),
    "a.au": (sound("au", "pcm_s16be"), "audio/basic"),
    "a.w64": (sound("w64", "pcm_s16le"), "audio/x-w64"),
    "a.rf64": (sound("wav", "pcm_s16le", rf64="always"), "audio/wav"),
    "a.opus": (sound("opus", "libopus"), "audio/ogg"),
    "a.mka": (sound("matroska", "flac"), "audio/x-matroska"),
    "a.3ga": (sound("3gp", "aac"), "audio/3gpp"),
    "a.mp2": (sound("mp2", "mp2"), "audio/mpeg"),
    "a.aac": (sound("adts", "aac"), "audio/aac"),
    "a telephone's g722.wav": (sound("wav", "g722", 16_000), "audio/wav"),
    "a telephone's g726.wav": (sound("wav", "g726", 8_000), "audio/wav"),
    "a telephone's g723.wav": (sound("wav", "g723_1", 8_000, bit_rate=6_300), "audio/wav"),
    "an old telephone's.wav": (sound("wav", "adpcm_yamaha"), "audio/wav"),
    "a.loas": (sound("latm", "aac"), "audio/x-mp4a-latm"),
    "a.voc": (sound("voc", "pcm_s16le"), "audio/x-voc"),
    "an old telephone's.voc": (sound("voc", "pcm_alaw", 8_000), "audio/x-voc"),
    "radio.ra": (sound("rm", "ac3"), "audio/vnd.rn-realaudio"),
    "a.8svx": (lambda: old_sounds.iff(PITCHES), "audio/x-8svx"),
    "a.sph": (lambda: old_sounds.sphere(PITCHES), "audio/x-nist"),
    "a.dsf": (lambda: old_sounds.dsf(PITCHES), "audio/x-dsf"),
    "a.dff": (lambda: old_sounds.dff(PITCHES), "audio/x-dff"),
    "an app's 24 bits in 32.wav": (lambda: old_sounds.in_wider_samples(PITCHES), "audio/wav"),
    "an app's 24 bits in what it says are 24.wav": (
        lambda: old_sounds.in_wider_samples(PITCHES, bits=24),
        "audio/wav",
    ),
    "of the highest bytes first.wav": (lambda: old_sounds.rifx(PITCHES), "audio/wav"),
    "a Mac's 24 bits in 32.caf": (lambda: old_sounds.caf_in_wider_samples(PITCHES), "audio/x-caf"),
    "a voice memo.qta": (sound("mov", "alac"), "audio/mp4"),
    "a Mac's.mov": (sound("mov", "pcm_s16be"), "audio/mp4"),
    "a dictation.dss": (lambda: old_sounds.dictation(PITCHES), "audio/x-dss"),
}


def tape(container: str, codec: str) -> bytes:
    """Three seconds of a broadcaster's camera."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        film = output.add_stream(codec, rate=25, width=720, height=576, pix_fmt="yuv420p")
        voice = output.add_stream("pcm_s16le", rate=48_000, layout="stereo")
        for index in range(75):
            frame = av.VideoFrame(720, 576, "yuv420p")
            frame.pts = index
            output.mux(film.encode(frame))
            sound = av.AudioFrame("s16", "stereo", 1_920)
            sound.planes[0].update(bytes(4 * 1_920))
            sound.sample_rate, sound.pts = 48_000, index * 1_920
            output.mux(voice.encode(sound))
    return file.getvalue()


def of_imx(lines: int, picture: Image.Image) -> bytes:
    """A film of a broadcaster's recorder: above its picture the tape's other lines, 720 x `lines` in all."""
    whole = Image.new("RGB", (720, lines), "black")
    whole.paste(picture, (0, lines - picture.height))
    aspect = 4 * lines, 3 * 720  # of all lines, as an MXF says it
    return media.still_film(whole, container="mxf", codec="mpeg2video", rate=25, aspect=aspect)


def of_video_cd() -> bytes:
    """A track as Windows copies it from a Video CD. Each sector has 2,352 bytes; 2,324 of them are the film's."""
    data = media.tracks(("mp2", PITCHES), container="vcd", rate=44_100, picture="mpeg1video")
    sectors = (bytes(24) + data[at : at + 2_324].ljust(2_324, b"\0") + bytes(4) for at in range(0, len(data), 2_324))
    body = b"".join(sectors)
    head = struct.pack("<4sI8sI16x4sI", b"RIFF", len(body) + 36, b"CDXAfmt ", 16, b"data", len(body))
    return head + body


FILMS = {
    "camcorder.MTS": (lambda: media.film(3, container="mpegts", mpegts_m2ts_mode="1"), "video/mp2t"),
    "tv.ts": (lambda: media.film(3, container="mpegts"), "video/mp2t"),
    "a.avi": (lambda: media.film(3, container="avi", codec="mpeg4"), "video/x-msvideo"),
    "a.wmv": (lambda: media.tracks(("libmp3lame", PITCHES), container="asf", picture="wmv2"), "video/x-ms-wmv"),
    "a.wma": (lambda: media.tracks(("libmp3lame", PITCHES), container="asf"), "audio/x-ms-wma"),
    "a.flv": (lambda: media.film(3, container="flv"), "video/x-flv"),
    "a.mxf": (lambda: tape("mxf", "mpeg2video"), "application/mxf"),
    "a.dv": (lambda: tape("dv", "dvvideo"), "video/x-dv"),
    "a.rm": (lambda: media.tracks(("ac3", PITCHES), container="rm", picture="rv10"), "application/vnd.rn-realmedia"),
    "AVSEQ01.DAT": (of_video_cd, "video/mpeg"),
    "a.vob": (lambda: media.tracks(("ac3", PITCHES), container="vob", picture="mpeg2video"), "video/mpeg"),
}


@pytest.mark.parametrize("name", SOUNDS)
async def test_a_sound_of_any_recorder_is_a_sound_with_its_length(decoding_pool: DecodingPool, name: str) -> None:
    make, expected = SOUNDS[name]
    data = make()
    facts = await looked_at(decoding_pool, data, name)
    assert facts.mime_type == expected
    assert transcribable(expected)
    assert facts.duration == pytest.approx(3, abs=0.1)
    assert (facts.width, facts.thumbnail_status) == (None, "none")
    pcm = await decoding_pool.run("audio_window", BytesSource(data), start=1.2, seconds=0.6)
    assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.6 == pytest.approx(400, abs=6)


@pytest.mark.parametrize("name", FILMS)
async def test_a_film_of_any_camera_is_a_film_and_its_sound_is_heard(decoding_pool: DecodingPool, name: str) -> None:
    make, expected = FILMS[name]
    data = make()
    facts = await looked_at(decoding_pool, data, name)
    assert facts.mime_type == expected
    assert transcribable(expected)
    assert facts.thumbnail_status == ("none" if expected.startswith("audio/") else "pending")
    assert facts.duration == pytest.approx(3, abs=0.3)
    probed: MediaFacts = await decoding_pool.run("probe", BytesSource(data))
    assert [track.decodes for track in probed.tracks] == [True]
    if facts.thumbnail_status == "pending":
        assert (await make_thumbnail(decoding_pool, BytesSource(data), expected)).source_width == facts.width


async def shows_its_quadrants(pool: DecodingPool, data: bytes, mime_type: str, off: float = 26) -> None:
    """`off`: by how much of 255 a colour may differ, as a film's do."""
    thumbnail = await make_thumbnail(pool, BytesSource(data), mime_type)
    image = Image.open(io.BytesIO(thumbnail.data)).convert("RGB")
    assert image.width / image.height == pytest.approx(thumbnail.source_width / thumbnail.source_height, rel=0.02)
    places = [(x * image.width // 4, y * image.height // 4) for y in (1, 3) for x in (1, 3)]
    for place, colour in zip(places, media.QUADRANTS, strict=True):
        assert image.getpixel(place) == pytest.approx(colour, abs=off)


QUADRANTS = media.quadrants(256, 160)
PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a game's.tga": (lambda: media.encoded(QUADRANTS, "TGA"), "image/x-tga"),
    "packed.tga": (lambda: media.encoded(QUADRANTS, "TGA", compression="tga_rle"), "image/x-tga"),
    "upside down.tga": (lambda: media.encoded(QUADRANTS, "TGA", orientation=1), "image/x-tga"),
    "of few colours.tga": (lambda: media.encoded(QUADRANTS.quantize(8), "TGA"), "image/x-tga"),
    "of a mask of nothing.tga": (
        lambda: media.encoded(Image.merge("RGBA", (*QUADRANTS.split(), Image.new("L", QUADRANTS.size))), "TGA"),
        "image/x-tga",
    ),
    "a paintbrush's.pcx": (lambda: media.encoded(QUADRANTS, "PCX"), "image/x-pcx"),
    "of few colours.pcx": (lambda: media.encoded(QUADRANTS.quantize(8), "PCX"), "image/x-pcx"),
    "a.jxl": (lambda: media.encoded(QUADRANTS, "JXL"), "image/jxl"),
    "in boxes.jxl": (lambda: media.encoded(QUADRANTS, "JXL", use_container=True, lossless=True), "image/jxl"),
    "of a JPEG.jxl": (lambda: media.jxl_of_jpeg(QUADRANTS), "image/jxl"),
    "a.qoi": (lambda: media.encoded(QUADRANTS, "QOI"), "image/qoi"),
    "a.sgi": (lambda: media.encoded(QUADRANTS, "SGI"), "image/sgi"),
    "deep.sgi": (lambda: media.by_ffmpeg(QUADRANTS, "sgi", "rgb48be"), "image/sgi"),
    "a.dds": (lambda: media.encoded(QUADRANTS, "DDS"), "image/vnd.ms-dds"),
    "a.ras": (lambda: media.by_ffmpeg(QUADRANTS, "sunrast", "bgr24"), "image/x-sun-raster"),
    "a film's.dpx": (lambda: media.by_ffmpeg(QUADRANTS, "dpx", "gbrp10be"), "image/x-dpx"),
    "a.pam": (lambda: media.by_ffmpeg(QUADRANTS, "pam", "rgb24"), "image/x-portable-arbitrarymap"),
    "a.jls": (lambda: media.by_ffmpeg(QUADRANTS, "jpegls", "rgb24"), "image/jls"),
    "a radiologist's.jpg": (lambda: media.by_ffmpeg(QUADRANTS, "ljpeg", "yuvj444p"), "image/jpeg"),
    "another radiologist's.jpg": (lambda: media.by_ffmpeg(QUADRANTS, "ljpeg", "bgr24"), "image/jpeg"),
    "light.pfm": (media.light, "image/x-portable-floatmap"),
    "light.exr": (media.exr, "image/x-exr"),
    "half.exr": (lambda: media.exr(format="half", compression="zip16"), "image/x-exr"),
    "in candelas.exr": (lambda: media.exr(1 / 300), "image/x-exr"),
    "deep.psd": (lambda: media.photoshop(16), "image/vnd.adobe.photoshop"),
    "deep, packed.psd": (lambda: media.photoshop(16, packed=True, more_channels=2), "image/vnd.adobe.photoshop"),
    "a print's.psd": (lambda: media.photoshop(16, mode="CMYK"), "image/vnd.adobe.photoshop"),
    "large.psb": (lambda: media.photoshop(8, is_large=True), "image/vnd.adobe.photoshop"),
    "large, packed.psb": (lambda: media.photoshop(8, packed=True, is_large=True), "image/vnd.adobe.photoshop"),
    "large and deep.psb": (lambda: media.photoshop(16, packed=True, is_large=True), "image/vnd.adobe.photoshop"),
    "a screen's.xwd": (lambda: media.by_ffmpeg(QUADRANTS, "xwd", "bgra"), "image/x-xwindowdump"),
    "light.psd": (lambda: media.photoshop(32, more_channels=1), "image/vnd.adobe.photoshop"),
}


@pytest.mark.parametrize("name", PICTURES)
async def test_a_picture_of_any_editor_has_a_thumbnail(decoding_pool: DecodingPool, name: str) -> None:
    make, expected = PICTURES[name]
    data = make()
    facts = await looked_at(decoding_pool, data, name)
    assert (facts.mime_type, facts.thumbnail_status) == (expected, "ready")
    assert (facts.width, facts.height) == (256, 160)
    assert "thumbhash" in facts.details
    assert inline_allowed(expected) == (expected == "image/jpeg")
    await shows_its_quadrants(decoding_pool, data, expected, 20)


@pytest.mark.parametrize(("mode", "layout"), [("RGB", "rgb24"), ("RGBA", "rgba")])
def test_a_frame_that_lies_upside_down_in_memory_is_read_within_its_bounds(mode: str, layout: str) -> None:
    decoder = av.CodecContext.create("rawvideo", "r")
    decoder.width, decoder.height, decoder.pix_fmt, decoder.extradata = (*QUADRANTS.size, layout, b"BottomUp\0")
    (frame,) = decoder.decode(av.Packet(QUADRANTS.convert(mode).tobytes()))
    assert frame.planes[0].line_size < 0
    assert pixels(frame, mode).convert("RGB").tobytes() == ImageOps.flip(QUADRANTS).tobytes()


async def test_a_radiologists_jpeg_of_twelve_bits_is_shown(decoding_pool: DecodingPool) -> None:
    wedge = Image.linear_gradient("L").rotate(90)
    facts = await looked_at(decoding_pool, media.deep_jpeg(wedge), "a.jpg")
    assert (facts.mime_type, facts.width, facts.height, facts.thumbnail_status) == ("image/jpeg", 256, 256, "ready")
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(media.deep_jpeg(wedge)), "image/jpeg")
    image = Image.open(io.BytesIO(thumbnail.data)).convert("L")
    for x in (4, 100, 252):
        assert image.getpixel((x, 100)) == pytest.approx(wedge.getpixel((x // 8 * 8, 100)), abs=6)


async def test_light_that_is_brighter_than_white_is_mapped(decoding_pool: DecodingPool) -> None:
    for times in (3, 1_000):
        for data in (media.light(times), media.exr(times)):
            thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/x-exr")
            image = Image.open(io.BytesIO(thumbnail.data)).convert("RGB")
            red, green, blue, white = (image.getpixel(place) for place in ((64, 40), (192, 40), (64, 120), (192, 120)))
            assert red[0] > 120 > 3 * red[1]
            assert green[1] > 120 > 2 * green[0]
            assert blue[2] > 120 > 3 * blue[1]
            assert 140 < min(white) <= max(white) < 255


async def test_a_film_that_is_encrypted_says_so(decoding_pool: DecodingPool) -> None:
    how = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "11" * 16, "encryption_kid": "22" * 16}
    data = media.film(2, **how)
    facts = await looked_at(decoding_pool, data, "a.mp4")
    assert (facts.mime_type, facts.width, facts.height, facts.thumbnail_status) == ("video/mp4", 320, 240, "none")
    assert facts.duration == pytest.approx(2, abs=0.1)
    assert facts.details == {"no_thumbnail": "its picture is encrypted"}
    with pytest.raises(DecodingFailed) as failed:
        await decoding_pool.run("audio_window", BytesSource(data), start=0.0, seconds=1.0)
    assert (failed.value.code, failed.value.detail) == ("unsupported", "its sound is encrypted")


async def test_a_grey_photoshop_picture_of_light_is_shown_in_srgb(decoding_pool: DecodingPool) -> None:
    data = media.photoshop(32, mode="L")
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/vnd.adobe.photoshop")
    shown, grey = Image.open(io.BytesIO(thumbnail.data)).convert("L"), QUADRANTS.convert("L")
    for place in ((64, 40), (192, 40), (64, 120)):
        assert shown.getpixel(place) == pytest.approx(grey.getpixel(place), abs=6)


async def test_the_profile_of_a_deep_photoshop_picture_counts(decoding_pool: DecodingPool) -> None:
    data = media.photoshop(16, profile=media.rgb_profile("Adobe RGB"))
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/vnd.adobe.photoshop")
    red, green, _ = Image.open(io.BytesIO(thumbnail.data)).convert("RGB").getpixel((192, 40))
    assert (red, green) == (pytest.approx(0, abs=12), pytest.approx(201, abs=12))


@pytest.mark.parametrize("bits", [8, 16, 32])
async def test_of_a_photoshop_picture_that_is_cut_its_preview_is_shown(decoding_pool: DecodingPool, bits: int) -> None:
    data = media.photoshop(bits, preview=media.photo(128, 80))
    for cut in (data[: len(data) * 3 // 4], data[: data.index(b"layers") + 3]):
        facts = await looked_at(decoding_pool, cut, "a.psd")
        assert (facts.width, facts.height, facts.thumbnail_status) == (256, 160, "ready")
        await shows_its_quadrants(decoding_pool, cut, "image/vnd.adobe.photoshop")


async def test_a_texture_of_half_floats_is_light(decoding_pool: DecodingPool) -> None:
    for width in (320, 323):
        data = media.texture(10, width)
        thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/vnd.ms-dds")
        image = Image.open(io.BytesIO(thumbnail.data)).convert("RGB")
        for place, colour in (((60, 60), (255, 0, 0)), ((240, 60), (0, 255, 0)), ((60, 180), (0, 0, 255))):
            assert image.getpixel(place) == pytest.approx(colour, abs=12)


@pytest.mark.parametrize("layout", [11, 28, 87, 98])
async def test_a_texture_of_todays_games_is_shown(decoding_pool: DecodingPool, layout: int) -> None:
    data = media.texture(layout)
    facts = await looked_at(decoding_pool, data, "a.dds")
    assert (facts.mime_type, facts.width, facts.height) == ("image/vnd.ms-dds", 320, 240)
    await shows_its_quadrants(decoding_pool, data, "image/vnd.ms-dds", off=3)
    cut = await make_thumbnail(decoding_pool, BytesSource(data[: len(data) * 2 // 3]), "image/vnd.ms-dds")
    image = Image.open(io.BytesIO(cut.data)).convert("RGB")
    assert image.getpixel((80, 60)) == pytest.approx(media.RED, abs=3)
    facts = await looked_at(decoding_pool, data[:148], "a.dds")
    assert (facts.width, facts.thumbnail_status) == (320, "none")


async def test_a_texture_of_a_layout_that_is_not_decoded_has_its_sides(decoding_pool: DecodingPool) -> None:
    """The layout has a name, and no form: BC6H_TYPELESS."""
    facts = await looked_at(decoding_pool, media.texture(94), "a.dds")
    assert (facts.width, facts.height, facts.thumbnail_status) == (320, 240, "none")


@pytest.mark.parametrize("packed", [False, True])
async def test_a_grey_tga_with_transparency_is_grey(decoding_pool: DecodingPool, packed: bool) -> None:
    grey = Image.merge("LA", (QUADRANTS.convert("L"), Image.linear_gradient("L").resize(QUADRANTS.size)))
    data = media.encoded(grey, "TGA", compression="tga_rle" if packed else None)
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/x-tga")
    shown = Image.open(io.BytesIO(thumbnail.data)).convert("LA")
    for place in ((60, 150), (200, 40), (60, 100)):
        assert shown.getpixel(place) == pytest.approx(grey.getpixel(place), abs=12)


async def test_a_grey_tga_whose_transparency_is_empty_is_shown_and_one_without_pixels_is_not(
    decoding_pool: DecodingPool,
) -> None:
    grey = QUADRANTS.convert("L")
    data = media.encoded(Image.merge("LA", (grey, Image.new("L", grey.size))), "TGA")
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(data), "image/x-tga")
    shown = Image.open(io.BytesIO(thumbnail.data)).convert("RGBA")
    assert shown.getpixel((60, 40)) == pytest.approx((*[grey.getpixel((60, 40))] * 3, 255), abs=12)
    facts = await looked_at(decoding_pool, data[:18] + bytes(8), "a.tga")
    assert (facts.width, facts.height, facts.thumbnail_status) == (256, 160, "none")


@pytest.mark.parametrize("mode", [7, 8])
async def test_of_a_deep_photoshop_picture_of_inks_the_first_is_shown(decoding_pool: DecodingPool, mode: int) -> None:
    data = bytearray(media.photoshop(16, mode="L"))
    data[25] = mode
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(bytes(data)), "image/vnd.adobe.photoshop")
    shown, grey = Image.open(io.BytesIO(thumbnail.data)).convert("L"), QUADRANTS.convert("L")
    for place in ((64, 40), (192, 120)):
        assert shown.getpixel(place) == pytest.approx(grey.getpixel(place), abs=6)


@pytest.mark.parametrize("image_format", ["DDS", "PCX", "TGA", "JPEG2000"])
@pytest.mark.parametrize("part", [0.3, 0.7])
async def test_an_editors_picture_that_is_cut_shows_what_is_there(
    decoding_pool: DecodingPool, image_format: str, part: float
) -> None:
    data = media.encoded(QUADRANTS, image_format)
    facts = await looked_at(decoding_pool, data[: int(len(data) * part)], f"a.{image_format}")
    assert (facts.width, facts.height, facts.thumbnail_status) == (256, 160, "ready")


async def test_an_editors_picture_that_is_cut_or_too_large_says_its_size_if_it_can(decoding_pool: DecodingPool) -> None:
    for name, (make, expected) in PICTURES.items():
        data = make()
        facts = await looked_at(decoding_pool, data[: len(data) // 2], name)
        assert facts.mime_type == expected
        assert facts.width in (256, None)
    whole = media.encoded(media.quadrants(8_000, 6_000), "JXL", effort=1)
    for cut in (3, 100):
        facts = await looked_at(decoding_pool, whole[:cut], "a.jxl")
        assert (facts.mime_type, facts.width) == ("image/jxl", 8_000 if cut == 100 else None)
    large = b"qoif" + struct.pack(">II", 9_000, 8_000) + b"\3\0" + bytes(10_000)
    facts = await looked_at(decoding_pool, large, "a.qoi")
    assert (facts.mime_type, facts.width, facts.height, facts.thumbnail_status) == ("image/qoi", 9_000, 8_000, "none")


async def test_a_picture_that_is_packed_in_an_unknown_way_says_so(decoding_pool: DecodingPool) -> None:
    lines = media.by_ffmpeg(QUADRANTS, "jpegls", "rgb24")
    scan = lines.index(b"\xff\xda")
    at = scan + 2 + int.from_bytes(lines[scan + 2 : scan + 4]) - 2
    samples = lines[:at] + b"\2" + lines[at + 1 :]
    tiff = media.plain_tiff(8, 8, bytes(64), 8, 1, _259=50_001)
    for data, mime_type in ((samples, "image/jls"), (tiff, "image/tiff")):
        facts = await looked_at(decoding_pool, data, "a")
        assert (facts.mime_type, facts.thumbnail_status) == (mime_type, "none")
        assert facts.width is not None
        assert facts.details["no_thumbnail"].endswith("that is not decoded here")


PICTURES_OF_FILMS = {
    "an archive's.mkv": ("ffv1", "matroska", "yuv420p", "video/x-matroska"),
    "a capture card's.avi": ("huffyuv", "avi", "yuv422p", "video/x-msvideo"),
    "a game's.avi": ("utvideo", "avi", "yuv420p", "video/x-msvideo"),
    "a CD-ROM's.avi": ("cinepak", "avi", "rgb24", "video/x-msvideo"),
    "an old CD-ROM's.avi": ("msvideo1", "avi", "rgb555le", "video/x-msvideo"),
    "raw.avi": ("rawvideo", "avi", "yuv420p", "video/x-msvideo"),
    "a tape's.mov": ("v210", "mov", "yuv422p10le", "video/quicktime"),
    "an animation.mov": ("qtrle", "mov", "rgb24", "video/quicktime"),
    "a screen's.mov": ("png", "mov", "rgb24", "video/quicktime"),
    "a Mac's.mov": ("rpza", "mov", "rgb555le", "video/quicktime"),
    "of few colours.mov": ("smc", "mov", "pal8", "video/quicktime"),
    "of few colours.avi": ("msrle", "avi", "pal8", "video/x-msvideo"),
    "an old Mac's.mov": ("svq1", "mov", "yuv410p", "video/quicktime"),
    "a GoPro's.mov": ("cfhd", "mov", "yuv422p10le", "video/quicktime"),
    "a cinema's.mxf": ("jpeg2000", "mxf", "yuv420p", "application/mxf"),
    "a conference's.avi": ("h261", "avi", "yuv420p", "video/x-msvideo"),
    "a lesson.flv": ("flashsv2", "flv", "bgr24", "video/x-flv"),
    "a switcher's.avi": ("speedhq", "avi", "yuv422p", "video/x-msvideo"),
    "a colourist's.mov": ("r10k", "mov", "gbrp10le", "video/quicktime"),
    "an effect's.mov": ("targa", "mov", "bgr24", "video/quicktime"),
    "tv.wtv": ("mpeg2video", "wtv", "yuv420p", "video/x-ms-wtv"),
    "a.ivf": ("libvpx", "ivf", "yuv420p", "video/x-ivf"),
    "a.y4m": ("wrapped_avframe", "yuv4mpegpipe", "yuv420p", "video/x-yuv4mpeg"),
}


@pytest.mark.parametrize("name", PICTURES_OF_FILMS)
async def test_a_film_of_any_codec_in_use_has_a_picture(decoding_pool: DecodingPool, name: str) -> None:
    codec, container, pixels, expected = PICTURES_OF_FILMS[name]
    data = media.film_of_quadrants(codec, container, pixels)
    facts = await looked_at(decoding_pool, data, name)
    assert (facts.mime_type, facts.thumbnail_status) == (expected, "pending")
    assert (facts.width, facts.height) == (176, 144)
    assert facts.duration == pytest.approx(3, abs=0.1)
    await shows_its_quadrants(decoding_pool, data, expected)


def film_of_a_photo(container: str) -> bytes:
    """The quadrants as a camera held upright stores them, with EXIF, three times a second for a second."""
    photo = media.oriented(6, "JPEG")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        film = output.add_stream("mjpeg", rate=3, width=160, height=240, pix_fmt="yuvj420p")
        for index in range(3):
            packet = av.Packet(photo)
            packet.stream, packet.pts, packet.dts, packet.time_base = film, index, index, Fraction(1, 3)
            output.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize(("lines", "rows", "sides"), [(608, 576, (768, 576)), (512, 486, (720, 540))])
async def test_the_lines_of_a_tape_above_its_picture_are_not_shown(
    decoding_pool: DecodingPool, lines: int, rows: int, sides: tuple[int, int]
) -> None:
    film = of_imx(lines, media.quadrants(720, rows))
    facts = await looked_at(decoding_pool, film, "a.mxf")
    assert (facts.width, facts.height) == sides
    thumbnail = await make_thumbnail(decoding_pool, BytesSource(film), "application/mxf")
    assert (thumbnail.width, thumbnail.height) == sides
    image = Image.open(io.BytesIO(thumbnail.data)).convert("RGB")
    assert image.getpixel((100, 3)) == pytest.approx(media.RED, abs=26)
    await shows_its_quadrants(decoding_pool, film, "application/mxf")


@pytest.mark.parametrize("container", ["mov", "matroska", "avi"])
async def test_a_film_whose_frames_say_more_than_pyav_knows_is_shown(
    decoding_pool: DecodingPool, container: str
) -> None:
    film = film_of_a_photo(container)
    facts = await looked_at(decoding_pool, film, "a")
    assert (facts.width, facts.height, facts.thumbnail_status) == (240, 160, "pending")
    assert facts.duration == pytest.approx(1, abs=0.1)
    await shows_its_quadrants(decoding_pool, film, facts.mime_type)


def of_dolby(container: str) -> bytes:
    """A film that says that its colours are in Dolby Vision's profile 5."""
    film = media.film_of_quadrants("libx265", "mp4" if container == "mov" else container, "yuv420p")
    if container == "mp4":
        return film.replace(b"hev1", b"dvh1").replace(b"hvc1", b"dvh1")
    if container == "mov":
        at = film.index(b"btrt")  # a box of its sample's description that is not needed
        return film[:at] + b"dvcC\1\0\x0a\x35".ljust(16, b"\0") + film[at + 16 :]
    note = b"dvcC\x41\xed\x98\1\0\x0a" + bytes(21)  # in place of what stands there and is not needed
    void = film.index(b"\xec", film.index(b"\x11\x4d\x9b\x74"))
    return film[: void + 2 + 8] + note + film[void + 2 + 8 + len(note) :]


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
async def test_a_film_in_dolbys_own_colours_has_its_sides_and_no_purple_picture(
    decoding_pool: DecodingPool, container: str
) -> None:
    data = of_dolby(container)
    facts = await looked_at(decoding_pool, data, "a")
    assert (facts.width, facts.height, facts.thumbnail_status) == (176, 144, "pending")
    with pytest.raises(DecodingFailed, match="Dolby Vision"):
        await make_thumbnail(decoding_pool, BytesSource(data), facts.mime_type)


async def test_a_film_without_a_picture_says_so(decoding_pool: DecodingPool) -> None:
    for container in ("mpegts", "flv", "avi"):
        facts = await looked_at(decoding_pool, sound(container, "libmp3lame", 44_100)(), "radio")
        assert (facts.thumbnail_status, facts.details) == ("none", {"no_thumbnail": "it has sound and no picture"})
    assert not (await looked_at(decoding_pool, mp3(*PITCHES), "song.mp3")).details


BARE_FILMS = {
    "a.h264": ("libx264", "h264", "video/h264"),
    "a.hevc": ("libx265", "hevc", "video/h265"),
    "a.obu": ("libsvtav1", "obu", "video/av1"),
    "a.m4v": ("mpeg4", "m4v", "video/mp4v-es"),
    "a.m2v": ("mpeg2video", "mpeg2video", "video/mpeg"),
}


@pytest.mark.parametrize("name", BARE_FILMS)
async def test_a_film_without_a_container_has_a_picture_and_no_length(decoding_pool: DecodingPool, name: str) -> None:
    codec, container, expected = BARE_FILMS[name]
    data = media.film_of_quadrants(codec, container)
    for called in (name, "a.bin"):
        facts = await looked_at(decoding_pool, data, called)
        assert (facts.mime_type, facts.thumbnail_status) == (expected, "pending")
        assert (facts.width, facts.height, facts.duration) == (176, 144, None)
    await shows_its_quadrants(decoding_pool, data, expected)


@pytest.mark.parametrize("start", ["00000001674d400c", "000000014001", "12000a0a", "000001b001"])
async def test_noise_that_begins_like_a_film_is_none(decoding_pool: DecodingPool, start: str) -> None:
    for length in (300, 60_000):
        noise = bytes.fromhex(start) + random.Random(length).randbytes(length)
        for name in ("a", "a.mp4"):
            assert (await looked_at(decoding_pool, noise, name)).mime_type == "application/octet-stream"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"#!AMR-WB\n", "audio/amr-wb"),
        (b"MAC \x96\x0f\0\0", "audio/x-ape"),
        (b"\x7f\xfe\x80\x01\xfc\x3c", "audio/vnd.dts"),
        (b"DTSHDHDR", "audio/vnd.dts.hd"),
        (b"\2dss", "audio/x-dss"),
        (b"\3ds2", "audio/x-ds2"),
        (b"\0\0\0\0\xf8\x72\x6f\xba", "audio/vnd.dolby.mlp"),
        (b"MPCKSH\x0e", "audio/x-musepack"),
        (b"MP+\7", "audio/x-musepack"),
        (b"tBaK", "audio/x-tak"),
        (b"ajkg\2", "audio/x-shorten"),
        (b"RIFF\xb0\1\0\0QLCMfmt ", "audio/qcelp"),
        (b"\1\0\0\0\x6c\0\0\0" + bytes(32) + b" EMF", "image/emf"),
        (b"qoif\0\0\1\x40", "image/qoi"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x10", "image/jls"),
        (b"wOF2\0\1\0\0", "font/woff2"),
        (b"\0asm\1\0\0\0", "application/wasm"),
        (b"bplist00", "application/x-bplist"),
        (b"\xabKTX 11\xbb\r\n\x1a\n", "image/ktx"),
        (b"\xabKTX 20\xbb\r\n\x1a\n", "image/ktx2"),
        (b"CDF\1\0\0\0\0", "application/x-netcdf"),
        (b"CDF\2\0\0\0\0", "application/x-netcdf"),
        (b"BLENDER-v300", "application/x-blender"),
        (b"!BDN\1\2\3\4SM", "application/vnd.ms-outlook-pst"),
        (b"CWS\x0a", "application/x-shockwave-flash"),
        (b"\2#!SILK_V3", "audio/x-silk"),
        (b".snd\0\0\0\x18\xff\xff\xff\xff\0\0\0\x1b", "audio/basic"),
        (b"BW64\xff\xff\xff\xffWAVEds64", "audio/wav"),
        (b"\0\0\0\x1cftypaax \0\0\0\1", "audio/vnd.audible.aax"),
        (b"\0\0\0\x18ftypM4VH\0\0\0\1", "video/mp4"),
        ((b"G\x40\0\x10" + bytes(200)) * 3, "video/mp2t"),
    ],
)
def test_a_beginning_that_says_it_is_enough(head: bytes, expected: str) -> None:
    assert sniff(head + bytes(500), "a.bin") == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"PF\n480 320\n1.0\n", "image/x-portable-floatmap"),
        (b"Pf\n480 320\n-1\n", "image/x-portable-floatmap"),
        (b"NIST_1A\n   1024\nsample_coding -s4 ulaw\nend_head\n" + 960 * b" ", "audio/x-nist"),
        (b"YUV4MPEG2 W176 H144 F25:1 Ip A1:1\nFRAME\n", "video/x-yuv4mpeg"),
        (b"P6\n480 320\n255\n", "image/x-portable-pixmap"),
        (b"/* XPM */\nstatic char *a[] = {", "image/x-xpixmap"),
        (b"\x8bJNG\r\n\x1a\n\0\0\0\x10JHDR\0\0\1\xe0", "image/x-jng"),
    ],
)
def test_a_beginning_counts_where_what_follows_looks_like_text(head: bytes, expected: str) -> None:
    assert sniff(head + 2_000 * b"=\xc8\xc8\xc9", "a.bin") == expected


async def test_a_mailbox_of_a_telephone_exchange_is_heard_if_it_is_named(decoding_pool: DecodingPool) -> None:
    data = b"".join(b"\xd2" + os.urandom(32) for _ in range(150))  # frames of 20 ms, and no header
    facts = await looked_at(decoding_pool, data, "msg0001.gsm")
    assert (facts.mime_type, facts.duration) == ("audio/x-gsm", pytest.approx(3, abs=0.05))
    assert transcribable(facts.mime_type)
    assert (await looked_at(decoding_pool, data, "a.bin")).mime_type == "application/octet-stream"


@pytest.mark.parametrize(
    ("codec", "container", "expected"),
    [
        ("subrip", "matroska", "video/x-matroska"),
        ("ass", "matroska", "video/x-matroska"),
        ("mov_text", "mp4", "video/mp4"),
        ("webvtt", "webm", "video/webm"),
        ("dvb_subtitle", "mpegts", "video/mp2t"),
    ],
)
async def test_subtitles_cost_neither_the_picture_nor_the_sound(
    decoding_pool: DecodingPool, codec: str, container: str, expected: str
) -> None:
    film = media.subtitled(codec, container)
    facts = await looked_at(decoding_pool, film, "a")
    assert (facts.mime_type, facts.thumbnail_status, facts.width, facts.height) == (expected, "pending", 176, 144)
    assert facts.duration == pytest.approx(3, abs=0.1)
    await shows_its_quadrants(decoding_pool, film, expected)
    pcm = await decoding_pool.run("audio_window", BytesSource(film), start=1.2, seconds=0.6)
    assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.6 == pytest.approx(400, abs=6)


async def test_a_hundred_fonts_do_not_cost_the_sound(decoding_pool: DecodingPool) -> None:
    film = media.tracks(("flac", PITCHES), picture="mpeg4", fonts=200)
    facts = await looked_at(decoding_pool, film, "a.mkv")
    assert (facts.mime_type, facts.thumbnail_status) == ("video/x-matroska", "pending")
    assert len(await decoding_pool.run("audio_window", BytesSource(film), start=0.0, seconds=3.0)) == 2 * 48_000


async def test_a_name_has_the_decoder_asked_and_proves_nothing(decoding_pool: DecodingPool) -> None:
    shifted = bytes(300) + media.recording(PITCHES, "mp3", "libmp3lame", rate=44_100, write_xing="0", id3v2_version="0")
    assert (await looked_at(decoding_pool, shifted, "a.bin")).mime_type == "application/octet-stream"
    assert (await looked_at(decoding_pool, shifted, "a.mp3")).mime_type == "audio/mpeg"
    assert (await looked_at(decoding_pool, shifted, "a.bin", "audio/mpeg")).mime_type == "audio/mpeg"
    noise = b"\0\1\xde\xad" + os.urandom(60_000)
    for name in ("a.mp3", "a.mp4", "a.jpg", "a.aac", "a.caf", "a.MTS", "a.dv", "a.sbc"):
        assert (await looked_at(decoding_pool, noise, name)).mime_type == "application/octet-stream"


@pytest.mark.parametrize("frame", ["fffb9064", "fff15080", "0b77000000", "56e050"])
async def test_noise_that_begins_like_a_frame_of_sound_is_none(decoding_pool: DecodingPool, frame: str) -> None:
    for length in (300, 60_000):
        noise = bytes.fromhex(frame) + random.Random(length).randbytes(length)
        assert (await looked_at(decoding_pool, noise, "a")).mime_type == "application/octet-stream"


@pytest.mark.parametrize(
    ("container", "codec", "expected"),
    [
        ("adts", "aac", "audio/aac"),
        ("flac", "flac", "audio/flac"),
        ("tta", "tta", "audio/x-tta"),
        ("wav", "pcm_s16le", "audio/wav"),
        ("aiff", "pcm_s16be", "audio/aiff"),
        ("w64", "pcm_s16le", "audio/x-w64"),
        ("caf", "pcm_s16be", "audio/x-caf"),
        ("ipod", "aac", "audio/mp4"),
        ("ogg", "flac", "audio/ogg"),
    ],
)
async def test_a_tag_before_it_does_not_make_an_mp3_of_a_sound(
    decoding_pool: DecodingPool, container: str, codec: str, expected: str
) -> None:
    sound = media.recording(PITCHES, container, codec, rate=44_100)
    for length in (10, 3_000_000):  # of a tag with a picture, too
        seven_bits = bytes(length >> shift & 0x7F for shift in (21, 14, 7, 0))
        tagged = b"ID3\4\0\0" + seven_bits + bytes(length) + sound
        facts = await looked_at(decoding_pool, tagged, f"a.{container}")
        assert (facts.mime_type, facts.duration) == (expected, pytest.approx(3, abs=0.1))


@pytest.mark.parametrize(
    ("container", "codec", "name", "claimed", "expected"),
    [
        ("mp4", "libx264", "a.m4a", "audio/mp4", "video/mp4"),
        ("webm", "libvpx", "a", "audio/webm", "video/webm"),
        ("matroska", "libx264", "a.mp3", "audio/mpeg", "video/x-matroska"),
        ("asf", "wmv2", "a.wma", None, "video/x-ms-wmv"),
    ],
)
async def test_a_film_that_is_called_a_sound_is_a_film(
    decoding_pool: DecodingPool, container: str, codec: str, name: str, claimed: str | None, expected: str
) -> None:
    film = media.film(1, container=container, codec=codec)
    facts = await looked_at(decoding_pool, film, name, claimed)
    assert (facts.mime_type, facts.thumbnail_status) == (expected, "pending")


def rebranded(mp4: bytes, brand: bytes) -> bytes:
    return mp4[:8] + brand + mp4[12:]


@pytest.mark.parametrize("first", [b"wide", b"free", b"skip", b"pnot"])
async def test_a_film_of_before_brands_is_one_of_quicktimes(decoding_pool: DecodingPool, first: bytes) -> None:
    data = media.film(3, container="mov")
    length = int.from_bytes(data[:4])
    data = data[:4] + first + bytes(length - 8) + data[length:]
    facts = await looked_at(decoding_pool, data, "blob")
    assert (facts.mime_type, facts.width, facts.height, facts.thumbnail_status) == (
        "video/quicktime",
        320,
        240,
        "pending",
    )


async def test_iso_media_of_an_unknown_brand_is_what_is_in_it(decoding_pool: DecodingPool) -> None:
    film, voice = media.film(1), media.recording(PITCHES, "ipod", "aac", rate=44_100)
    assert (await looked_at(decoding_pool, rebranded(film, b"zzzz"), "a")).mime_type == "video/mp4"
    assert (await looked_at(decoding_pool, rebranded(voice, b"zzzz"), "a")).mime_type == "audio/mp4"
    picture = media.photo(64, 48, "HEIF")
    assert (await looked_at(decoding_pool, rebranded(picture, b"zzzz"), "a")).mime_type in (
        "image/heif",
        "application/octet-stream",
    )
    nothing = b"\0\0\0\x18ftypzzzz\0\0\0\1zzzzisom" + os.urandom(4_000)
    for name in ("a.mp4", "a.cr9", "a.jpg"):
        assert (await looked_at(decoding_pool, nothing, name)).mime_type == "application/octet-stream"


def tiff(maker: bytes, *entries: tuple[int, int, int]) -> bytes:
    """A TIFF whose first directory has a maker and these entries (tag, type, value)."""
    count = len(entries) + 1
    end = 8 + 2 + 12 * count + 4
    fields = sorted([(0x010F, 2, len(maker), end), *((tag, kind, 1, value) for tag, kind, value in entries)])
    directory = b"".join(struct.pack("<HHII", *field) for field in fields)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + directory + bytes(4) + maker + bytes(2_000)


PREVIEW, OTHERS, VERSION = (0x00FE, 4, 1), (0x014A, 4, 500), (0xC612, 1, 0x401)


@pytest.mark.parametrize(
    ("data", "filename", "expected"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(4_000), "a.CR3", "image/x-canon-cr3"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(4_000), "film.mp4", "image/x-canon-cr3"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(4_000), "a", "image/x-canon-cr2"),
        (tiff(b"NIKON CORPORATION\0", PREVIEW, OTHERS), "a", "image/x-nikon-nef"),
        (tiff(b"SONY\0", PREVIEW, OTHERS), "a", "image/x-sony-arw"),
        (tiff(b"SONY\0"), "a.ARW", "image/x-sony-arw"),
        (tiff(b"Apple\0", VERSION), "a", "image/x-adobe-dng"),
        (tiff(b"NIKON CORPORATION\0"), "a.tif", "image/tiff"),
        (tiff(b"Phase One A/S\0"), "a.IIQ", "image/x-phaseone-iiq"),
        (tiff(b"Hasselblad\0", PREVIEW, OTHERS), "a", "image/x-hasselblad-3fr"),
        (tiff(b"EASTMAN KODAK COMPANY\0", PREVIEW, OTHERS), "a", "image/x-kodak-dcr"),
        (tiff(b"SEIKO EPSON CORP.\0"), "a.erf", "image/x-epson-erf"),
        (tiff(b"Mamiya-OP Co.,Ltd.\0"), "a.mef", "image/x-mamiya-mef"),
        (tiff(b"Leaf\0", PREVIEW, OTHERS), "a", "image/x-leaf-mos"),
        (b"FUJIFILMCCD-RAW 0201FF383501" + bytes(4_000), "a", "image/x-fuji-raf"),
        (b"IIRO\x08\0\0\0" + bytes(4_000), "a", "image/x-olympus-orf"),
        (b"IIU\0\x18\0\0\0" + bytes(4_000), "a", "image/x-panasonic-rw2"),
    ],
)
async def test_a_raw_photo_is_a_picture_without_a_thumbnail(
    decoding_pool: DecodingPool, data: bytes, filename: str, expected: str
) -> None:
    facts = await looked_at(decoding_pool, data, filename)
    assert facts.mime_type == expected
    assert (facts.thumbnail_status, facts.duration) == ("none", None)
    assert not inline_allowed(facts.mime_type)


async def test_a_pictures_codec_does_not_decide_about_the_sound(decoding_pool: DecodingPool) -> None:
    data = media.tracks(("flac", PITCHES), picture="snow")
    facts = await looked_at(decoding_pool, data, "a.mkv")
    assert (facts.mime_type, facts.thumbnail_status) == ("video/x-matroska", "none")
    assert facts.details == {"no_thumbnail": "its picture is in a codec that is not decoded here: snow"}
    probed: MediaFacts = await decoding_pool.run("probe", BytesSource(data))
    assert (probed.has_video, probed.has_picture, probed.tracks[0].decodes) == (True, False, True)


def adts_that_grows_loud() -> bytes:
    """Ten seconds of silence and fifty of noise: the first packets say nothing of the bit rate."""
    silent = media.recording([0] * 10, "adts", "aac", rate=16_000)
    loud = bytearray()
    encoder = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = 16_000, "mono", "fltp", 96_000
    for second in range(50):
        frame = av.AudioFrame("fltp", "mono", 16_000)
        frame.planes[0].update(struct.pack("<16000f", *((byte - 128) / 160 for byte in os.urandom(16_000))))
        frame.sample_rate, frame.pts = 16_000, second * 16_000
        for packet in encoder.encode(frame):
            data = bytes(packet)
            size = len(data) + 7
            loud += bytes((0xFF, 0xF1, 0x60, 0x40 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC))
            loud += data
    return silent + bytes(loud)


async def test_a_duration_is_counted_where_the_format_says_none(decoding_pool: DecodingPool) -> None:
    facts = await looked_at(decoding_pool, adts_that_grows_loud(), "a.aac")
    assert facts.duration == pytest.approx(60, abs=0.3)
    quiet = media.recording(
        [0] * 10, "mp3", "libmp3lame", rate=44_100, write_xing="0", id3v2_version="0", bit_rate=32_000
    )
    loud = media.recording(
        [400] * 20, "mp3", "libmp3lame", rate=44_100, write_xing="0", id3v2_version="0", bit_rate=192_000
    )
    facts = await looked_at(decoding_pool, quiet + loud, "a.mp3")
    assert facts.duration == pytest.approx(30, abs=0.3)


async def test_a_broadcast_that_begins_silent_is_as_long_as_it_is(decoding_pool: DecodingPool) -> None:
    data = media.recording([*[0] * 9, 300, 400], "latm", "aac", rate=48_000)  # whose small packets say no time
    assert (await looked_at(decoding_pool, data, "a.loas")).duration == pytest.approx(11, abs=0.1)
    for start, pitch in ((9.2, 300), (10.2, 400)):
        pcm = await decoding_pool.run("audio_window", BytesSource(data), start=start, seconds=0.6)
        assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.6 == pytest.approx(pitch, abs=6)


def many_channels(layout: str, speaking: int) -> bytes:
    """A second of 400 Hz in one channel of a WAV, from 0; the others are silent."""
    channels = av.AudioLayout(layout).nb_channels
    samples = np.zeros((16_000, channels), np.int16)
    samples[:, speaking] = np.frombuffer(media.tone([400]), np.int16)
    file = io.BytesIO()
    with av.open(file, "w", format="caf" if layout.startswith("ambisonic") else "wav") as output:
        voice = output.add_stream("pcm_s16le", rate=16_000, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = 16_000, 0
        output.mux([*voice.encode(frame), *voice.encode(None)])
    return file.getvalue()


@pytest.mark.parametrize(
    ("layout", "speaking"),
    [
        ("3 channels", 2),
        ("8 channels", 3),
        ("9 channels", 8),
        ("16 channels", 15),
        ("32 channels", 0),
        ("5.1", 4),
        ("ambisonic 1", 0),
    ],
)
async def test_every_channel_of_a_recorder_is_heard(decoding_pool: DecodingPool, layout: str, speaking: int) -> None:
    source = BytesSource(many_channels(layout, speaking))
    for mix in ("mono", "stereo"):
        pcm = await decoding_pool.run("audio_window", source, start=0.0, seconds=1.0, layout=mix)
        heard = np.frombuffer(pcm, np.int16)[:: 2 if mix == "stereo" else 1]
        assert len(heard) == pytest.approx(16_000, abs=32)
        assert np.abs(np.fft.rfft(heard)).argmax() == pytest.approx(400, abs=2)
        assert np.abs(heard).max() > 800


async def test_an_office_document_is_looked_for_at_its_end(decoding_pool: DecodingPool) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("_rels/.rels", "docProps/app.xml", "word/document.xml", "[Content_Types].xml"):
            archive.writestr(name, os.urandom(50_000))
    facts = await looked_at(decoding_pool, file.getvalue(), "a.docx")
    assert facts.mime_type == "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


async def test_what_an_old_document_is_stands_behind_its_first_bytes(decoding_pool: DecodingPool) -> None:
    document = media.ole("1Table", "WordDocument")
    assert (await looked_at(decoding_pool, document, "a")).mime_type == "application/msword"
    for cut in (20, 300, 600):
        found = (await looked_at(decoding_pool, document[:cut], "a")).mime_type
        assert found in ("application/x-ole-storage", "application/octet-stream")


def mp3(*pitches: int, rate: int = 44_100) -> bytes:
    """With its number of frames in the first one."""
    return media.recording(pitches, "mp3", "libmp3lame", rate=rate)


def of_varying_rate() -> bytes:
    """An MP3 of two seconds of silence and one of noise."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as output:
        options = {"flags": "+qscale", "global_quality": str(5 * 118)}  # FF_QP2LAMBDA
        voice = output.add_stream("libmp3lame", rate=44_100, layout="mono", options=options)
        for second in range(3):
            frame = av.AudioFrame("s16p", "mono", 44_100)
            frame.planes[0].update(os.urandom(88_200) if second == 2 else bytes(88_200))
            frame.sample_rate, frame.pts = 44_100, second * 44_100
            output.mux(voice.encode(frame))
        output.mux(voice.encode(None))
    return file.getvalue()


def with_frames(mp3: bytes, number: int) -> bytes:
    """As it is when an editor has kept another's header."""
    at = mp3.index(b"Info") + 8
    return mp3[:at] + number.to_bytes(4) + mp3[at + 4 :]


def of_fraunhofer(mp3: bytes, number: int) -> bytes:
    """With that encoder's header in place of LAME's."""
    at, start = mp3.index(b"Info"), mp3.index(b"\xff\xfb")
    header = b"VBRI" + struct.pack(">3H2I", 1, 0, 75, len(mp3) - start, number)
    return (mp3[:at] + bytes(200) + mp3[at + 200 :])[: start + 36] + header + mp3[start + 36 + len(header) :]


async def test_an_mp3_is_as_long_as_what_is_there(decoding_pool: DecodingPool) -> None:
    whole, tag = mp3(*PITCHES), b"TAG" + bytes(125)
    for data, seconds in (
        (whole + tag, 3),
        (whole[: len(whole) // 3], 1),
        (whole + mp3(*PITCHES, rate=48_000), 6),
        (bytes(3_000) + of_varying_rate(), 3),
        *((with_frames(whole, number), 3) for number in (0, 30, 200)),
        (of_fraunhofer(whole, 40), 3),
        (of_fraunhofer(whole, 400), 3),
    ):
        assert (await looked_at(decoding_pool, data, "a.mp3")).duration == pytest.approx(seconds, abs=0.15)


def spoken_film(container: str) -> bytes:
    return media.tracks(("ac3" if container == "vob" else "aac", PITCHES), container=container, picture="mpeg2video")


JOINED: dict[str, Callable[[], bytes]] = {
    "radio.ogg": lambda: sound("ogg", "libopus")() + sound("ogg", "libopus", serial_offset="7")(),
    "a recorder's.ogg": lambda: 2 * sound("ogg", "libopus")(),
    "a browser's.webm": lambda: 2 * sound("webm", "libopus", live="1")(),
    "two films.mkv": lambda: 2 * media.tracks(("flac", PITCHES), picture="mpeg4"),
    "a stream's.flv": lambda: (film := sound("flv", "aac", 44_100)()) + film[13:],
    "a camera's.ts": lambda: 2 * spoken_film("mpegts"),
    "a DVD's.vob": lambda: 2 * spoken_film("vob"),
    "calls.aac": lambda: 2 * sound("adts", "aac", 44_100)(),
}


@pytest.mark.parametrize("name", JOINED)
async def test_recordings_that_are_joined_are_heard_to_the_end(decoding_pool: DecodingPool, name: str) -> None:
    source = BytesSource(JOINED[name]())
    probed: MediaFacts = await decoding_pool.run("probe", source)
    assert probed.duration == pytest.approx(6, abs=0.2)
    for start, pitch in ((0.1, 300), (2.1, 500), (3.25, 300), (4.25, 400), (5.25, 500)):
        pcm = await decoding_pool.run(
            "audio_window", source, start=start, seconds=0.6, begins_again=probed.begins_again
        )
        assert len(pcm) == 2 * 9_600
        spectrum = np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16)))
        assert spectrum.argmax() / 0.6 == pytest.approx(pitch, abs=6)


@pytest.mark.parametrize("codec", ["aac", "real_144"])
async def test_a_recording_whose_clock_stands_still_is_heard_to_its_end(
    decoding_pool: DecodingPool, codec: str
) -> None:
    source = BytesSource(media.recording(2 * PITCHES, "rm", codec, rate=8_000))
    probed: MediaFacts = await decoding_pool.run("probe", source)
    assert probed.duration == pytest.approx(6, abs=0.2)
    for start, pitch in ((0.2, 300), (2.2, 500), (5.25, 500)):
        pcm = await decoding_pool.run(
            "audio_window", source, start=start, seconds=0.6, begins_again=probed.begins_again
        )
        spectrum = np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16)))
        assert spectrum.argmax() / 0.6 == pytest.approx(pitch, abs=6)


@pytest.mark.parametrize(("container", "codec"), [("mpegts", "ac3"), ("mpegts", "libmp3lame"), ("vob", "ac3")])
async def test_what_is_in_a_broadcasts_last_packet_counts(
    decoding_pool: DecodingPool, container: str, codec: str
) -> None:
    data = media.tracks((codec, PITCHES), container=container, picture="mpeg2video")
    assert (await looked_at(decoding_pool, data, "a.ts")).duration == pytest.approx(3, abs=0.08)


async def test_a_recording_from_the_middle_of_a_broadcast_begins_where_it_begins(decoding_pool: DecodingPool) -> None:
    for data in (
        sound("ogg", "libopus", output_ts_offset="3600")(),
        sound("mpegts", "aac", output_ts_offset="90000")(),
        sound("webm", "libopus", output_ts_offset="3600")(),
        sound("mp4", "aac", output_ts_offset="100", movflags="dash+frag_keyframe+empty_moov+delay_moov")(),
        sound("asf", "libmp3lame", output_ts_offset="100")(),
    ):
        probed: MediaFacts = await decoding_pool.run("probe", BytesSource(data))
        assert probed.duration == pytest.approx(3, abs=0.1)
        assert not probed.begins_again


class Pipe:
    """A file that nothing can be written back to, as where a recorder dies."""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("avi", "libmp3lame", 16_000),
        ("rm", "ac3", 48_000),
        ("wav", "pcm_s16le", 48_000),
        ("aiff", "pcm_s16be", 48_000),
        ("w64", "pcm_s16le", 48_000),
        ("caf", "pcm_s16be", 48_000),
        ("flac", "flac", 48_000),
        ("asf", "libmp3lame", 44_100),
    ],
)
async def test_a_recording_whose_recorder_died_is_as_long_as_what_is_there(
    decoding_pool: DecodingPool, container: str, codec: str, rate: int
) -> None:
    pipe = Pipe()
    with av.open(pipe, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        for second, pitch in enumerate(PITCHES):
            frame = av.AudioFrame("s16", "mono", rate)
            frame.planes[0].update(media.tone([pitch], rate))
            frame.sample_rate, frame.pts = rate, second * rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    data = bytes(pipe.written)
    facts = await looked_at(decoding_pool, data, f"a.{container}")
    assert facts.duration == pytest.approx(3, abs=0.2)
    pcm = await decoding_pool.run("audio_window", BytesSource(data), start=2.1, seconds=0.6)
    assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.6 == pytest.approx(500, abs=6)


def with_zeros(data: bytes, *places: tuple[bytes, int, int]) -> bytes:
    """With zeros so many bytes behind these names, and so many of them."""
    for name, behind, count in places:
        at = data.index(name) + behind
        data = data[:at] + bytes(count) + data[at + count :]
    return data


UNFINISHED: dict[str, Callable[[], bytes]] = {
    "a.aiff": lambda: with_zeros(sound("aiff", "pcm_s16be")(), (b"FORM", 4, 4), (b"COMM", 10, 4), (b"SSND", 4, 4)),
    "a.w64": lambda: with_zeros(sound("w64", "pcm_s16le")(), (b"riff", 16, 8), (b"data", 16, 8)),
    "a.rf64": lambda: with_zeros(sound("wav", "pcm_s16le", rf64="always")(), (b"ds64", 8, 24)),
    "a.wav": lambda: with_zeros(sound("wav", "pcm_s16le")(), (b"RIFF", 4, 4), (b"data", 4, 4)),
    "a.caf": lambda: with_zeros(sound("caf", "pcm_s16be")(), (b"data", 4, 8)),
    "a.au": lambda: with_zeros(sound("au", "pcm_s16be")(), (b".snd", 8, 4)),
}


@pytest.mark.parametrize("name", UNFINISHED)
async def test_a_recording_that_says_no_length_is_as_long_as_what_is_there(
    decoding_pool: DecodingPool, name: str
) -> None:
    data = UNFINISHED[name]()
    assert (await looked_at(decoding_pool, data, name)).duration == pytest.approx(3, abs=0.05)
    pcm = await decoding_pool.run("audio_window", BytesSource(data), start=2.1, seconds=0.6)
    assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.6 == pytest.approx(500, abs=6)


@pytest.mark.parametrize(
    ("container", "codec", "sound_chunk", "order", "note"),
    [("wav", "pcm_s16le", b"data", "<", b"LIST"), ("aiff", "pcm_s16be", b"SSND", ">", b"ANNO")],
)
@pytest.mark.parametrize("notes", [1, 2, 3])
@pytest.mark.parametrize("pad", [b"", b"\0"])
async def test_a_note_of_an_odd_length_does_not_cost_the_sound(
    decoding_pool: DecodingPool,
    container: str,
    codec: str,
    sound_chunk: bytes,
    order: str,
    note: bytes,
    notes: int,
    pad: bytes,
) -> None:
    whole = sound(container, codec)()
    at = whole.index(sound_chunk)
    data = whole[:at] + notes * (note + struct.pack(order + "I", 5) + b"INFOx" + pad) + whole[at:]
    assert (await looked_at(decoding_pool, data, "a")).duration == pytest.approx(3, abs=0.05)
    pcm = await decoding_pool.run("audio_window", BytesSource(data), start=2.1, seconds=0.6)
    assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.6 == pytest.approx(500, abs=6)


@pytest.mark.parametrize(
    "name", ["a.flac", "a.au", "a.avi", "a.wma", "a.w64", "a.wv", "a.caf", "a.voc", "a.tta", "a.m4a"]
)
async def test_recordings_that_are_joined_are_as_long_as_what_is_heard_or_of_no_length(
    decoding_pool: DecodingPool, name: str
) -> None:
    make = {
        "a.flac": sound("flac", "flac"),
        "a.au": sound("au", "pcm_s16be"),
        "a.avi": sound("avi", "libmp3lame"),
        "a.wma": sound("asf", "libmp3lame", 44_100),
        "a.w64": sound("w64", "pcm_s16le"),
        "a.wv": sound("wv", "wavpack"),
        "a.caf": sound("caf", "pcm_s16be"),
        "a.voc": sound("voc", "pcm_s16le"),
        "a.tta": sound("tta", "tta"),
        "a.m4a": sound("mp4", "alac"),
    }[name]
    source = BytesSource(2 * make())
    probed: MediaFacts = await decoding_pool.run("probe", source)
    again = probed.begins_again
    pcm = await decoding_pool.run("audio_window", source, start=0.0, seconds=10.0, begins_again=again)
    assert probed.duration in (pytest.approx(len(pcm) / 32_000, abs=0.1), None)
    for second, pitch in enumerate(2 * PITCHES if len(pcm) > 150_000 else PITCHES):
        pcm = await decoding_pool.run("audio_window", source, start=second + 0.1, seconds=0.4, begins_again=again)
        assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.4 == pytest.approx(pitch, abs=6)


@pytest.mark.parametrize("speaks_at", [0, 100])
async def test_a_pause_of_a_telephone_is_silence(decoding_pool: DecodingPool, speaks_at: int) -> None:
    voice = b"".join(b"\x3c" + random.Random(number).randbytes(31) for number in range(100))
    pause = (b"\x44" + bytes(5) + 7 * b"\x7c") * 12 + 4 * b"\x7c"  # 3GPP TS 26.101: one frame of noise, then none
    data = b"#!AMR\n" + (pause + voice if speaks_at else voice + pause)
    facts = await looked_at(decoding_pool, data, "a.amr")
    assert (facts.mime_type, facts.duration) == ("audio/amr", pytest.approx(4, abs=0.02))
    probed: MediaFacts = await decoding_pool.run("probe", BytesSource(data))
    assert [track.decodes for track in probed.tracks] == [True]
    pcm = np.frombuffer(await decoding_pool.run("audio_window", BytesSource(data), start=0.0, seconds=9.0), np.int16)
    assert len(pcm) == pytest.approx(64_000, abs=400)
    spoken, silent = (pcm[32_000:], pcm[:31_000]) if speaks_at else (pcm[:32_000], pcm[33_000:])
    assert np.abs(spoken).max() > 1_000 > np.abs(silent).max()


@pytest.mark.parametrize("said", [0.0, 36_000.0])
async def test_a_stream_that_was_recorded_has_the_length_that_came(decoding_pool: DecodingPool, said: float) -> None:
    data = media.film(3, container="flv")
    at = data.index(b"duration") + 9
    data = data[:at] + struct.pack(">d", said) + data[at + 8 :]
    assert (await looked_at(decoding_pool, data, "a.flv")).duration == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("said", [0.0, -5.0, 1_000.0, 1e12, float("inf"), float("nan")])
@pytest.mark.parametrize("scale", [1_000_000, 10_000_000])
async def test_a_matroska_that_says_a_wrong_length_has_that_which_is_there(
    decoding_pool: DecodingPool, said: float, scale: int
) -> None:
    data = sound("matroska", "libopus", cluster_time_limit="500")()
    at = data.index(b"\x44\x89\x88") + 3
    data = data[:at] + struct.pack(">d", said) + data[at + 8 :]
    at = data.index(b"\x2a\xd7\xb1\x83") + 4
    data = data[:at] + scale.to_bytes(3) + data[at + 3 :]
    facts = await looked_at(decoding_pool, data, "a.mka")
    assert facts.mime_type == "audio/x-matroska"
    assert facts.duration == pytest.approx(3 * scale / 1_000_000, rel=0.05)


def with_its_index_first(mp4: bytes) -> bytes:
    """As for the web: `moov` before `mdat`."""
    boxes, at = [], 0
    while at < len(mp4):
        size = int.from_bytes(mp4[at : at + 4])
        boxes.append(mp4[at : at + size])
        at += size
    index = bytearray(next(box for box in boxes if box[4:8] == b"moov"))
    for found in re.finditer(b"stco", bytes(index)):
        at = found.start()
        for place in range(at + 12, at + 12 + 4 * int.from_bytes(index[at + 8 : at + 12]), 4):
            index[place : place + 4] = struct.pack(">I", int.from_bytes(index[place : place + 4]) + len(index))
    return b"".join((boxes[0], index, *(box for box in boxes[1:] if box[4:8] != b"moov")))


CUT: dict[str, Callable[[], bytes]] = {
    "a.flac": sound("flac", "flac"),
    "a.aiff": sound("aiff", "pcm_s16be"),
    "a.au": sound("au", "pcm_s16be"),
    "a.wav": sound("wav", "pcm_s16le"),
    "a telephone's.wav": sound("wav", "adpcm_ms"),
    "a.wv": sound("wv", "wavpack"),
    "a.mka": sound("matroska", "flac"),
    "a.webm": sound("webm", "libopus"),
    "a.m4a": lambda: with_its_index_first(sound("mp4", "aac")()),
    "a.mp4": lambda: with_its_index_first(media.film(3)),
    "a.mxf": lambda: tape("mxf", "mpeg2video"),
}


@pytest.mark.parametrize("name", CUT)
async def test_a_recording_that_was_cut_is_as_long_as_what_is_there(decoding_pool: DecodingPool, name: str) -> None:
    whole = CUT[name]()
    assert (await looked_at(decoding_pool, whole, name)).duration == pytest.approx(3, abs=0.1)
    cut = whole[: len(whole) * 6 // 10]
    duration = (await looked_at(decoding_pool, cut, name)).duration
    heard = len(await decoding_pool.run("audio_window", BytesSource(cut), start=0.0, seconds=10.0)) / 32_000
    assert duration == pytest.approx(heard, abs=0.15)
    assert duration < 2.5


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.mp4", lambda: media.film(3)[:20_000]),
        ("a.mov", lambda: media.film(3, container="mov")[:20_000]),
        ("whole but for its index.mp4", lambda: (film := media.film(3))[: film.index(b"moov") + 200]),
        ("a.png", lambda: media.encoded(media.quadrants(64, 64), "PNG")[:60]),
        ("a.webp", lambda: media.encoded(media.quadrants(640, 640), "WEBP")[:40]),
    ],
)
async def test_what_was_not_sent_to_its_end_says_so(
    decoding_pool: DecodingPool, name: str, make: Callable[[], bytes]
) -> None:
    facts = await looked_at(decoding_pool, make(), name)
    assert facts.thumbnail_status == "none"
    assert facts.details["no_thumbnail"].startswith("it is damaged, or its end is missing")


async def test_a_text_of_four_bytes_a_letter_is_a_text(decoding_pool: DecodingPool) -> None:
    facts = await looked_at(decoding_pool, ("Grüße\n" * 20).encode("utf-32"), "a.txt")
    assert (facts.mime_type, facts.details) == ("text/plain", {})


async def test_a_sound_without_timestamps_is_heard_from_its_middle(decoding_pool: DecodingPool) -> None:
    for container in ("wav", "w64"):
        source = BytesSource(sound(container, "adpcm_swf", 44_100)())
        pcm = await decoding_pool.run("audio_window", source, start=1.1, seconds=10.0)
        assert len(pcm) / 32_000 == pytest.approx(1.9, abs=0.1)
        assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16)[:12_800])).argmax() / 0.8 == pytest.approx(400, abs=4)


async def test_flac_in_ogg_is_heard_from_where_it_is_asked_for(decoding_pool: DecodingPool) -> None:
    noise = np.random.default_rng(1).integers(-9_000, 9_000, 16_000 * 30, np.int16)
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as output:
        stream = output.add_stream("flac", rate=16_000, layout="mono")
        for at in range(0, len(noise), 16_000):
            frame = av.AudioFrame("s16", "mono", 16_000)
            frame.planes[0].update(noise[at : at + 16_000].tobytes())
            frame.sample_rate, frame.pts = 16_000, at
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    for start in range(800, len(noise), 20_000):
        pcm = await decoding_pool.run("audio_window", BytesSource(file.getvalue()), start=start / 16_000, seconds=0.4)
        assert bytes(pcm) == noise[start : start + 6_400].tobytes(), start


@pytest.mark.parametrize("container", ["wav", "w64"])
@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav", "g722", "pcm_s16le"])
async def test_a_sound_that_says_a_wrong_rate_of_bytes_is_heard_from_its_middle(
    decoding_pool: DecodingPool, container: str, codec: str
) -> None:
    data = bytearray(media.recording(3 * PITCHES, container, codec))
    at = data.index(b"fmt ") + (8 if container == "wav" else 24) + 8
    data[at : at + 4] = struct.pack("<I", 12_000)
    for start, pitch in ((2.2, 500), (3.2, 300), (7.2, 400)):
        pcm = await decoding_pool.run("audio_window", BytesSource(bytes(data)), start=start, seconds=0.5)
        assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.5 == pytest.approx(pitch, abs=6)


WRONG_FORMATS = {
    "no block": (0, None, None),
    "a block of one byte": (1, None, None),
    "a block of twice as many bytes": (2, None, None),
    "twice as many bytes a second": (None, 2, None),
    "no bytes at all": (0, 0, None),
    "no bits": (None, None, 0),
}
"""Bytes of a block, the bytes a second and the bits of a sample in a WAV: what stands there, or by how much that is
multiplied which is right.
"""


@pytest.mark.parametrize("container", ["wav", "w64"])
@pytest.mark.parametrize("wrong", WRONG_FORMATS)
async def test_a_sound_of_samples_that_says_a_wrong_size_of_them_is_heard_from_its_middle(
    decoding_pool: DecodingPool, container: str, wrong: str
) -> None:
    for codec in ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw"):
        data = bytearray(media.recording(3 * PITCHES, container, codec))
        at = data.index(b"fmt ") + (8 if container == "wav" else 24) + 8
        said = struct.unpack_from("<IHH", data, at)
        block, second, bits = WRONG_FORMATS[wrong]
        struct.pack_into(
            "<IHH",
            data,
            at,
            said[0] if second is None else second * said[0],
            said[1] if block is None else block if block < 2 else block * said[1],
            said[2] if bits is None else bits,
        )
        source = BytesSource(bytes(data))
        facts: MediaFacts = await decoding_pool.run("probe", source)
        assert facts.duration == pytest.approx(9, abs=0.1), codec
        for start, pitch in ((2.2, 500), (7.2, 400)):
            pcm = await decoding_pool.run("audio_window", source, start=start, seconds=0.5)
            assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.5 == pytest.approx(pitch, abs=6), (
                codec
            )


async def test_a_sound_that_says_no_bits_and_a_block_of_many_is_heard(decoding_pool: DecodingPool) -> None:
    data = bytearray(media.recording(PITCHES, "wav", "pcm_alaw"))
    struct.pack_into("<HH", data, data.index(b"fmt ") + 20, 0xFFFF, 0)
    facts: MediaFacts = await decoding_pool.run("probe", BytesSource(bytes(data)))
    assert facts.duration == pytest.approx(3, abs=0.1)


LAYOUTS = ("7.1", "7.1(wide)", "6.1", "octagonal", "5.1.4", "hexadecagonal", "quad")


@pytest.mark.parametrize("container", ["caf", "mov", "wav", "matroska"])
async def test_loudspeakers_in_any_order_are_heard(decoding_pool: DecodingPool, container: str) -> None:
    codec = "pcm_s16be" if container == "caf" else "pcm_s16le"
    for layout in LAYOUTS:
        file = io.BytesIO()
        with av.open(file, "w", format=container) as output:
            stream = output.add_stream(codec, rate=16_000, layout=layout)
            channels = stream.codec_context.channels
            frame = av.AudioFrame("s16", layout, 16_000)
            frame.planes[0].update(np.repeat(np.frombuffer(media.tone([300]), np.int16), channels).tobytes())
            frame.sample_rate, frame.pts = 16_000, 0
            output.mux(stream.encode(frame))
        source = BytesSource(file.getvalue())
        probed: MediaFacts = await decoding_pool.run("probe", source)
        assert (probed.duration, [track.channels for track in probed.tracks]) == (
            pytest.approx(1, abs=0.01),
            [channels],
        )
        pcm = np.frombuffer(await decoding_pool.run("audio_window", source, start=0.0, seconds=1.0), np.int16)
        assert np.abs(np.fft.rfft(pcm)).argmax() == 300
        alone = await decoding_pool.run("audio_window", source, start=0.0, seconds=1.0, channel=channels)
        assert np.abs(np.fft.rfft(np.frombuffer(alone, np.int16))).argmax() == 300


def stuffed_ts(**options: str) -> bytes:
    """34 MiB: a film of 3 s with stuffing between its packets (ISO 13818-1, 2.4.3)."""
    film, length = media.film(3, container="mpegts", **options), 192 if options else 188
    packets = [film[at : at + length] for at in range(0, len(film), length)]
    stuffing = bytes(length - 188) + b"\x47\x1f\xff\x10" + b"\xff" * 184
    return (stuffing * (1 + (34 << 20) // length // len(packets))).join(packets)


def stuffed_vob() -> bytes:
    """The same of a DVD (2.5.3.4). FFmpeg knows it by its first packs."""
    packs = re.split(b"(?=\0\0\1\xba)", spoken_film("vob"))[1:]
    stuffing = (b"\0\0\1\xbe" + struct.pack(">H", 2_000) + b"\xff" * 2_000) * ((40 << 20) // 2_006 // (len(packs) - 10))
    return b"".join(packs[:10]) + stuffing.join(packs[10:])


def stuffed_flv() -> bytes:
    """The same of a stream's recorder, with tags of data between the others. It has no header, as what such a recorder
    appends to a file.
    """
    film, at, tags = media.recording(PITCHES, "flv", "aac", rate=44_100), 13, []
    while at < len(film):
        length = 11 + int.from_bytes(film[at + 1 : at + 4])
        tags.append(film[at : at + length + 4])
        at += length + 4
    data = b"\2\0\4note" + bytes((34 << 20) // len(tags))
    stuffing = (b"\x12" + len(data).to_bytes(3), bytes(3) + data + (len(data) + 11).to_bytes(4))
    return b"".join(tag + tag[4:8].join(stuffing) for tag in tags)


def stuffed_webm() -> bytes:
    """The same of a browser, with void elements before its clusters (RFC 8794, 11.3.2)."""
    parts = re.split(b"(?=\x1f\x43\xb6\x75)", sound("webm", "libopus", live="1", cluster_time_limit="200")())
    size = (34 << 20) // len(parts)
    return (b"\xec\1" + size.to_bytes(7) + bytes(size)).join(parts)


LARGE: dict[str, Callable[[], bytes]] = {
    "a camera's.ts": stuffed_ts,
    "a camera's.mts": lambda: stuffed_ts(mpegts_m2ts_mode="1"),
    "a DVD's.vob": stuffed_vob,
    "a stream's.flv": stuffed_flv,
    "a browser's.webm": stuffed_webm,
}
FLV_HEADER = b"FLV\1\4\0\0\0\x09\0\0\0\0"


@pytest.mark.parametrize("name", LARGE)
async def test_large_recordings_that_are_joined_are_heard_to_the_end(decoding_pool: DecodingPool, name: str) -> None:
    part = LARGE[name]()
    start = FLV_HEADER if name.endswith("flv") else b""
    container = {"flv": "flv", "ebm": "matroska,webm", "vob": "mpeg"}.get(name[-3:], "mpegts")
    assert not durations.clock_begins_again(io.BytesIO(start + part), container)
    source = BytesSource(start + 2 * part)
    assert source.size > durations.MOST_BYTES_COUNTED
    probed: MediaFacts = await decoding_pool.run("probe", source)
    assert (probed.duration, probed.begins_again) == (None, True)
    pcm = await decoding_pool.run("audio_window", source, start=4.25, seconds=0.6, begins_again=True)
    assert np.abs(np.fft.rfft(np.frombuffer(pcm, np.int16))).argmax() / 0.6 == pytest.approx(400, abs=6)
