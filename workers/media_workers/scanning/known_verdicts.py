"""Contents whose verdict is known beforehand. They show whether clamd can be believed.

clamd also says OK in these cases:
- It skipped the content, unless its configuration has AlertExceedsMax and AlertEncrypted.
- It has no signatures.
- clamd 1.4 could not make its temporary folder (disk full, no inodes left): libclamav does not report that error.
"""

import base64
import gzip
import io
import zipfile
from dataclasses import dataclass
from typing import Literal

from media_core.upkeep.canary import EICAR


@dataclass(frozen=True)
class KnownContent:
    content: bytes
    status: Literal["clean", "infected", "unscannable"]
    """The verdict that clamd has to give."""
    otherwise: str
    """What is wrong with a clamd that gives another verdict."""


def _zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", content)
    return buffer.getvalue()


def _nested(levels: int) -> bytes:
    content = b"x"
    for _ in range(levels):
        content = _zip(content)
    return content


_DEEPEST_ALLOWED = 100  # of MaxRecursion; clamd itself has no upper bound, and its default is 17
# 22 harmless bytes, encrypted with the traditional ZIP cipher.
_ENCRYPTED = """
UEsDBBQAAQAAAO06eF1HsLwjIgAAABYAAAAFAAAAMC5iaW7IiclbtN6sDlqdfkK+wWRW/wa1HRvGuWTtlMH2UjFdphmoUEsBAhQDFAABAAAA7Tp4XUew
vCMiAAAAFgAAAAUAAAAAAAAAAAAAAIABAAAAADAuYmluUEsFBgAAAAABAAEAMwAAAEUAAAAAAA==
"""

TEST_VIRUS = KnownContent(
    gzip.compress(_zip(EICAR), mtime=0),
    "infected",
    "does not find the EICAR test virus in an archive: it has no signatures, or no room in its TemporaryDirectory",
)
"""Unpacking it needs the same as unpacking any content: a file for the stream, a folder for the scan, files in it."""

KNOWN_CONTENTS = (
    TEST_VIRUS,
    KnownContent(
        _nested(_DEEPEST_ALLOWED + 1),
        "unscannable",
        f"says OK of content over its limits: it needs `AlertExceedsMax yes` and MaxRecursion up to {_DEEPEST_ALLOWED}",
    ),
    KnownContent(
        base64.b64decode(_ENCRYPTED), "unscannable", "says OK of encrypted content: it needs `AlertEncrypted yes`"
    ),
)

HARMLESS = KnownContent(
    b"The quick brown fox jumps over the lazy dog. 0123456789\n" + bytes(range(256)),
    "clean",
    "does not say OK of a harmless text: it, or one of its signatures, finds everything",
)
"""Infected content is removed, so a clamd that finds something has to find nothing here."""
