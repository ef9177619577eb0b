"""What a package is by the names of its parts: a ZIP (Office, OpenDocument, apps, comics) or an OLE compound file.

Nothing in it is unpacked: the names stand in its directory. Where the parts of two types have the same names (a
document and its template), the file name chooses between these two, and proves nothing else.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import PurePath

TAIL = 65_536
"""Bytes of a ZIP that `of_zip` looks at. Its directory stands at the end."""

ZIP = b"PK\3\4"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_HEADER = 512

_ENTRY, _END, _END_64 = b"PK\1\2", b"PK\5\6", b"PK\6\6"
_IN_END_64 = 0xFFFFFFFF
"""APPNOTE.TXT 6.3.10, 4.3.12 to 4.3.16."""


@dataclass(frozen=True)
class _Form:
    """A form of an Office document: the end of its name and its type, without and with macros."""

    extension: str
    mime_type: str
    extension_with_macros: str
    with_macros: str


_OPEN, _MICROSOFT = "application/vnd.openxmlformats-officedocument", "application/vnd.ms"


def _form(extension: str, mime_type: str, extension_with_macros: str, with_macros: str) -> _Form:
    macros = f"{_MICROSOFT}-{with_macros}.macroEnabled.12"
    return _Form(extension, f"{_OPEN}.{mime_type}", extension_with_macros, macros)


_WORD = (
    _form(".docx", "wordprocessingml.document", ".docm", "word.document"),
    _form(".dotx", "wordprocessingml.template", ".dotm", "word.template"),
)
_EXCEL = (
    _form(".xlsx", "spreadsheetml.sheet", ".xlsm", "excel.sheet"),
    _form(".xltx", "spreadsheetml.template", ".xltm", "excel.template"),
    _form("", "spreadsheetml.sheet", ".xlam", "excel.addin"),
)
_POWERPOINT = (
    _form(".pptx", "presentationml.presentation", ".pptm", "powerpoint.presentation"),
    _form(".ppsx", "presentationml.slideshow", ".ppsm", "powerpoint.slideshow"),
    _form(".potx", "presentationml.template", ".potm", "powerpoint.template"),
    _form("", "presentationml.presentation", ".ppam", "powerpoint.addin"),
)
_VISIO = (
    _Form(".vsdx", f"{_MICROSOFT}-visio.drawing", ".vsdm", f"{_MICROSOFT}-visio.drawing.macroEnabled.12"),
    _Form(".vstx", f"{_MICROSOFT}-visio.template", ".vstm", f"{_MICROSOFT}-visio.template.macroEnabled.12"),
    _Form(".vssx", f"{_MICROSOFT}-visio.stencil", ".vssm", f"{_MICROSOFT}-visio.stencil.macroEnabled.12"),
)
_OFFICE = {"word/document": _WORD, "xl/workbook": _EXCEL, "ppt/presentation": _POWERPOINT, "visio/document": _VISIO}
"""By how the name of the main part begins. Microsoft's services write `word/document2.xml`, too."""
_CONTENT_TYPES, _MACROS = "[Content_Types].xml", "vbaProject.bin"
_BINARY_WORKBOOK = "xl/workbook.bin"

_STATED = frozenset(
    (
        "application/hwp+zip",
        "application/vnd.adobe.indesign-idml-package",
        "application/vnd.recordare.musicxml",
        "application/x-krita",
        "image/openraster",
    )
)

_PARTS = (
    (r"3D/.+\.model", "model/3mf"),
    (r".+\.fdseq", "application/vnd.ms-xpsdocument"),
    (r"AppxManifest\.xml", "application/vnd.ms-appx"),
    (r"AndroidManifest\.xml", "application/vnd.android.package-archive"),
    (r"Payload/[^/]+\.app/Info\.plist", "application/x-ios-app"),
    (r"META-INF/mozilla\.rsa", "application/x-xpinstall"),
    (r"META-INF/container\.xml", "application/epub+zip"),
    (r"META-INF/MANIFEST\.MF", "application/java-archive"),
    (r"Index/Slide.*\.iwa|index\.apxl", "application/vnd.apple.keynote"),
    (r"doc\.kml", "application/vnd.google-earth.kmz"),
)
"""A part that only files of this type have."""

_OPEN_DOCUMENT = r"content\.xml"
"""Of one that was packed anew, its type is no longer its first part."""
_IWORK = r"Index/Document\.iwa|Index\.zip|index\.xml"
_PICTURE = r"(?i).+\.(jpe?g|png|webp|gif|avif|jxl)"
_NAMED = {
    ".cbz": (_PICTURE, "application/vnd.comicbook+zip"),
    ".cdr": (r"content/.+\.(cdr|dat)", "application/vnd.corel-draw"),
    ".fig": (r"canvas\.fig", "application/x-figma"),
    ".lottie": (r"manifest\.json", "application/zip+dotlottie"),
    ".mscz": (r".+\.mscx", "application/x-musescore"),
    ".procreate": (r"Document\.archive", "application/x-procreate"),
    ".sketch": (r"document\.json", "application/x-sketch"),
    ".kmz": (r"[^/]+\.kml", "application/vnd.google-earth.kmz"),
    ".key": (_IWORK, "application/vnd.apple.keynote"),
    **{
        f".{extension}": (_OPEN_DOCUMENT, f"application/vnd.oasis.opendocument.{form}")
        for extension, form in (("odg", "graphics"), ("odp", "presentation"), ("ods", "spreadsheet"), ("odt", "text"))
    },
    ".numbers": (_IWORK, "application/vnd.apple.numbers"),
    ".oxps": (r".+\.fdseq", "application/oxps"),
    ".pages": (_IWORK, "application/vnd.apple.pages"),
    ".usdz": (r".+\.usd[ac]?", "model/vnd.usdz+zip"),
    ".xpi": (r"manifest\.json|install\.rdf", "application/x-xpinstall"),
}
"""What a name may make of a ZIP in which there is such a part."""


def says_its_type(head: bytes) -> bool:
    """Whether a ZIP's first part is its type, as that of an OpenDocument or of an e-book (ODF 1.3, part 2, 3.3)."""
    return head[30:38] == b"mimetype"


def stated(head: bytes) -> str | None:
    """The type that a ZIP's first part says, if it is one that libmagic does not know."""
    (size,) = struct.unpack_from("<I", head, 18)
    (extra,) = struct.unpack_from("<H", head, 28)
    said = head[38 + extra : 38 + extra + size].decode("ascii", "replace").strip()
    return said if said in _STATED else None


def of_zip(tail: bytes, filename: str) -> str | None:
    """The type of a ZIP by its last bytes (TAIL of them); None if it is an archive like any other."""
    parts = _parts_of_zip(tail)
    extension = PurePath(filename).suffix.lower()
    if extension in _NAMED and _has(parts, _NAMED[extension][0]):
        return _NAMED[extension][1]
    if _CONTENT_TYPES in parts:
        if _BINARY_WORKBOOK in parts:
            return "application/vnd.ms-excel.sheet.binary.macroEnabled.12"
        for main, forms in _OFFICE.items():
            if any(part.startswith(main) for part in parts):
                return _form_of(forms, extension, has_macros=any(part.endswith(_MACROS) for part in parts))
    return next((found for part, found in _PARTS if _has(parts, part)), None)


def _has(parts: list[str], pattern: str) -> bool:
    return any(re.fullmatch(pattern, part) for part in parts)


def _form_of(forms: tuple[_Form, ...], extension: str, *, has_macros: bool) -> str:
    form = next((form for form in forms if extension in (form.extension, form.extension_with_macros)), forms[0])
    is_with_macros = has_macros or extension == form.extension_with_macros
    return form.with_macros if is_with_macros else form.mime_type


def _parts_of_zip(tail: bytes) -> list[str]:
    """The names of a ZIP's own directory, as far as it is in these bytes; none where it has no end."""
    end = tail.rfind(_END)
    if end < 0 or end + 22 > len(tail):
        return []
    (length,) = struct.unpack_from("<I", tail, end + 12)
    if length == _IN_END_64:
        end = tail.rfind(_END_64, 0, end)
        if end < 0 or end + 48 > len(tail):
            return []
        (length,) = struct.unpack_from("<Q", tail, end + 40)
    at = end - length if length <= end else tail.find(_ENTRY)
    parts = []
    while 0 <= at <= end - 46 and tail[at : at + 4] == _ENTRY:
        name, extra, comment = struct.unpack_from("<3H", tail, at + 28)
        parts.append(tail[at + 46 : at + 46 + name].decode("utf-8", "replace"))
        at += 46 + name + extra + comment
    return parts


DIRECTORY = 8_192
"""Bytes of an OLE file's directory that `of_ole` looks at: 64 entries."""
_OLE_ENTRY = 128
_STREAMS = {
    "WordDocument": "application/msword",
    "Workbook": "application/vnd.ms-excel",
    "Book": "application/vnd.ms-excel",
    "PowerPoint Document": "application/vnd.ms-powerpoint",
    "__properties_version1.0": "application/vnd.ms-outlook",
    "VisioDocument": "application/vnd.visio",
    "Quill": "application/x-mspublisher",
}
"""By a stream of the root's ([MS-DOC], [MS-XLS], [MS-PPT], [MS-OXMSG])."""
_INSTALLERS = {
    bytes.fromhex("84100c0000000000c000000000000046"): "application/x-msi",
    bytes.fromhex("86100c0000000000c000000000000046"): "application/x-msi",
}
"""By the root's class. The names in an installer's database are packed."""
_ENCRYPTED = "EncryptedPackage"
"""The stream of an Office document with a password ([MS-OFFCRYPTO], 2.3.4.4)."""
_WITH_PASSWORD = {
    extension: mime_type
    for forms in _OFFICE.values()
    for form in forms
    for extension, mime_type in (
        (form.extension, form.mime_type),
        (form.extension_with_macros, form.with_macros),
    )
    if extension
}
_OLE_NAMED = {
    ".doc": "application/msword",
    ".dot": "application/msword",
    ".mpp": "application/vnd.ms-project",
    ".msg": "application/vnd.ms-outlook",
    ".msi": "application/x-msi",
    ".pot": "application/vnd.ms-powerpoint",
    ".pps": "application/vnd.ms-powerpoint",
    ".ppt": "application/vnd.ms-powerpoint",
    ".pub": "application/x-mspublisher",
    ".vsd": "application/vnd.visio",
    ".xls": "application/vnd.ms-excel",
    ".xlt": "application/vnd.ms-excel",
}
UNKNOWN_OLE = "application/x-ole-storage"


def directory_of_ole(head: bytes) -> int | None:
    """Where the directory of an OLE file begins, in bytes ([MS-CFB], 2.2). None for what is no such file."""
    if not head.startswith(_OLE) or len(head) < _OLE_HEADER:
        return None
    (shift,) = struct.unpack_from("<H", head, 30)
    (sector,) = struct.unpack_from("<I", head, 48)
    return (int(sector) + 1) << (12 if shift == 12 else 9)


def of_ole(directory: bytes, filename: str) -> str:
    """The type of an OLE compound file by the beginning of its directory."""
    extension = PurePath(filename).suffix.lower()
    root = directory[:_OLE_ENTRY]
    if found := _INSTALLERS.get(root[80:96]):
        return found
    names = _at_the_root(directory)
    if _ENCRYPTED in names:
        return _WITH_PASSWORD.get(extension, UNKNOWN_OLE)
    found = next((mime_type for name, mime_type in _STREAMS.items() if name in names), None)
    return found or _OLE_NAMED.get(extension, UNKNOWN_OLE)


def _at_the_root(directory: bytes) -> set[str]:
    """The names of what stands in the root, not of what is in an embedded document ([MS-CFB], 2.6.1 and 2.6.4)."""
    names: set[str] = set()
    seen: set[int] = set()
    waiting = [struct.unpack_from("<I", directory, 76)[0]] if len(directory) >= _OLE_ENTRY else []
    while waiting:
        number = waiting.pop()
        at = number * _OLE_ENTRY
        if number in seen or at + _OLE_ENTRY > len(directory):
            continue
        seen.add(number)
        (length,) = struct.unpack_from("<H", directory, at + 64)
        names.add(directory[at : at + min(max(length - 2, 0), 62)].decode("utf-16-le", "replace"))
        waiting.extend(struct.unpack_from("<2I", directory, at + 68))
    return names
