"""A file name as searches and sorted lists compare it: without case, accents and compatibility forms."""

import unicodedata
from typing import Final

MAX_FOLDED_BYTES: Final = 512
"""In UTF-8. Together with a subject it has to fit into an entry of PostgreSQL's index (2704 bytes)."""


UNMARKED: Final = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe"})
"""Letters that Unicode does not divide into a letter and a mark. A search takes them for the latter; an order does not:
in Danish `ø` comes after `z`.
"""


def folded(name: str) -> str:
    """Unicode's NFKD without combining marks, case-folded: `Ärger.PDF` is `arger.pdf`, `ﬁle` is `file`."""
    return _cut(_plain(_plain(name).casefold()))


def _plain(text: str) -> str:
    if text.isascii():
        return text
    return "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))


def _cut(text: str) -> str:
    return text if len(text) * 4 <= MAX_FOLDED_BYTES else text.encode()[:MAX_FOLDED_BYTES].decode(errors="ignore")
