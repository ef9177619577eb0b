"""Contents whose verdict is known beforehand. They show whether clamd's "OK" can be believed.

clamd says OK of more than what it found harmless: of what it skips, unless its configuration has AlertExceedsMax and
AlertEncrypted; of everything, when it has no signatures; and clamd 1.4 of any content for which it could not make its
temporary folder (disk full, no inodes left), since libclamav counts that as "no error worth mentioning".
"""

import base64
import gzip
import io
import zipfile
from dataclasses import dataclass
from typing import Literal

from media_core.canary import EICAR


@dataclass(frozen=True)
class KnownContent:
    content: bytes
    status: Literal["infected", "unscannable"]
    """What clamd has to say of it."""
    otherwise: str
    """What is wrong with a clamd that says something else."""


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


_DEEPEST_ALLOWED = 100  # clamd itself knows no bound; its default is 17
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
"""Unpacking it takes what unpacking any content takes: the stream's file, the scan's folder, files in it."""

KNOWN_CONTENTS = (
    TEST_VIRUS,
    KnownContent(
        _nested(_DEEPEST_ALLOWED + 1),
        "unscannable",
        f"says OK of what is over its limits: it needs `AlertExceedsMax yes` and MaxRecursion up to {_DEEPEST_ALLOWED}",
    ),
    KnownContent(
        base64.b64decode(_ENCRYPTED), "unscannable", "says OK of what is encrypted: it needs `AlertEncrypted yes`"
    ),
)
