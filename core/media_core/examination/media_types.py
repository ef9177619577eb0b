"""What a media type means here: its kind, whether it is shown inline, whether it has a picture or speech.

`sniffing` finds the type of content. It stands on libmagic; these rules stand on nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Literal

Category = Literal["image", "audio", "video", "document"]

UNKNOWN = "application/octet-stream"

_SOUND_ONLY = {
    "application/vnd.rn-realmedia": "audio/vnd.rn-realaudio",
    "video/3gpp": "audio/3gpp",
    "video/3gpp2": "audio/3gpp2",
    "video/mp4": "audio/mp4",
    "video/ogg": "audio/ogg",
    "video/quicktime": "audio/mp4",
    "video/webm": "audio/webm",
    "video/x-matroska": "audio/x-matroska",
    "video/x-ms-wmv": "audio/x-ms-wma",
}
_OF_CONTAINERS = {
    "aac": "audio/aac",
    "ac3": "audio/ac3",
    "aiff": "audio/aiff",
    "amr": "audio/amr",
    "ape": "audio/x-ape",
    "asf": "video/x-ms-wmv",
    "au": "audio/basic",
    "avi": "video/x-msvideo",
    "caf": "audio/x-caf",
    "dsf": "audio/x-dsf",
    "dss": "audio/x-dss",
    "dts": "audio/vnd.dts",
    "dtshd": "audio/vnd.dts.hd",
    "dv": "video/x-dv",
    "eac3": "audio/eac3",
    "flac": "audio/flac",
    "flv": "video/x-flv",
    "gsm": "audio/x-gsm",
    "h264": "video/h264",
    "hevc": "video/h265",
    "iff": "audio/x-8svx",
    "ivf": "video/x-ivf",
    "loas": "audio/x-mp4a-latm",
    "m4v": "video/mp4v-es",
    "matroska,webm": "video/x-matroska",
    "mlp": "audio/vnd.dolby.mlp",
    "mov,mp4,m4a,3gp,3g2,mj2": "video/mp4",
    "mp3": "audio/mpeg",
    "mpc": "audio/x-musepack",
    "mpc8": "audio/x-musepack",
    "mpeg": "video/mpeg",
    "mpegts": "video/mp2t",
    "mpegvideo": "video/mpeg",
    "mxf": "application/mxf",
    "nistsphere": "audio/x-nist",
    "obu": "video/av1",
    "ogg": "video/ogg",
    "rm": "application/vnd.rn-realmedia",
    "truehd": "audio/vnd.dolby.mlp",
    "tta": "audio/x-tta",
    "voc": "audio/x-voc",
    "w64": "audio/x-w64",
    "wav": "audio/wav",
    "wtv": "video/x-ms-wtv",
    "wv": "audio/x-wavpack",
    "yuv4mpegpipe": "video/x-yuv4mpeg",
}
"""By FFmpeg's name of the format."""
_OF_PICTURES = {
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "DDS": "image/vnd.ms-dds",
    "DIB": "image/bmp",
    "DPX": "image/x-dpx",
    "EXR": "image/x-exr",
    "FITS": "image/fits",
    "GIF": "image/gif",
    "HDR": "image/vnd.radiance",
    "HEIF": "image/heif",
    "ICNS": "image/x-icns",
    "JPEG": "image/jpeg",
    "JPEG2000": "image/jp2",
    "JPEGLS": "image/jls",
    "JXL": "image/jxl",
    "PAM": "image/x-portable-arbitrarymap",
    "PCX": "image/x-pcx",
    "PFM": "image/x-portable-floatmap",
    "PNG": "image/png",
    "PPM": "image/x-portable-anymap",
    "PSD": "image/vnd.adobe.photoshop",
    "QOI": "image/qoi",
    "SGI": "image/sgi",
    "SUNRAST": "image/x-sun-raster",
    "TARGA": "image/x-tga",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "XWD": "image/x-xwindowdump",
}
"""By Pillow's name of the format, or FFmpeg's of the codec."""


def _types(kind: str, *names: str) -> frozenset[str]:
    return frozenset(f"{kind}/{name}" for name in names)


_WEB_PICTURES = _types("image", "jpeg", "png", "gif", "webp", "avif", "heic", "heif", "bmp")
_WEB_SOUND = _types("audio", "mpeg", "mp4", "ogg", "webm", "wav", "flac", "aac")
_WEB_FILMS = _types("video", "mp4", "webm", "ogg", "quicktime", "3gpp")
_INLINE = _WEB_PICTURES | _WEB_SOUND | _WEB_FILMS | {"application/pdf", "text/plain", "text/csv", "text/markdown"}

_PICTURES = (
    _WEB_PICTURES
    | _types("image", "tiff", "vnd.adobe.photoshop", "jp2", "jpx", "j2c")
    | _types("image", "vnd.microsoft.icon", "x-icon", "x-win-bitmap")
    | _types("image", "x-portable-anymap", "x-portable-bitmap", "x-portable-graymap", "x-portable-pixmap")
    | _types("image", "x-portable-arbitrarymap", "x-portable-floatmap", "x-tga", "x-pcx", "qoi", "sgi")
    | _types("image", "x-exr", "vnd.radiance", "vnd.ms-dds", "x-sun-raster", "x-dpx", "jls", "jxl")
    | _types("image", "x-xwindowdump", "x-icns", "fits")
)
_SOUND = (
    _WEB_SOUND
    | _types("audio", "ac3", "aiff", "amr", "amr-wb", "basic", "eac3", "vnd.dts", "vnd.dts.hd", "3gpp", "3gpp2")
    | _types("audio", "vnd.dolby.mlp", "vnd.rn-realaudio", "x-8svx", "x-dff", "x-dsf", "x-dss", "x-gsm")
    | _types("audio", "x-musepack", "x-nist", "x-voc")
    | _types("audio", "x-ape", "x-caf", "x-matroska", "x-mp4a-latm", "x-ms-wma", "x-tta", "x-w64", "x-wavpack")
)
_OF_SEVERAL = {"application/mxf", "application/vnd.rn-realmedia"}
"""Films whose registered type does not say so."""

_FILMS = (
    _WEB_FILMS
    | _types("video", "3gpp2", "x-matroska", "x-msvideo", "x-ms-wmv", "x-ms-wtv", "x-flv", "x-dv", "mp2t", "mpeg")
    | _types("video", "h264", "h265", "av1", "mp4v-es", "x-ivf", "x-yuv4mpeg")
    | _OF_SEVERAL
)
"""Types that media_core.decoding can read. A video container may hold sound only."""

_NAMES: Mapping[Category, str] = {
    "audio": (
        ".3ga .8svx .aa3 .aac .aax .ac3 .aif .aifc .aiff .alac .amr .ape .au .awb .caf .dff .dsf .dss .dts .eac3 "
        ".ec3 .flac .gsm .loas .m4a .m4b .m4r .mka .mlp .mp1 .mp2 .mp3 .mpa .mpc .nist .oga .ogg .oma .opus .qcp .qta "
        ".ra .rf64 .shn .snd .sph .spx .tak .thd .tta .voc .w64 .wav .wave .weba .wma .wv "
    ),
    "video": (
        ".264 .265 .3g2 .3gp .asf .avi .divx .dv .f4v .flv .h264 .h265 .hevc .insv .ivf .lrv .m1v .m2p .m2t .m2ts .m2v "
        ".m4v .mkv .mod .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .obu .ogm .ogv .qt .rm .rmvb .rv .tod .trp .ts .vob "
        ".webm .wmv .wtv .y4m "
    ),
    "image": (
        ".avif .bmp .dds .dib .dpx .exr .gif .hdr .heic .heif .hif .icns .jfif .jls .jpe .jpeg .jpg .jxl .pam .pcx "
        ".pfm .png .qoi .sgi .tga .tif .tiff .webp "
    ),
}
_SAYS = {kind: frozenset(names.split()) for kind, names in _NAMES.items()}
"""Extensions by what they say of content."""

_NAMED = {
    "image/x-adobe-dng": "a raw photo in Adobe's format",
    "image/x-canon-cr2": "a Canon raw photo",
    "image/x-canon-cr3": "a Canon raw photo",
    "image/x-canon-crw": "a Canon raw photo",
    "image/x-fuji-raf": "a Fujifilm raw photo",
    "image/x-hasselblad-3fr": "a Hasselblad raw photo",
    "image/x-epson-erf": "an Epson raw photo",
    "image/x-kodak-dcr": "a Kodak raw photo",
    "image/x-kodak-kdc": "a Kodak raw photo",
    "image/x-leaf-mos": "a Leaf raw photo",
    "image/x-mamiya-mef": "a Mamiya raw photo",
    "image/x-minolta-mrw": "a Minolta raw photo",
    "image/x-nikon-nef": "a Nikon raw photo",
    "image/x-olympus-orf": "an Olympus raw photo",
    "image/x-panasonic-rw2": "a Panasonic raw photo",
    "image/x-pentax-pef": "a Pentax raw photo",
    "image/x-phaseone-iiq": "a Phase One raw photo",
    "image/x-samsung-srw": "a Samsung raw photo",
    "image/x-sigma-x3f": "a Sigma raw photo",
    "image/x-sony-arw": "a Sony raw photo",
    "image/svg+xml": "a drawing",
    "audio/midi": "a MIDI file, notes without a sound",
    "audio/vnd.audible.aax": "an Audible audiobook, whose sound is encrypted",
    "audio/x-ds2": "a dictation of a dictaphone's",
    "audio/x-oma": "a recording in ATRAC, as of MiniDiscs",
    "audio/x-optimfrog": "a sound recording in OptimFROG",
    "audio/x-shorten": "a sound recording in Shorten",
    "audio/x-tak": "a sound recording in TAK",
    "audio/qcelp": "a voice memo of an old phone",
    "audio/x-silk": "a voice message in SILK, as of WeChat",
    "application/mp4": "an MP4 file with neither sound nor picture",
    "application/pdf": "a PDF document",
    "application/epub+zip": "an e-book",
    "application/dash+xml": "a list of a film's parts",
    "application/dicom": "a radiologist's picture",
    "application/geo+json": "a map's places",
    "application/gpx+xml": "a track of a GPS receiver",
    "application/java-archive": "a Java program",
    "application/gzip": "a compressed file",
    "application/json": "data in JSON",
    "application/mathml+xml": "a formula",
    "application/msword": "a Word document",
    "application/postscript": "a PostScript document",
    "application/rtf": "a text with its layout",
    "application/vnd.android.package-archive": "an Android app",
    "application/vnd.adobe.indesign-idml-package": "an InDesign document",
    "application/vnd.apple.keynote": "a Keynote presentation",
    "application/vnd.apple.numbers": "a Numbers workbook",
    "application/vnd.apple.pages": "a Pages document",
    "application/vnd.comicbook+zip": "a comic",
    "application/vnd.corel-draw": "a CorelDRAW drawing",
    "application/vnd.garmin.tcx+xml": "a training of a sports watch",
    "application/vnd.google-earth.kml+xml": "a map of Google Earth's",
    "application/vnd.google-earth.kmz": "a map of Google Earth's",
    "application/vnd.jgraph.mxfile": "a diagram of draw.io",
    "application/vnd.ms-excel": "an Excel workbook",
    "application/vnd.ms-excel.sheet.binary.macroEnabled.12": "an Excel workbook",
    "application/vnd.ms-excel.sheet.macroEnabled.12": "an Excel workbook with macros",
    "application/vnd.ms-opentype": "a font",
    "application/vnd.ms-outlook": "an Outlook message",
    "application/vnd.ms-outlook-pst": "a mailbox of Outlook's",
    "application/vnd.ms-powerpoint": "a PowerPoint presentation",
    "application/vnd.ms-powerpoint.presentation.macroEnabled.12": "a PowerPoint presentation with macros",
    "application/vnd.ms-visio.drawing": "a Visio drawing",
    "application/vnd.ms-word.document.macroEnabled.12": "a Word document with macros",
    "application/vnd.ms-xpsdocument": "an XPS document",
    "application/vnd.oasis.opendocument.graphics": "an OpenDocument drawing",
    "application/vnd.oasis.opendocument.presentation": "an OpenDocument presentation",
    "application/vnd.oasis.opendocument.spreadsheet": "an OpenDocument spreadsheet",
    "application/vnd.oasis.opendocument.text": "an OpenDocument text",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "a PowerPoint presentation",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "an Excel workbook",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "a Word document",
    "application/vnd.rar": "a RAR archive",
    "application/vnd.recordare.musicxml+xml": "sheet music",
    "application/vnd.sqlite3": "a database",
    "application/vnd.visio": "a Visio drawing",
    "application/x-7z-compressed": "a 7-Zip archive",
    "application/x-bittorrent": "a torrent",
    "application/x-blender": "a model of Blender's",
    "application/x-bzip2": "a compressed file",
    "application/x-dosexec": "a program for Windows",
    "application/x-executable": "a program for Linux",
    "application/x-fictionbook+xml": "an e-book",
    "application/x-figma": "a Figma design",
    "application/x-krita": "a picture of Krita's",
    "application/x-mach-binary": "a program for macOS",
    "application/x-msaccess": "an Access database",
    "application/x-mspublisher": "a Publisher document",
    "application/x-netcdf": "a file of measured values",
    "application/x-pie-executable": "a program for Linux",
    "application/x-musescore": "sheet music",
    "application/x-procreate": "a picture of Procreate's",
    "application/x-rar": "a RAR archive",
    "application/x-sketch": "a Sketch design",
    "application/x-subrip": "subtitles",
    "application/ttml+xml": "subtitles",
    "application/x-tgsticker": "a moving sticker of Telegram's",
    "application/zip+dotlottie": "a Lottie animation",
    "application/x-tar": "a tar archive",
    "application/x-xz": "a compressed file",
    "application/xml": "data in XML",
    "application/yaml": "data in YAML",
    "application/zip": "a ZIP archive",
    "application/zstd": "a compressed file",
    "image/x-icns": "an icon of macOS",
    "image/fits": "an astronomer's picture",
    "image/j2c": "a JPEG 2000 picture",
    "image/jp2": "a JPEG 2000 picture",
    "image/jpx": "a JPEG 2000 picture",
    "image/jxl": "a JPEG XL picture",
    "image/ktx": "a texture",
    "image/ktx2": "a texture",
    "image/openraster": "a painting of several layers",
    "image/svg+xml-compressed": "a drawing",
    "image/vnd.adobe.photoshop": "a Photoshop picture",
    "image/vnd.djvu": "a scanned document in DjVu",
    "image/vnd.dwg": "an AutoCAD drawing",
    "image/x-eps": "a PostScript drawing",
    "image/x-win-bitmap": "a cursor",
    "image/x-xcf": "a picture of GIMP's",
    "message/rfc822": "an e-mail",
    "text/calendar": "an appointment",
    "text/csv": "a table as text",
    "text/html": "a web page",
    "text/markdown": "a text in Markdown",
    "text/vcard": "a contact",
    "text/vtt": "subtitles",
    "video/x-ms-asf": "an ASF file with neither sound nor picture",
    UNKNOWN: "a file of no type that is known here",
}

_KINDS = {
    "audio": "a sound recording",
    "font": "a font",
    "image": "a picture",
    "message": "a message",
    "model": "a model in three dimensions",
    "text": "a text",
    "video": "a film",
}
"""By category, or by how the type begins."""


def named(mime_type: str) -> str:
    """What such a file is, for people: a noun with its article, and the type."""
    kind = _KINDS.get(category(mime_type)) or _KINDS.get(mime_type.partition("/")[0], "a file")
    return f"{_NAMED.get(mime_type, kind)} ({mime_type})"


def settled(mime_type: str, *, has_video: bool, has_audio: bool = True) -> str:
    """The type once the container has been probed: "video/webm" without a video stream is "audio/webm".

    An MP4 with neither is "application/mp4" (RFC 4337, 2).
    """
    if has_video:
        return mime_type
    if mime_type == "video/mp4" and not has_audio:
        return "application/mp4"
    return _SOUND_ONLY.get(mime_type, mime_type)


def of_container(name: str, *, has_video: bool) -> str:
    """The type of what FFmpeg calls by this name; UNKNOWN if it is none that is read here."""
    return settled(_OF_CONTAINERS.get(name, UNKNOWN), has_video=has_video)


def of_picture(name: str) -> str:
    """The type of what Pillow calls by this name."""
    return _OF_PICTURES.get(name, UNKNOWN)


def hinted(filename: str | None, claimed: str | None) -> Category | None:
    """Whether a name or a claimed type says that content is a picture, a sound or a film. It proves nothing."""
    extension = PurePath(filename or "").suffix.lower()
    for kind, extensions in _SAYS.items():
        if extension in extensions or (claimed or "").lower().startswith(f"{kind}/"):
            return kind
    return None


def inline_allowed(mime_type: str) -> bool:
    """Whether a download may be served inline (http-api.md, download). All else is an attachment."""
    return mime_type in _INLINE


def category(mime_type: str) -> Category:
    """The category by which a room's list is filtered."""
    if mime_type in _OF_SEVERAL:
        return "video"
    match mime_type.partition("/")[0]:
        case "image":
            return "image"
        case "audio":
            return "audio"
        case "video":
            return "video"
        case _:
            return "document"


def has_thumbnail(mime_type: str) -> bool:
    """Whether thumbnails are made of this type (a damaged file may still have none)."""
    return mime_type in _PICTURES or mime_type in _FILMS or mime_type == "application/pdf"


def transcribable(mime_type: str) -> bool:
    """Whether it may hold speech that can be decoded here."""
    return mime_type in _SOUND or mime_type in _FILMS
