"""The type of a package: Office documents, apps and the like, by the names of their parts."""

import io
import os
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_core.examination.packages import DIRECTORY, TAIL, directory_of_ole, of_ole, of_zip, says_its_type, stated
from tests.fixtures.media import ole

OPEN, MICROSOFT = "application/vnd.openxmlformats-officedocument", "application/vnd.ms"
TYPES = "[Content_Types].xml"


def packed(*names: str, content: bytes = b"<x/>") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("main", "filename", "expected"),
    [
        ("word/document.xml", "a.docx", f"{OPEN}.wordprocessingml.document"),
        ("word/document2.xml", "a", f"{OPEN}.wordprocessingml.document"),
        ("word/document.xml", "a.xlsm", f"{OPEN}.wordprocessingml.document"),
        ("word/document.xml", "A.DOTX", f"{OPEN}.wordprocessingml.template"),
        ("word/document.xml", "a.docm", f"{MICROSOFT}-word.document.macroEnabled.12"),
        ("word/document.xml", "a.dotm", f"{MICROSOFT}-word.template.macroEnabled.12"),
        ("xl/workbook.xml", "a.xlsx", f"{OPEN}.spreadsheetml.sheet"),
        ("xl/workbook.xml", "a.xltx", f"{OPEN}.spreadsheetml.template"),
        ("xl/workbook.xml", "a.xlam", f"{MICROSOFT}-excel.addin.macroEnabled.12"),
        ("xl/workbook.bin", "a", f"{MICROSOFT}-excel.sheet.binary.macroEnabled.12"),
        ("ppt/presentation.xml", "a.pptx", f"{OPEN}.presentationml.presentation"),
        ("ppt/presentation.xml", "a.ppsx", f"{OPEN}.presentationml.slideshow"),
        ("ppt/presentation.xml", "a.potm", f"{MICROSOFT}-powerpoint.template.macroEnabled.12"),
        ("visio/document.xml", "a.vsdx", f"{MICROSOFT}-visio.drawing"),
        ("FixedDocSeq.fdseq", "a", f"{MICROSOFT}-xpsdocument"),
        ("FixedDocSeq.fdseq", "a.oxps", "application/oxps"),
        ("3D/3dmodel.model", "a", "model/3mf"),
    ],
)
def test_an_office_document_is_of_its_form(main: str, filename: str, expected: str) -> None:
    for names in (("_rels/.rels", main, TYPES), (TYPES, "customXml/item1.xml", main)):
        assert of_zip(packed(*names, content=os.urandom(5_000))[-TAIL:], filename) == expected


@pytest.mark.parametrize(
    ("folder", "main", "extension", "expected"),
    [
        ("word", "document.xml", "docx", "word.document"),
        ("word", "document.xml", "dotx", "word.template"),
        ("xl", "workbook.xml", "xlsx", "excel.sheet"),
        ("ppt", "presentation.xml", "ppsx", "powerpoint.slideshow"),
    ],
)
def test_a_document_with_macros_is_none_without_whatever_it_is_called(
    folder: str, main: str, extension: str, expected: str
) -> None:
    data = packed(TYPES, f"{folder}/{main}", f"{folder}/vbaProject.bin")
    assert of_zip(data, f"a.{extension}") == f"{MICROSOFT}-{expected}.macroEnabled.12"


@pytest.mark.parametrize(
    ("names", "filename", "expected"),
    [
        (("AndroidManifest.xml", "META-INF/MANIFEST.MF"), "a.zip", "application/vnd.android.package-archive"),
        (("META-INF/MANIFEST.MF", "A.class"), "a", "application/java-archive"),
        (("META-INF/container.xml",), "a", "application/epub+zip"),
        (("META-INF/container.xml", "a.mscx"), "a.mscz", "application/x-musescore"),
        (("document.json", "previews/preview.png"), "a.sketch", "application/x-sketch"),
        (("canvas.fig", "thumbnail.png"), "a.fig", "application/x-figma"),
        (("document.json", "previews/preview.png"), "a.zip", None),
        (("manifest.json",), "a.xpi", "application/x-xpinstall"),
        (("manifest.json",), "a.zip", None),
        (("doc.kml",), "a", "application/vnd.google-earth.kmz"),
        (("tour.kml",), "a.kmz", "application/vnd.google-earth.kmz"),
        (("tour.kml",), "a.zip", None),
        (("01.JPG", "02.JPG"), "a.cbz", "application/vnd.comicbook+zip"),
        (("01.txt",), "a.cbz", None),
        (("chair.usdc",), "a.usdz", "model/vnd.usdz+zip"),
        (("Index/Document.iwa", "Index/Tables/Tile.iwa"), "a.pages", "application/vnd.apple.pages"),
        (("Index/Document.iwa", "Index/Tables/Tile.iwa"), "a.numbers", "application/vnd.apple.numbers"),
        (("Index/Document.iwa", "Index/Slide-12.iwa"), "a", "application/vnd.apple.keynote"),
        (("META-INF/manifest.xml", "content.xml"), "a.odt", "application/vnd.oasis.opendocument.text"),
        (("META-INF/manifest.xml", "content.xml"), "a.zip", None),
        (("word/document.xml",), "a.docx", None),
        (("a.txt",), "a.docx", None),
    ],
)
def test_a_zip_is_what_its_parts_say(names: tuple[str, ...], filename: str, expected: str | None) -> None:
    assert of_zip(packed(*names), filename) == expected


def test_an_archive_of_documents_is_an_archive() -> None:
    document = packed(TYPES, "word/document.xml")
    for names in (("a.docx",), ("a.docx", "b.docx")):
        assert of_zip(packed(*names, content=document), "a.zip") is None


def test_a_long_directory_is_read_from_where_it_is_known() -> None:
    names = [f"word/media/{number:05}.png" for number in range(2_000)]
    assert of_zip(packed(*names, TYPES, "word/document.xml")[-TAIL:], "a") == f"{OPEN}.wordprocessingml.document"


def test_a_type_that_is_stated_is_taken_if_it_is_known() -> None:
    for said, expected in (("application/x-krita", "application/x-krita"), ("text/html", None)):
        data = packed("mimetype", content=said.encode())
        assert says_its_type(data)
        assert stated(data) == expected


@pytest.mark.parametrize(
    ("streams", "filename", "expected"),
    [
        (("1Table", "WordDocument"), "a", "application/msword"),
        (("Workbook",), "a.doc", "application/vnd.ms-excel"),
        (("Current User", "PowerPoint Document"), "a", "application/vnd.ms-powerpoint"),
        (("__nameid_version1.0", "__properties_version1.0"), "a", "application/vnd.ms-outlook"),
        (("VisioDocument",), "a", "application/vnd.visio"),
        (("Quill", "Contents"), "a", "application/x-mspublisher"),
        (("EncryptionInfo", "EncryptedPackage"), "a.xlsx", f"{OPEN}.spreadsheetml.sheet"),
        (("EncryptionInfo", "EncryptedPackage"), "a.txt", "application/x-ole-storage"),
        (("Props9",), "a.mpp", "application/vnd.ms-project"),
        (("Catalog",), "Thumbs.db", "application/x-ole-storage"),
    ],
)
def test_an_old_document_is_what_its_streams_say(streams: tuple[str, ...], filename: str, expected: str) -> None:
    data = ole(*streams)
    at = directory_of_ole(data)
    assert at is not None
    assert of_ole(data[at : at + DIRECTORY], filename) == expected


def test_an_embedded_document_does_not_decide() -> None:
    data = ole("WordDocument")
    at = directory_of_ole(data) or 0
    workbook = bytearray(data[at + 128 : at + 256])
    name = "Workbook".encode("utf-16-le")
    workbook[:66] = name.ljust(64, b"\0") + struct.pack("<H", len(name) + 2)
    assert of_ole(data[at : at + 256] + bytes(workbook), "a") == "application/msword"


def test_an_installer_is_known_by_its_class() -> None:
    data = ole("\u4840\u3f7f", of=bytes.fromhex("84100c0000000000c000000000000046"))
    assert of_ole(data[directory_of_ole(data) or 0 :], "a") == "application/x-msi"


@given(st.binary(max_size=300), st.sampled_from([packed("a.txt"), ole("WordDocument"), b""]), st.integers(0, 400))
def test_no_bytes_break_it(noise: bytes, data: bytes, at: int) -> None:
    damaged = data[:at] + noise + data[at + len(noise) :]
    of_zip(damaged, "a.docx")
    of_ole(damaged, "a.docx")
    directory_of_ole(damaged)
