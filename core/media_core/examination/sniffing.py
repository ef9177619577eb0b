"""What content is, by its bytes; a file name or a claim only chooses within one family.

The type decides how a browser treats a download, so two rules hold. Whatever a browser could run (SVG, HTML, XML,
scripts) keeps its type and is never served inline. A name or a claim may turn plain text into a harmless text type, or
a container into its audio-only sister, never into anything else. Polyglots stay possible: downloads say `nosniff`.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Literal

from media_core.decoding import jpeg, targa
from media_core.examination.media_types import UNKNOWN, settled, transcribable

_kept = {name: os.environ.get(name) for name in ("LD_LIBRARY_PATH", "LIBRARY_PATH", "MAGIC")}
import pylibmagic  # noqa: E402, I001 - makes ctypes find the bundled library, so it comes before magic
import magic  # noqa: E402

for _name, _value in _kept.items():  # or every process started later would inherit pylibmagic's paths
    if _value is None:
        os.environ.pop(_name, None)
    else:
        os.environ[_name] = _value

HEAD = 4096
"""Bytes that `sniff` looks at."""

_magic = magic.Magic(mime=True, magic_file=str(pylibmagic.data / "magic.mgc"))
_text_magic = magic.Magic(mime=True, magic_file=str(pylibmagic.data / "magic.mgc"))
"""For text: libmagic takes up to 5 ms for it, 0.3 ms for anything else, and python-magic holds a lock meanwhile."""

_SYNONYMS = {
    "application/CDFV2": "application/x-ole-storage",
    "application/x-empty": UNKNOWN,
    "audio/x-wav": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-aiff": "audio/aiff",
    "audio/vnd.dolby.dd-raw": "audio/ac3",
    "audio/mid": "audio/midi",
    "audio/x-hx-aac-adts": "audio/aac",
    "audio/x-m4a": "audio/mp4",
    "image/x-ms-bmp": "image/bmp",
    "image/x-portable-greymap": "image/x-portable-graymap",
    "image/x-xpmi": "image/x-xpixmap",
    "text/rtf": "application/rtf",
    "text/xml": "application/xml",
    "video/x-jng": "image/x-jng",
    "video/mpeg4-generic": "video/mp4v-es",
    "video/x-m4v": "video/mp4",
}
_TEXTS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".log": "text/plain",
    ".markdown": "text/markdown",
    ".md": "text/markdown",
    ".srt": "application/x-subrip",
    ".toml": "application/toml",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".vtt": "text/vtt",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
"""What an extension may make of text; nothing here is run or rendered by a browser."""

_NAMED = {
    "application/json": {".geojson": "application/geo+json", ".gltf": "model/gltf+json"},
    "application/gzip": {".svgz": "image/svg+xml-compressed", ".tgs": "application/x-tgsticker"},
}
"""What an extension may make of data of these types; none of it is served inline."""

_SOUND_EXTENSIONS = (".3ga", ".m4a", ".m4b", ".m4r", ".mka", ".oga", ".opus", ".weba", ".wma")
_BEGINNINGS = (
    (b"caff\0\1", "audio/x-caf"),
    (b"#!AMR-WB", "audio/amr-wb"),
    (b"MAC ", "audio/x-ape"),
    (b"TTA1", "audio/x-tta"),
    (b"TTA2", "audio/x-tta"),
    (b"wvpk", "audio/x-wavpack"),
    (b"DTSHDHDR", "audio/vnd.dts.hd"),
    (b".snd\0\0", "audio/basic"),
    (b"\x7f\xfe\x80\x01", "audio/vnd.dts"),
    (b"\xfe\x7f\x01\x80", "audio/vnd.dts"),
    (b"\x1f\xff\xe8\0", "audio/vnd.dts"),
    (b"\xff\x1f\0\xe8", "audio/vnd.dts"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", "video/x-ms-wmv"),
    (b"\0\0\1\xba", "video/mpeg"),
    (b"DKIF\0\0", "video/x-ivf"),
    (b"\xb7\xd8\0\x20\x37\x49\xda\x11\xa6\x4e\0\x07\xe9\x5e\xad\x8d", "video/x-ms-wtv"),
    (b"\x12\0\x0a\x0a", "video/av1"),
    (b"\x12\0\x0a\x0b", "video/av1"),
    (b"FUJIFILMCCD-RAW", "image/x-fuji-raf"),
    (b"IIRO", "image/x-olympus-orf"),
    (b"IIRS", "image/x-olympus-orf"),
    (b"MMOR", "image/x-olympus-orf"),
    (b"IIU\0", "image/x-panasonic-rw2"),
    (b"II\x1a\0\0\0HEAPCCDR", "image/x-canon-crw"),
    (b"\0MRM", "image/x-minolta-mrw"),
    (b"FOVb", "image/x-sigma-x3f"),
    (b"#?RADIANCE\n", "image/vnd.radiance"),
    (b"DDS \x7c\0\0\0", "image/vnd.ms-dds"),
    (b"\xff\x4f\xff\x51", "image/j2c"),
    (b"\2dss", "audio/x-dss"),
    (b"\3dss", "audio/x-dss"),
    (b"\3ds2", "audio/x-ds2"),
    (b"#!SILK_V3", "audio/x-silk"),
    (b"\2#!SILK_V3", "audio/x-silk"),
    (b"Creative Voice File\x1a", "audio/x-voc"),
    (b"MP+", "audio/x-musepack"),
    (b"MPCK", "audio/x-musepack"),
    (b"tBaK", "audio/x-tak"),
    (b"ajkg", "audio/x-shorten"),
    (b"OFR ", "audio/x-optimfrog"),
    (b"DSD \x1c\0\0\0", "audio/x-dsf"),
    (b"EA3\1", "audio/x-oma"),
    (b"ea3\3", "audio/x-oma"),
    (b"qoif", "image/qoi"),
    (b"\xabKTX 11\xbb", "image/ktx"),
    (b"\xabKTX 20\xbb", "image/ktx2"),
    (b"\x01\xda\0\1", "image/sgi"),
    (b"\x01\xda\1\1", "image/sgi"),
    (b"\x01\xda\0\2", "image/sgi"),
    (b"\x01\xda\1\2", "image/sgi"),
    (b"#?RGBE", "image/vnd.radiance"),
    (b"\x59\xa6\x6a\x95", "image/x-sun-raster"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"\0asm", "application/wasm"),
    (b"PAR1", "application/vnd.apache.parquet"),
    (b"CDF\1", "application/x-netcdf"),
    (b"CDF\2", "application/x-netcdf"),
    (b"CDF\5", "application/x-netcdf"),
    (b"BLENDER", "application/x-blender"),
    (b"!BDN", "application/vnd.ms-outlook-pst"),
    (b"bplist00", "application/x-bplist"),
    (b"FWS", "application/x-shockwave-flash"),
    (b"CWS", "application/x-shockwave-flash"),
    (b"L\0\0\0\1\x14\2\0", "application/x-ms-shortcut"),
)
"""Beginnings that libmagic does not know, or names by a type that nobody uses."""
_FORMS = {
    (b"RF64", b"WAVE"): "audio/wav",
    (b"BW64", b"WAVE"): "audio/wav",
    (b"RIFX", b"WAVE"): "audio/wav",
    (b"RIFF", b"CDXA"): "video/mpeg",  # a track of a Video CD
    (b"RIFF", b"QLCM"): "audio/qcelp",
    (b"FORM", b"8SVX"): "audio/x-8svx",
    (b"FORM", b"16SV"): "audio/x-8svx",
    (b"FORM", b"MAUD"): "audio/x-8svx",
}
"""By the first four bytes and the third: files of chunks."""
_RAW_EXTENSIONS = {
    ".3fr": "image/x-hasselblad-3fr",
    ".arw": "image/x-sony-arw",
    ".cr2": "image/x-canon-cr2",
    ".dcr": "image/x-kodak-dcr",
    ".dng": "image/x-adobe-dng",
    ".erf": "image/x-epson-erf",
    ".fff": "image/x-hasselblad-3fr",
    ".iiq": "image/x-phaseone-iiq",
    ".kdc": "image/x-kodak-kdc",
    ".mef": "image/x-mamiya-mef",
    ".mos": "image/x-leaf-mos",
    ".nef": "image/x-nikon-nef",
    ".nrw": "image/x-nikon-nef",
    ".pef": "image/x-pentax-pef",
    ".sr2": "image/x-sony-arw",
    ".srf": "image/x-sony-arw",
    ".srw": "image/x-samsung-srw",
}
_RAW_MAKERS = {
    b"NIKON": "image/x-nikon-nef",
    b"SONY": "image/x-sony-arw",
    b"PENTAX": "image/x-pentax-pef",
    b"RICOH": "image/x-pentax-pef",
    b"SAMSUNG": "image/x-samsung-srw",
    b"HASSELBL": "image/x-hasselblad-3fr",
    b"PHASE ON": "image/x-phaseone-iiq",
    b"SEIKO EP": "image/x-epson-erf",
    b"MAMIYA": "image/x-mamiya-mef",
    b"LEAF": "image/x-leaf-mos",
    b"EASTMAN ": "image/x-kodak-dcr",
}
"""By how the maker's name begins, up to 8 letters."""
_RAW_TYPES = frozenset(_RAW_EXTENSIONS.values())
_FILM_BRANDS = frozenset(
    (
        b"avc1",
        b"hvc1",
        b"mp41",
        b"mp42",
        b"mp71",
        b"mmp4",
        b"MSNV",
        b"dash",
        b"msdh",
        b"cmfc",
        b"cmf2",
        b"XAVC",
        b"f4v ",
    )
)
_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_BOX = 8
"""The boxes that a film of before 2001 may begin with, and the least length of one (Apple, QuickTime File Format)."""

_TEXT_BYTES = bytes((*b"\t\n\f\r\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)))
"""Of text in any character set of one byte or of several. A beginning of nothing else is none of sound or film."""

_RAW_BY_A_WORD = ("image/x-olympus-orf", "image/x-x3f")
"""What libmagic finds by four letters alone."""

_BY_CHANCE = frozenset(
    (
        *("application/x-arc", "application/x-compress-ttcomp", "application/x-dvi", "application/x-font-sfn"),
        *("application/x-pnf", "application/x-stargallery-thm", "application/x-tex-tfm", "application/zlib"),
        *("font/x-amiga-font", "image/g3fax", "image/x-gem", "text/PGP"),
    )
)
"""What libmagic finds by two bytes or three, which any numbers may begin with."""

_NETPBM = re.compile(rb"P[1-6](?:(?:\s|#[^\n]*\n)+\d+){2}\s")
"""Width and height. Texts begin with "P1 incident"."""
_SENDER = re.compile(rb"^From:", re.IGNORECASE | re.MULTILINE)
"""Every message has one (RFC 5322, 3.6). Notes begin with "Date:"."""
_BEGINS_AS: Mapping[str, Callable[[bytes], object]] = {
    "application/x-matlab-data": lambda head: head.startswith(b"MATLAB"),
    "application/x-dosexec": lambda head: head.startswith(b"MZ"),
    "image/jp2": lambda head: head.startswith(b"\0\0\0\x0cjP  \r\n\x87\n"),
    "image/x-portable-bitmap": _NETPBM.match,
    "image/x-portable-graymap": _NETPBM.match,
    "image/x-portable-pixmap": _NETPBM.match,
    "image/x-tga": targa.begins,
    "message/news": _SENDER.search,
    "message/rfc822": lambda head: not head.startswith((b"Date:", b"Forward to", b"Pipe to")) or _SENDER.search(head),
}
"""Whether content may be of these types. libmagic also finds them by a few bytes, which any content may have."""

_START_CODE = re.compile(
    rb"\x00?\x00\x00\x01(?:([\x27\x47\x67]|\x09[\x10-\xf0]|\x06[\x00-\x05])|[\x40\x42\x46\x4e]\x01)", re.DOTALL
)
"""The first unit of a bare stream: of H.264 (ITU-T H.264, 7.3.1 and B.1), or else of H.265 (H.265, 7.3.1)."""

_WEBM = re.compile(rb"\x42\x82(?:[\x84-\x8f]|[\x01\x02\x04\x08\x10\x20\x40]\x00{0,6}[\x04-\x0f])webm")
"""The DocType. Its length may have any number of bytes, and zeros may follow it (RFC 8794, 4.1 and 7.5)."""
WEBM_WITHIN = 256
"""So many bytes are looked at for it; a checksum and blank space may stand before it."""

_LIKE_TEXT = (
    (re.compile(rb"SIMPLE  =                    T"), "image/fits"),
    (re.compile(rb"MIME-Version:\s*1\.0\b", re.IGNORECASE), "message/rfc822"),
    (re.compile(rb"YUV4MPEG2 W"), "video/x-yuv4mpeg"),
    (re.compile(rb"NIST_1A\n {3}1024\n"), "audio/x-nist"),
    (re.compile(rb"P[Ff]\s\d{1,6}\s+\d{1,6}\s+-?[0-9.]"), "image/x-portable-floatmap"),
)
"""Beginnings in letters. What follows, pixels or samples, may look like text as well."""

LONGEST_WORDS = 60
"""Letters, on average. What has longer words is taken for numbers, not for text in UTF-16."""
_BETWEEN_WORDS = dict.fromkeys(map(ord, " \t\r\n\f\u3000\u3001\u3002\uff0c"))
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)

_PDF = b"%PDF-"
PDF_WITHIN = 1024
"""Viewers look for a PDF's beginning in so many bytes (Adobe's implementation note 13 to PDF 1.7)."""

_ROOTS = {
    "collada": "model/vnd.collada+xml",
    "feed": "application/atom+xml",
    "fictionbook": "application/x-fictionbook+xml",
    "gpx": "application/gpx+xml",
    "kml": "application/vnd.google-earth.kml+xml",
    "math": "application/mathml+xml",
    "mpd": "application/dash+xml",
    "mxfile": "application/vnd.jgraph.mxfile",
    "opml": "text/x-opml",
    "rss": "application/rss+xml",
    "score-partwise": "application/vnd.recordare.musicxml+xml",
    "score-timewise": "application/vnd.recordare.musicxml+xml",
    "smil": "application/smil+xml",
    "trainingcenterdatabase": "application/vnd.garmin.tcx+xml",
    "tt": "application/ttml+xml",
    "xmpmeta": "application/rdf+xml",
}
"""What a document in XML is by its outermost element. None of them is served inline."""

_HTML = re.compile("a|b|body|br|div|font|form|h[1-6]|head|html|iframe|img|link|meta|p|script|style|table|title|video")
_BLANK = re.compile(rb"(\s{16})\s+")
_BLANK_PAGE = re.compile(rb"(\s{16})\s{500,}")
"""Runs of white space, which are shortened. libmagic takes 150 ms for 4 KiB of it, and other files wait meanwhile. The
second one is for content that is no text: its bytes keep their places, except in a long run."""
_BLANK_STEP = 100
_BLANK_STEPS = re.compile(rb"\s{5}")
"""Found in every hundredth byte of content that has such a long run. Looking through all bytes takes 50 us."""
_ACTIVE = re.compile(r"<\s*(?:script|html|svg|iframe|body|object|embed)\b", re.IGNORECASE)


def sniff(head: bytes, filename: str | None = None, claimed: str | None = None) -> str:
    """The media type of content by its first bytes (HEAD of them; more is cut), lower case, without parameters.

    A container that may hold sound only (WebM, MP4 without a telling brand) is "video/..." unless its name or the claim
    says audio. Only what is in it decides, once it has been probed: `media_types.settled`, and for a film that was
    called a sound the type without name and claim.
    """
    head = head[:HEAD]
    extension = PurePath(filename or "").suffix.lower()
    is_text = not head.translate(None, _TEXT_BYTES)
    if found := next((found for beginning, found in _LIKE_TEXT if beginning.match(head)), None):
        return found
    if head.startswith(_UTF_32):
        return "text/plain"
    if not is_text and (container := _container(head)):
        claims_sound = extension in _SOUND_EXTENSIONS or (claimed or "").lower().startswith("audio/")
        return settled(container, has_video=not claims_sound)
    unmarked = None if is_text else _unmarked_utf16(head)
    text = head.decode(unmarked, "ignore") if unmarked else _text(head)
    if markup := _markup(text):
        return markup
    looking = _text_magic if looks_like_text(head) else _magic
    found = looking.from_buffer(_shown(head)) if head else UNKNOWN
    found = _SYNONYMS.get(found, found)
    if found in _BY_CHANCE or (found in _BEGINS_AS and not _BEGINS_AS[found](head)):
        found = UNKNOWN
    if is_text and (transcribable(found) or found in _RAW_BY_A_WORD):
        found = "text/plain"  # "The moov atom ..."
    elif not is_text and found == UNKNOWN and _PDF in head[:PDF_WITHIN]:
        return "application/pdf"
    elif found == UNKNOWN and (unmarked or (is_text and len(head) > 1)):
        found = "text/plain"
    if found.startswith("image/") and (raw := _raw_photo(head, extension, (claimed or "").lower())):
        return raw
    if found in _NAMED:
        return _NAMED[found].get(extension, found)
    if found.startswith("text/"):
        return "text/html" if found == "text/html" or _ACTIVE.search(text) else _TEXTS.get(extension, found)
    return found


def charset(text: bytes, *, is_whole: bool) -> str | None:
    """The character set of text: `utf-8` or one of UTF-16 where the bytes say so.

    None where nobody can know, for ASCII, which is the same in all of them, and for UTF-32, which no browser reads.
    """
    if text.startswith(_UTF_32):
        return None
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if unmarked := _unmarked_utf16(text[:HEAD]):
        return unmarked
    if is_whole and text.isascii():
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text, final=is_whole)
    except UnicodeDecodeError:
        return None
    return "utf-8"


def _unmarked_utf16(head: bytes) -> Literal["utf-16le", "utf-16be"] | None:
    """The order of bytes of text in UTF-16 without a mark, as databases and Windows programs export it."""
    encodings: tuple[Literal["utf-16le", "utf-16be"], ...] = ("utf-16le", "utf-16be")
    for encoding in encodings if b"\0" in head else ():
        with contextlib.suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(head)
            words = text.translate(_BETWEEN_WORDS)
            if len(text) - len(words) > len(text) // LONGEST_WORDS and words.isprintable():
                return encoding
    return None


def looks_like_text(head: bytes) -> bool:
    """Whether `sniff` may take milliseconds. The caller then runs it in a thread."""
    return b"\0" not in head[:HEAD]


def _shown(head: bytes) -> bytes:
    """What libmagic is shown of it: the same, with shorter runs of white space."""
    if looks_like_text(head):
        return _BLANK.sub(rb"\1", head)
    return _BLANK_PAGE.sub(rb"\1", head) if _BLANK_STEPS.search(head[::_BLANK_STEP]) else head


def _container(head: bytes) -> str | None:
    """Containers that libmagic names by one member of the family, or not at all."""
    if beginning := next((found for mark, found in _BEGINNINGS if head.startswith(mark)), None):
        return beginning
    if form := _FORMS.get((head[:4], head[8:12])):
        return form
    if head.startswith(b"\xff\xd8") and jpeg.frame(io.BytesIO(head)) == jpeg.LS:
        return "image/jls"
    if head.startswith(b"FRM8") and head[12:16] == b"DSD ":
        return "audio/x-dff"
    if head[4:7] == b"\xf8\x72\x6f" and head[7:8] in (b"\xba", b"\xbb"):  # TrueHD, MLP
        return "audio/vnd.dolby.mlp"
    if head.startswith(b"\1\0\0\0") and head[40:44] == b" EMF":
        return "image/emf"
    if head.startswith(b"\x0b\x77") and len(head) > 5:
        bitstream = head[5] >> 3  # bsid: to 10 AC-3, to 16 E-AC-3 (ETSI TS 102 366, 4.4.2.1 and E.1.3.1.6)
        return "audio/ac3" if bitstream <= 10 else "audio/eac3" if bitstream <= 16 else None
    if is_iso_media(head):
        return _iso_media(head)
    if head[4:8] in _QUICKTIME and int.from_bytes(head[:4]) >= _BOX:
        return "video/quicktime"
    if head.startswith(b"OggS"):
        return "video/ogg" if b"\x80theora" in head else "audio/ogg"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if _WEBM.search(head, 0, WEBM_WITHIN) else "video/x-matroska"
    if head.startswith(b"ID3"):
        return "audio/mpeg"
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[2] >> 4 not in (0, 15):
        return "audio/mpeg"  # an MPEG audio frame, layer III (ISO 11172-3, 2.4.1.3)
    if start := _START_CODE.match(head):
        return "video/h264" if start[1] else "video/h265"
    if looks_like_text(head):  # 0x47 is a G, and its text may repeat; a stream's tables have zeros
        return None
    for packet, sync in ((188, 0), (192, 4), (204, 0)):  # plain; with a time stamp before it, as of cameras; with FEC
        if len(head) > sync + 2 * packet and all(head[sync + n * packet] == 0x47 for n in range(3)):
            return "video/mp2t"
    return None


def _raw_photo(head: bytes, extension: str, claimed: str) -> str | None:
    """The type of a camera's raw photo that is built as a TIFF; None if it is a TIFF like any other.

    Its first directory says so (TIFF/EP): a version of DNG, or a maker's name and a picture that is a preview only.
    """
    order: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
    if head[:4] not in (b"II*\0", b"MM\0*"):
        return None
    if head[8:10] == b"CR":
        return "image/x-canon-cr2"
    at = int.from_bytes(head[4:8], order)
    count = int.from_bytes(head[at : at + 2], order)
    tags: dict[int, int] = {}  # where the value of each stands
    for entry in range(at + 2, min(at + 2 + 12 * count, len(head) - 11), 12):
        tags[int.from_bytes(head[entry : entry + 2], order)] = entry + 8
    if 0xC612 in tags:
        return "image/x-adobe-dng"
    if found := _RAW_EXTENSIONS.get(extension):
        return found
    if claimed in _RAW_TYPES:
        return claimed
    is_preview = 0x00FE in tags and int.from_bytes(head[tags[0x00FE] : tags[0x00FE] + 4], order) == 1
    if is_preview and 0x014A in tags and 0x010F in tags:
        maker_at = int.from_bytes(head[tags[0x010F] : tags[0x010F] + 4], order)
        maker = head[maker_at : maker_at + 8].upper()
        return next((found for name, found in _RAW_MAKERS.items() if maker.startswith(name)), None)
    return None


def _iso_media(head: bytes) -> str:
    """By the brands of the `ftyp` box (ISO 14496-12, 4.3)."""
    size = int.from_bytes(head[:4])
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))]
    major = brands[0]
    if major in (b"mif1", b"mif2", b"msf1", b"miaf"):
        return "image/avif" if b"avif" in brands else "image/heic" if b"heic" in brands else "image/heif"
    if major in (b"avif", b"avis"):
        return "image/avif"
    if major in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"):
        return "image/heic"
    if major == b"crx ":
        return "image/x-canon-cr3"
    if major in (b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "):
        return "audio/mp4"
    if major in (b"aax ", b"aaxc"):
        return "audio/vnd.audible.aax"
    if major == b"qt  ":
        return "video/quicktime"
    if major[:3] in (b"3gp", b"3g2"):
        return "video/3gpp" if major[:3] == b"3gp" else "video/3gpp2"
    if major in _FILM_BRANDS or major[:3] in (b"iso", b"M4V") or major[:2] == b"ND":
        return "video/mp4"
    return UNKNOWN


def is_iso_media(head: bytes) -> bool:
    """Whether it is built as ISO media. Of a brand that `sniff` does not know only its tracks say what it is."""
    return head[4:8] == b"ftyp"


def _text(head: bytes) -> str:
    """The head as text where a byte order mark says how, else byte by byte."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "ignore")
    return head.removeprefix(b"\xef\xbb\xbf").decode("latin-1")


def _markup(text: str) -> str | None:
    """The type of a document that opens with markup, past white space, comments and processing instructions."""
    is_xml = False
    while (text := text.lstrip(" \t\r\n\f\0")).startswith("<"):
        if text.startswith("<!--"):
            _, closed, text = text.partition("-->")
            if not closed:
                return "application/xml" if is_xml else "text/html"  # what follows is out of sight
        elif text.startswith("<?"):
            is_xml = is_xml or text[:5].lower() == "<?xml"
            _, closed, text = text.partition("?>")
            if not closed:
                break
        elif doctype := re.match(r"<!doctype\s+([\w:.-]+)", text, re.IGNORECASE):
            return _document(doctype[1], is_xml)
        elif element := re.match(r"<([a-z_][\w:.-]*)", text, re.IGNORECASE):
            return _document(element[1], is_xml)
        else:
            break
    return "application/xml" if is_xml else None


def _document(root: str, is_xml: bool) -> str:
    name = root.lower().rpartition(":")[2]
    if name == "svg":
        return "image/svg+xml"
    if found := _ROOTS.get(name):
        return found
    return "text/html" if name == "html" or (_HTML.fullmatch(name) and not is_xml) else "application/xml"
