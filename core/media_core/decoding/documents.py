"""A PDF's first page as a small WebP on white, as a viewer without scripts shows it. Runs in the child.

PDFium has neither its JavaScript engine nor XFA here, opens no other file, and fetches nothing. Fonts that a document
does not carry are replaced by PDFium's own.
"""

from __future__ import annotations

import io
import math
from typing import IO, Any, Final

import pypdfium2
import pypdfium2.raw as pdfium

from media_core.decoding.confinement import allow_memory
from media_core.decoding.failures import CannotDecode
from media_core.decoding.images import picture

MOST_BYTES: Final = 512 << 20
MOST_POINTS: Final = 14_400
"""Of a page's side: five metres, the most that PDF knows (ISO 32000-1, annex C)."""
MOST_SCALED: Final = 2.0
"""Pixels a point: a business card is not blown up."""
MEMORY_BYTES: Final = 448 << 20
"""For the document's structure, and for the pictures on its first page, which PDFium decodes whole."""

_SAID: Final = {
    pdfium.FPDF_ERR_PASSWORD: ("unsupported", "it is encrypted, and needs a password"),
    pdfium.FPDF_ERR_SECURITY: ("unsupported", "it is encrypted in a way that is not known here"),
}

_EMPTY: Final = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj "
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj "
    b"4 0 obj<</Length 30>>stream\nBT /F 4 Tf 1 1 Td (a\351) Tj ET  \nendstream endobj "
    b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj trailer<</Root 1 0 R>>"
)


def warm_up() -> None:
    """Loads all that a page needs, as a confined process cannot open files."""
    page(io.BytesIO(_EMPTY), 8)


def page(file: IO[bytes], max_side: int = 1024) -> tuple[dict[str, Any], bytes]:
    """The first page, upright, its longest side `max_side` pixels or less. The source's sides are in points."""
    if file.seek(0, io.SEEK_END) > MOST_BYTES:
        raise CannotDecode("too_large", f"PDFs are shown up to {MOST_BYTES >> 20} MiB")
    file.seek(0)
    allow_memory(MEMORY_BYTES)
    # PDFium keeps its last error. For a document without pages it sets none, so that of this one counts.
    pdfium.FPDF_LoadMemDocument64(b"%", 1, None)
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        code, said = _SAID.get(error.err_code, ("corrupt", "it is damaged, or has no page"))
        raise CannotDecode(code, said) from error
    try:
        document.init_forms()  # so that what is filled in is shown
        return _first(document, max_side)
    finally:
        document.close()


def _first(document: pypdfium2.PdfDocument, max_side: int) -> tuple[dict[str, Any], bytes]:
    if len(document) == 0:
        raise CannotDecode("corrupt", "it has no page")
    try:
        first = document[0]
    except pypdfium2.PdfiumError as error:
        raise CannotDecode("corrupt", "its first page is damaged") from error
    if min(first.get_size()) <= 0:  # its CropBox lies outside of its MediaBox; PDFium ignores an empty one
        first.set_cropbox(0, 0, 0, 0)
        first.close()
        first = document[0]
    width, height = first.get_size()
    if not (math.isfinite(width) and math.isfinite(height) and min(width, height) > 0):
        raise CannotDecode("corrupt", "its first page has no size")
    if max(width, height) > MOST_POINTS:
        raise CannotDecode(
            "too_large", f"its first page has {width:.0f} x {height:.0f} points, more than {MOST_POINTS} a side"
        )
    # A side of less than a pixel would be no picture.
    scale = max(min(max_side / max(width, height), MOST_SCALED), 1 / min(width, height))
    if scale * max(width, height) > 2 * max_side:
        raise CannotDecode("too_large", f"its first page is a line of {width:.0f} x {height:.0f} points")
    image = first.render(scale=scale).to_pil().convert("RGB")
    image.thumbnail((max_side, max_side))
    first.close()
    return picture(image, max(round(width), 1), max(round(height), 1))
