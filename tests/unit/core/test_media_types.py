"""The type of content by its bytes, and what a browser may do with it."""

import io
import os
import struct
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from media_core.examination import sniffing
from media_core.examination.media_types import (
    category,
    has_thumbnail,
    inline_allowed,
    named,
    settled,
    transcribable,
)
from media_core.examination.sniffing import sniff
from tests.fixtures import media


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    brands = b"".join(compatible)
    return struct.pack(">I", 16 + len(brands)) + b"ftyp" + major + bytes(4) + brands + b"\0\0\0\x08free" + bytes(64)


def ogg(first_packet: bytes) -> bytes:
    return b"OggS\0\2" + bytes(20) + bytes([1, len(first_packet)]) + first_packet


def docx() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("[Content_Types].xml", "_rels/.rels", "word/document.xml"):
            archive.writestr(name, "<x/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (media.photo(20, 20, "JPEG"), "image/jpeg"),
        (media.photo(20, 20, "PNG"), "image/png"),
        (media.photo(20, 20, "GIF"), "image/gif"),
        (media.photo(20, 20, "WEBP"), "image/webp"),
        (media.photo(20, 20, "BMP"), "image/bmp"),
        (media.photo(20, 20, "TIFF"), "image/tiff"),
        (media.photo(20, 20, "ICO"), "image/vnd.microsoft.icon"),
        (media.photo(20, 20, "AVIF"), "image/avif"),
        (media.photo(20, 20, "HEIF"), "image/heic"),
        (ftyp(b"mif1", b"mif1", b"heic"), "image/heic"),
        (ftyp(b"mif1", b"avif", b"miaf"), "image/avif"),
        (ftyp(b"mif1", b"miaf"), "image/heif"),
        (ftyp(b"M4A ", b"isom"), "audio/mp4"),
        (ftyp(b"isom", b"mp41"), "video/mp4"),
        (ftyp(b"mp42"), "video/mp4"),
        (ftyp(b"qt  "), "video/quicktime"),
        (b"P2\n4 2\n255\n" + b"17 200 3 4\n" * 2, "image/x-portable-graymap"),
        (b"P5\n4 2\n255\n" + bytes(range(140, 148)), "image/x-portable-graymap"),
        (b"RIFF\x3c\0\0\0RMIDdata\x30\0\0\0MThd\0\0\0\6" + bytes(40), "audio/midi"),
        (
            b"\xff\xd8\xff\xe8\0\x20SPIFF\0" + bytes(24) + b"\xff\xe8\0\x08\0\0\0\1\xff\xd8\xff\xf7\0\x0b\x08",
            "image/jls",
        ),
        (ftyp(b"3gp4", b"isom"), "video/3gpp"),
        (ogg(b"OpusHead\1\1"), "audio/ogg"),
        (ogg(b"\x01vorbis"), "audio/ogg"),
        (ogg(b"\x80theora"), "video/ogg"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x84webm", "video/webm"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x88matroska", "video/x-matroska"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\x82\x40\4webm", "video/webm"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\x82\1\0\0\0\0\0\0\4webm", "video/webm"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\x82\x88webm\0\0\0\0", "video/webm"),
        (b"\x1a\x45\xdf\xa3\x40\x60\xbf\x84abcd\xec\xb2" + bytes(50) + b"B\x82\x84webm", "video/webm"),
        (b"RIFF\x24\0\0\0CDXAfmt \x10\0\0\0" + bytes(60), "video/mpeg"),
        (b"ID3\4\0\0\0\0\0\x23TSSE" + bytes(200), "audio/mpeg"),
        (b"\xff\xfb\x90\x64" + bytes(400), "audio/mpeg"),
        (b"\xff\xf3\x84\xc4" + bytes(400), "audio/mpeg"),
        (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(400), "audio/aac"),
        (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + bytes(40), "audio/wav"),
        (b"fLaC\0\0\0\x22" + bytes(60), "audio/flac"),
        (b"#!AMR\n" + bytes(60), "audio/amr"),
        ("Grüße\nline two\n".encode() * 40, "text/plain"),  # a G every 204 bytes, as in a stream with FEC
        ((b"G\x40\0\x10" + bytes(184)) * 3, "video/mp2t"),
        (b"RIFF\x24\0\0\0AVI LIST" + bytes(60), "video/x-msvideo"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        (b"SIMPLE  =                    T / FITS".ljust(2_880), "image/fits"),
        (docx(), "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (b"\x1f\x8b\x08\0" + bytes(20), "application/gzip"),
        ("Grüße aus Wien\n".encode(), "text/plain"),
        (b"{\\rtf1\\ansi\\deff0 {\\fonttbl{\\f0 Arial;}}Hello\\par}", "application/rtf"),
        (b"MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=x\r\n\r\n--x\r\n", "message/rfc822"),
        (b'{"a": [1, 2]}', "application/json"),
        (b"\0\1\xde\xad" * 20, "application/octet-stream"),
        (bytes(range(256)) * 40, "application/octet-stream"),  # to libmagic a TGA, whose colours have seven bits
        (b"", "application/octet-stream"),
    ],
)
def test_content_decides(head: bytes, expected: str) -> None:
    assert sniff(head) == expected
    assert sniff(head, "holiday.txt", "text/plain") == expected
    assert sniff(head, "page.html", "text/html") == expected


@pytest.mark.parametrize(
    "head",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xef\xbb\xbf<svg/>",
        b" \r\n\t<!-- a comment --><!-- > --><svg onload=alert(1)>",
        b"<?xml version='1.0'?>\n<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' ''>\n<svg/>",
        b"<?xml version='1.0'?><x:svg xmlns:x='http://www.w3.org/2000/svg'/>",
        "\ufeff<SVG>".encode("utf-16-le"),
    ],
)
def test_svg_is_svg_wherever_it_begins(head: bytes) -> None:
    assert sniff(head, "photo.png", "image/png") == "image/svg+xml"


@pytest.mark.parametrize(
    "head",
    [
        b"<!DOCTYPE html><title>x</title>",
        b"<HTML>",
        b"\xef\xbb\xbf\n\n<!-- hello --> <body>",
        b"<!--" + b"x" * 5_000,
        b"<script>alert(1)</script>",
        b"<img src=x onerror=alert(1)>",
        b"plain words, then <script>alert(1)</script>",
        b"words <iframe src=javascript:alert(1)>",
        "\ufeff<script>".encode("utf-16-be"),
        b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>",
    ],
)
def test_html_is_html_whatever_it_is_called(head: bytes) -> None:
    for filename in (None, "notes.txt", "photo.jpg", "readme.md", "data.csv"):
        assert sniff(head, filename, "text/plain") == "text/html"


@pytest.mark.parametrize(
    "word",
    [
        "MAC",
        "OggS",
        "ID3",
        "The ftyp",
        "The moov",
        "The mdat",
        "TTA1",
        "wvpk",
        "IIRO",
        "caff",
        "#!AMR",
        "GGG",
        "DTSHDHDR",
    ],
)
def test_text_that_begins_like_a_recording_is_text(word: str) -> None:
    assert sniff(f"{word} is a beginning, as files have it: Grüße\n".encode(), "a.txt") == "text/plain"
    assert sniff(b"G" * 600) == "text/plain"


@pytest.mark.parametrize(
    "text",
    [
        "P1 incident: the site is down\n",
        "P4\nwas said to be late",
        "P6 1 a\n",
        "Date: Monday\nThere: Ann, Bob\n",
        "Path: /etc\n",
        "Forward to Ann",
    ],
)
def test_notes_that_begin_like_a_picture_or_a_mail_are_text(text: str) -> None:
    assert sniff(text.encode()) == "text/plain"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"P1\n# of an editor\n2 2\n1 0\n0 1\n", "image/x-portable-bitmap"),
        (b"P4 16 1\n\xff\0", "image/x-portable-bitmap"),
        (b"P6 # of an editor\n1\n# and another\n1\n255\n\1\2\3", "image/x-portable-pixmap"),
        (b"Date: Mon, 1 Jan 2026 10:00:00 +0000\r\nfrom: a@b.example\r\n\r\nHello\r\n", "message/rfc822"),
        (b"Return-Path: <a@b.example>\r\nDate: Mon, 1 Jan 2026 10:00:00 +0000\r\n", "message/rfc822"),
    ],
)
def test_pictures_in_letters_and_mails_are_still_found(head: bytes, expected: str) -> None:
    assert sniff(head) == expected


@pytest.mark.parametrize("beginning", [b"\xe9\0\1", b"\xeb\x3c\0", b"\xd5\x2b\x6a\x6ejP\0"])
def test_a_byte_or_two_make_no_program_and_no_picture(beginning: bytes) -> None:
    assert sniff(beginning + bytes(range(256)) * 4) == "application/octet-stream"
    assert sniff(b"MZ\x90\0\3\0\0\0" + bytes(500)) == "application/x-dosexec"


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\r\n", b"\0\1\2junk\n", b"\x1b%-12345X@PJL JOB\r\n"])
def test_a_pdf_may_begin_late(before: bytes) -> None:
    pdf = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n\0\1\2\3" + bytes(range(256)) * 4
    assert sniff(before + pdf, "a.txt") == "application/pdf"
    assert sniff(bytes(2_000) + pdf) == "application/octet-stream"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("words", "filename", "expected"),
    [
        ("Name;Straße\r\nMüller;Am Ring 3\r\n", "a.csv", "text/csv"),
        ("Привет, мир. Это текст.\n", "a.txt", "text/plain"),
        ("これは日本語の文章です。\n会議の記録。\n" * 400, None, "text/plain"),
        ("1\r\n00:00:01,000 --> 00:00:02,000\r\nHallo\r\n", "a.srt", "application/x-subrip"),
        ("<svg xmlns='http://www.w3.org/2000/svg'/>", "a.txt", "image/svg+xml"),
        ("plain words, then <script>alert(1)</script>", "a.txt", "text/html"),
    ],
)
def test_text_in_utf_16_needs_no_mark(encoding: str, words: str, filename: str | None, expected: str) -> None:
    head = words.encode(encoding)
    assert sniff(head, filename) == expected
    assert sniffing.charset(head, is_whole=True) == encoding.replace("-16-", "-16")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_numbers_are_only_numbers(bits: int) -> None:
    for step in (1, 3, 17, 251):
        numbers = b"".join((number * step % (1 << bits)).to_bytes(bits // 8) for number in range(2_000))
        assert sniff(numbers) == "application/octet-stream"
        assert sniff(numbers[::-1]) == "application/octet-stream"


@pytest.mark.parametrize(
    "head",
    [
        b"<?xml version='1.0'?><!-- " + b"x" * 5_000,
        b"<?xml version='1.0'?><a/>",
        b"<?xml version='1.0'?>",
        b"<note><to>you</to></note>",
    ],
)
def test_xml_is_xml(head: bytes) -> None:
    assert sniff(head, "notes.txt", "text/plain") == "application/xml"


@pytest.mark.parametrize(
    ("head", "filename", "expected"),
    [
        (
            b"<?xml version='1.0'?><kml xmlns='http://www.opengis.net/kml/2.2'/>",
            "a",
            "application/vnd.google-earth.kml+xml",
        ),
        (b"<gpx version='1.1'>", "a", "application/gpx+xml"),
        (b"<?xml version='1.0'?>\n<TrainingCenterDatabase>", "a", "application/vnd.garmin.tcx+xml"),
        (b"<?xml version='1.0'?><FictionBook>", "a", "application/x-fictionbook+xml"),
        (b"<tt:tt xmlns:tt='http://www.w3.org/ns/ttml'>", "a.txt", "application/ttml+xml"),
        (
            b"<?xml version='1.0'?>\n<!DOCTYPE score-partwise>\n<score-partwise/>",
            "a",
            "application/vnd.recordare.musicxml+xml",
        ),
        (b'{"type": "FeatureCollection"}', "a.geojson", "application/geo+json"),
        (b'{"asset": {"version": "2.0"}}', "a.gltf", "model/gltf+json"),
        (b"\x1f\x8b\x08\0" + bytes(20), "a sticker.tgs", "application/x-tgsticker"),
        (b"just some words\n", "a.geojson", "text/plain"),
    ],
)
def test_data_of_a_known_form_has_its_type_and_is_not_inline(head: bytes, filename: str, expected: str) -> None:
    assert sniff(head, filename) == expected
    assert not inline_allowed(expected) or expected == "text/plain"


def test_hostile_markup_is_read_in_no_time() -> None:
    for head in (b"<!---->" * 600, b"<?" * 2_000, b"<!-- " * 800, b"< " * 2_000, b"<!doctype " + b"x" * 4_000):
        sniff(head)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("a.csv", "text/csv"),
        ("a.md", "text/markdown"),
        ("A.MD", "text/markdown"),
        ("a.json", "application/json"),
        ("a.srt", "application/x-subrip"),
        ("a.vtt", "text/vtt"),
        ("a.txt", "text/plain"),
        ("a", "text/plain"),
        (None, "text/plain"),
        ("a.html", "text/plain"),
        ("a.svg", "text/plain"),
        ("a.js", "text/plain"),
        ("a.png", "text/plain"),
        ("a.md.exe", "text/plain"),
    ],
)
def test_a_name_makes_only_harmless_text_of_text(filename: str | None, expected: str) -> None:
    assert sniff(b"just some words\nand some more\n", filename, "text/html") == expected


@pytest.mark.parametrize(
    ("head", "filename", "claimed", "expected"),
    [
        (ftyp(b"isom"), "meeting.m4a", None, "audio/mp4"),
        (ftyp(b"mp42"), None, "audio/mp4", "audio/mp4"),
        (ftyp(b"mp42"), "film.mp4", "video/mp4", "video/mp4"),
        (ftyp(b"mp42"), "film.mp4", "image/png", "video/mp4"),
        (b"\x1a\x45\xdf\xa3B\x82\x84webm", "voice.webm", "audio/webm;codecs=opus", "audio/webm"),
        (ftyp(b"heic"), "voice.m4a", "audio/mp4", "image/heic"),
        (media.photo(20, 20), "voice.m4a", "audio/mp4", "image/jpeg"),
    ],
)
def test_a_claim_of_sound_chooses_within_the_family(
    head: bytes, filename: str | None, claimed: str | None, expected: str
) -> None:
    assert sniff(head, filename, claimed) == expected


def test_a_probe_settles_whether_there_are_pictures() -> None:
    assert settled("video/webm", has_video=False) == "audio/webm"
    assert settled("video/webm", has_video=True) == "video/webm"
    assert settled("video/mp4", has_video=False) == "audio/mp4"
    assert settled("audio/mpeg", has_video=False) == "audio/mpeg"
    assert settled("application/pdf", has_video=False) == "application/pdf"


@pytest.mark.parametrize(
    "mime_type",
    [
        "image/svg+xml",
        "text/html",
        "application/xml",
        "application/xhtml+xml",
        "text/javascript",
        "application/zip",
        "",
    ],
)
def test_what_a_browser_could_run_is_never_inline(mime_type: str) -> None:
    assert not inline_allowed(mime_type)


@pytest.mark.parametrize(
    ("mime_type", "kind", "thumbnail", "speech"),
    [
        ("image/jpeg", "image", True, False),
        ("image/heic", "image", True, False),
        ("image/svg+xml", "image", False, False),
        ("image/vnd.microsoft.icon", "image", True, False),
        ("audio/mpeg", "audio", False, True),
        ("audio/midi", "audio", False, False),
        ("video/mp4", "video", True, True),
        ("video/x-ms-asf", "video", False, False),
        ("application/pdf", "document", True, False),
        ("text/plain", "document", False, False),
        ("application/octet-stream", "document", False, False),
    ],
)
def test_types_have_a_kind_and_abilities(mime_type: str, kind: str, thumbnail: bool, speech: bool) -> None:
    assert (category(mime_type), has_thumbnail(mime_type), transcribable(mime_type)) == (kind, thumbnail, speech)


@pytest.mark.parametrize(
    ("mime_type", "expected"),
    [
        ("message/rfc822", "an e-mail"),
        ("font/woff2", "a font"),
        ("model/gltf-binary", "a model in three dimensions"),
        ("text/x-c", "a text"),
        ("application/mxf", "a film"),
        ("application/x-never-heard-of", "a file"),
    ],
)
def test_a_type_has_a_name_for_people(mime_type: str, expected: str) -> None:
    assert named(mime_type) == f"{expected} ({mime_type})"


def test_many_threads_may_sniff_at_once() -> None:
    heads = [media.photo(20, 20, "PNG"), b"%PDF-1.7\n", b"just words\n", media.photo(20, 20, "GIF")] * 100
    expected = ["image/png", "application/pdf", "text/plain", "image/gif"] * 100
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(sniff, heads)) == expected


def test_the_bundled_library_is_used_and_the_environment_left_alone() -> None:
    program = (
        "import os; before = dict(os.environ)\n"
        "import media_core.examination.sniffing\n"
        "maps = open('/proc/self/maps').read()\n"
        "print(dict(os.environ) == before, [l.split()[-1] for l in maps.splitlines() if 'libmagic' in l][0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={})
    unchanged, library = done.stdout.split()
    assert unchanged == "True"
    assert f"{os.sep}pylibmagic{os.sep}" in library


def test_only_the_head_is_looked_at() -> None:
    assert sniff(b"words " * 1_000 + b"<script>") == "text/plain"
    assert sniffing.HEAD == 4096


def test_a_long_blank_in_what_is_no_text_is_shortened_wherever_it_is() -> None:
    for before in range(4096 - 516):
        head = b"\0" * before + b" " * 516 + b"\0"
        assert sniffing._shown(head) == b"\0" * before + b" " * 16 + b"\0"
    assert sniffing._shown(b"\0" + b" " * 515) == b"\0" + b" " * 515


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \n", b"\n" * 4000 + b"\0"])
def test_an_empty_page_takes_no_time(blank: bytes) -> None:
    sniff(blank, "a.txt")
    began = time.thread_time()
    assert sniff((blank * 4096)[:4096], "a.txt") == ("application/octet-stream" if b"\0" in blank else "text/plain")
    assert time.thread_time() - began < 0.075  # it took 0.15
