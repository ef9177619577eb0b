"""A file name as searches and sorted lists compare it: without case, accents and compatibility forms."""

import unicodedata
from typing import Final

MAX_FOLDED_BYTES: Final = 512
"""In UTF-8. Together with a subject it has to fit into an entry of PostgreSQL's index (2704 bytes)."""


def folded(name: str) -> str:
    """Unicode's NFKD without combining marks, case-folded: `Ärger.PDF` is `arger.pdf`, `ﬁle` is `file`."""
    return _cut(_plain(_plain(name).casefold()))


def _plain(text: str) -> str:
    if text.isascii():
        return text
    return "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))


def _cut(text: str) -> str:
    return text if len(text) * 4 <= MAX_FOLDED_BYTES else text.encode()[:MAX_FOLDED_BYTES].decode(errors="ignore")
